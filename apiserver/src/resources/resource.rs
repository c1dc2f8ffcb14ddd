//! `resource.k8s.io`: dynamic resource allocation.

use crate::resource::{CLUSTER, NAMESPACED, Row};

const KIND: Row = Row { group: "resource.k8s.io", ..NAMESPACED };
const CLUSTER_KIND: Row = Row { group: "resource.k8s.io", ..CLUSTER };

pub(super) static ROWS: &[Row] = &[
    Row { kind: "DeviceClass", plural: "deviceclasses", generation: true, ..CLUSTER_KIND },
    Row { kind: "ResourceClaim", plural: "resourceclaims", status: true, ..KIND },
    Row { kind: "ResourceClaimTemplate", plural: "resourceclaimtemplates", ..KIND },
    Row { kind: "ResourceSlice", plural: "resourceslices", generation: true, ..CLUSTER_KIND },
];
