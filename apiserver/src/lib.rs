//! The API server: HTTP, authentication, authorisation, admission, the registry of kinds, and the store.
//!
//! A request reads top to bottom: `server` -> `chain` (`request::parse`, `authn`, `authz`, limits) -> `verbs` ->
//! `codec`, `schema`, `admission`, the row's `Strategy`, `store`. Only `resources/` knows any kind by name.

pub mod admission;
pub mod authn;
pub mod authz;
pub mod codec;
pub mod field;
pub mod field_names;
pub mod openapi;
pub mod patch;
pub mod request;
pub mod resource;
pub mod resources;
pub mod schema;
pub mod status;
pub mod store;

/// The running server: everything a request may need, shared by all of them.
pub struct Server {}
