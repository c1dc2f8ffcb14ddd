//! The API server: HTTP, authentication, authorisation, admission, the registry of kinds, and the store.
//!
//! A request reads top to bottom: `server` -> `chain` (`request::parse`, `authn`, `authz`, limits) -> `verbs` ->
//! `codec`, `schema`, `admission`, the row's `Strategy`, `store`. Only `resources/` knows any kind by name.

pub mod access;
pub mod admission;
pub mod aggregation;
mod apart;
pub mod authn;
pub mod authz;
pub mod bootstrap;
pub mod cel;
pub mod chain;
pub mod cluster;
pub mod codec;
pub mod connect;
pub mod crd;
pub mod discovery;
pub mod field;
pub mod field_names;
pub mod flow_control;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
pub mod health;
pub mod ip_allocator;
pub mod limits;
pub mod metrics;
pub mod openapi;
pub mod patch;
pub mod pki;
pub mod regexp;
pub mod registry;
pub mod request;
pub mod resource;
pub mod resources;
pub mod route;
pub mod schema;
pub mod server;
pub mod status;
pub mod store;
pub mod verbs;
pub mod webhook;
mod zpages;

pub use server::{Api, Config, Listen, Running, Server, StartError};
