//! What is wrong with volumes: names, and one source each.

use std::collections::HashSet;

use coracle_api::Quantity;
use serde_json::Value;

use super::super::core::claim_spec;
use super::super::validation::Errors;
use super::containers::relative_path;
use super::environment::{IN_FILES, field_ref, resource_ref};
use super::validation::items;
use crate::field_names::{dns1123_label, dns1123_subdomain};

/// The volumes that mounts may name.
pub(super) type VolumeNames = HashSet<String>;

pub(super) fn volumes(at: &str, spec: &Value, errors: &mut Errors) -> VolumeNames {
    let mut names = HashSet::new();
    for (i, v) in items(spec, "volumes").enumerate() {
        let at = format!("{at}[{i}]");
        let before = errors.0.len();
        source(&at, v, errors);
        let name = v["name"].as_str().unwrap_or_default();
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

fn source(at: &str, v: &Value, errors: &mut Errors) {
    let sources = v.as_object().into_iter().flatten().filter(|(key, s)| *key != "name" && s.is_object());
    let mut given = 0;
    for (kind, source) in sources {
        given += 1;
        let at = format!("{at}.{kind}");
        if given > 1 {
            errors.forbidden(at, "may not specify more than 1 volume type");
            continue;
        }
        match kind.as_str() {
            "emptyDir" => size_limit(&at, source, errors),
            "hostPath" => host_path(&at, source, errors),
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
            "nfs" => nfs(&at, source, errors),
            "csi" => {
                csi_driver(&format!("{at}.driver"), source["driver"].as_str().unwrap_or_default(), errors)
            }
            "image" => need(&at, source, "reference", errors),
            "ephemeral" => match &source["volumeClaimTemplate"] {
                Value::Null => errors.required(format!("{at}.volumeClaimTemplate"), ""),
                template => claim_spec(&format!("{at}.volumeClaimTemplate.spec"), &template["spec"], errors),
            },
            _ => {}
        }
    }
    if given == 0 {
        errors.required(at, "must specify a volume type");
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

/// The name of a storage driver.
pub(in super::super) fn csi_driver(at: &str, name: &str, errors: &mut Errors) {
    if name.is_empty() {
        return errors.required(at, "");
    }
    if name.len() > 63 {
        errors.0.push(crate::field::FieldError::too_long(at, 63));
    }
    errors.all_invalid(at, name, dns1123_subdomain(&name.to_lowercase()));
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
        if s.as_object().is_some_and(|s| s.values().filter(|v| v.is_object()).count() > 1) {
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

pub(in super::super) fn host_path(at: &str, source: &Value, errors: &mut Errors) {
    const KINDS: [&str; 8] =
        ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
    let path = source["path"].as_str().unwrap_or_default();
    if path.is_empty() {
        errors.required(format!("{at}.path"), "");
        return;
    }
    if path.split('/').any(|part| part == "..") {
        errors.invalid(format!("{at}.path"), path, "must not contain '..'");
    }
    let kind = source["type"].as_str().unwrap_or_default();
    if !KINDS.contains(&kind) {
        errors.one_of(format!("{at}.type"), kind, &KINDS);
    }
}

pub(in super::super) fn nfs(at: &str, source: &Value, errors: &mut Errors) {
    need(at, source, "server", errors);
    let path = source["path"].as_str().unwrap_or_default();
    need(at, source, "path", errors);
    if !path.starts_with('/') {
        errors.invalid(format!("{at}.path"), path, "must be an absolute path");
    }
}
