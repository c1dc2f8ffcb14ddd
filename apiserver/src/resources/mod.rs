//! The built-in kinds: rows and hooks, one file per API group.

use crate::resource::Row;

mod addresses;
mod admissionregistration;
mod apiextensions;
mod apiregistration;
mod apps;
mod authentication;
mod authorization;
mod autoscaling;
mod autoscaling_metrics;
mod batch;
mod batch_rules;
mod batch_status;
mod certificates;
mod columns;
mod coordination;
mod core;
mod defaulting;
mod discovery;
mod events;
mod flow_rules;
mod flowcontrol;
mod go_form;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod hostile;
mod located;
mod networking;
mod networking_rules;
mod node;
mod pod_calls;
mod pod_spec;
mod policy;
mod policy_rules;
mod rbac;
mod resource;
mod resource_claims;
mod resource_slices;
mod resource_status;
mod scheduling;
mod stateful_sets;
mod storage;
mod storage_rules;
#[cfg(test)]
mod tests;
mod validation;
mod volume_sources;
mod webhook_rules;
mod workload_status;

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
