//! The node agent: it makes pods out of the pod objects bound to its node, and reports what became of them.
//!
//! `pods` decides (pure plans), `runtime`, `images`, `volumes`, `net` act, `streaming` serves logs, exec, attach and
//! port-forward to the API server, `proxy` and `dns` serve the node's pods. All system calls are in `sys`; what others
//! may shape is touched by `beneath` alone.

#![cfg_attr(
    test,
    allow(
        clippy::needless_pass_by_value,
        clippy::type_complexity,
        reason = "tables of cases read better so"
    )
)]

mod agent;
pub mod beneath;
pub mod certificates;
mod config;
pub mod cri;
pub mod dns;
pub mod eviction;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
pub mod images;
pub mod net;
pub mod node;
mod node_shutdown;
pub mod pods;
pub mod probes;
pub mod proxy;
mod purge;
pub mod runtime;
pub mod shim;
pub mod streaming;
pub mod sys;
pub mod tasks;
#[cfg(test)]
mod testing;
pub mod volumes;

pub use agent::run;
pub use config::{Config, Serving};
pub use eviction::{EvictionConfig, EvictionFlags};
pub use node_shutdown::ShutdownPeriods;
pub use purge::purge;
