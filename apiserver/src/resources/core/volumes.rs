//! PersistentVolumes and the claims on them.

use coracle_api::Object;
use serde_json::{Value, json};

use super::super::columns::{AGE, NAME, or, path, rule, wide};
use super::super::defaulting::{fill, within};
use super::super::located::Located;
use super::super::pod_spec::{byte_warnings, items, round_up_to_millis};
use super::super::validation::{Errors, label_selector};
use super::volume_rules::{volume, warnings as volume_warnings};
use crate::field::FieldError;
use crate::field_names::{dns1123_label, dns1123_subdomain, qualified_name};
use crate::resource::{CLUSTER, NAMESPACED, Row, Strategy, WriteContext};

pub(super) const CLAIM: Row = Row {
    kind: "PersistentVolumeClaim",
    metadata_looks: [2, 1],
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
    metadata_looks: [2, 1],
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

    fn validates(&self, _subresource: &str) -> bool {
        true
    }

    fn validate(&self, cx: &WriteContext<'_>, new: &Object, old: Option<&Object>) -> Vec<FieldError> {
        let mut errors = Errors::default();
        if cx.subresource == "status" {
            claim_status(&Located::root(new).at("status"), &mut errors);
            return errors.0;
        }
        claim_spec("spec", new.at(&["spec"]).unwrap_or(&Value::Null), &mut errors);
        if let Some(old) = old {
            claim_update(new, old, &mut errors);
        }
        errors.0
    }

    fn warnings(&self, new: &Object, _old: Option<&Object>) -> Vec<String> {
        let mut all = outdated_annotations(new, &[STORAGE_CLASS]);
        let resources = new.at(&["spec", "resources"]).cloned().unwrap_or_default();
        byte_warnings(
            "spec.resources",
            &resources,
            &[("storage", "requests"), ("storage", "limits")],
            &mut all,
        );
        all
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

/// What a disk of Azure's is unless somebody says otherwise.
pub(in super::super) fn azure_disk(disk: &mut Value) {
    fill(disk, "cachingMode", "ReadWrite");
    fill(disk, "kind", "Shared");
    fill(disk, "fsType", "ext4");
    fill(disk, "readOnly", false);
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
        within(&mut new.0, "spec", |spec| within(spec, "azureDisk", azure_disk));
    }

    fn prepare(&self, cx: &WriteContext<'_>, new: &mut Object, old: Option<&Object>) {
        let phase = |o: &Object| o.str_at(&["status", "phase"]).to_owned();
        let moved = old.is_none_or(|old| phase(old) != phase(new));
        if moved && (old.is_none() || cx.subresource == "status") {
            new.set(&["status", "lastPhaseTransitionTime"], coracle_api::time::seconds(cx.now));
        }
    }

    fn warnings(&self, new: &Object, _old: Option<&Object>) -> Vec<String> {
        let mut all = outdated_annotations(new, &[STORAGE_CLASS, MOUNT_OPTIONS]);
        all.extend(volume_warnings(new));
        all
    }

    fn validate(&self, _cx: &WriteContext<'_>, new: &Object, old: Option<&Object>) -> Vec<FieldError> {
        let mut errors = Errors::default();
        volume(new, old, &mut errors);
        errors.0
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
    let namespace = Located::placed(format!("{at}.dataSourceRef.namespace"), &reference["namespace"]);
    namespace.optional_as(dns1123_label, errors);
    if !namespace.text().is_empty() {
        if source.is_object() {
            let why = "may not be specified when dataSourceRef.namespace is specified";
            errors.invalid(at, Value::Object(serde_json::Map::new()), why);
        }
    } else if source.is_object() && reference.is_object() && source != reference {
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
    // A claim without a class may get one: that of its annotation, if it has that.
    let outdated = old.annotation(STORAGE_CLASS[0]);
    let given = new.at(&["spec", "storageClassName"]).and_then(Value::as_str);
    let unclassed = old.at(&["spec", "storageClassName"]).is_none()
        && given.is_some_and(|class| outdated.is_none_or(|old| old == class));
    let strip = |o: &Object| {
        let mut spec = o.at(&["spec"]).cloned().unwrap_or_default();
        if let Some(map) = spec.as_object_mut() {
            if unnamed {
                map.remove("volumeName");
            }
            if unclassed {
                map.remove("storageClassName");
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
    if old.at(&["status", "currentVolumeAttributesClassName"]).is_some() {
        let class = new.at(&["spec", "volumeAttributesClassName"]).and_then(Value::as_str);
        let to = match class {
            None => "nil",
            Some("") => "empty string",
            Some(_) => return,
        };
        let why =
            format!("update to {to} is forbidden when status.currentVolumeAttributesClassName is not nil");
        errors.forbidden("spec.volumeAttributesClassName", why);
    }
}

/// How much there is of a claim's volume, and how far a change of that has come.
fn claim_status(status: &Located<'_>, errors: &mut Errors) {
    const STEPS: [&str; 5] = [
        "ControllerResizeInProgress",
        "ControllerResizeInfeasible",
        "NodeResizePending",
        "NodeResizeInProgress",
        "NodeResizeInfeasible",
    ];
    let basic = |amount: &Located<'_>, errors: &mut Errors| {
        let negative = amount.quantity().filter(coracle_api::Quantity::is_negative);
        if let Some(q) = &negative {
            errors.invalid(amount.path(), q.value(), "must be a valid resource quantity");
        }
        negative.is_none()
    };
    for (_, amount) in status.at("capacity").entries() {
        basic(&amount, errors);
    }
    let steps = status.at("allocatedResourceStatuses");
    for (name, step) in steps.entries() {
        claim_resource(steps.path(), name, errors);
        if !STEPS.contains(&step.text()) {
            let mut words = STEPS;
            words.sort_unstable();
            errors.unsupported_text(steps.path(), Value::from(name).to_string(), &words);
        }
    }
    let amounts = status.at("allocatedResources");
    for (name, amount) in amounts.entries() {
        if claim_resource(amounts.path(), name, errors) && basic(&amount, errors) {
            amount.quantity_not_negative(errors);
        }
    }
}

/// Storage, or a resource of somebody's domain; whether it is.
fn claim_resource(at: &str, name: &str, errors: &mut Errors) -> bool {
    let wrong = qualified_name(name);
    let native = !name.contains('/') || name.contains("kubernetes.io/");
    let unknown = wrong.is_empty() && native && name != "storage";
    let good = wrong.is_empty() && !unknown;
    errors.all_invalid(at, name, wrong);
    if unknown {
        errors.unsupported_text(at, Value::from(name).to_string(), &["storage"]);
    }
    good
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
