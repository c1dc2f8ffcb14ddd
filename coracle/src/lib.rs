//! The program: command line, composition of the components, and a library entry for tests.

pub mod admin;
pub mod cli;
pub mod cluster_facts;
pub mod component;
pub mod data_dir;
pub mod down;
mod flags;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
pub mod image;
pub mod kubeconfig;
pub mod log;
mod node;
mod place;
pub mod preflight;
pub mod progress;
pub mod rotation;
pub mod service_manager;
mod shutdown;
pub mod testing;
pub mod up;

/// `v1.36.0+coracle-0.1.0`: the Kubernetes version served, and ours.
pub const VERSION: &str = concat!("v1.36.0+coracle-", env!("CARGO_PKG_VERSION"));
