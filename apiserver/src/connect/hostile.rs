//! Hostile queries and names of what is connected to.

use super::proxy;
use super::query::Query;
use crate::cluster::testing::Fixed;
use crate::request::{RequestInfo, params};

/// A raw query is read as everywhere else, and what is passed on of it says the same.
pub(crate) fn query(text: &str, info: &RequestInfo) {
    let query = Query::parse(text);
    // Each of them is looked for in all.
    for (name, value) in params(text).take(8) {
        assert!(query.all(&name).any(|v| v == value), "{name:?} in {text:?}");
        // Options have plain names.
        if !name.bytes().all(|b| b.is_ascii_alphanumeric()) {
            continue;
        }
        let only = query.only(&[&name]);
        let passed: Vec<_> = params(&only).map(|(_, v)| v.into_owned()).collect();
        let given: Vec<_> = params(text).filter(|(n, _)| *n == name).map(|(_, v)| v.into_owned()).collect();
        assert_eq!(passed, given, "{name:?} in {text:?}");
    }
    if let Ok((_, path)) = proxy::target(&Fixed::new(vec![]), info) {
        assert!(path.starts_with('/'));
    }
}
