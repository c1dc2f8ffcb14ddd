//! Exchange of parts: upstream's scheduler and controllers for our API server and node, and ours for upstream's.
//!
//! Either way Deployments must work: by upstream's conformance tests, and by what people do with kubectl.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use clap::Args;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::clients::import;
use crate::cluster::{self, Cluster, ON_ANY_DISK};
use crate::kubectl::{Kubectl, programs, upstream_programs};
use crate::netns::NODE_IP;
use crate::outcome::{Outcome, Ran, Verdict};
use crate::suite::{home, junit, tests};
use crate::upstream::Upstream;
use crate::{kept, suite};

#[derive(Debug, Args)]
pub struct Options {
    /// The program to check [default: beside this one]
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
}

/// Where the results are kept.
pub(crate) const FILE: &str = "swap.json";

pub fn run(options: &Options) -> Result<()> {
    let program = cluster::program(options.program.as_deref())?;
    let programs = upstream_programs().context("no cache directory: set CORACLE_CACHE")?;
    for needed in ["kube-apiserver", "kube-controller-manager", "kube-scheduler", "etcd"] {
        if !programs.join(needed).is_file() {
            println!("skipped: {needed} is not built: conformance/upstream/build all");
            return Ok(());
        }
    }
    let scratch = tempfile::Builder::new().prefix("coracle-swap-").tempdir()?;
    let mut all = vec![];
    for (name, swap) in SWAPS {
        let mut ran = Ran::now(name);
        let whole = swap(&program, &scratch.path().join(all.len().to_string()), &mut ran);
        ran.whole(whole);
        all.push(ran);
        kept::save(&all, &home().join(FILE))?;
    }
    let failed: usize = all.iter().map(|ran| ran.count(Verdict::Failed)).sum();
    if failed > 0 {
        println!("data and logs: {}", scratch.keep().display());
    }
    ensure!(failed == 0, "{failed} checks failed");
    Ok(())
}

type Swap = fn(&Path, &Path, &mut Ran) -> Result<()>;

const SWAPS: &[(&str, Swap)] = &[
    ("upstream's scheduler and controllers, Coracle's API server and node", theirs_for_ours),
    ("Coracle's scheduler, controllers and node, upstream's API server and etcd", ours_for_theirs),
];

fn theirs_for_ours(program: &Path, dir: &Path, ran: &mut Ran) -> Result<()> {
    std::fs::create_dir_all(dir)?;
    let mut cluster = Cluster::new(program, &dir.join("data"), &["--without", "scheduler,controllers"]);
    images(&cluster)?;
    cluster.up()?;
    let ca = cluster.data_dir.join("pki/ca.crt");
    let mut upstream = Upstream::beside(&dir.join("upstream"), &cluster.kubeconfig(), &ca)?;
    upstream.controllers()?;
    upstream.scheduler()?;
    deployments(&cluster.kubeconfig(), dir, ran)?;
    drop(upstream);
    cluster.purge()
}

fn ours_for_theirs(program: &Path, dir: &Path, ran: &mut Ran) -> Result<()> {
    std::fs::create_dir_all(dir)?;
    let upstream = Upstream::start(&dir.join("upstream"))?;
    let (kubeconfig, ca) = (upstream.kubeconfig(), upstream.dir.join("ca.crt"));
    // Only for its directory and its commands: no API server of ours runs.
    let mut place = Cluster::new(program, &dir.join("data"), &[]);
    images(&place)?;
    let start = |name: &str, args: &[&OsStr]| {
        let mut command = Command::new(program);
        command.arg(name).arg("--kubeconfig").arg(&kubeconfig).args(args);
        Part::start(command, &dir.join(format!("{name}.log")))
    };
    let mut node: Vec<&OsStr> = ["--node-name", "n1", "--node-ip", NODE_IP].map(OsStr::new).to_vec();
    node.extend(["--client-ca".as_ref(), ca.as_os_str(), "--data-dir".as_ref(), place.data_dir.as_os_str()]);
    node.extend(ON_ANY_DISK.map(OsStr::new));
    let parts = [
        start("scheduler", &[])?,
        start("controllers", &["--root-ca-file".as_ref(), ca.as_os_str()])?,
        start("kubelet", &node)?,
    ];
    deployments(&kubeconfig, dir, ran)?;
    drop(parts);
    place.purge()
}

/// One of our components, run alone; it ends with this value.
struct Part(Child);

impl Part {
    fn start(mut command: Command, log: &Path) -> Result<Self> {
        let log = File::create(log)?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(Part(command.spawn().with_context(|| format!("starting {command:?}"))?))
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // Already gone is fine.
        let _ = i32::try_from(self.0.id()).map(|pid| kill(Pid::from_raw(pid), Signal::SIGTERM));
        let _ = self.0.wait();
    }
}

/// The images of our own checks, and of upstream's tests where those can run.
fn images(cluster: &Cluster) -> Result<()> {
    import(cluster, &home().join("../hack/images"), &["build"])?;
    match e2e() {
        Some(_) => import(cluster, &home().join("upstream/images"), &[]),
        None => Ok(()),
    }
}

