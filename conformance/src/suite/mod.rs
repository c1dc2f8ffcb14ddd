//! Upstream's conformance suite, run against Coracle or against any cluster.
//!
//! Tests are chosen from `upstream/tests.tsv` and run in a parallel and a serial phase as upstream runs them. Several
//! processes take them in small portions, so that one test that hangs, or a crash, costs little. What came out is kept
//! test by test as [`Results`]: the ratchet `passing.txt` and the status page are made from nothing else. A cluster that
//! was started for it logs who asks for what, and the run fails where a program of ours was an administrator ([`Accounts`]).

mod accounts;
mod console;
mod e2e;
pub(crate) mod junit;
mod results;
mod schedule;
mod selection;
mod supervise;

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;

pub use accounts::Accounts;
pub use results::{Outcome, Results};
pub use selection::{Test, tests};

use crate::cluster::{self, Cluster};
use crate::further_node::FurtherNode;
use crate::kept;
use crate::kubectl::upstream_programs;
use crate::netns::Machine;
use crate::registry::Registry;
use crate::upstream::free_port;
use schedule::Run;
use supervise::Supervisor;

#[derive(Debug, Args)]
pub struct Options {
    /// Run against this cluster instead of starting a Coracle
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Only tests of these unlock steps (1 to 15; see upstream/tests.tsv)
    #[arg(long, value_delimiter = ',', value_name = "N")]
    step: Vec<u8>,
    /// Only tests of this SIG, such as `network`
    #[arg(long, value_name = "NAME")]
    sig: Option<String>,
    /// Only tests that failed in the last run
    #[arg(long)]
    failed: bool,
    /// Only tests that take upstream no longer than this
    #[arg(long, value_name = "SECONDS")]
    within: Option<f64>,
    /// Serve the control plane alone: for tests that need no node
    #[arg(long)]
    no_node: bool,
    /// Nodes of the cluster, each in a network namespace of its own
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=9))]
    pub nodes: u8,
    /// Tests at the same time in the parallel phase
    #[arg(long, default_value_t = 4, value_name = "N")]
    procs: u8,
    /// Seconds a test may take beyond 5/4 of upstream's own time [default: 90; 330 with --kubeconfig, for controllers that
    /// look again only every five minutes]
    #[arg(long, value_name = "SECONDS")]
    patience: Option<u64>,
    /// Compare with passing.txt, but change no file of the repository
    #[arg(long)]
    check: bool,
    /// Merge results into this file, and leave passing.txt as it is [default: results.json of this crate; with --kubeconfig or --check, of --out]
    #[arg(long, value_name = "FILE")]
    keep: Option<PathBuf>,
    /// The program to check [default: beside this one]
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// Where junit files and logs go
    #[arg(long, default_value = "target/conformance", value_name = "DIR")]
    out: PathBuf,
    /// Only tests whose name contains this
    #[arg(default_value = "")]
    filter: String,
}

// === impl Options ===

impl Options {
    /// Whether pods will run on this machine, so that a network namespace is needed.
    pub fn starts_node(&self) -> bool {
        self.kubeconfig.is_none() && !self.no_node
    }

    fn wants(&self, test: &Test, last: &Results) -> bool {
        (self.step.is_empty() || self.step.contains(&test.step))
            && self.sig.as_ref().is_none_or(|sig| test.sig() == sig)
            && (!self.failed || last.failed(&test.name))
            && self.within.is_none_or(|most| test.upstream_seconds.is_none_or(|took| took <= most))
            && test.name.contains(&self.filter)
    }

    /// What a cluster of someone else's has is not known.
    fn has_nodes_for(&self, test: &Test) -> bool {
        self.kubeconfig.is_some() || self.no_node || test.nodes <= self.nodes
    }

    fn kept_in(&self, out: &Path) -> PathBuf {
        match &self.keep {
            Some(file) => file.clone(),
            None if self.check || self.kubeconfig.is_some() => out.join("results.json"),
            None => home().join("results.json"),
        }
    }
}

