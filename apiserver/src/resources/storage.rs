//! `storage.k8s.io`: storage classes and what CSI drivers say.

use coracle_api::Object;
use serde_json::{Value, json};

use super::columns::{AGE, NAME, NAME_AND_CREATED_AT, of_kind, or, path, rule, size};
use super::core::azure_disk;
use super::defaulting::{fill, object, within};
use super::located::Located;
use super::pod_spec::outdated_node_label;
use super::storage_rules::{
    attachment, attributes_class, capacity, class, csi_driver, csi_node, driver_update, node_update,
};
use super::validation::Errors;
use crate::field::FieldError;
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
        strategy: &Nodes,
        returns_deleted: true,
        conditional_update: true,
        ..KIND
    },
    Row {
        group: GROUP,
        kind: "CSIStorageCapacity",
        metadata_looks: [2, 1],
        plural: "csistoragecapacities",
        columns: NAME_AND_CREATED_AT,
        strategy: &Capacities,
        conditional_update: true,
        ..NAMESPACED
    },
    Row {
        kind: "StorageClass",
        metadata_looks: [2, 1],
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
        metadata_looks: [2, 1],
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
        let new = Located::root(new);
        class(&new, &mut errors);
        if let Some(old) = old.map(Located::root) {
            for field in ["parameters", "provisioner", "reclaimPolicy", "volumeBindingMode"] {
                new.at(field).immutable(&old.at(field), &mut errors);
            }
        }
        errors.0
    }

    fn warnings(&self, new: &Object, _old: Option<&Object>) -> Vec<String> {
        let mut all = vec![];
        for term in Located::root(new).at("allowedTopologies").each() {
            for key in term.at("matchLabelExpressions").each().map(|e| e.at("key")) {
                let why = outdated_node_label(key.text());
                all.extend(why.map(|why| format!("{}: {why}", key.path())));
            }
        }
        all
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

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        let spec = Located::root(new).at("spec");
        let asks = !spec.at("tokenRequests").is_empty();
        let text = "spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true to prevent possible logging of tokens in volume attributes";
        let unset = old.is_none() && asks && !spec.at("serviceAccountTokenInSecrets").is_set();
        unset.then(|| text.to_owned()).into_iter().collect()
    }

    fn validate(&self, _cx: &WriteContext<'_>, new: &Object, old: Option<&Object>) -> Vec<FieldError> {
        let mut errors = Errors::default();
        let spec = Located::root(new).at("spec");
        csi_driver(&spec, &mut errors);
        if let Some(old) = old {
            driver_update(&spec, &Located::root(old).at("spec"), &mut errors);
        }
        errors.0
    }
}

/// What a node's CSI drivers say of themselves.
struct Nodes;

impl Strategy for Nodes {
    fn validate(&self, _cx: &WriteContext<'_>, new: &Object, old: Option<&Object>) -> Vec<FieldError> {
        let mut errors = Errors::default();
        let drivers = Located::root(new).at("spec").at("drivers");
        csi_node(&drivers, &mut errors);
        if let Some(old) = old {
            node_update(&drivers, &Located::root(old).at("spec").at("drivers"), &mut errors);
        }
        errors.0
    }
}

struct Capacities;

impl Strategy for Capacities {
    fn validate(&self, _cx: &WriteContext<'_>, new: &Object, old: Option<&Object>) -> Vec<FieldError> {
        let mut errors = Errors::default();
        let (new, old) = (Located::root(new), old.map(Located::root));
        capacity(&new, old.as_ref(), &mut errors);
        if let Some(old) = old {
            for field in ["nodeTopology", "storageClassName"] {
                new.at(field).immutable(&old.at(field), &mut errors);
            }
        }
        errors.0
    }

    fn warnings(&self, new: &Object, _old: Option<&Object>) -> Vec<String> {
        let topology = Located::root(new).at("nodeTopology");
        let mut all = vec![];
        for key in topology.at("matchExpressions").each().map(|e| e.at("key")) {
            let why = outdated_node_label(key.text());
            all.extend(why.map(|why| format!("{}: {} is {why}", key.path(), key.text())));
        }
        for (label, at) in topology.at("matchLabels").entries() {
            let why = outdated_node_label(label);
            all.extend(why.map(|why| format!("{}: {label} is {why}", at.path())));
        }
        all
    }
}

struct Attachments;

impl Strategy for Attachments {
    fn default(&self, new: &mut Object) {
        within(object(&mut new.0, "spec"), "source", |source| {
            within(source, "inlineVolumeSpec", |spec| within(spec, "azureDisk", azure_disk));
        });
    }

    fn validates(&self, _subresource: &str) -> bool {
        true
    }

    fn validate(&self, _cx: &WriteContext<'_>, new: &Object, old: Option<&Object>) -> Vec<FieldError> {
        let mut errors = Errors::default();
        let new = Located::root(new);
        attachment(&new, &mut errors);
        if let Some(old) = old {
            new.at("spec").immutable(&Located::root(old).at("spec"), &mut errors);
        }
        errors.0
    }
}

struct AttributesClasses;

impl Strategy for AttributesClasses {
    fn validate(&self, _cx: &WriteContext<'_>, new: &Object, old: Option<&Object>) -> Vec<FieldError> {
        let mut errors = Errors::default();
        let new = Located::root(new);
        if let Some(old) = old.map(Located::root) {
            for field in ["driverName", "parameters"] {
                if new.at(field).value() != old.at(field).value() {
                    new.at(field).forbidden(format!("updates to {field} are forbidden."), &mut errors);
                }
            }
        }
        attributes_class(&new, &mut errors);
        errors.0
    }
}
