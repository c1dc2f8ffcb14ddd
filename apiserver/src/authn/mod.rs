//! Who is asking: client certificates, service-account tokens, anonymous.

use std::collections::BTreeMap;

/// An authenticated identity. Upstream's `user.Info`.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct User {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}
