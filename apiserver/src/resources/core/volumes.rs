//! PersistentVolumes and the claims on them.

use coracle_api::Object;
use serde_json::{Value, json};

use super::super::columns::{AGE, NAME, or, path, rule, wide};
use super::super::pod_spec::round_up_to_millis;
use super::super::validation::Errors;
use crate::field::FieldError;
use crate::resource::{CLUSTER, NAMESPACED, Row, Strategy, WriteContext};

pub(super) const CLAIM: Row = Row {
    kind: "PersistentVolumeClaim",
    plural: "persistentvolumeclaims",
    short: &["pvc"],
    status: true,
    columns: &[
        NAME,
        rule("Status", |o, _| phase(o)),
        path("Volume", &["spec", "volumeName"]),
        rule("Capacity", |o, _| match o.str_at(&["spec", "volumeName"]) {
            "" => json!(""),
            _ => or(o, &["status", "capacity", "storage"], "0"),
        }),
        rule("Access Modes", |o, _| match o.str_at(&["spec", "volumeName"]) {
            "" => json!(""),
            _ => json!(modes(o.items_at(&["status", "accessModes"]))),
        }),
        rule("StorageClass", |o, _| class(o)),
        rule("VolumeAttributesClass", |o, _| or(o, &["spec", "volumeAttributesClassName"], "<unset>")),
        AGE,
        wide(rule("VolumeMode", |o, _| or(o, &["spec", "volumeMode"], "<unset>"))),
    ],
    strategy: &Claims,
    returns_deleted: true,
    ..NAMESPACED
};

pub(super) const VOLUME: Row = Row {
    kind: "PersistentVolume",
    plural: "persistentvolumes",
    short: &["pv"],
    status: true,
    columns: &[
        NAME,
        rule("Capacity", |o, _| or(o, &["spec", "capacity", "storage"], "0")),
        rule("Access Modes", |o, _| json!(modes(o.items_at(&["spec", "accessModes"])))),
        path("Reclaim Policy", &["spec", "persistentVolumeReclaimPolicy"]),
        rule("Status", |o, _| phase(o)),
        rule("Claim", |o, _| match o.at(&["spec", "claimRef"]) {
            Some(claim) => {
                let text = |key: &str| claim[key].as_str().unwrap_or_default();
                json!(format!("{}/{}", text("namespace"), text("name")))
            }
            None => json!(""),
        }),
        rule("StorageClass", |o, _| class(o)),
        rule("VolumeAttributesClass", |o, _| or(o, &["spec", "volumeAttributesClassName"], "<unset>")),
        path("Reason", &["status", "reason"]),
        AGE,
        wide(rule("VolumeMode", |o, _| or(o, &["spec", "volumeMode"], "<unset>"))),
    ],
    strategy: &Volumes,
    returns_deleted: true,
    ..CLUSTER
};

struct Claims;

impl Strategy for Claims {
    fn default(&self, new: &mut Object) {
        new.set_default(&["status", "phase"], "Pending");
        new.set_default(&["spec", "volumeMode"], "Filesystem");
        for list in ["requests", "limits"] {
            if new.at(&["spec", "resources", list]).is_some() {
                round_up_to_millis(new.entry(&["spec", "resources", list]));
            }
        }
    }

    fn prepare(&self, _cx: &WriteContext<'_>, new: &mut Object, old: Option<&Object>) {
        if old.is_none() {
            new.set(&["status"], json!({"phase": "Pending"}));
        }
        let source = |key: &str| new.at(&["spec", key]).cloned();
        match (source("dataSource"), source("dataSourceRef")) {
            (Some(s), None) => new.set(&["spec", "dataSourceRef"], s),
            (None, Some(r)) if r["namespace"].is_null() => new.set(&["spec", "dataSource"], r),
            _ => {}
        }
    }

    fn validate(&self, cx: &WriteContext<'_>, new: &Object, old: Option<&Object>) -> Vec<FieldError> {
        let mut errors = Errors::default();
        if cx.subresource.is_empty() {
            claim_spec(new, &mut errors);
            if let Some(old) = old {
                claim_update(new, old, &mut errors);
            }
        }
        errors.0
    }
}

struct Volumes;

impl Strategy for Volumes {
    fn default(&self, new: &mut Object) {
        new.set_default(&["status", "phase"], "Pending");
        new.set_default(&["spec", "persistentVolumeReclaimPolicy"], "Retain");
        new.set_default(&["spec", "volumeMode"], "Filesystem");
        if new.at(&["spec", "hostPath"]).is_some() {
            new.set_default(&["spec", "hostPath", "type"], "");
        }
    }

