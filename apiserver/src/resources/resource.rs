//! `resource.k8s.io`: dynamic resource allocation.

use coracle_api::Object;
use serde_json::json;

use super::columns::{AGE, NAME, NAME_AND_AGE, path, rule};
use super::core::field;
use super::validation::Errors;
use crate::field::FieldError;
use crate::field_names::dns1123_subdomain;
use crate::resource::{CLUSTER, NAMESPACED, Row, Strategy, WriteContext};

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
        resets: &[("status", &[&["metadata"], &["spec"]])],
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
        fields: &[field("spec.nodeName", &["spec", "nodeName"]), field("spec.driver", &["spec", "driver"])],
        unknown_label: "field label not supported for resource.k8s.io/v1, Kind=ResourceSlice: {}",
        columns: &[
            NAME,
            path("Node", &["spec", "nodeName"]),
            path("Driver", &["spec", "driver"]),
            path("Pool", &["spec", "pool", "name"]),
            AGE,
        ],
        strategy: &Slices,
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

struct Slices;

impl Strategy for Slices {
    fn validate(&self, _cx: &WriteContext<'_>, new: &Object, _old: Option<&Object>) -> Vec<FieldError> {
        let mut errors = Errors::default();
        match new.str_at(&["spec", "driver"]) {
            "" => errors.required("spec.driver", ""),
            driver => errors.all_invalid("spec.driver", driver, dns1123_subdomain(driver)),
        }
        if new.str_at(&["spec", "pool", "name"]).is_empty() {
            errors.required("spec.pool.name", "");
        }
        let count = new.i64_at(&["spec", "pool", "resourceSliceCount"]).unwrap_or(0);
        if count <= 0 {
            errors.invalid("spec.pool.resourceSliceCount", count, "must be greater than zero");
        }
        const PLACES: [&str; 4] = ["nodeName", "nodeSelector", "allNodes", "perDeviceNodeSelection"];
        let all = PLACES.map(|p| format!("`{p}`")).join(", ");
        let set: Vec<String> = PLACES
            .iter()
            .filter(|p| new.at(&["spec", p]).is_some_and(|v| !v.is_null() && *v != "" && *v != false))
            .map(|p| format!("`{p}`"))
            .collect();
        match set.len() {
            0 => errors.required("spec", &format!("exactly one of {all} is required")),
            1 => {}
            _ => {
                let detail = format!("exactly one of {all} is required, but multiple fields are set");
                errors.invalid("spec", format!("{{{}}}", set.join(", ")), detail);
            }
        }
        errors.0
    }
}
