//! `storage.k8s.io`: storage classes and what CSI drivers say.

use coracle_api::Object;
use serde_json::{Value, json};

use super::columns::{AGE, NAME, NAME_AND_CREATED_AT, of_kind, or, path, rule, size};
use super::defaulting::{fill, object};
use super::validation::Errors;
use crate::field::FieldError;
use crate::field_names::{dns1123_subdomain, qualified_name};
use crate::resource::{CLUSTER, Column, NAMESPACED, Row, Strategy, WriteContext};

const GROUP: &str = "storage.k8s.io";
const KIND: Row = Row { group: GROUP, ..CLUSTER };
const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";

pub(super) static ROWS: &[Row] = &[
    Row {
        kind: "CSIDriver",
        plural: "csidrivers",
        columns: DRIVER,
        strategy: &Drivers,
        returns_deleted: true,
        conditional_update: true,
        ..KIND
    },
    Row {
        kind: "CSINode",
        plural: "csinodes",
        columns: &[
            NAME,
            of_kind("integer", rule("Drivers", |o, _| json!(size(o, &["spec", "drivers"])))),
            AGE,
        ],
        returns_deleted: true,
        conditional_update: true,
        ..KIND
    },
    Row {
        group: GROUP,
        kind: "CSIStorageCapacity",
        plural: "csistoragecapacities",
        columns: NAME_AND_CREATED_AT,
        strategy: &Capacities,
        conditional_update: true,
        ..NAMESPACED
    },
    Row {
        kind: "StorageClass",
        plural: "storageclasses",
        short: &["sc"],
        columns: CLASS,
        strategy: &Classes,
        returns_deleted: true,
        ..KIND
    },
    Row {
        kind: "VolumeAttachment",
        plural: "volumeattachments",
        resets: &[("status", &[&["metadata"], &["spec"]])],
        status: true,
        columns: &[
            NAME,
            Column { format: "name", ..path("Attacher", &["spec", "attacher"]) },
            path("PV", &["spec", "source", "persistentVolumeName"]),
            path("Node", &["spec", "nodeName"]),
            of_kind("boolean", path("Attached", &["status", "attached"])),
            AGE,
        ],
        strategy: &Attachments,
        returns_deleted: true,
        conditional_update: true,
        ..KIND
    },
    Row {
        kind: "VolumeAttributesClass",
        plural: "volumeattributesclasses",
        short: &["vac"],
        columns: &[NAME, path("DriverName", &["driverName"]), AGE],
        strategy: &AttributesClasses,
        returns_deleted: true,
        ..KIND
    },
];

const DRIVER: &[Column] = &[
    NAME,
    of_kind("boolean", path("AttachRequired", &["spec", "attachRequired"])),
    of_kind("boolean", path("PodInfoOnMount", &["spec", "podInfoOnMount"])),
    of_kind("boolean", path("StorageCapacity", &["spec", "storageCapacity"])),
    rule("TokenRequests", |o, _| match o.at(&["spec", "tokenRequests"]) {
        Some(Value::Array(all)) => super::columns::names_of(all, "audience"),
        _ => json!("<unset>"),
    }),
    of_kind("boolean", path("RequiresRepublish", &["spec", "requiresRepublish"])),
    rule("Modes", |o, _| {
        let all = o.items_at(&["spec", "volumeLifecycleModes"]);
        let modes: Vec<&str> = all.iter().filter_map(Value::as_str).collect();
        if modes.is_empty() { json!("<none>") } else { json!(modes.join(",")) }
    }),
    AGE,
];

const CLASS: &[Column] = &[
    Column {
        format: "name",
        ..rule("Name", |o, _| match o.annotation(DEFAULT_CLASS) {
            Some("true") => json!(format!("{} (default)", o.name())),
            _ => json!(o.name()),
        })
    },
    path("Provisioner", &["provisioner"]),
    rule("ReclaimPolicy", |o, _| or(o, &["reclaimPolicy"], "Delete")),
    rule("VolumeBindingMode", |o, _| or(o, &["volumeBindingMode"], "Immediate")),
    rule("AllowVolumeExpansion", |o, _| json!(o.bool_at(&["allowVolumeExpansion"]).unwrap_or(false))),
    AGE,
];

struct Classes;

impl Strategy for Classes {
    fn default(&self, new: &mut Object) {
        fill(&mut new.0, "reclaimPolicy", "Delete");
        fill(&mut new.0, "volumeBindingMode", "Immediate");
    }