    fn prepare(&self, _cx: &WriteContext<'_>, new: &mut Object, old: Option<&Object>) {
        if old.is_none() {
            new.set(&["status"], json!({"phase": "Pending"}));
        }
    }

    fn validate(&self, cx: &WriteContext<'_>, new: &Object, _old: Option<&Object>) -> Vec<FieldError> {
        let mut errors = Errors::default();
        if !cx.subresource.is_empty() {
            return errors.0;
        }
        access_modes(new, &mut errors);
        if new.at(&["spec", "capacity", "storage"]).is_none() {
            if new.at(&["spec", "capacity"]).is_none_or(|c| *c == json!({})) {
                errors.required("spec.capacity", "");
            }
            let capacity = new.at(&["spec", "capacity"]).cloned().unwrap_or(Value::Null);
            let detail = "supported values: \"storage\"";
            if capacity != Value::Null && capacity != json!({}) {
                errors.invalid("spec.capacity", capacity, detail);
            }
        }
        let policy = new.str_at(&["spec", "persistentVolumeReclaimPolicy"]);
        errors.one_of("spec.persistentVolumeReclaimPolicy", policy, &["Delete", "Recycle", "Retain"]);
        let mode = new.str_at(&["spec", "volumeMode"]);
        errors.one_of("spec.volumeMode", mode, &["Block", "Filesystem"]);
        errors.0
    }
}

fn claim_spec(new: &Object, errors: &mut Errors) {
    access_modes(new, errors);
    match new.at(&["spec", "resources", "requests", "storage"]) {
        None => errors.required("spec.resources[storage]", ""),
        Some(amount) => {
            if coracle_api::Quantity::from_json(amount).is_ok_and(|q| q <= coracle_api::Quantity::ZERO) {
                let at = "spec.resources[storage]";
                errors.invalid(at, amount.clone(), "must be greater than zero");
            }
        }
    }
    errors.one_of("spec.volumeMode", new.str_at(&["spec", "volumeMode"]), &["Block", "Filesystem"]);
}

/// A claim's spec is fixed, but for the size of a bound one, and what binding fills in.
fn claim_update(new: &Object, old: &Object, errors: &mut Errors) {
    let strip = |o: &Object| {
        let mut spec = o.at(&["spec"]).cloned().unwrap_or_default();
        if let Some(map) = spec.as_object_mut() {
            map.remove("volumeName").filter(|_| old.str_at(&["spec", "volumeName"]).is_empty());
            map.remove("volumeAttributesClassName");
            if let Some(requests) = map.get_mut("resources").and_then(|r| r.get_mut("requests")) {
                requests.as_object_mut().and_then(|r| r.remove("storage"));
            }
        }
        spec
    };
    let size = |o: &Object| {
        let amount = o.at(&["spec", "resources", "requests", "storage"]);
        amount.and_then(|q| coracle_api::Quantity::from_json(q).ok()).unwrap_or_default()
    };
    let bound = old.str_at(&["status", "phase"]) == "Bound";
    if strip(new) != strip(old) || (size(new) != size(old) && !bound) {
        let detail = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
        errors.forbidden("spec", detail);
    } else if size(new) < size(old) {
        let detail = "field can not be less than status.capacity";
        errors.forbidden("spec.resources.requests.storage", detail);
    }
}

fn access_modes(o: &Object, errors: &mut Errors) {
    let modes = o.items_at(&["spec", "accessModes"]);
    if modes.is_empty() {
        errors.required("spec.accessModes", "at least 1 access mode is required");
    }
    for mode in modes {
        let words = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
        errors.one_of("spec.accessModes", mode.as_str().unwrap_or_default(), &words);
    }
    if modes.len() > 1 && modes.iter().any(|m| m == "ReadWriteOncePod") {
        let detail = "may not use ReadWriteOncePod with other access modes";
        errors.forbidden("spec.accessModes", detail);
    }
}

fn phase(o: &Object) -> Value {
    if o.is_being_deleted() { json!("Terminating") } else { json!(o.str_at(&["status", "phase"])) }
}

/// The older annotation wins over the field.
fn class(o: &Object) -> Value {
    match o.annotation("volume.beta.kubernetes.io/storage-class") {
        Some(class) => json!(class),
        None => json!(o.str_at(&["spec", "storageClassName"])),
    }
}

fn modes(all: &[Value]) -> String {
    let short = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    let has = |mode: &str| all.iter().any(|m| m == mode);
    short.iter().filter(|(mode, _)| has(mode)).map(|(_, s)| *s).collect::<Vec<_>>().join(",")
}