/// Folder of this crate: what is committed lies here.
pub fn home() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Runs the chosen tests; each of `machines` is a node beside the first.
pub fn run(options: &Options, machines: &[Machine]) -> Result<()> {
    std::fs::create_dir_all(&options.out)?;
    let out = std::path::absolute(&options.out)?;
    let keep = options.kept_in(&out);
    let last: Results = kept::load(&keep)?.unwrap_or_default();
    let chosen = selection::choose(&tests()?, |t| options.wants(t, &last));
    let (chosen, too_large) = chosen.into_iter().partition::<Vec<_>, _>(|t| options.has_nodes_for(t));
    if !too_large.is_empty() {
        println!("{} tests are left out: they want more nodes (--nodes)", too_large.len());
    }
    ensure!(!chosen.is_empty(), "no test matches");
    let programs = built()?;
    let stop = stop_on_signal()?;

    let mut registries = vec![];
    if options.starts_node() {
        registries.push(Registry::serve("upstream/images")?);
    }
    for machine in machines {
        registries.push(Registry::serve_on(machine, "upstream/images")?);
    }
    let cluster = if options.kubeconfig.is_none() { Some(start(options, machines, &out)?) } else { None };
    let kubeconfig = match (&options.kubeconfig, &cluster) {
        (Some(file), _) => std::path::absolute(file)?,
        (None, Some(cluster)) => cluster.kubeconfig(),
        (None, None) => unreachable!("a cluster was started when none was named"),
    };
    let log = cluster.as_ref().map(Cluster::log_path);
    let book = out.join("accounts.txt");
    let supervisor = Supervisor::new(cluster, &programs.join("kubectl"));
    let usual = if options.kubeconfig.is_some() { 330 } else { 90 };
    let patience = Duration::from_secs(options.patience.unwrap_or(usual));
    let suite = e2e::Suite { programs, kubeconfig, no_node: options.no_node, patience };
    let run = Run::new(suite, out, keep, (last, Results::new(git_head())), &supervisor, &stop);
    let ended = std::thread::scope(|scope| {
        scope.spawn(|| supervisor.watch(&stop));
        let ended = phases(options, &run, chosen);
        supervisor.end();
        ended
    });
    let results = run.into_results();
    let crashes = supervisor.crashes();
    if let Some(mut cluster) = supervisor.into_cluster() {
        cluster.purge()?;
    }
    ended?;
    if crashes > 0 {
        println!("the cluster was started again {crashes} times");
    }
    let asked = log.map_or(Ok(()), |log| account(&log, &book));
    conclude(options, &results)?;
    asked?;
    ensure!(!stop.load(Ordering::SeqCst), "the run was stopped before its end; what it has is kept");
    Ok(())
}

/// Prints who asked for how much, keeps it in a file, and fails where a program of ours was an administrator.
fn account(log: &Path, book: &Path) -> Result<()> {
    let log = BufReader::new(File::open(log).with_context(|| format!("{}", log.display()))?);
    let accounts = Accounts::read(log)?;
    print!("{accounts}");
    std::fs::write(book, accounts.to_string()).with_context(|| format!("{}", book.display()))?;
    accounts.judge()
}

fn phases(options: &Options, run: &Run<'_>, chosen: Vec<Test>) -> Result<()> {
    let (serial, parallel): (Vec<_>, Vec<_>) = chosen.into_iter().partition(Test::is_serial);
    for (phase, tests, procs) in [("parallel", parallel, options.procs.max(1)), ("serial", serial, 1)] {
        if !tests.is_empty() {
            run.phase(phase, &tests, procs)?;
        }
    }
    Ok(())
}

