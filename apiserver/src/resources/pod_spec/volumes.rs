//! What is wrong with volumes: names, and one source each.

use std::collections::HashSet;

use coracle_api::Quantity;
use serde_json::Value;

use super::super::core::claim_spec;
use super::super::located::Located;
use super::super::validation::{Errors, template_metadata};
use super::super::volume_sources as sources;
use super::containers::relative_path;
use super::environment::{IN_FILES, field_ref, resource_ref};
use super::validation::items;
use crate::field_names::{dns1123_label, dns1123_subdomain};

/// The volumes that mounts may name.
pub(super) type VolumeNames = HashSet<String>;

/// `pod` is the name of the one that they are of: the claims of ephemeral ones are named after it.
pub(super) fn volumes(at: &str, spec: &Value, pod: &str, errors: &mut Errors) -> VolumeNames {
    let mut names = HashSet::new();
    for (i, v) in items(spec, "volumes").enumerate() {
        let at = format!("{at}[{i}]");
        let before = errors.0.len();
        source(&at, v, errors);
        let name = v["name"].as_str().unwrap_or_default();
        if v["ephemeral"].is_object() && !pod.is_empty() && !name.is_empty() {
            let claim = format!("{pod}-{name}");
            for why in dns1123_subdomain(&claim) {
                errors.invalid(format!("{at}.name"), name, format!("PVC name {claim:?}: {why}"));
            }
        }
        match name {
            "" => errors.required(format!("{at}.name"), ""),
            _ => errors.all_invalid(format!("{at}.name"), name, dns1123_label(name)),
        }
        if names.contains(name) {
            errors.duplicate(format!("{at}.name"), name);
        }
        // A volume that is wrong is one that mounts do not find.
        if errors.0.len() == before {
            names.insert(name.to_owned());
        }
    }
    names
}

/// The sources in the order in which upstream looks for them.
const SOURCES: [&str; 30] = [
    "emptyDir",
    "hostPath",
    "gitRepo",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "secret",
    "nfs",
    "iscsi",
    "glusterfs",
    "flocker",
    "persistentVolumeClaim",
    "rbd",
    "cinder",
    "cephfs",
    "quobyte",
    "downwardAPI",
    "fc",
    "flexVolume",
    "configMap",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "storageos",
    "projected",
    "scaleIO",
    "csi",
    "ephemeral",
    "image",
];

fn source(at: &str, v: &Value, errors: &mut Errors) {
    let mut given = 0;
    for kind in SOURCES {
        let source = &v[kind];
        if !source.is_object() {
            continue;
        }
        given += 1;
        if given > 1 && kind != "emptyDir" {
            // Two names are misspelt by upstream.
            let called = match kind {
                "cephfs" => "cephFS",
                "downwardAPI" => "downwarAPI",
                kind => kind,
            };
            errors.forbidden(format!("{at}.{called}"), "may not specify more than 1 volume type");
            continue;
        }
        let at = match kind {
            "gcePersistentDisk" => format!("{at}.persistentDisk"),
            kind => format!("{at}.{kind}"),
        };
        match kind {
            "emptyDir" => size_limit(&at, source, errors),
            "secret" => {
                need(&at, source, "secretName", errors);
                keyed(&at, source, errors);
            }
            "configMap" => {
                need(&at, source, "name", errors);
                keyed(&at, source, errors);
            }
            "persistentVolumeClaim" => need(&at, source, "claimName", errors),
            "downwardAPI" => downward(&at, source, errors),
            "projected" => projected(&at, source, errors),
            "csi" => {
                let source = Located::placed(at, source);
                sources::csi_driver_name(&source.at("driver"), errors);
                let secret = source.at("nodePublishSecretRef");
                if secret.is_set() && secret.at("name").required(errors) {
                    // Upstream says the name of what the secret is for.
                    let called = format!("{}.name", source.path());
                    secret.at("name").called(&called).obeys(dns1123_subdomain, errors);
                }
            }
            "image" => {
                need(&at, source, "reference", errors);
                let policy = Located::placed(format!("{at}.pullPolicy"), &source["pullPolicy"]);
                policy.one_of(&["Always", "IfNotPresent", "Never"], errors);
            }
            "ephemeral" => match &source["volumeClaimTemplate"] {
                Value::Null => errors.required(format!("{at}.volumeClaimTemplate"), ""),
                template => {
                    let at = format!("{at}.volumeClaimTemplate");
                    template_metadata(
                        &Located::placed(format!("{at}.metadata"), &template["metadata"]),
                        errors,
                    );
                    claim_spec(&format!("{at}.spec"), &template["spec"], errors);
                }
            },
            other => older_source(other, &Located::placed(at, source), errors),
        }
    }
    if given == 0 {
        errors.required(at, "must specify a volume type");
    }
}

/// Sources of clouds and storage systems; most of them do nothing any more, and all are looked at.
fn older_source(kind: &str, source: &Located<'_>, errors: &mut Errors) {
    match kind {
        "gitRepo" => {
            sources::need(source, &["repository"], errors);
            let directory = source.at("directory");
            relative_path(directory.path(), directory.text(), errors);
        }
        "glusterfs" => sources::need(source, &["endpoints", "path"], errors),
        "rbd" => {
            sources::need_some(source, "monitors", errors);
            sources::need(source, &["image"], errors);
        }
        "cephfs" => sources::need_some(source, "monitors", errors),
        "iscsi" => sources::iscsi(source, None, errors),
        "cinder" => {
            sources::need(source, &["volumeID"], errors);
            if source.at("secretRef").is_set() {
                sources::need(&source.at("secretRef"), &["name"], errors);
            }
        }
        "flexVolume" => sources::flex_options(source, errors),
        "azureFile" => sources::need(source, &["secretName", "shareName"], errors),
        "scaleIO" => sources::need(source, &["gateway", "system", "volumeName"], errors),
        "storageos" => {
            source.at("volumeName").required_as(dns1123_label, errors);
            source.at("volumeNamespace").optional_as(dns1123_label, errors);
            if source.at("secretRef").is_set() {
                sources::need(&source.at("secretRef"), &["name"], errors);
            }
        }
        shared => {
            if let Some(rule) = sources::shared(shared) {
                rule(source, errors);
            }
        }
    }
}

