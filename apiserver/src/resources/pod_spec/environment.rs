//! What is wrong with a container's environment, and with references to a pod's own fields and resources.

use coracle_api::Quantity;
use serde_json::Value;

use super::super::validation::Errors;
use super::validation::items;
use crate::field::FieldError;
use crate::field_names::{config_map_key, dns1123_label, dns1123_subdomain, env_var_name, qualified_name};

/// Fields of the pod that a variable may hold.
const IN_VARIABLES: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// Fields of the pod that a file may hold.
pub(super) const IN_FILES: [&str; 5] =
    ["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];

/// Fields that can be named at all, though not everywhere.
const KNOWN: [&str; 15] = [
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.serviceAccountName",
    "spec.schedulerName",
    "status.phase",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
    "spec.host",
];

const RESOURCES: [&str; 6] = [
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

const BYTE_DIVISORS: [&str; 13] =
    ["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];

pub(super) fn env(at: &str, c: &Value, errors: &mut Errors) {
    for (i, e) in items(c, "env").enumerate() {
        let at = format!("{at}[{i}]");
        match e["name"].as_str().unwrap_or_default() {
            "" => errors.required(format!("{at}.name"), ""),
            name => errors.all_invalid(format!("{at}.name"), name, env_var_name(name)),
        }
        let from = &e["valueFrom"];
        if !from.is_object() {
            continue;
        }
        let at = format!("{at}.valueFrom");
        field_ref(&format!("{at}.fieldRef"), &from["fieldRef"], &IN_VARIABLES, errors);
        resource_ref(&format!("{at}.resourceFieldRef"), &from["resourceFieldRef"], false, errors);
        for key in ["configMapKeyRef", "secretKeyRef"] {
            key_ref(&format!("{at}.{key}"), &from[key], errors);
        }
        file_key_ref(&format!("{at}.fileKeyRef"), &from["fileKeyRef"], errors);
        let sources = from.as_object().map_or(0, |f| f.values().filter(|v| v.is_object()).count());
        if sources == 0 {
            let detail = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`";
            errors.invalid(&*at, "", detail);
        } else if e["value"].as_str().is_some_and(|v| !v.is_empty()) {
            errors.invalid(&*at, "", "may not be specified when `value` is not empty");
        } else if sources > 1 {
            errors.invalid(&*at, "", "may not have more than one field specified at a time");
        }
    }
}

/// A field of the pod itself; only labels and annotations have parts that can be named.
pub(super) fn field_ref(at: &str, r: &Value, allowed: &[&str], errors: &mut Errors) {
    if !r.is_object() {
        return;
    }
    let version = r["apiVersion"].as_str().unwrap_or_default();
    let path = r["fieldPath"].as_str().unwrap_or_default();
    let at_path = format!("{at}.fieldPath");
    if version.is_empty() {
        return errors.required(format!("{at}.apiVersion"), "");
    }
    if path.is_empty() {
        return errors.required(at_path, "");
    }
    let subscripted = path.strip_suffix("']").and_then(|p| p.split_once("['"));
    let unknown = match subscripted {
        _ if version != "v1" => Some(format!("unsupported pod version: {version}")),
        Some(("metadata.annotations" | "metadata.labels", _)) => None,
        Some(_) => Some(format!("field label does not support subscript: {path}")),
        None if !KNOWN.contains(&path) => Some(format!("field label not supported: {path}")),
        None => None,
    };
    if let Some(why) = unknown {
        return errors.invalid(at_path, path, format!("error converting fieldPath: {why}"));
    }
    match subscripted {
        Some(("metadata.annotations", key)) => {
            let key = key.to_lowercase();
            errors.all_invalid(at, &*key, qualified_name(&key));
        }
        Some((_, key)) => errors.all_invalid(at, key, qualified_name(key)),
        None => {
            let path = if path == "spec.host" { "spec.nodeName" } else { path };
            if !allowed.contains(&path) {
                errors.0.push(FieldError::not_supported(at_path, &path.into(), allowed));
            }
        }
    }
}

/// An amount of a container's resources. A file has to say which container is meant.
pub(super) fn resource_ref(at: &str, r: &Value, in_file: bool, errors: &mut Errors) {
    if !r.is_object() {
        return;
    }
    let name = r["resource"].as_str().unwrap_or_default();
    let huge = name.starts_with("limits.hugepages-") || name.starts_with("requests.hugepages-");
    if in_file && r["containerName"].as_str().unwrap_or_default().is_empty() {
        errors.required(format!("{at}.containerName"), "");
    } else if name.is_empty() {
        errors.required(format!("{at}.resource"), "");
    } else if !RESOURCES.contains(&name) && !huge {
        errors.supported(format!("{at}.resource"), name, &RESOURCES);
    }
    let Ok(divisor) = Quantity::from_json(&r["divisor"]) else { return };
    if divisor == Quantity::ZERO {
        return;
    }
    let (words, what): (&[&str], _) = match name.split_once('.').map_or("", |(_, n)| n) {
        "cpu" => (&["1m", "1"], "1m and 1 are supported with the cpu"),
        "memory" => (&BYTE_DIVISORS, "memory"),
        "ephemeral-storage" => (&BYTE_DIVISORS, "local ephemeral storage"),
        _ if huge => (&BYTE_DIVISORS, "hugepages"),
        _ => return,
    };
    if !words.contains(&&*divisor.to_string()) {
        let rule = match words.len() {
            2 => what.to_owned(),
            _ => format!("{} are supported with the {what}", BYTE_DIVISORS.join(", ")),
        };
        errors.invalid(format!("{at}.divisor"), name, format!("only divisor's values {rule} resource"));
    }
}

fn key_ref(at: &str, r: &Value, errors: &mut Errors) {
    if !r.is_object() {
        return;
    }
    let name = r["name"].as_str().unwrap_or_default();
    errors.all_invalid(format!("{at}.name"), name, dns1123_subdomain(name));
    match r["key"].as_str().unwrap_or_default() {
        "" => errors.required(format!("{at}.key"), ""),
        key => errors.all_invalid(format!("{at}.key"), key, config_map_key(key)),
    }
}

/// A key of a file that another container writes into a volume.
fn file_key_ref(at: &str, r: &Value, errors: &mut Errors) {
    if !r.is_object() {
        return;
    }
    let text = |key: &str| r[key].as_str().unwrap_or_default();
    match text("key") {
        "" => errors.required(format!("{at}.key"), ""),
        key => errors.all_invalid(format!("{at}.key"), key, env_var_name(key)),
    }
    match text("volumeName") {
        "" => errors.required(format!("{at}.volumeName"), ""),
        name => errors.all_invalid(format!("{at}.volumeName"), name, dns1123_label(name)),
    }
    match text("path") {
        "" => errors.required(format!("{at}.path"), ""),
        path if path.split('/').any(|part| part == "..") => {
            errors.invalid(format!("{at}.path"), path, "must not contain '..'");
        }
        _ => {}
    }
}

/// The volumes that such files are in: the pod's own emptyDirs.
pub(super) fn file_volumes(at: &str, spec: &Value, errors: &mut Errors) {
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for (i, c) in items(spec, list).enumerate() {
            for (j, e) in items(c, "env").enumerate() {
                let r = &e["valueFrom"]["fileKeyRef"];
                if !r.is_object() {
                    continue;
                }
                let at = format!("{at}.{list}[{i}].env[{j}].valueFrom.fileKeyRef.volumeName");
                let name = r["volumeName"].as_str().unwrap_or_default();
                // Of two volumes with one name the later counts.
                match items(spec, "volumes").filter(|v| v["name"] == name).last() {
                    None => errors.not_found(at, name),
                    Some(volume) if !volume["emptyDir"].is_object() => {
                        errors.invalid(at, name, "referenced volume must be of type emptyDir");
                    }
                    Some(_) => {}
                }
            }
        }
    }
}

/// Whole ConfigMaps and Secrets. That there is exactly one source is said of the list, not of the element.
pub(super) fn env_from(at: &str, c: &Value, errors: &mut Errors) {
    for (i, from) in items(c, "envFrom").enumerate() {
        let here = format!("{at}[{i}]");
        if let Some(prefix) = from["prefix"].as_str().filter(|p| !p.is_empty()) {
            errors.all_invalid(format!("{here}.prefix"), prefix, env_var_name(prefix));
        }
        let mut sources = 0;
        for key in ["configMapRef", "secretRef"].into_iter().filter(|k| from[*k].is_object()) {
            sources += 1;
            match from[key]["name"].as_str().unwrap_or_default() {
                "" => errors.required(format!("{here}.{key}.name"), ""),
                // A prefix may end as a name must not.
                name => {
                    let whole = name.strip_suffix('-').unwrap_or(name);
                    errors.all_invalid(format!("{here}.{key}.name"), name, dns1123_subdomain(whole));
                }
            }
        }
        match sources {
            0 => errors.invalid(at, "", "must specify one of: `configMapRef` or `secretRef`"),
            1 => {}
            _ => errors.invalid(at, "", "may not have more than one field specified at a time"),
        }
    }
}
