//! `flowcontrol.apiserver.k8s.io`: API priority and fairness.

use crate::resource::{CLUSTER, Row};

const KIND: Row = Row { group: "flowcontrol.apiserver.k8s.io", ..CLUSTER };

pub(super) static ROWS: &[Row] = &[
    Row { kind: "FlowSchema", plural: "flowschemas", status: true, generation: true, ..KIND },
    Row {
        kind: "PriorityLevelConfiguration",
        plural: "prioritylevelconfigurations",
        status: true,
        generation: true,
        ..KIND
    },
];
