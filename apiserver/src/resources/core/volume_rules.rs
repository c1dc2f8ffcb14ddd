//! What a persistent volume may be.

use std::collections::BTreeSet;

use coracle_api::Object;
use serde_json::Value;

use super::super::located::Located;
use super::super::pod_spec::{node_selector, outdated_node_label};
use super::super::validation::Errors;
use super::super::volume_sources as sources;
use super::super::volume_sources::{need, need_some};
use crate::field_names::{dns1123_label, dns1123_subdomain};

const MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
const ONE_TYPE: &str = "may not specify more than 1 volume type";

/// The sources in the order in which upstream looks for them. One beyond the first is an error.
const SOURCES: [&str; 22] = [
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "glusterfs",
    "flocker",
    "nfs",
    "rbd",
    "quobyte",
    "cephfs",
    "iscsi",
    "cinder",
    "fc",
    "flexVolume",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "scaleIO",
    "local",
    "storageos",
    "csi",
];

pub(super) fn volume(new: &Object, old: Option<&Object>, errors: &mut Errors) {
    let root = Located::root(new);
    let spec = root.at("spec");
    volume_spec(&spec, new.name(), false, errors);
    mount_options(new, &spec, errors);
    if let Some(old) = old {
        // Upstream looks twice.
        volume_spec(&spec, new.name(), false, errors);
        update(&spec, &Located::root(old).at("spec"), errors);
    }
}

/// The older way to say how a volume is mounted is for sources that are mounted.
fn mount_options(new: &Object, spec: &Located<'_>, errors: &mut Errors) {
    const OPTIONS: &str = "volume.beta.kubernetes.io/mount-options";
    const MOUNTED: [&str; 13] = [
        "gcePersistentDisk",
        "awsElasticBlockStore",
        "glusterfs",
        "nfs",
        "rbd",
        "quobyte",
        "iscsi",
        "cinder",
        "cephfs",
        "azureFile",
        "vsphereVolume",
        "azureDisk",
        "photonPersistentDisk",
    ];
    if new.annotation(OPTIONS).is_some() && !MOUNTED.iter().any(|kind| spec.at(kind).is_set()) {
        let why = "may not specify mount options for this volume type";
        errors.forbidden(format!("metadata.annotations.{OPTIONS}"), why);
    }
}

/// A volume inside of an attachment.
pub(in super::super) fn inline_volume(spec: &Located<'_>, errors: &mut Errors) {
    const NOT_INLINE: &str = "may not be specified in the context of inline volumes";
    if spec.at("claimRef").is_set() {
        spec.at("claimRef").forbidden(NOT_INLINE, errors);
    }
    if !spec.at("capacity").is_empty() {
        spec.at("capacity").forbidden(NOT_INLINE, errors);
    }
    if !spec.at("csi").is_set() {
        spec.at("csi").missing("has to be specified in the context of inline volumes", errors);
    }
    volume_spec(spec, "", true, errors);
}

fn volume_spec(spec: &Located<'_>, name: &str, inline: bool, errors: &mut Errors) {
    const NOT_INLINE: &str = "may not be specified in the context of inline volumes";
    let unless_inline = |at: &Located<'_>, errors: &mut Errors| at.forbidden(NOT_INLINE, errors);
    access_modes(&spec.at("accessModes"), errors);
    if !inline {
        capacity(&spec.at("capacity"), errors);
    }
    let policy = spec.at("persistentVolumeReclaimPolicy");
    match policy.text() {
        "" => {}
        "Retain" if inline => {}
        _ if inline => policy.forbidden("may only be Retain in the context of inline volumes", errors),
        _ => policy.one_of(&["Delete", "Recycle", "Retain"], errors),
    }
    let affinity = spec.at("nodeAffinity");
    if affinity.is_set() {
        match affinity.at("required") {
            _ if inline => unless_inline(&affinity, errors),
            required if required.is_set() => node_selector(required.path(), required.value(), errors),
            required => required.missing("must specify required node constraints", errors),
        }
    }
    one_source(spec, name, affinity.is_set() && !inline, errors);
    let class = spec.at("storageClassName");
    match class.text() {
        "" => {}
        _ if inline => unless_inline(&class, errors),
        _ => class.obeys(dns1123_subdomain, errors),
    }
    let mode = spec.at("volumeMode");
    match mode.value().as_str() {
        Some(word) if inline && word != "Filesystem" => {
            let why = "may not specify volumeMode other than Filesystem in the context of inline volumes";
            mode.forbidden(why, errors);
        }
        _ => mode.one_of(&["Block", "Filesystem"], errors),
    }
    let attributes = spec.at("volumeAttributesClassName");
    if attributes.is_set() && !inline {
        match attributes.text() {
            "" => attributes.missing("an empty string is disallowed", errors),
            _ => attributes.obeys(dns1123_subdomain, errors),
        }
        if !spec.at("csi").is_set() {
            let why = "has to be specified when using volumeAttributesClassName";
            spec.at("csi").missing(why, errors);
        }
    }
}

