//! `apiextensions.k8s.io`: custom resource definitions.

use super::columns::NAME_AND_CREATED_AT;
use crate::resource::{CLUSTER, Row};

pub(super) static ROWS: &[Row] = &[Row {
    group: "apiextensions.k8s.io",
    kind: "CustomResourceDefinition",
    plural: "customresourcedefinitions",
    short: &["crd", "crds"],
    categories: &["api-extensions"],
    status: true,
    generation: true,
    columns: NAME_AND_CREATED_AT,
    conditional_update: true,
    free_finalizers: true,
    ..CLUSTER
}];
