//! `storage.k8s.io`: storage classes and what CSI drivers say.

use crate::resource::{CLUSTER, NAMESPACED, Row};

const KIND: Row = Row { group: "storage.k8s.io", ..CLUSTER };
const NAMESPACED_KIND: Row = Row { group: "storage.k8s.io", ..NAMESPACED };

pub(super) static ROWS: &[Row] = &[
    Row { kind: "CSIDriver", plural: "csidrivers", generation: true, ..KIND },
    Row { kind: "CSINode", plural: "csinodes", ..KIND },
    Row { kind: "CSIStorageCapacity", plural: "csistoragecapacities", ..NAMESPACED_KIND },
    Row { kind: "StorageClass", plural: "storageclasses", short: &["sc"], ..KIND },
    Row { kind: "VolumeAttachment", plural: "volumeattachments", status: true, ..KIND },
    Row { kind: "VolumeAttributesClass", plural: "volumeattributesclasses", short: &["vac"], ..KIND },
];
