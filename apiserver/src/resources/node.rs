//! `node.k8s.io`: runtime classes.

use crate::resource::{CLUSTER, Row};

const KIND: Row = Row { group: "node.k8s.io", ..CLUSTER };

pub(super) static ROWS: &[Row] = &[Row { kind: "RuntimeClass", plural: "runtimeclasses", ..KIND }];
