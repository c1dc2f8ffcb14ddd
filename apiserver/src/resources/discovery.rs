//! `discovery.k8s.io`: endpoint slices.

use crate::resource::{NAMESPACED, Row};

const KIND: Row = Row { group: "discovery.k8s.io", ..NAMESPACED };

pub(super) static ROWS: &[Row] =
    &[Row { kind: "EndpointSlice", plural: "endpointslices", generation: true, ..KIND }];
