//! `resource.k8s.io`: dynamic resource allocation.

use coracle_api::Object;
use serde_json::json;

use super::columns::{AGE, NAME, NAME_AND_AGE, path, rule};
use crate::resource::{CLUSTER, NAMESPACED, Row};

const GROUP: &str = "resource.k8s.io";
const KIND: Row = Row { group: GROUP, ..NAMESPACED };
const CLUSTER_KIND: Row = Row { group: GROUP, ..CLUSTER };

pub(super) static ROWS: &[Row] = &[
    Row {
        kind: "DeviceClass",
        plural: "deviceclasses",
        generation: true,
        columns: NAME_AND_AGE,
        returns_deleted: true,
        ..CLUSTER_KIND
    },
    Row {
        kind: "ResourceClaim",
        plural: "resourceclaims",
        status: true,
        columns: &[NAME, rule("State", |o, _| json!(state(o))), AGE],
        returns_deleted: true,
        ..KIND
    },
    Row {
        kind: "ResourceClaimTemplate",
        plural: "resourceclaimtemplates",
        columns: NAME_AND_AGE,
        returns_deleted: true,
        ..KIND
    },
    Row {
        kind: "ResourceSlice",
        plural: "resourceslices",
        generation: true,
        columns: &[
            NAME,
            path("Node", &["spec", "nodeName"]),
            path("Driver", &["spec", "driver"]),
            path("Pool", &["spec", "pool", "name"]),
            AGE,
        ],
        returns_deleted: true,
        ..CLUSTER_KIND
    },
];

fn state(o: &Object) -> String {
    let mut states = vec![];
    if o.is_being_deleted() {
        states.push("deleted");
    }
    match o.at(&["status", "allocation"]) {
        None if !o.is_being_deleted() => states.push("pending"),
        None => {}
        Some(_) => {
            states.push("allocated");
            if !o.items_at(&["status", "reservedFor"]).is_empty() {
                states.push("reserved");
            }
        }
    }
    states.join(",")
}