/// A flag that SIGINT and SIGTERM set, so that the run ends in order.
fn stop_on_signal() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let set = stop.clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::spawn(move || {
        runtime.block_on(async {
            use tokio::signal::unix::{SignalKind, signal};
            let (Ok(mut int), Ok(mut term)) =
                (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
            else {
                return;
            };
            loop {
                tokio::select! { _ = int.recv() => {}, _ = term.recv() => {} }
                set.store(true, Ordering::SeqCst);
            }
        });
    });
    Ok(stop)
}

/// Starts a Coracle for the suite, with the suite's images imported when it has a node.
fn start(options: &Options, machines: &[Machine], out: &Path) -> Result<Cluster> {
    let program = cluster::program(options.program.as_deref())?;
    if options.program.is_none() {
        cluster::build(&program)?;
    }
    ensure!(program.is_file(), "{} is not there: build it, or name it with --program", program.display());
    let data = out.join("data");
    let port = free_port()?.to_string();
    let registry = Registry::flags("registry.k8s.io", &out.join("registries.yaml"))?;
    let flags: Vec<&str> = if options.no_node {
        vec!["--no-node", "--port", &port]
    } else {
        registry.iter().map(String::as_str).collect()
    };
    let flags = [&flags[..], &["--log", accounts::LOG]].concat();
    let mut cluster = Cluster::new(&program, &data, &flags).with_machines(machines, &registry)?;
    if data.exists() {
        println!("removing what an earlier run left in {}", data.display());
        cluster.purge()?;
        let _ = std::fs::remove_dir_all(&data);
    }
    // The log of an earlier run is not of this one.
    for log in cluster.further.iter().map(FurtherNode::log_path).chain([cluster.log_path()]) {
        let _ = std::fs::remove_file(log);
    }
    if !options.no_node {
        let archives =
            Command::new(home().join("upstream/images")).output().context("running upstream/images")?;
        ensure!(archives.status.success(), "upstream/images: {}", String::from_utf8_lossy(&archives.stderr));
        let files = String::from_utf8_lossy(&archives.stdout).into_owned();
        let import = cluster.coracle(&["image", "import"]).args(files.lines()).output()?;
        ensure!(import.status.success(), "image import: {}", String::from_utf8_lossy(&import.stderr));
    }
    cluster.up()?;
    Ok(cluster)
}

/// The suite's programs, built when they are missing.
fn built() -> Result<PathBuf> {
    let programs = upstream_programs().context("no cache directory: set CORACLE_CACHE")?;
    if ["e2e.test", "ginkgo", "kubectl"].iter().all(|p| programs.join(p).is_file()) {
        return Ok(programs);
    }
    let status = Command::new(home().join("upstream/build")).status().context("running upstream/build")?;
    ensure!(status.success(), "upstream's suite could not be built (it needs Go 1.26)");
    Ok(programs)
}

pub(crate) fn git_head() -> String {
    let output = Command::new("git").args(["rev-parse", "--short=10", "HEAD"]).current_dir(home()).output();
    output.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned()).unwrap_or_default()
}

/// Prints the summary, and fails by name what passed once and does not any more.
fn conclude(options: &Options, now: &Results) -> Result<()> {
    for (name, outcome) in now.failures() {
        println!("FAILED  {name}\n        {}", outcome.error);
    }
    let passing = std::fs::read_to_string(home().join("passing.txt")).unwrap_or_default();
    let mut regressed: Vec<&str> = vec![];
    if options.kubeconfig.is_none() {
        regressed.extend(passing.lines().filter(|name| now.failed(name)));
        if !options.check && options.keep.is_none() {
            std::fs::write(home().join("passing.txt"), now.passing(&passing))?;
        }
    }
    for name in &regressed {
        println!("REGRESSED  {name}");
    }
    println!(
        "{} passed, {} failed, {} skipped",
        now.count("passed"),
        now.count("failed"),
        now.count("skipped")
    );
    ensure!(regressed.is_empty(), "{} tests that passed before fail now", regressed.len());
    Ok(())
}
