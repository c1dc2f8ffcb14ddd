//! The server as its own client: reads and writes that plugins and handlers make inside a request.
//!
//! Reads see the store's memory. Writes take the same way as a client's (defaults, admission, validation), without
//! authorisation: the caller has decided that already.

use coracle_api::{Gvr, Object};
use serde_json::Value;

use crate::Server;
use crate::authn::User;
use crate::status::{Result, Status};

/// A `DELETE` inside the server.
#[derive(Clone, Debug, Default)]
pub struct Deletion {
    pub grace_period_seconds: Option<i64>,
    pub uid: Option<String>,
    pub resource_version: Option<String>,
    pub propagation: Option<String>,
    pub dry_run: bool,
}

impl Server {
    /// The object, in the version `gvr` names. 404 where it, or the kind, does not exist. `namespace` is empty for
    /// cluster-wide kinds.
    pub fn get(&self, _gvr: &Gvr, _namespace: &str, _name: &str) -> Result<Object> {
        Err(Status::internal("starting"))
    }

    /// All objects of a namespace, or of all where `namespace` is empty.
    pub fn list(&self, _gvr: &Gvr, _namespace: &str) -> Result<Vec<Object>> {
        Err(Status::internal("starting"))
    }

    pub async fn create(&self, _user: &User, _gvr: &Gvr, _namespace: &str, _new: Object, _dry_run: bool) -> Result<Object> {
        Err(Status::internal("starting"))
    }

    /// Reads, changes and writes until nobody else wrote in between. `subresource` is `""`, `status`, or a part.
    pub async fn modify(
        &self,
        _user: &User,
        _gvr: &Gvr,
        _subresource: &str,
        _namespace: &str,
        _name: &str,
        _dry_run: bool,
        _change: &(dyn Fn(&mut Object) -> Result<()> + Send + Sync),
    ) -> Result<Object> {
        Err(Status::internal("starting"))
    }

    /// Deletes as a client would; answers the object as it stands afterwards, or a `Status` object.
    pub async fn delete(&self, _user: &User, _gvr: &Gvr, _namespace: &str, _name: &str, _how: &Deletion) -> Result<Value> {
        Err(Status::internal("starting"))
    }
}
