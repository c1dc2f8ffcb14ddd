//! The rules of a `PodSpec`, alone or inside a template: every workload kind shares them.

mod actions;
mod containers;
mod defaults;
mod environment;
mod label_keys;
mod mounts;
mod overlaps;
mod pod_resources;
mod resize;
mod scheduling;
mod update;
mod validation;
mod volumes;
mod warnings;
mod windows;

pub(super) use containers::resources;
pub(super) use defaults::{pod, round_up_to_millis, template};
pub(super) use label_keys::merge_label_keys;
pub(super) use resize::{resized_spec, validate_pod_resize};
pub(super) use scheduling::{node_selector, toleration};
pub(super) use update::{validate_ephemeral_update, validate_pod_update};
pub(super) use validation::{items, job_template, replicated_template, validate_pod};
pub(super) use warnings::{bytes as byte_warnings, outdated_node_label, pod_warnings, template_warnings};