fn size_limit(at: &str, source: &Value, errors: &mut Errors) {
    if Quantity::from_json(&source["sizeLimit"]).is_ok_and(|limit| limit < Quantity::ZERO) {
        errors.forbidden(format!("{at}.sizeLimit"), "SizeLimit field must be a valid resource quantity");
    }
}

fn need(at: &str, source: &Value, key: &str, errors: &mut Errors) {
    if source[key].as_str().unwrap_or_default().is_empty() {
        errors.required(format!("{at}.{key}"), "");
    }
}

fn mode(at: &str, value: &Value, errors: &mut Errors) {
    if let Some(mode) = value.as_i64()
        && !(0..=0o777).contains(&mode)
    {
        errors.invalid(at, mode, "must be a number between 0 and 0777 (octal), both inclusive");
    }
}

/// Files made of the keys of a Secret or ConfigMap.
fn keyed(at: &str, source: &Value, errors: &mut Errors) {
    mode(&format!("{at}.defaultMode"), &source["defaultMode"], errors);
    for (i, item) in items(source, "items").enumerate() {
        let at = format!("{at}.items[{i}]");
        need(&at, item, "key", errors);
        file(&at, item, errors);
    }
}

fn file(at: &str, item: &Value, errors: &mut Errors) {
    need(at, item, "path", errors);
    free_path(&format!("{at}.path"), item["path"].as_str().unwrap_or_default(), errors);
    mode(&format!("{at}.mode"), &item["mode"], errors);
}

/// A relative path that does not look like one of the kubelet's own.
fn free_path(at: &str, path: &str, errors: &mut Errors) {
    relative_path(at, path, errors);
    if path.starts_with("..") && !path.starts_with("../") {
        errors.invalid(at, path, "must not start with '..'");
    }
}

fn downward(at: &str, source: &Value, errors: &mut Errors) {
    mode(&format!("{at}.defaultMode"), &source["defaultMode"], errors);
    items(source, "items").for_each(|item| downward_file(at, item, errors));
}

/// Upstream names the volume here, not the file.
fn downward_file(at: &str, item: &Value, errors: &mut Errors) {
    need(at, item, "path", errors);
    free_path(&format!("{at}.path"), item["path"].as_str().unwrap_or_default(), errors);
    let (field, resource) = (&item["fieldRef"], &item["resourceFieldRef"]);
    field_ref(&format!("{at}.fieldRef"), field, &IN_FILES, errors);
    if field.is_object() {
        if resource.is_object() {
            let detail = "fieldRef and resourceFieldRef can not be specified simultaneously";
            errors.invalid(at, "resource", detail);
        }
    } else if resource.is_object() {
        resource_ref(&format!("{at}.resourceFieldRef"), resource, true, errors);
    } else {
        errors.required(at, "one of fieldRef and resourceFieldRef is required");
    }
    mode(&format!("{at}.mode"), &item["mode"], errors);
}

fn projected(at: &str, source: &Value, errors: &mut Errors) {
    mode(&format!("{at}.defaultMode"), &source["defaultMode"], errors);
    let mut paths = HashSet::new();
    for (i, s) in items(source, "sources").enumerate() {
        let here = format!("{at}.sources[{i}]");
        for kind in ["secret", "configMap", "downwardAPI"].into_iter().filter(|k| s[*k].is_object()) {
            let (here, part) = (format!("{here}.{kind}"), &s[kind]);
            if kind != "downwardAPI" {
                need(&here, part, "name", errors);
            }
            for (j, item) in items(part, "items").enumerate() {
                if kind == "downwardAPI" {
                    downward_file(&here, item, errors);
                } else {
                    need(&format!("{here}.items[{j}]"), item, "key", errors);
                    file(&format!("{here}.items[{j}]"), item, errors);
                }
                let path = item["path"].as_str().unwrap_or_default();
                if !path.is_empty() && !paths.insert(path) {
                    let shown = if kind == "downwardAPI" { &item["path"] } else { &part["name"] };
                    errors.invalid(at, shown.clone(), "conflicting duplicate paths");
                }
            }
        }
        token(at, &here, &s["serviceAccountToken"], errors);
        // Certificates are not switched on in upstream.
        let known = ["secret", "configMap", "downwardAPI", "serviceAccountToken"];
        if known.iter().filter(|kind| s[**kind].is_object()).count() > 1 {
            errors.forbidden(here, "may not specify more than 1 volume type per source");
        }
    }
}

/// Upstream looks for the token's path at the volume.
fn token(volume: &str, at: &str, token: &Value, errors: &mut Errors) {
    if !token.is_object() {
        return;
    }
    let seconds = token["expirationSeconds"].as_i64().unwrap_or(0);
    let at = format!("{at}.serviceAccountToken.expirationSeconds");
    if seconds < 600 {
        errors.invalid(&*at, seconds, "may not specify a duration less than 10 minutes");
    }
    if seconds > 1 << 32 {
        errors.invalid(at, seconds, "may not specify a duration larger than 2^32 seconds");
    }
    need(volume, token, "path", errors);
    free_path(&format!("{volume}.path"), token["path"].as_str().unwrap_or_default(), errors);
}
