//! The built-in kinds: rows and hooks, one file per API group.

use crate::resource::Row;

mod admissionregistration;
mod apiextensions;
mod apiregistration;
mod apps;
mod authentication;
mod authorization;
mod autoscaling;
mod autoscaling_metrics;
mod batch;
mod certificates;
mod columns;
mod coordination;
mod core;
mod defaulting;
mod discovery;
mod events;
mod flowcontrol;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod hostile;
mod networking;
mod node;
mod pod_calls;
mod pod_spec;
mod policy;
mod policy_rules;
mod rbac;
mod resource;
mod scheduling;
mod stateful_sets;
mod storage;
#[cfg(test)]
mod tests;
mod validation;
mod webhook_rules;

pub(crate) use webhook_rules::wrong_webhook_client;

/// The rows of all groups.
static GROUPS: &[&[Row]] = &[
    core::ROWS,
    apps::ROWS,
    events::ROWS,
    authentication::ROWS,
    authorization::ROWS,
    autoscaling::ROWS,
    batch::ROWS,
    certificates::ROWS,
    networking::ROWS,
    policy::ROWS,
    rbac::ROWS,
    storage::ROWS,
    admissionregistration::ROWS,
    apiextensions::ROWS,
    apiregistration::ROWS,
    scheduling::ROWS,
    coordination::ROWS,
    node::ROWS,
    discovery::ROWS,
    resource::ROWS,
    flowcontrol::ROWS,
];

/// Every kind the server is born with, in the order discovery shows their groups.
pub fn builtins() -> impl Iterator<Item = &'static Row> {
    GROUPS.iter().flat_map(|rows| rows.iter())
}
