//! PersistentVolumes and the claims on them.

use coracle_api::Object;
use serde_json::{Value, json};

use super::super::columns::{AGE, NAME, or, path, rule, wide};
use super::super::pod_spec::{csi_driver, host_path, items, nfs, round_up_to_millis};
use super::super::validation::{Errors, label_selector};
use crate::field::FieldError;
use crate::field_names::dns1123_subdomain;
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
    first_status: r#"{"phase": "Pending"}"#,
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
    first_status: r#"{"phase": "Pending"}"#,
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
        drop_ignored_sources(new, old);
        let source = |key: &str| new.at(&["spec", key]).cloned();
        match (source("dataSource"), source("dataSourceRef")) {
            (Some(s), None) => new.set(&["spec", "dataSourceRef"], s),
            (None, Some(r)) if r["namespace"].as_str().unwrap_or_default().is_empty() => {
                new.set(&["spec", "dataSource"], r)
            }
            _ => {}
        }
    }

    fn validate(&self, _cx: &WriteContext<'_>, new: &Object, old: Option<&Object>) -> Vec<FieldError> {
        let mut errors = Errors::default();
        claim_spec("spec", new.at(&["spec"]).unwrap_or(&Value::Null), &mut errors);
        if let Some(old) = old {
            claim_update(new, old, &mut errors);
        }
        errors.0
    }

    fn warnings(&self, new: &Object, _old: Option<&Object>) -> Vec<String> {
        outdated_annotations(new, &[STORAGE_CLASS])
    }
}

/// Annotations that fields have replaced, and the fields.
const STORAGE_CLASS: [&str; 3] = ["volume.beta.kubernetes.io/storage-class", "v1.8", "storageClassName"];
const MOUNT_OPTIONS: [&str; 3] = ["volume.beta.kubernetes.io/mount-options", "v1.31", "mountOptions"];

fn outdated_annotations(new: &Object, outdated: &[[&str; 3]]) -> Vec<String> {
    let found = outdated.iter().filter(|[name, ..]| new.annotation(name).is_some());
    let warning = |[name, since, field]: &[&str; 3]| {
        format!("metadata.annotations[{name}]: deprecated since {since}; use \"{field}\" attribute instead")
    };
    found.map(warning).collect()
}

