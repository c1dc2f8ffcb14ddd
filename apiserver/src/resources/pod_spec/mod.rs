//! The rules of a `PodSpec`, alone or inside a template: every workload kind shares them.

mod containers;
mod defaults;
mod scheduling;
mod update;
mod validation;
mod volumes;

pub(super) use defaults::{pod, round_up_to_millis, template};
pub(super) use update::validate_pod_update;
pub(super) use validation::{job_template, replicated_template, validate_pod};
