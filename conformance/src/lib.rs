//! The specification of Coracle as tests and benchmarks: they start clusters, or are aimed at one.

pub mod acceptance;
pub mod bench;
pub mod clients;
pub mod cluster;
pub mod diff;
pub mod further_node;
pub mod hostile;
pub mod kept;
pub mod kubectl;
pub mod netns;
pub mod operator;
pub mod outcome;
pub mod pod_starts;
mod process;
mod program;
pub mod registry;
pub mod report;
pub mod status_page;
pub mod suite;
pub mod swap;
pub mod upstream;
mod wire;
