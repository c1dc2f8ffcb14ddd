//! `scheduling.k8s.io`: priority classes.

use crate::resource::{CLUSTER, Row};

const KIND: Row = Row { group: "scheduling.k8s.io", ..CLUSTER };

pub(super) static ROWS: &[Row] =
    &[Row { kind: "PriorityClass", plural: "priorityclasses", short: &["pc"], generation: true, ..KIND }];
