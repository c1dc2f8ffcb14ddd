//! The clients people use, each as a list of named checks: kube-rs, client-go, Python's `kubernetes`, Helm.

mod helm;
mod kube_rs;
mod lines;
mod site;
mod tools;

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

pub use site::Site;
pub use site::import;
pub use tools::Tools;

use crate::kept;
use crate::outcome::{Ran, Verdict};
use crate::suite::home;

#[derive(Debug, Args)]
pub struct Options {
    /// Only these clients [default: all]
    #[arg(value_enum, value_name = "CLIENT")]
    only: Vec<Suite>,
    /// Run against this cluster instead of starting a Coracle; it must have the images of hack/images
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The program to check [default: beside this one]
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Suite {
    KubeRs,
    ClientGo,
    Python,
    Helm,
}

/// Where the results are kept.
pub(crate) const FILE: &str = "clients.json";

impl Options {
    /// A node changes the network of its machine, so that a network namespace is needed.
    pub fn starts_node(&self) -> bool {
        self.kubeconfig.is_none()
    }

    pub fn suites(&self) -> &[Suite] {
        if self.only.is_empty() { Suite::value_variants() } else { &self.only }
    }
}

/// Runs the chosen suites, prints how each check went and keeps the results.
pub fn run(options: &Options, tools: &Tools) -> Result<()> {
    let mut site = Site::open(options.kubeconfig.as_deref(), options.program.as_deref())?;
    let file = home().join(FILE);
    let mut all: BTreeMap<Suite, Ran> = kept::load(&file)?.unwrap_or_default();
    let mut failed = 0;
    for &suite in options.suites() {
        let ran = one(suite, tools, &mut site);
        failed += ran.count(Verdict::Failed);
        all.insert(suite, ran);
        // At once: what comes later may be cut short.
        kept::save(&all, &file)?;
    }
    site.close()?;
    ensure!(failed == 0, "{failed} checks failed");
    Ok(())
}

fn one(suite: Suite, tools: &Tools, site: &mut Site) -> Ran {
    let tool = match suite {
        Suite::KubeRs => {
            let mut ran = Ran::now("kube-rs, the version in Cargo.lock");
            let whole = kube_rs::run(site, &mut ran);
            ran.whole(whole);
            return ran;
        }
        Suite::ClientGo => &tools.client_go,
        Suite::Python => &tools.python,
        Suite::Helm => &tools.helm,
    };
    match tool {
        Ok(tool) => {
            let mut ran = Ran::now(&tool.version);
            let whole = match suite {
                Suite::Helm => helm::run(&tool.command[0], site, &mut ran),
                _ => lines::run(&tool.command, site, &mut ran),
            };
            ran.whole(whole);
            ran
        }
        Err(why) => {
            let mut ran = Ran::now(suite.to_possible_value().expect("no value is hidden").get_name());
            ran.skip(why);
            ran
        }
    }
}