fn access_modes(modes: &Located<'_>, errors: &mut Errors) {
    if modes.is_empty() {
        modes.missing("", errors);
    }
    for mode in modes.each() {
        mode.called(modes.path()).one_of(&MODES, errors);
    }
    let has = |alone: bool| {
        modes.each().any(|m| MODES.contains(&m.text()) && (m.text() == "ReadWriteOncePod") == alone)
    };
    if has(true) && has(false) {
        modes.forbidden("may not use ReadWriteOncePod with other access modes", errors);
    }
}

/// Storage and nothing else.
fn capacity(given: &Located<'_>, errors: &mut Errors) {
    if given.is_empty() {
        given.missing("", errors);
    }
    if !given.at("storage").is_set() || given.len() > 1 {
        let shown = if given.is_empty() { "null".to_owned() } else { given.value().to_string() };
        errors.unsupported_text(given.path(), shown, &["storage"]);
    }
    for (_, amount) in given.entries() {
        let Some(q) = amount.quantity() else { continue };
        if q.is_negative() {
            errors.invalid(amount.path(), q.value(), "must be a valid resource quantity");
        }
        if q.is_negative() || q.is_zero() {
            amount.wrong("must be greater than zero", errors);
        }
    }
}

fn one_source(spec: &Located<'_>, name: &str, placed: bool, errors: &mut Errors) {
    let mut found = 0;
    for kind in SOURCES {
        let source = spec.at(kind);
        if !source.is_set() {
            continue;
        }
        if found > 0 && kind != "flexVolume" {
            let called = if kind == "cephfs" { "cephFS" } else { kind };
            errors.forbidden(format!("{}.{called}", spec.path()), ONE_TYPE);
            continue;
        }
        found += 1;
        of_source(kind, &source, name, errors);
        if kind == "local" && !placed {
            spec.at("nodeAffinity").missing("Local volume requires node affinity", errors);
        }
    }
    if found == 0 {
        spec.missing("must specify a volume type", errors);
    }
    let root = spec.at("hostPath").at("path").text().trim_matches('/').is_empty();
    if spec.at("hostPath").is_set()
        && root
        && !spec.at("hostPath").at("path").text().is_empty()
        && spec.at("persistentVolumeReclaimPolicy").text() == "Recycle"
    {
        let why = "may not be 'recycle' for a hostPath mount of '/'";
        spec.at("persistentVolumeReclaimPolicy").forbidden(why, errors);
    }
}

fn of_source(kind: &str, source: &Located<'_>, name: &str, errors: &mut Errors) {
    match kind {
        "gcePersistentDisk" => {
            // Upstream calls it so.
            let called = source.path().replace("gcePersistentDisk", "persistentDisk");
            if let Some(rule) = sources::shared(kind) {
                rule(&source.clone().called(&called), errors);
            }
        }
        "glusterfs" => {
            need(source, &["endpoints", "path"], errors);
            let namespace = source.at("endpointsNamespace");
            match namespace.value().as_str() {
                Some("") => namespace
                    .wrong("if the endpointnamespace is set, it must be a valid namespace name", errors),
                _ => namespace.optional_as(dns1123_label, errors),
            }
        }
        "rbd" => {
            need_some(source, "monitors", errors);
            need(source, &["image"], errors);
        }
        "cephfs" => need_some(source, "monitors", errors),
        "iscsi" => sources::iscsi(source, Some(name), errors),
        "cinder" => {
            need(source, &["volumeID"], errors);
            if source.at("secretRef").is_set() {
                need(&source.at("secretRef"), &["name", "namespace"], errors);
            }
        }
        "flexVolume" => sources::flex_options(source, errors),
        "azureFile" => {
            need(source, &["secretName", "shareName"], errors);
            if source.at("secretNamespace").is_set() {
                need(source, &["secretNamespace"], errors);
            }
        }
        "scaleIO" => need(source, &["gateway", "system", "volumeName"], errors),
        "local" => {
            if source.at("path").required(errors) {
                sources::no_steps_back(&source.at("path"), errors);
            }
        }
        "storageos" => {
            source.at("volumeName").required_as(dns1123_label, errors);
            source.at("volumeNamespace").optional_as(dns1123_label, errors);
            if source.at("secretRef").is_set() {
                need(&source.at("secretRef"), &["name", "namespace"], errors);
            }
        }
        "csi" => {
            sources::csi_driver_name(&source.at("driver"), errors);
            need(source, &["volumeHandle"], errors);
            for secret in [
                "controllerPublishSecretRef",
                "controllerExpandSecretRef",
                "nodePublishSecretRef",
                "nodeExpandSecretRef",
            ] {
                sources::secret_reference(&source.at(secret), errors);
            }
        }
        other => {
            if let Some(rule) = sources::shared(other) {
                rule(source, errors);
            }
        }
    }
}

