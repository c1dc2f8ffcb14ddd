//! Upstream's conformance suite, run against Coracle or against any cluster.
//!
//! Tests are chosen from `upstream/tests.tsv`, run by ginkgo in a parallel and a serial phase as upstream runs them, and
//! what came out is kept as [`Results`]: the ratchet `passing.txt` and the status page are made from nothing else.

mod ginkgo;
mod junit;
mod results;
mod selection;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::Args;

pub use results::{Outcome, Results};
pub use selection::{Test, tests};

use crate::cluster::{self, Cluster};
use crate::kept;
use crate::kubectl::upstream_programs;

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
    /// Serve the control plane alone: for tests that need no node
    #[arg(long)]
    no_node: bool,
    /// Tests at the same time in the parallel phase
    #[arg(long, default_value_t = 4, value_name = "N")]
    procs: u8,
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
}

/// Folder of this crate: what is committed lies here.
pub fn home() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub fn run(options: &Options) -> Result<()> {
    let last: Results = kept::load(&home().join("results.json"))?.unwrap_or_default();
    let chosen = selection::choose(&tests()?, |t| {
        (options.step.is_empty() || options.step.contains(&t.step))
            && options.sig.as_ref().is_none_or(|sig| t.name.starts_with(&format!("[sig-{sig}]")))
            && (!options.failed || last.failed(&t.name))
            && t.name.contains(&options.filter)
    });
    ensure!(!chosen.is_empty(), "no test matches");
    let programs = built()?;
    std::fs::create_dir_all(&options.out)?;
    let out = std::path::absolute(&options.out)?;

    let mut cluster = match &options.kubeconfig {
        Some(_) => None,
        None => Some(start(options, &out)?),
    };
    let kubeconfig = match (&options.kubeconfig, &cluster) {
        (Some(file), _) => file.clone(),
        (None, Some(cluster)) => cluster.kubeconfig(),
        (None, None) => unreachable!("a cluster was started when none was named"),
    };

    let mut results = Results::new(git_head());
    let suite = ginkgo::Suite { programs, kubeconfig, no_node: options.no_node, out };
    let (serial, parallel): (Vec<_>, Vec<_>) = chosen.into_iter().partition(Test::is_serial);
    for (phase, tests, procs) in [("parallel", parallel, options.procs), ("serial", serial, 1)] {
        if !tests.is_empty() {
            suite.run(phase, &tests, procs, &mut cluster, &mut results)?;
        }
    }
    if let Some(mut cluster) = cluster {
        cluster.purge()?;
    }
    conclude(&last, &results)
}

/// Starts a Coracle for the suite, with the suite's images imported when it has a node.
fn start(options: &Options, out: &Path) -> Result<Cluster> {
    let program = cluster::program(options.program.as_deref())?;
    let flags: &[&str] = if options.no_node { &["--no-node"] } else { &[] };
    let data = out.join("data");
    let _ = std::fs::remove_dir_all(&data);
    let mut cluster = Cluster::new(&program, &data, flags);
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

fn git_head() -> String {
    let output = Command::new("git").args(["rev-parse", "--short=10", "HEAD"]).current_dir(home()).output();
    output.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned()).unwrap_or_default()
}

/// Keeps the results, prints the summary, and fails by name what passed once and does not any more.
fn conclude(last: &Results, now: &Results) -> Result<()> {
    let passing = std::fs::read_to_string(home().join("passing.txt")).unwrap_or_default();
    let regressed: Vec<&str> = passing.lines().filter(|name| now.failed(name)).collect();
    let merged = last.clone().with(now);
    kept::save(&merged, &home().join("results.json"))?;
    std::fs::write(home().join("passing.txt"), merged.passing(&passing))?;
    for (name, outcome) in now.failures() {
        println!("FAILED  {name}\n        {}", outcome.error);
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
