//! Aggregated API servers: group versions that another server answers, as an `APIService` says.
//!
//! [`remote`] is such a server, [`proxy`] passes requests on to it, [`availability`] says whether it can be asked,
//! [`discovery`] and [`openapi`] learn what it serves, and [`run`] follows the store: the registry knows each group version
//! from the moment its `APIService` is there, and a task for each asks its server when something about it changes.

mod availability;
mod discovery;
mod follow;
mod openapi;
mod proxy;
mod remote;
mod run;

use coracle_api::Gvr;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::registry::Catalog;

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use discovery::hostile_discovery;
pub use proxy::serve;
pub use remote::{Discovered, Remote};
pub use run::{Services, run};

/// The resource that names other servers.
pub fn gvr() -> Gvr {
    Gvr::new("apiregistration.k8s.io", "v1", "apiservices")
}

/// The other server that answers a path: what is below the group version, and its OpenAPI document.
pub fn answering<'a>(catalog: &'a Catalog, path: &str) -> Option<&'a std::sync::Arc<Remote>> {
    let path = path.strip_prefix("/openapi/v3").unwrap_or(path);
    let mut segments = path.strip_prefix("/apis/")?.split('/');
    catalog.remote(segments.next()?, segments.next()?)
}

/// What is true of the group versions that this server answers itself.
pub fn local_condition(now: Timestamp) -> Value {
    condition("True", "Local", "Local APIServices are always available", now)
}

fn condition(status: &str, reason: &str, message: &str, now: Timestamp) -> Value {
    json!({"type": "Available", "status": status, "lastTransitionTime": coracle_api::time::seconds(now),
           "reason": reason, "message": message})
}
