//! `coordination.k8s.io`: leases.

use super::columns::{AGE, NAME, path};
use crate::resource::{NAMESPACED, Row};

pub(super) static ROWS: &[Row] = &[Row {
    group: "coordination.k8s.io",
    kind: "Lease",
    plural: "leases",
    columns: &[NAME, path("Holder", &["spec", "holderIdentity"]), AGE],
    create_on_update: true,
    conditional_update: true,
    free_finalizers: true,
    ..NAMESPACED
}];
