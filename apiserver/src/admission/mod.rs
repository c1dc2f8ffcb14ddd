//! Admission: one ordered list of plugins that may change, then refuse, what is about to be written.

use coracle_api::Object;

use crate::authn::User;
use crate::cluster::Cluster;
use crate::resource::Resource;
use crate::status::Result;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Create,
    Update,
    Delete,
    Connect,
}

/// What is about to happen. Upstream's `admission.Attributes` without the objects.
pub struct Attributes<'a> {
    pub user: &'a User,
    pub operation: Operation,
    pub resource: &'a Resource,
    /// Empty for the main endpoint.
    pub subresource: &'a str,
    pub namespace: &'a str,
    /// Empty while `generateName` has not been resolved.
    pub name: &'a str,
    pub dry_run: bool,
}
