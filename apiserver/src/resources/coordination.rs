//! `coordination.k8s.io`: leases.

use crate::resource::{NAMESPACED, Row};

const KIND: Row = Row { group: "coordination.k8s.io", ..NAMESPACED };

pub(super) static ROWS: &[Row] = &[Row { kind: "Lease", plural: "leases", ..KIND }];
