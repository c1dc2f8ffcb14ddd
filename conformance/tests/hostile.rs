//! The quick part of the attack book, against a cluster in a network namespace of its own. Needs root; a program of its own,
//! since a namespace is for one thread.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use coracle_conformance::{cluster, hostile, netns};

/// What the tenant may wait for a program that was built without optimisation, on a machine that builds other things:
/// the limit itself is for `conformance hostile` with a release build.
const UNOPTIMISED_P99_MS: f64 = 1500.0;

fn main() -> ExitCode {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED: the attack book needs root; nothing was attacked");
        return ExitCode::SUCCESS;
    }
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let test = std::env::current_exe()?;
    let program = test.parent().and_then(Path::parent).context("a target folder")?.join("coracle");
    cluster::build(&program)?;
    let _namespace = netns::enter_new()?;
    let tenant_p99 = if cfg!(debug_assertions) { UNOPTIMISED_P99_MS } else { hostile::Limits::P99_MS };
    hostile::run(&hostile::Options { program: Some(program), quick: true, tenant_p99, ..Default::default() })
}
