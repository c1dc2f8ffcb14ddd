//! Custom resource definitions at run time: each becomes [`Resource`](crate::resource::Resource)s in the registry.
//!
//! [`serving`] makes the resources, [`status`] decides what a definition's conditions say, [`strategy`] holds custom objects to
//! their schema, [`conversion`] asks webhooks for other versions, [`rules`] evaluates a definition's
//! own rules, [`validation`] judges definitions, [`cleanup`] empties a definition that is deleted, and [`run`] follows the store.

mod cleanup;
mod conversion;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod hostile;
mod json_path;
mod local_services;
mod rules;
mod run;
mod serving;
mod status;
mod strategy;
mod validation;

pub use cleanup::FINALIZER;
pub use conversion::VersionHook;
pub use json_path::JsonPath;
pub use rules::{escape_field, expression_type};
pub use run::{Definitions, run};
#[cfg(test)]
pub(crate) use serving::resources_of;
pub use validation::{unknown_formats, validate};
