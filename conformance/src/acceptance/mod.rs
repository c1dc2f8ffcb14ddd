//! The acceptance checks: what a user of stock kubectl must see, on a cluster started as a user starts it.
//!
//! The checks build on each other in the order of [`run`]: they share one cluster, as a working day does.

mod bad_input;
pub(crate) mod clients;
mod commands;
mod density;
mod faults;
pub(crate) mod leftovers;
mod rollout;
mod start;
mod tiers;
mod web;

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use clap::Args;
use coracle::data_dir::Layout;

use crate::cluster::{self, Cluster};
use crate::kubectl::{Kubectl, programs};
use crate::registry::Registry;
use crate::report::{Check, Report};

#[derive(Debug, Args)]
pub struct Options {
    /// The program to check [default: beside this one]
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// Run only the checks whose name contains this
    #[arg(default_value = "")]
    filter: String,
}

/// What the checks share.
pub struct World {
    pub cluster: Cluster,
    /// Every kubectl to check with; the first is the one most checks use.
    pub kubectls: Vec<Kubectl>,
    pub layout: Layout,
    /// How many containers, links, mounts ... there were before the cluster.
    pub before: leftovers::Traces,
}

// === impl World ===

impl World {
    pub fn kubectl(&self) -> &Kubectl {
        &self.kubectls[0]
    }
}

pub fn manifests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests")
}

/// Runs all checks (or those that match the filter) and prints how each went.
pub fn run(options: &Options) -> Result<()> {
    let program = cluster::program(options.program.as_deref())?;
    ensure!(program.is_file(), "{} is not there: build it, or name it with --program", program.display());
    let kubectls = programs();
    ensure!(
        !kubectls.is_empty(),
        "no kubectl found: install one, or build it with conformance/upstream/build"
    );

    let scratch = tempfile::Builder::new().prefix("coracle-check-").tempdir()?;
    let _registry = Registry::serve("../hack/images")?;
    let flags = Registry::flags("docker.io", &scratch.path().join("registries.yaml"))?;
    let flags = flags.each_ref().map(String::as_str);

    let layout = Layout::of(Some(&scratch.path().join("data")))?;
    let before = leftovers::Traces::take(&layout)?;
    let cluster = Cluster::new(&program, &scratch.path().join("data"), &flags);
    let kubectls = kubectls.iter().map(|p| cluster.kubectl(p)).collect();
    let mut world = World { cluster, kubectls, layout, before };
    let outcome = checks(&mut world, &options.filter);
    if outcome.is_err() {
        println!("the cluster's log: {}", world.cluster.log_path().display());
        drop(world);
        // What is left of the directory is for whoever looks into the failure.
        let _ = scratch.keep();
    }
    outcome
}

type Step = (&'static str, fn(&mut World) -> Result<()>);

/// In this order; names begin with the number of the acceptance line they prove.
const STEPS: &[Step] = &[
    ("01 start: readyz, node Ready, first pod", start::times),
    ("02 web: a directory of manifests runs", web::applied),
    ("02 web: Service by DNS name, spread over pods, NodePort", web::reached),
    ("02 web: mounted file, environment, live update", web::configured),
    ("03 kubectl: reading", commands::reading),
    ("03 kubectl: logs, exec, attach, cp, port-forward", commands::streaming),
    ("03 kubectl: creating", commands::creating),
    ("03 kubectl: changing", commands::changing),
    ("03 kubectl: rollouts", commands::rollouts),
    ("03 kubectl: nodes", commands::nodes),
    ("03 kubectl: discovery and access", commands::discovery),
    ("03 kubectl: what comes later says so", commands::later),
    ("04 rollout: no request is dropped", rollout::under_load),
    ("04 rollout: a bad image is undone", rollout::bad_image),
    ("04 rollout: a crash backs off", rollout::crash),
    ("04 rollout: out of memory", rollout::out_of_memory),
    ("05 faults: kill -9 and re-adoption", faults::killed),
    ("06 tiers: redis by DNS name", tiers::redis),
    ("06 tiers: guestbook", tiers::guestbook),
    ("07 clients: kube-rs over TLS and in process", clients::kube_rs),
    ("08 bad input", bad_input::refused),
    ("09 density: sixty pods at once, and one at a time", density::sixty),
    ("10 purge leaves nothing", leftovers::purged),
];

fn checks(world: &mut World, filter: &str) -> Result<()> {
    let mut report = Report::default();
    // Later checks stand on these; a filter does not leave them out.
    let always = |name: &str| {
        name.starts_with("01") || name.starts_with("02 web: a directory") || name.starts_with("10")
    };
    for (name, step) in STEPS {
        let filter = if always(name) { "" } else { filter };
        report.check(filter, Check { name, run: Box::new(|| step(world)) });
    }
    report.finish()
}