fn e2e() -> Option<PathBuf> {
    upstream_programs().map(|p| p.join("e2e.test")).filter(|p| p.is_file())
}

fn deployments(kubeconfig: &Path, dir: &Path, ran: &mut Ran) -> Result<()> {
    let program = programs().into_iter().next().context("kubectl is not installed")?;
    let kubectl = Kubectl { program, kubeconfig: kubeconfig.to_owned() };
    for (name, step) in STEPS {
        ran.check(name, || step(&kubectl));
    }
    conformance(kubeconfig, dir, ran)
}

type Step = (&'static str, fn(&Kubectl) -> Result<()>);

/// In this order: each stands on the one before.
const STEPS: &[Step] = &[
    ("the node is Ready", |k| {
        k.until(
            60,
            "get node n1 -o jsonpath={.spec.taints}{.status.conditions[?(@.type==\"Ready\")].status}",
            |s| s == "True",
        )
        .map(drop)
    }),
    ("create: ReplicaSet, pods, bindings, rollout status", |k| {
        k.until(30, "get serviceaccount default -o name", |s| !s.is_empty())?;
        k.ok("create deployment page --image=nginx:1.22 --replicas=3")?;
        k.prints("rollout status deployment/page --timeout=90s", &["successfully rolled out"])?;
        k.prints("get deployment page", &["3/3"]).map(drop)
    }),
    ("expose: endpoints of all pods", |k| {
        k.ok("expose deployment page --port=80")?;
        let line = "get endpointslices -l kubernetes.io/service-name=page -o jsonpath={.items[*].endpoints[*].addresses[0]}";
        k.until(30, line, |s| s.split_whitespace().count() == 3).map(drop)
    }),
    ("scale up and down", |k| {
        k.ok("scale deployment page --replicas=5")?;
        k.until(60, "get deployment page -o jsonpath={.status.readyReplicas}", |s| s == "5")?;
        k.ok("scale deployment page --replicas=2")?;
        k.until(60, "get pods -l app=page -o name", |s| s.lines().count() == 2).map(drop)
    }),
    ("rolling update, undo, history", |k| {
        k.ok("set env deployment/page ROUND=2")?;
        k.ok("rollout status deployment/page --timeout=90s")?;
        k.ok("rollout undo deployment/page")?;
        k.ok("rollout status deployment/page --timeout=90s")?;
        k.prints("rollout history deployment/page", &["2", "3"]).map(drop)
    }),
    ("a killed pod is replaced", |k| {
        let old = k.ok("get pods -l app=page -o name")?;
        k.ok("delete pods -l app=page --grace-period=1")?;
        k.until(60, "get pods -l app=page -o name --field-selector=status.phase=Running", |s| {
            s.lines().count() == 2 && s.lines().all(|pod| !old.contains(pod))
        })
        .map(drop)
    }),
    ("delete: the garbage collector takes all", |k| {
        k.ok("delete service/page deployment/page")?;
        k.until(60, "get replicasets,pods -o name", str::is_empty).map(drop)
    }),
];

/// Upstream's own tests of Deployments, those that need nothing else.
fn conformance(kubeconfig: &Path, dir: &Path, ran: &mut Ran) -> Result<()> {
    let Some(e2e) = e2e() else {
        println!("        upstream's suite is not built: its Deployment tests are left out");
        return Ok(());
    };
    let wanted: Vec<String> =
        tests()?.into_iter().map(|t| t.name).filter(|n| n.starts_with("[sig-apps] Deployment ")).collect();
    let focus = wanted.iter().map(|n| regex::escape(n)).collect::<Vec<_>>().join("|");
    let log = File::create(dir.join("e2e.log"))?;
    let status = Command::new("timeout")
        .arg("900")
        .arg(&e2e)
        .args([
            "--provider=skeleton",
            "--disable-log-dump",
            "--ginkgo.no-color",
            "--ginkgo.poll-progress-after=0",
        ])
        .arg(format!("--ginkgo.focus={focus}"))
        .arg(format!("--kubeconfig={}", kubeconfig.display()))
        .arg(format!("--kubectl-path={}", e2e.with_file_name("kubectl").display()))
        .arg(format!("--report-dir={}", dir.display()))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .status()
        .context("starting e2e.test")?;
    let report = std::fs::read_to_string(dir.join("junit_01.xml"))
        .with_context(|| format!("e2e.test ended with {status} without a report"))?;
    for (name, outcome, _) in junit::parse(&report)? {
        let short = name.trim_start_matches("[sig-apps] Deployment ").trim_end_matches(" [Conformance]");
        ran.keep(converted(short, &outcome));
    }
    Ok(())
}

fn converted(name: &str, outcome: &suite::Outcome) -> Outcome {
    let verdict = if outcome.is_passed() { Verdict::Ok } else { Verdict::Failed };
    let error = (verdict == Verdict::Failed).then(|| outcome.error.clone());
    Outcome { check: format!("upstream's: {name}"), outcome: verdict, seconds: outcome.seconds, error }
}
