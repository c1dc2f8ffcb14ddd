//! Method and URI to [`RequestInfo`], once and purely. Authorisation, audit and dispatch see nothing else.

use coracle_api::Gvr;

/// What a request asks for. Upstream's `RequestInfo`.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct RequestInfo {
    /// `get list watch create update patch delete deletecollection` for resources (`proxy` requests keep the verb of the
    /// method), the lower-case method otherwise.
    pub verb: String,
    pub path: String,
    pub is_resource: bool,
    pub group: String,
    pub version: String,
    pub namespace: String,
    pub resource: String,
    pub subresource: String,
    pub name: String,
    /// What follows the subresource: the target path of `proxy`.
    pub tail: String,
    /// The raw query string.
    pub query: String,
}

impl RequestInfo {
    pub fn gvr(&self) -> Gvr {
        Gvr::new(&*self.group, &*self.version, &*self.resource)
    }
}