/// What is allowed, and does nothing or will not for long.
pub(super) fn warnings(new: &Object) -> Vec<String> {
    const OLD: [(&str, &str, &str); 6] = [
        ("cephfs", "cephfs", "deprecated in v1.28, non-functional in v1.31+"),
        ("photonPersistentDisk", "photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
        ("scaleIO", "scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
        ("storageos", "storageOS", "deprecated in v1.22, non-functional in v1.25+"),
        ("glusterfs", "glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
        ("rbd", "rbd", "deprecated in v1.28, non-functional in v1.31+"),
    ];
    const RECYCLE: &str = "The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.";
    let root = Located::root(new);
    let spec = root.at("spec");
    let mut all = vec![];
    let policy = spec.at("persistentVolumeReclaimPolicy");
    if policy.text() == "Recycle" {
        all.push(format!("{}: {RECYCLE}", policy.path()));
    }
    for term in spec.at("nodeAffinity").at("required").at("nodeSelectorTerms").each() {
        for key in term.at("matchExpressions").each().map(|e| e.at("key")) {
            let why = outdated_node_label(key.text());
            all.extend(why.map(|why| format!("{}: {} is {why}", key.path(), key.text())));
        }
    }
    let old = OLD.iter().filter(|(kind, ..)| spec.at(kind).is_set());
    all.extend(old.map(|(_, called, why)| format!("spec.{called}: {why}")));
    all
}

/// Keys of labels that have new names.
const RENAMED: [(&str, &str); 5] = [
    ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"),
    ("beta.kubernetes.io/os", "kubernetes.io/os"),
    ("beta.kubernetes.io/arch", "kubernetes.io/arch"),
    ("beta.kubernetes.io/instance-type", "node.kubernetes.io/instance-type"),
];

/// Whether two affinities say the same: a key may take its new name. As with upstream's table, the new name of a key
/// that is not in it is the empty one.
fn is_same_place(is: &Value, was: &Value) -> bool {
    match (is, was) {
        (Value::Object(new), Value::Object(old)) => {
            let keys: BTreeSet<&String> = new.keys().chain(old.keys()).collect();
            keys.into_iter().all(|key| {
                let (new, old) = (&is[key.as_str()], &was[key.as_str()]);
                let renamed = key == "key" && {
                    let old = old.as_str().unwrap_or_default();
                    let known = RENAMED.iter().find(|(beta, _)| *beta == old);
                    new.as_str().unwrap_or_default() == known.map_or("", |(_, now)| now)
                };
                renamed || is_same_place(new, old)
            })
        }
        (Value::Array(new), Value::Array(old)) => {
            new.len() == old.len() && new.iter().zip(old).all(|(new, old)| is_same_place(new, old))
        }
        _ => is == was,
    }
}

/// What it is made of, how it is shown, and where it is, is fixed.
fn update(spec: &Located<'_>, old: &Located<'_>, errors: &mut Errors) {
    let made_of = |at: &Located<'_>| {
        let mut all: Vec<Value> = SOURCES.iter().map(|kind| at.at(kind).value().clone()).collect();
        // A secret for growing may be named later.
        if !old.at("csi").at("controllerExpandSecretRef").is_set()
            && old.at("csi").is_set()
            && let Some(csi) = all.last_mut().and_then(Value::as_object_mut)
        {
            csi.remove("controllerExpandSecretRef");
        }
        all
    };
    if made_of(spec) != made_of(old) {
        errors.forbidden(
            "spec.persistentvolumesource",
            "spec.persistentvolumesource is immutable after creation",
        );
    }
    spec.at("volumeMode").called("volumeMode").immutable(&old.at("volumeMode"), errors);
    let (is, was) = (spec.at("nodeAffinity").called("nodeAffinity"), old.at("nodeAffinity"));
    if was.is_set() && !is_same_place(is.value(), was.value()) {
        is.wrong("field is immutable, except for updating from beta label to GA", errors);
    }
    let attributes = "volumeAttributesClassName";
    if old.at(attributes).is_set() && !spec.at(attributes).is_set() {
        spec.at(attributes).forbidden("update from non-nil value to nil is forbidden", errors);
    }
}
