//! `resource.k8s.io`: dynamic resource allocation.

use coracle_api::Object;
use serde_json::{Value, json};

use super::columns::{AGE, NAME, NAME_AND_AGE, path, rule};
use super::core::field;
use super::defaulting::{each, fill_zero, within};
use super::located::Located;
use super::resource_claims::{device_class, devices};
use super::resource_slices::slice;
use super::resource_status::{drop_taken_back, status};
use super::validation::{Errors, template_metadata};
use crate::field::FieldError;
use crate::resource::{CLUSTER, NAMESPACED, Row, Strategy, WriteContext};

const GROUP: &str = "resource.k8s.io";
const KIND: Row = Row { group: GROUP, ..NAMESPACED };
const CLUSTER_KIND: Row = Row { group: GROUP, ..CLUSTER };

pub(super) static ROWS: &[Row] = &[
    Row {
        kind: "DeviceClass",
        metadata_looks: [2, 1],
        plural: "deviceclasses",
        generation: true,
        columns: NAME_AND_AGE,
        strategy: &DeviceClasses,
        returns_deleted: true,
        ..CLUSTER_KIND
    },
    Row {
        kind: "ResourceClaim",
        metadata_looks: [2, 1],
        plural: "resourceclaims",
        strategy: &Claims,
        resets: &[("status", &[&["metadata"], &["spec"]])],
        status: true,
        columns: &[NAME, rule("State", |o, _| json!(state(o))), AGE],
        returns_deleted: true,
        ..KIND
    },
    Row {
        kind: "ResourceClaimTemplate",
        metadata_looks: [2, 1],
        plural: "resourceclaimtemplates",
        strategy: &ClaimTemplates,
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

struct DeviceClasses;

impl Strategy for DeviceClasses {
    fn validate(&self, _cx: &WriteContext<'_>, new: &Object, _old: Option<&Object>) -> Vec<FieldError> {
        let mut errors = Errors::default();
        device_class(&Located::root(new).at("spec"), &mut errors);
        errors.0
    }
}

/// One device of its class, unless more is said.
fn default_devices(devices: &mut Value) {
    each(devices, "requests", |request| {
        within(request, "exactly", default_wish);
        each(request, "firstAvailable", default_wish);
    });
}

fn default_wish(wish: &mut Value) {
    fill_zero(wish, "allocationMode", "ExactCount");
    if wish["allocationMode"] == "ExactCount" {
        fill_zero(wish, "count", 1);
    }
    default_tolerations(wish);
}

fn default_tolerations(of: &mut Value) {
    each(of, "tolerations", |toleration| fill_zero(toleration, "operator", "Equal"));
}

struct Claims;

impl Strategy for Claims {
    fn default(&self, new: &mut Object) {
        within(&mut new.0, "spec", |spec| within(spec, "devices", default_devices));
        within(&mut new.0, "status", |status| {
            within(status, "allocation", |allocation| {
                within(allocation, "devices", |devices| each(devices, "results", default_tolerations));
            });
        });
    }

    fn prepare(&self, cx: &WriteContext<'_>, new: &mut Object, old: Option<&Object>) {
        if let Some(old) = old.filter(|_| cx.subresource == "status") {
            drop_taken_back(new, old);
        }
    }

    fn validates(&self, _subresource: &str) -> bool {
        true
    }

    fn validate(&self, cx: &WriteContext<'_>, new: &Object, old: Option<&Object>) -> Vec<FieldError> {
        let mut errors = Errors::default();
        let new = Located::root(new);
        match old.map(Located::root) {
            None => devices(&new.at("spec").at("devices"), &mut errors),
            Some(old) if cx.subresource == "status" => status(&new, &old, &mut errors),
            Some(old) => new.at("spec").immutable(&old.at("spec"), &mut errors),
        }
        errors.0
    }
}

struct ClaimTemplates;

impl Strategy for ClaimTemplates {
    fn default(&self, new: &mut Object) {
        within(&mut new.0, "spec", |template| {
            within(template, "spec", |spec| within(spec, "devices", default_devices));
        });
    }

    fn validate(&self, _cx: &WriteContext<'_>, new: &Object, old: Option<&Object>) -> Vec<FieldError> {
        let mut errors = Errors::default();
        let spec = Located::root(new).at("spec");
        template_metadata(&spec.at("metadata"), &mut errors);
        devices(&spec.at("spec").at("devices"), &mut errors);
        if let Some(old) = old {
            spec.immutable(&Located::root(old).at("spec"), &mut errors);
        }
        errors.0
    }
}

struct Slices;

impl Strategy for Slices {
    fn validate(&self, _cx: &WriteContext<'_>, new: &Object, old: Option<&Object>) -> Vec<FieldError> {
        let mut errors = Errors::default();
        let old = old.map(|o| Located::root(o).at("spec"));
        slice(&Located::root(new).at("spec"), old.as_ref(), &mut errors);
        errors.0
    }
}