    fn validate(&self, _cx: &WriteContext<'_>, new: &Object, old: Option<&Object>) -> Vec<FieldError> {
        let mut errors = Errors::default();
        if new.str_at(&["provisioner"]).is_empty() {
            errors.required("provisioner", "");
        }
        errors.one_of("reclaimPolicy", new.str_at(&["reclaimPolicy"]), &["Delete", "Retain"]);
        let modes = ["Immediate", "WaitForFirstConsumer"];
        errors.one_of("volumeBindingMode", new.str_at(&["volumeBindingMode"]), &modes);
        let Some(old) = old else { return errors.0 };
        for key in ["parameters", "provisioner", "reclaimPolicy"] {
            if new.at(&[key]) != old.at(&[key]) {
                errors.forbidden(key, "updates to parameters are forbidden.".replace("parameters", key));
            }
        }
        let (is, was) = (new.at(&["volumeBindingMode"]), old.at(&["volumeBindingMode"]));
        errors.immutable("volumeBindingMode", is, was);
        errors.0
    }
}

struct Drivers;

impl Strategy for Drivers {
    fn default(&self, new: &mut Object) {
        let spec = object(&mut new.0, "spec");
        for (key, value) in [
            ("attachRequired", json!(true)),
            ("podInfoOnMount", json!(false)),
            ("storageCapacity", json!(false)),
            ("fsGroupPolicy", json!("ReadWriteOnceWithFSType")),
            ("volumeLifecycleModes", json!(["Persistent"])),
            ("requiresRepublish", json!(false)),
            ("seLinuxMount", json!(false)),
        ] {
            fill(spec, key, value);
        }
    }
}

struct Capacities;

impl Strategy for Capacities {
    fn validate(&self, _cx: &WriteContext<'_>, new: &Object, old: Option<&Object>) -> Vec<FieldError> {
        let mut errors = Errors::default();
        let class = new.str_at(&["storageClassName"]);
        errors.all_invalid("storageClassName", class, dns1123_subdomain(class));
        if let Some(old) = old {
            for key in ["nodeTopology", "storageClassName"] {
                errors.immutable(key, new.at(&[key]), old.at(&[key]));
            }
        }
        errors.0
    }
}

struct Attachments;

impl Strategy for Attachments {
    fn validate(&self, _cx: &WriteContext<'_>, new: &Object, old: Option<&Object>) -> Vec<FieldError> {
        let mut errors = Errors::default();
        if let Some(old) = old {
            errors.immutable("spec", new.at(&["spec"]), old.at(&["spec"]));
            return errors.0;
        }
        driver("spec.attacher", new.str_at(&["spec", "attacher"]), &mut errors);
        let source = |key: &str| new.at(&["spec", "source", key]).filter(|v| !v.is_null());
        match (source("inlineVolumeSpec"), source("persistentVolumeName")) {
            (None, None) | (Some(_), Some(_)) => errors.required(
                "spec.source",
                "must specify exactly one of inlineVolumeSpec and persistentVolumeName",
            ),
            (None, Some(name)) => {
                let (at, name) = ("spec.source.persistentVolumeName", name.as_str().unwrap_or_default());
                if name.is_empty() {
                    errors.required(at, "must specify non empty persistentVolumeName");
                }
                errors.all_invalid(at, name, dns1123_subdomain(name));
            }
            (Some(_), None) => {}
        }
        let node = new.str_at(&["spec", "nodeName"]);
        errors.all_invalid("spec.nodeName", node, dns1123_subdomain(node));
        errors.0
    }
}

struct AttributesClasses;

impl Strategy for AttributesClasses {
    fn validate(&self, _cx: &WriteContext<'_>, new: &Object, old: Option<&Object>) -> Vec<FieldError> {
        let mut errors = Errors::default();
        if let Some(old) = old {
            for key in ["driverName", "parameters"] {
                if new.at(&[key]) != old.at(&[key]) {
                    errors.forbidden(key, format!("updates to {key} are forbidden."));
                }
            }
        }
        match new.str_at(&["driverName"]) {
            "" => errors.required("driverName", ""),
            name => {
                let name = name.to_lowercase();
                errors.all_invalid("driverName", &*name, qualified_name(&name));
            }
        }
        let parameters = new.at(&["parameters"]).and_then(Value::as_object);
        if parameters.is_none_or(serde_json::Map::is_empty) {
            errors.required("parameters", "must contain at least one key/value pair");
        }
        if parameters.is_some_and(|p| p.contains_key("")) {
            errors.invalid("parameters", "", "field can not be empty.");
        }
        errors.0
    }
}

/// The name of a CSI driver.
fn driver(at: &str, name: &str, errors: &mut Errors) {
    match name {
        "" => errors.required(at, ""),
        name => errors.all_invalid(at, name, dns1123_subdomain(&name.to_lowercase())),
    }
}
