//! Helm with a chart of ours: a Deployment, a Service, a ConfigMap, a hook Job and a test pod.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Site;
use crate::kubectl::{Kubectl, contains, printed, programs};
use crate::outcome::Ran;
use crate::suite::home;

/// One Helm program talking to one cluster, with folders of its own.
struct Helm {
    program: PathBuf,
    kubeconfig: PathBuf,
    folders: tempfile::TempDir,
    kubectl: Kubectl,
}

/// Helm 4 applies on the server unless it is told not to.
const CLIENT_SIDE: &str = "--server-side=false";
const WAIT: &str = "--wait --timeout=90s -n helm";

type Step = (&'static str, fn(&Helm) -> Result<()>);

/// In this order: each stands on the one before.
const STEPS: &[Step] = &[
    ("lint and template", templates),
    ("install with a hook, and wait until it is ready", install),
    ("list, status, get manifest, get values", reads),
    ("test: a pod reaches the release", tests),
    ("upgrade", upgrade),
    ("upgrade that fails is rolled back", failed_upgrade),
    ("rollback and history", rollback),
    ("uninstall leaves nothing", uninstall),
    ("install by server-side apply, which is Helm 4's default", server_side),
];

pub(super) fn run(program: &str, site: &Site, ran: &mut Ran) -> Result<()> {
    let kubectl = programs().into_iter().next().context("kubectl is not installed")?;
    let kubeconfig = site.kubeconfig();
    let helm = Helm {
        program: Path::new(program).to_owned(),
        kubectl: Kubectl { program: kubectl, kubeconfig: kubeconfig.clone() },
        kubeconfig,
        folders: tempfile::tempdir()?,
    };
    for (name, step) in STEPS {
        ran.check(name, || step(&helm));
    }
    Ok(())
}

impl Helm {
    /// The standard output of `helm <line>`, which must succeed; `CHART` stands for the folder of our chart.
    fn ok(&self, line: &str) -> Result<String> {
        self.run(line)?.succeeded()
    }

    fn run(&self, line: &str) -> Result<crate::kubectl::Printed> {
        let chart = home().join("clients/chart");
        let words =
            line.split(' ').map(|w| if w == "CHART" { chart.as_os_str().to_owned() } else { w.into() });
        let mut command = Command::new(&self.program);
        for (name, folder) in
            [("HELM_CACHE_HOME", "cache"), ("HELM_CONFIG_HOME", "config"), ("HELM_DATA_HOME", "data")]
        {
            command.env(name, self.folders.path().join(folder));
        }
        let output = command.env("KUBECONFIG", &self.kubeconfig).args(words).output();
        Ok(printed(line, &output.with_context(|| format!("starting {}", self.program.display()))?))
    }

    fn json(&self, line: &str) -> Result<Value> {
        let text = self.ok(&format!("{line} -o json"))?;
        serde_json::from_str(&text).with_context(|| format!("`helm {line}` printed {text}"))
    }

    /// What the release's page says, read from inside the cluster's own ConfigMap and the number of ready pods.
    fn is(&self, text: &str, replicas: &str) -> Result<()> {
        let page = self.kubectl.ok("-n helm get configmap page -o jsonpath={.data.index\\.html}")?;
        let ready = self.kubectl.ok("-n helm get deployment page -o jsonpath={.status.readyReplicas}")?;
        ensure!(page == text && ready == replicas, "the page says {page:?} and {ready} pods are ready");
        Ok(())
    }
}

fn templates(helm: &Helm) -> Result<()> {
    helm.ok("lint CHART")?;
    let text = helm.ok("template page CHART --set replicas=7")?;
    contains("helm template", &text, &["kind: Deployment", "replicas: 7", "helm.sh/hook: test"])
}

fn install(helm: &Helm) -> Result<()> {
    let out = helm.ok(&format!("install page CHART --create-namespace {WAIT} {CLIENT_SIDE}"))?;
    contains("helm install", &out, &["STATUS: deployed", "REVISION: 1"])?;
    let hook =
        helm.kubectl.ok("-n helm wait job/page-before-1 --for=condition=Complete --timeout=1s -o name")?;
    ensure!(hook.trim() == "job.batch/page-before-1", "the hook says {hook}");
    helm.is("first", "2")
}

fn reads(helm: &Helm) -> Result<()> {
    let releases = helm.json("list -A")?;
    ensure!(
        releases[0]["name"] == "page"
            && releases[0]["status"] == "deployed"
            && releases[0]["chart"] == "page-0.1.0",
        "list: {releases}"
    );
    ensure!(helm.json("status page -n helm")?["info"]["status"] == "deployed");
    contains(
        "helm get manifest",
        &helm.ok("get manifest page -n helm")?,
        &["kind: Service", "image: nginx"],
    )?;
    ensure!(helm.json("get values page -n helm --all")?["replicas"] == 2);
    Ok(())
}

fn tests(helm: &Helm) -> Result<()> {
    let out = helm.ok("test page -n helm --timeout=60s --logs")?;
    contains("helm test", &out, &["Succeeded", "first"])
}

fn upgrade(helm: &Helm) -> Result<()> {
    let out =
        helm.ok(&format!("upgrade page CHART --set text=second --set replicas=1 {WAIT} {CLIENT_SIDE}"))?;
    contains("helm upgrade", &out, &["has been upgraded", "REVISION: 2"])?;
    helm.is("second", "1")
}

fn failed_upgrade(helm: &Helm) -> Result<()> {
    let line = "upgrade page CHART --set image=nginx:none --rollback-on-failure --wait --timeout=5s -n helm";
    let failed = helm.run(&format!("{line} {CLIENT_SIDE}"))?;
    ensure!(failed.code != Some(0), "it should have failed: {}", failed.out);
    contains("helm upgrade", &failed.err, &["rolled back"])?;
    helm.is("second", "1")
}

fn rollback(helm: &Helm) -> Result<()> {
    helm.ok(&format!("rollback page 1 {WAIT} {CLIENT_SIDE}"))?;
    helm.is("first", "2")?;
    let history = helm.json("history page -n helm")?;
    let statuses: Vec<&str> =
        history.as_array().context("a list")?.iter().filter_map(|r| r["status"].as_str()).collect();
    ensure!(
        statuses == ["superseded", "superseded", "failed", "superseded", "deployed"],
        "the revisions are {statuses:?}"
    );
    Ok(())
}

fn uninstall(helm: &Helm) -> Result<()> {
    helm.ok("uninstall page -n helm --wait --timeout=60s")?;
    let left = helm.kubectl.ok("-n helm get deploy,rs,svc,secret -o name")?;
    ensure!(left.is_empty(), "these are left: {left}");
    ensure!(helm.json("list -A")?.as_array().is_some_and(Vec::is_empty));
    helm.kubectl.ok("delete namespace helm --timeout=60s").map(drop)
}

fn server_side(helm: &Helm) -> Result<()> {
    let made = helm.ok(&format!("install page CHART --create-namespace {WAIT}"));
    // What a failed installation leaves must not be in the way of the next run.
    helm.kubectl.ok("delete namespace helm --ignore-not-found --timeout=60s")?;
    made.map(drop)
}
