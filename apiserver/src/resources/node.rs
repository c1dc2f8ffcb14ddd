//! `node.k8s.io`: runtime classes.

use super::columns::{AGE, NAME, path};
use crate::resource::{CLUSTER, Row};

pub(super) static ROWS: &[Row] = &[Row {
    group: "node.k8s.io",
    kind: "RuntimeClass",
    plural: "runtimeclasses",
    columns: &[NAME, path("Handler", &["handler"]), AGE],
    create_on_update: true,
    conditional_update: true,
    ..CLUSTER
}];
