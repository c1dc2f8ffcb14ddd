//! `conformance`: one command for each proof.

use clap::{Parser, Subcommand};
use coracle_conformance::{acceptance, bench, clients, diff, hostile, netns, status_page, suite, swap};

/// Checks what Coracle claims.
#[derive(Parser)]
#[command(name = "conformance")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the acceptance checks: a real cluster, stock kubectl, real pods (needs root)
    Acceptance(acceptance::Options),
    /// Attack a cluster beside a well-behaved tenant, and say what each attack cost (needs root)
    Hostile(hostile::Options),
    /// Run upstream's conformance suite, or part of it, against Coracle or any cluster (needs Go once)
    Suite(suite::Options),
    /// Run what client-go, Python, Helm and kube-rs programs do against Coracle or any cluster
    Clients(clients::Options),
    /// Exchange scheduler and controllers with upstream's, both ways (needs Go once)
    Swap(swap::Options),
    /// Send the same requests to Coracle and to upstream and show every difference
    Diff(diff::Options),
    /// Set every field of every kind to what it may not be, on Coracle and on upstream, and show every difference
    Refusals(diff::refusals::Options),
    /// Write STATUS.md from the results that were kept
    Status,
    /// Measure Coracle's API server and upstream's in one run
    Bench(bench::Options),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Acceptance(options) => {
            // Threads cannot change the network of a whole process, so this comes first.
            let _namespace = netns::enter_new()?;
            acceptance::run(&options)
        }
        Command::Hostile(options) if options.lists() => hostile::list(),
        Command::Hostile(options) => {
            let _namespace = netns::enter_new()?;
            hostile::run(&options)
        }
        Command::Clients(options) => {
            // Building needs the network of the machine; afterwards nothing does.
            let tools = clients::Tools::prepare(&options);
            let _namespace = if options.starts_node() { Some(netns::enter_new()?) } else { None };
            clients::run(&options, &tools)
        }
        Command::Swap(options) => {
            let _namespace = netns::enter_new()?;
            swap::run(&options)
        }
        Command::Diff(options) => diff::run(&options),
        Command::Refusals(options) => diff::refusals::run(&options),
        Command::Status => status_page::write(),
        Command::Bench(options) => {
            let _namespace = if options.starts_node() { Some(netns::enter_new()?) } else { None };
            bench::run(&options)
        }
        Command::Suite(options) => {
            let namespace = match options.starts_node() {
                true => Some(netns::enter_new_with(options.nodes)?),
                false => None,
            };
            suite::run(&options, namespace.as_ref().map_or(&[], |n| n.machines.as_slice()))
        }
    }
}
