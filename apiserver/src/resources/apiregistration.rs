//! `apiregistration.k8s.io`: which group versions other servers answer.

use crate::resource::{CLUSTER, Row};

const KIND: Row = Row { group: "apiregistration.k8s.io", ..CLUSTER };

pub(super) static ROWS: &[Row] = &[Row {
    kind: "APIService",
    plural: "apiservices",
    status: true,
    categories: &["api-extensions"],
    ..KIND
}];