/// What upstream never took as a source and has always dropped in silence, unless the claim has one already: a
/// `dataSource` that is neither claim nor snapshot, and a reference into another namespace, whose gate
/// (`CrossNamespaceVolumeDataSource`) is off.
fn drop_ignored_sources(new: &mut Object, old: Option<&Object>) {
    let had = |key: &str| old.is_some_and(|old| old.at(&["spec", key]).is_some());
    if !new.str_at(&["spec", "dataSourceRef", "namespace"]).is_empty() && !had("dataSourceRef") {
        new.remove(&["spec", "dataSourceRef"]);
    }
    if had("dataSource") || had("dataSourceRef") || new.at(&["spec", "dataSourceRef"]).is_some() {
        return;
    }
    let text = |key: &str| new.str_at(&["spec", "dataSource", key]);
    let known = [("", "PersistentVolumeClaim"), ("snapshot.storage.k8s.io", "VolumeSnapshot")];
    if !known.contains(&(text("apiGroup"), text("kind"))) {
        new.remove(&["spec", "dataSource"]);
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

    fn prepare(&self, cx: &WriteContext<'_>, new: &mut Object, old: Option<&Object>) {
        let phase = |o: &Object| o.str_at(&["status", "phase"]).to_owned();
        let moved = old.is_none_or(|old| phase(old) != phase(new));
        if moved && (old.is_none() || cx.subresource == "status") {
            new.set(&["status", "lastPhaseTransitionTime"], coracle_api::time::seconds(cx.now));
        }
    }

    fn warnings(&self, new: &Object, _old: Option<&Object>) -> Vec<String> {
        outdated_annotations(new, &[STORAGE_CLASS, MOUNT_OPTIONS])
    }

    fn validate(&self, _cx: &WriteContext<'_>, new: &Object, old: Option<&Object>) -> Vec<FieldError> {
        let mut errors = Errors::default();
        let spec = new.at(&["spec"]).unwrap_or(&Value::Null);
        if items(spec, "accessModes").next().is_none() {
            errors.required("spec.accessModes", "");
        }
        access_modes("spec", spec, &mut errors);
        capacity(&spec["capacity"], &mut errors);
        let policy = new.str_at(&["spec", "persistentVolumeReclaimPolicy"]);
        errors.one_of("spec.persistentVolumeReclaimPolicy", policy, &["Delete", "Recycle", "Retain"]);
        volume_source(spec, &mut errors);
        let class = new.str_at(&["spec", "storageClassName"]);
        if !class.is_empty() {
            errors.all_invalid("spec.storageClassName", class, dns1123_subdomain(class));
        }
        let mode = new.str_at(&["spec", "volumeMode"]);
        errors.supported("spec.volumeMode", mode, &["Block", "Filesystem"]);
        if let Some(old) = old {
            if source_of(spec) != source_of(old.at(&["spec"]).unwrap_or(&Value::Null)) {
                let detail = "spec.persistentvolumesource is immutable after creation";
                errors.forbidden("spec.persistentvolumesource", detail);
            }
            errors.immutable("volumeMode", spec.get("volumeMode"), old.at(&["spec", "volumeMode"]));
        }
        errors.0
    }
}

/// What a volume is made of: whatever else its spec says.
fn source_of(spec: &Value) -> Vec<(&String, &Value)> {
    const OTHERS: [&str; 9] = [
        "accessModes",
        "capacity",
        "claimRef",
        "mountOptions",
        "nodeAffinity",
        "persistentVolumeReclaimPolicy",
        "storageClassName",
        "volumeAttributesClassName",
        "volumeMode",
    ];
    let all = spec.as_object().into_iter().flatten();
    all.filter(|(key, value)| !OTHERS.contains(&key.as_str()) && value.is_object()).collect()
}

fn volume_source(spec: &Value, errors: &mut Errors) {
    let need = |at: &str, source: &Value, keys: &[&str], errors: &mut Errors| {
        for key in keys.iter().filter(|k| source[**k].as_str().unwrap_or_default().is_empty()) {
            errors.required(format!("{at}.{key}"), "");
        }
    };
    let mut given = 0;
    for (kind, source) in source_of(spec) {
        given += 1;
        let at = format!("spec.{kind}");
        if given > 1 {
            errors.forbidden(at, "may not specify more than 1 volume type");
            continue;
        }
        match kind.as_str() {
            "hostPath" => host_path(&at, source, errors),
            "nfs" => nfs(&at, source, errors),
            "csi" => {
                csi_driver(&format!("{at}.driver"), source["driver"].as_str().unwrap_or_default(), errors);
                need(&at, source, &["volumeHandle"], errors);
            }
            "local" => {
                need(&at, source, &["path"], errors);
                if spec["nodeAffinity"].is_null() {
                    errors.required("spec.nodeAffinity", "Local volume requires node affinity");
                }
            }
            _ => {}
        }
    }
    if given == 0 {
        errors.required("spec", "must specify a volume type");
    }
    if spec["hostPath"]["path"] == "/" && spec["persistentVolumeReclaimPolicy"] == "Recycle" {
        let detail = "may not be 'recycle' for a hostPath mount of '/'";
        errors.forbidden("spec.persistentVolumeReclaimPolicy", detail);
    }
}

/// Storage and nothing else.
fn capacity(given: &Value, errors: &mut Errors) {
    let amounts = given.as_object().cloned().unwrap_or_default();
    if amounts.is_empty() {
        errors.required("spec.capacity", "");
    }
    if !amounts.contains_key("storage") || amounts.len() > 1 {
        let shown = if amounts.is_empty() { Value::Null } else { Value::Object(amounts.clone()) };
        errors.0.push(FieldError::not_supported("spec.capacity", &shown, &["storage"]));
    }
    for (name, amount) in &amounts {
        positive(&format!("spec.capacity[{name}]"), amount, errors);
    }
}

/// The spec of a claim, alone or as a template.
pub(in super::super) fn claim_spec(at: &str, spec: &Value, errors: &mut Errors) {
    if items(spec, "accessModes").next().is_none() {
        errors.required(format!("{at}.accessModes"), "at least 1 access mode is required");
    }
    label_selector(&format!("{at}.selector"), &spec["selector"], errors);
    access_modes(at, spec, errors);
    match &spec["resources"]["requests"]["storage"] {
        Value::Null => errors.required(format!("{at}.resources[storage]"), ""),
        amount => positive(&format!("{at}.resources[storage]"), amount, errors),
    }
    let text = |key: &str| spec[key].as_str().unwrap_or_default();
    if !text("storageClassName").is_empty() {
        let class = text("storageClassName");
        errors.all_invalid(format!("{at}.storageClassName"), class, dns1123_subdomain(class));
    }
    if let Some(mode) = spec["volumeMode"].as_str() {
        errors.supported(format!("{at}.volumeMode"), mode, &["Block", "Filesystem"]);
    }
    for key in ["dataSource", "dataSourceRef"] {
        data_source(&format!("{at}.{key}"), &spec[key], errors);
    }
    let (source, reference) = (&spec["dataSource"], &spec["dataSourceRef"]);
    if source.is_object() && reference.is_object() && source != reference {
        errors.invalid(at, Value::Object(serde_json::Map::new()), "must match dataSourceRef");
    }
    let class = text("volumeAttributesClassName");
    if !class.is_empty() {
        errors.all_invalid(format!("{at}.volumeAttributesClassName"), class, dns1123_subdomain(class));
    }
}

fn data_source(at: &str, source: &Value, errors: &mut Errors) {
    if !source.is_object() {
        return;
    }
    let text = |key: &str| source[key].as_str().unwrap_or_default();
    for key in ["name", "kind"].into_iter().filter(|k| text(k).is_empty()) {
        errors.required(format!("{at}.{key}"), "");
    }
    let group = text("apiGroup");
    if group.is_empty() {
        if text("kind") != "PersistentVolumeClaim" {
            let detail = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
            errors.invalid(at, text("kind"), detail);
        }
    } else {
        errors.all_invalid(format!("{at}.apiGroup"), group, dns1123_subdomain(group));
    }
}

fn positive(at: &str, amount: &Value, errors: &mut Errors) {
    if coracle_api::Quantity::from_json(amount).is_ok_and(|q| q <= coracle_api::Quantity::ZERO) {
        errors.invalid(at, amount.clone(), "must be greater than zero");
    }
}

/// A claim's spec is fixed, but for the size of a bound one, and what binding fills in.
fn claim_update(new: &Object, old: &Object, errors: &mut Errors) {
    let bound = new.str_at(&["status", "phase"]) == "Bound";
    let unnamed = old.str_at(&["spec", "volumeName"]).is_empty();
    let strip = |o: &Object| {
        let mut spec = o.at(&["spec"]).cloned().unwrap_or_default();
        if let Some(map) = spec.as_object_mut() {
            if unnamed {
                map.remove("volumeName");
            }
            if bound {
                map.remove("volumeAttributesClassName");
                if let Some(requests) = map.get_mut("resources").and_then(|r| r.get_mut("requests")) {
                    requests.as_object_mut().and_then(|r| r.remove("storage"));
                }
            }
        }
        spec
    };
    let size = |o: &Object| {
        let amount = o.at(&["spec", "resources", "requests", "storage"]);
        amount.and_then(|q| coracle_api::Quantity::from_json(q).ok()).unwrap_or_default()
    };
    let detail = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
    if strip(new) != strip(old) {
        errors.forbidden("spec", detail);
    }
    let capacity = old.at(&["status", "capacity", "storage"]);
    let capacity = capacity.and_then(|q| coracle_api::Quantity::from_json(q).ok()).unwrap_or_default();
    if size(new) < size(old) && size(new) <= capacity {
        let detail = "field can not be less than status.capacity";
        errors.forbidden("spec.resources.requests.storage", detail);
    }
    let mode = |o: &Object| o.at(&["spec", "volumeMode"]).cloned();
    errors.immutable("volumeMode", mode(new).as_ref(), mode(old).as_ref());
}

fn access_modes(at: &str, spec: &Value, errors: &mut Errors) {
    let at = format!("{at}.accessModes");
    let known = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
    for mode in items(spec, "accessModes") {
        errors.supported(&*at, mode.as_str().unwrap_or_default(), &known);
    }
    let has = |rule: fn(&str) -> bool| items(spec, "accessModes").filter_map(Value::as_str).any(rule);
    let others = |m: &str| matches!(m, "ReadOnlyMany" | "ReadWriteMany" | "ReadWriteOnce");
    if has(|m| m == "ReadWriteOncePod") && has(others) {
        errors.forbidden(at, "may not use ReadWriteOncePod with other access modes");
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
