//! What is wrong with volumes: names, and one source each.

use std::collections::HashSet;

use serde_json::Value;

use super::super::validation::Errors;
use super::containers::relative_path;
use super::validation::items;
use crate::field_names::{config_map_key, dns1123_label};

/// The volumes that mounts may name.
pub(super) type VolumeNames = HashSet<String>;

pub(super) fn volumes(at: &str, spec: &Value, errors: &mut Errors) -> VolumeNames {
    let mut names = HashSet::new();
    for (i, v) in items(spec, "volumes").enumerate() {
        let at = format!("{at}[{i}]");
        source(&at, v, errors);
        let name = v["name"].as_str().unwrap_or_default();
        match name {
            "" => errors.required(format!("{at}.name"), ""),
            _ => errors.all_invalid(format!("{at}.name"), name, dns1123_label(name)),
        }
        if !name.is_empty() && !names.insert(name.to_owned()) {
            errors.duplicate(format!("{at}.name"), name);
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
            "csi" => need(&at, source, "driver", errors),
            "image" => need(&at, source, "reference", errors),
            "ephemeral" if source["volumeClaimTemplate"].is_null() => {
                errors.required(format!("{at}.volumeClaimTemplate"), "");
            }
            _ => {}
        }
    }
    if given == 0 {
        errors.required(at, "must specify a volume type");
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
        match item["key"].as_str().unwrap_or_default() {
            "" => errors.required(format!("{at}.key"), ""),
            key => errors.all_invalid(format!("{at}.key"), key, config_map_key(key)),
        }
        file(&at, item, errors);
    }
}

fn file(at: &str, item: &Value, errors: &mut Errors) {
    match item["path"].as_str().unwrap_or_default() {
        "" => errors.required(format!("{at}.path"), ""),
        path => {
            relative_path(&format!("{at}.path"), path, errors);
            if path.starts_with("..") && !path.starts_with("../") {
                errors.invalid(format!("{at}.path"), path, "must not start with '..'");
            }
        }
    }
    mode(&format!("{at}.mode"), &item["mode"], errors);
}

fn downward(at: &str, source: &Value, errors: &mut Errors) {
    mode(&format!("{at}.defaultMode"), &source["defaultMode"], errors);
    for (i, item) in items(source, "items").enumerate() {
        let at = format!("{at}.items[{i}]");
        file(&at, item, errors);
        let (field, resource) = (item["fieldRef"].is_object(), item["resourceFieldRef"].is_object());
        if field && resource {
            errors.invalid(
                &*at,
                "resource",
                "fieldRef and resourceFieldRef can not be specified simultaneously",
            );
        } else if !field && !resource {
            errors.required(&*at, "one of fieldRef and resourceFieldRef is required");
        }
    }
}

fn projected(at: &str, source: &Value, errors: &mut Errors) {
    mode(&format!("{at}.defaultMode"), &source["defaultMode"], errors);
    let mut paths = HashSet::new();
    for (i, s) in items(source, "sources").enumerate() {
        let at = format!("{at}.sources[{i}]");
        for kind in ["secret", "configMap"] {
            if s[kind].is_object() {
                need(&format!("{at}.{kind}"), &s[kind], "name", errors);
                keyed(&format!("{at}.{kind}"), &s[kind], errors);
            }
        }
        if s["downwardAPI"].is_object() {
            downward(&format!("{at}.downwardAPI"), &s["downwardAPI"], errors);
        }
        let token = &s["serviceAccountToken"];
        if token.is_object() {
            let at = format!("{at}.serviceAccountToken");
            let seconds = token["expirationSeconds"].as_i64().unwrap_or(0);
            if seconds < 600 {
                let detail = "may not specify a duration less than 10 minutes";
                errors.invalid(format!("{at}.expirationSeconds"), seconds, detail);
            }
            need(&at, token, "path", errors);
        }
        let all = s.as_object().into_iter().flatten().flat_map(|(_, source)| {
            items(source, "items").filter_map(|i| i["path"].as_str()).chain(source["path"].as_str())
        });
        for path in all {
            if !paths.insert(path) {
                errors.invalid(&*at, path, "conflicting duplicate paths");
            }
        }
    }
}

fn host_path(at: &str, source: &Value, errors: &mut Errors) {
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

fn nfs(at: &str, source: &Value, errors: &mut Errors) {
    need(at, source, "server", errors);
    let path = source["path"].as_str().unwrap_or_default();
    if path.is_empty() {
        errors.required(format!("{at}.path"), "");
    } else if !path.starts_with('/') {
        errors.invalid(format!("{at}.path"), path, "must be an absolute path");
    }
}
