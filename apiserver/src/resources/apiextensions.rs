//! `apiextensions.k8s.io`: custom resource definitions.

use crate::resource::{CLUSTER, Row};

const KIND: Row = Row { group: "apiextensions.k8s.io", ..CLUSTER };

pub(super) static ROWS: &[Row] = &[Row {
    kind: "CustomResourceDefinition",
    plural: "customresourcedefinitions",
    short: &["crd", "crds"],
    status: true,
    generation: true,
    categories: &["api-extensions"],
    ..KIND
}];
