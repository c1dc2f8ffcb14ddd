//! The scheduler: a pure decision core and a thin loop around it.
//!
//! `cluster` is what is known, `decide::schedule` the decision, `queue` the order, `run` the loop with its reads and
//! writes. It talks to the API server only, as any client would.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "tests"))]

pub mod cluster;
pub mod decide;
mod owners;
pub mod pod;
pub mod preempt;
mod preference;
pub mod resources;

mod bind;
mod feed;
mod filter;
mod queue;
mod run;
mod score;
#[cfg(test)]
mod tests;
mod topology;
mod volumes;

pub use run::run;

#[derive(Clone)]
pub struct Config {
    pub client: kube::Client,
    /// Pods with this `spec.schedulerName` are ours.
    pub scheduler_name: String,
    /// Who reports events: the scheduler's name and the host's.
    pub instance: String,
}

// === impl Config ===

impl Config {
    pub fn new(client: kube::Client, host: &str) -> Config {
        let scheduler_name = coracle_api::names::SCHEDULER_DEFAULT.to_owned();
        Config { client, instance: format!("{scheduler_name}-{host}"), scheduler_name }
    }
}
