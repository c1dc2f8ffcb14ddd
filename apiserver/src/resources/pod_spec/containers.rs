//! What is wrong with containers: names, images, ports, environment, mounts, probes, resources.

use std::collections::HashSet;

use coracle_api::{Quantity, resources::is_sidecar};
use serde_json::Value;

use super::super::validation::Errors;
use super::validation::{ids, items, seccomp};
use super::volumes::VolumeNames;
use crate::field_names::{
    config_map_key, dns1123_label, env_var_name, port_name, port_number, qualified_name,
};

const PULL_POLICIES: [&str; 3] = ["Always", "IfNotPresent", "Never"];
const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];

pub(super) fn containers(at: &str, spec: &Value, volumes: &VolumeNames, errors: &mut Errors) {
    if items(spec, "containers").next().is_none() {
        errors.required(at, "");
        return;
    }
    let mut names = HashSet::new();
    for (i, c) in items(spec, "containers").enumerate() {
        let at = format!("{at}[{i}]");
        container(&at, c, volumes, errors);
        unique(&at, c, &mut names, errors);
        lifecycle(&at, c, errors);
        probes(&at, c, errors);
        let policy = c["restartPolicy"].as_str().is_some() && items(c, "restartPolicyRules").next().is_none();
        if policy {
            let words = ["Always", "Never", "OnFailure"];
            let policy = c["restartPolicy"].as_str().unwrap_or_default();
            errors.one_of(format!("{at}.restartPolicy"), policy, &words);
        }
    }
    host_ports(at, spec, "containers", errors);
}

pub(super) fn init_containers(at: &str, spec: &Value, volumes: &VolumeNames, errors: &mut Errors) {
    let mut names = name_set(spec, "containers");
    for (i, c) in items(spec, "initContainers").enumerate() {
        let at = format!("{at}[{i}]");
        container(&at, c, volumes, errors);
        unique(&at, c, &mut names, errors);
        if is_sidecar(c) {
            lifecycle(&at, c, errors);
            probes(&at, c, errors);
            continue;
        }
        for key in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
            if !c[key].is_null() {
                let detail = "may not be set for init containers without restartPolicy=Always";
                errors.forbidden(format!("{at}.{key}"), detail);
            }
        }
    }
    host_ports(at, spec, "initContainers", errors);
}

pub(super) fn ephemeral_containers(at: &str, spec: &Value, volumes: &VolumeNames, errors: &mut Errors) {
    let mut names = name_set(spec, "containers");
    names.extend(name_set(spec, "initContainers"));
    for (i, c) in items(spec, "ephemeralContainers").enumerate() {
        let at = format!("{at}[{i}]");
        container(&at, c, volumes, errors);
        unique(&at, c, &mut names, errors);
        for key in ["ports", "livenessProbe", "readinessProbe", "startupProbe", "lifecycle", "resizePolicy"] {
            if !c[key].is_null() {
                errors.forbidden(format!("{at}.{key}"), "cannot be set for an Ephemeral Container");
            }
        }
        if c["resources"].as_object().is_some_and(|r| !r.is_empty()) {
            errors.forbidden(format!("{at}.resources"), "cannot be set for an Ephemeral Container");
        }
        let target = c["targetContainerName"].as_str().unwrap_or_default();
        let all = name_set(spec, "containers");
        if !target.is_empty() && !all.contains(target) {
            errors.not_found(format!("{at}.targetContainerName"), target);
        }
    }
}

fn name_set(spec: &Value, list: &str) -> HashSet<String> {
    items(spec, list).filter_map(|c| c["name"].as_str()).map(str::to_owned).collect()
}

fn unique(at: &str, c: &Value, names: &mut HashSet<String>, errors: &mut Errors) {
    let name = c["name"].as_str().unwrap_or_default();
    if !name.is_empty() && !names.insert(name.to_owned()) {
        errors.duplicate(format!("{at}.name"), name);
    }
}

fn container(at: &str, c: &Value, volumes: &VolumeNames, errors: &mut Errors) {
    let text = |key: &str| c[key].as_str().unwrap_or_default();
    match text("name") {
        "" => errors.required(format!("{at}.name"), ""),
        name => errors.all_invalid(format!("{at}.name"), name, dns1123_label(name)),
    }
    match text("image") {
        "" => errors.required(format!("{at}.image"), ""),
        image if image.trim() != image => {
            errors.invalid(format!("{at}.image"), image, "must not have leading or trailing whitespace");
        }
        _ => {}
    }
    let policy = text("terminationMessagePolicy");
    errors.one_of(format!("{at}.terminationMessagePolicy"), policy, &["FallbackToLogsOnError", "File"]);
    ports(&format!("{at}.ports"), c, errors);
    env(&format!("{at}.env"), c, errors);
    env_from(&format!("{at}.envFrom"), c, errors);
    mounts(at, c, volumes, errors);
    errors.one_of(format!("{at}.imagePullPolicy"), text("imagePullPolicy"), &PULL_POLICIES);
    resources(&format!("{at}.resources"), &c["resources"], errors);
    security(&format!("{at}.securityContext"), &c["securityContext"], errors);
}

fn ports(at: &str, c: &Value, errors: &mut Errors) {
    let mut names = HashSet::new();
    for (i, p) in items(c, "ports").enumerate() {
        let at = format!("{at}[{i}]");
        if let Some(name) = p["name"].as_str().filter(|n| !n.is_empty()) {
            let wrong = port_name(name);
            if wrong.is_empty() {
                if !names.insert(name) {
                    errors.duplicate(format!("{at}.name"), name);
                }
            } else {
                errors.all_invalid(format!("{at}.name"), name, wrong);
            }
        }
        match p["containerPort"].as_i64().unwrap_or(0) {
            0 => errors.required(format!("{at}.containerPort"), ""),
            n => errors.all_invalid(format!("{at}.containerPort"), n, port_number(n)),
        }
        if let Some(n) = p["hostPort"].as_i64().filter(|n| *n != 0) {
            errors.all_invalid(format!("{at}.hostPort"), n, port_number(n));
        }
        let protocol = p["protocol"].as_str().unwrap_or_default();
        errors.one_of(format!("{at}.protocol"), protocol, &PROTOCOLS);
    }
}

/// Two containers cannot have the same port of the node.
fn host_ports(at: &str, spec: &Value, list: &str, errors: &mut Errors) {
    let mut taken = HashSet::new();
    for (i, c) in items(spec, list).enumerate() {
        for (j, p) in items(c, "ports").enumerate() {
            let Some(port) = p["hostPort"].as_i64().filter(|n| *n != 0) else { continue };
            let (ip, protocol) = (p["hostIP"].as_str().unwrap_or_default(), p["protocol"].as_str());
            if !taken.insert((ip, port, protocol)) {
                let key = format!("{}/{ip}/{port}", protocol.unwrap_or_default());
                errors.duplicate(format!("{at}[{i}].ports[{j}].hostPort"), key);
            }
        }
    }
}

fn env(at: &str, c: &Value, errors: &mut Errors) {
    for (i, e) in items(c, "env").enumerate() {
        let at = format!("{at}[{i}]");
        match e["name"].as_str().unwrap_or_default() {
            "" => errors.required(format!("{at}.name"), ""),
            name => errors.all_invalid(format!("{at}.name"), name, env_var_name(name)),
        }
        let from = &e["valueFrom"];
        if from.is_null() {
            continue;
        }
        let at = format!("{at}.valueFrom");
        let sources = from.as_object().map_or(0, serde_json::Map::len);
        if sources == 0 {
            let detail = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`";
            errors.invalid(&*at, "", detail);
        } else if e["value"].as_str().is_some_and(|v| !v.is_empty()) {
            errors.invalid(&*at, "", "may not be specified when `value` is not empty");
        } else if sources > 1 {
            errors.invalid(&*at, "", "may not have more than one field specified at a time");
        }
        field_ref(&format!("{at}.fieldRef"), &from["fieldRef"], errors);
        if from["resourceFieldRef"].is_object() && from["resourceFieldRef"]["resource"].is_null() {
            errors.required(format!("{at}.resourceFieldRef.resource"), "");
        }
        for key in ["configMapKeyRef", "secretKeyRef"] {
            key_ref(&format!("{at}.{key}"), &from[key], errors);
        }
    }
}

fn field_ref(at: &str, r: &Value, errors: &mut Errors) {
    const PATHS: [&str; 10] = [
        "metadata.name",
        "metadata.namespace",
        "metadata.uid",
        "spec.nodeName",
        "spec.serviceAccountName",
        "status.hostIP",
        "status.hostIPs",
        "status.podIP",
        "status.podIPs",
        "metadata.annotations",
    ];
    if !r.is_object() {
        return;
    }
    let path = r["fieldPath"].as_str().unwrap_or_default();
    let at = format!("{at}.fieldPath");
    let (base, subscript) = path.split_once('[').map_or((path, ""), |(base, rest)| (base, rest));
    match base {
        "" => errors.required(at, ""),
        "metadata.labels" | "metadata.annotations" if !subscript.is_empty() => {}
        known if PATHS[..9].contains(&known) && subscript.is_empty() => {}
        "metadata.labels" | "metadata.annotations" => {
            errors.0.push(crate::field::FieldError::not_supported(at, &path.into(), &PATHS[..9]));
        }
        _ if path.starts_with("metadata.") || path.starts_with("spec.") || path.starts_with("status.") => {
            let detail = format!("error converting fieldPath: field label not supported: {path}");
            errors.invalid(at, path, detail);
        }
        _ => {
            errors.invalid(at, path, format!("error converting fieldPath: field label not supported: {path}"))
        }
    }
}

fn key_ref(at: &str, r: &Value, errors: &mut Errors) {
    if !r.is_object() {
        return;
    }
    if r["name"].as_str().unwrap_or_default().is_empty() {
        errors.required(format!("{at}.name"), "");
    }
    match r["key"].as_str().unwrap_or_default() {
        "" => errors.required(format!("{at}.key"), ""),
        key => errors.all_invalid(format!("{at}.key"), key, config_map_key(key)),
    }
}

fn env_from(at: &str, c: &Value, errors: &mut Errors) {
    for (i, from) in items(c, "envFrom").enumerate() {
        let at = format!("{at}[{i}]");
        if let Some(prefix) = from["prefix"].as_str().filter(|p| !p.is_empty()) {
            errors.all_invalid(format!("{at}.prefix"), prefix, env_var_name(prefix));
        }
        let (map, secret) = (&from["configMapRef"], &from["secretRef"]);
        for (key, source) in [("configMapRef", map), ("secretRef", secret)] {
            if source.is_object() && source["name"].as_str().unwrap_or_default().is_empty() {
                errors.required(format!("{at}.{key}.name"), "");
            }
        }
        match (map.is_object(), secret.is_object()) {
            (false, false) => errors.invalid(at, "", "must specify one of: `configMapRef` or `secretRef`"),
            (true, true) => errors.invalid(at, "", "may not have more than one field specified at a time"),
            _ => {}
        }
    }
}

fn mounts(at: &str, c: &Value, volumes: &VolumeNames, errors: &mut Errors) {
    let mut paths = HashSet::new();
    for (i, m) in items(c, "volumeMounts").enumerate() {
        let at = format!("{at}.volumeMounts[{i}]");
        let text = |key: &str| m[key].as_str().unwrap_or_default();
        match text("name") {
            "" => errors.required(format!("{at}.name"), ""),
            name if !volumes.contains(name) => errors.not_found(format!("{at}.name"), name),
            _ => {}
        }
        match text("mountPath") {
            "" => errors.required(format!("{at}.mountPath"), ""),
            path if !paths.insert(path) => {
                errors.invalid(format!("{at}.mountPath"), path, "must be unique");
            }
            _ => {}
        }
        for key in ["subPath", "subPathExpr"] {
            relative_path(&format!("{at}.{key}"), text(key), errors);
        }
        if !text("subPath").is_empty() && !text("subPathExpr").is_empty() {
            let detail = "subPathExpr and subPath are mutually exclusive";
            errors.invalid(format!("{at}.subPathExpr"), text("subPathExpr"), detail);
        }
    }
    for (i, d) in items(c, "volumeDevices").enumerate() {
        let at = format!("{at}.volumeDevices[{i}]");
        let name = d["name"].as_str().unwrap_or_default();
        if name.is_empty() {
            errors.required(format!("{at}.name"), "");
        } else if !volumes.contains(name) {
            errors.not_found(format!("{at}.name"), name);
        }
    }
}

/// A path that stays below where it starts.
pub(super) fn relative_path(at: &str, path: &str, errors: &mut Errors) {
    if path.starts_with('/') {
        errors.invalid(at, path, "must be a relative path");
    }
    if path.split('/').any(|part| part == "..") {
        errors.invalid(at, path, "must not contain '..'");
    }
}

fn lifecycle(at: &str, c: &Value, errors: &mut Errors) {
    for key in ["postStart", "preStop"] {
        let hook = &c["lifecycle"][key];
        if hook.is_object() {
            handler(
                &format!("{at}.lifecycle.{key}"),
                hook,
                &["exec", "httpGet", "tcpSocket", "sleep"],
                errors,
            );
        }
    }
}

fn probes(at: &str, c: &Value, errors: &mut Errors) {
    for key in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let probe = &c[key];
        if !probe.is_object() {
            continue;
        }
        let at = format!("{at}.{key}");
        handler(&at, probe, &["exec", "httpGet", "tcpSocket", "grpc"], errors);
        for number in
            ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"]
        {
            errors.non_negative(format!("{at}.{number}"), probe[number].as_i64());
        }
        let grace = &probe["terminationGracePeriodSeconds"];
        if grace.as_i64().is_some_and(|s| s <= 0) {
            let at = format!("{at}.terminationGracePeriodSeconds");
            errors.invalid(at, grace.clone(), "must be greater than 0");
        }
        if key == "readinessProbe" && !grace.is_null() {
            let at = format!("{at}.terminationGracePeriodSeconds");
            errors.invalid(at, grace.clone(), "must not be set for readinessProbes");
        }
        if key != "readinessProbe" && probe["successThreshold"].as_i64() != Some(1) {
            errors.invalid(format!("{at}.successThreshold"), probe["successThreshold"].clone(), "must be 1");
        }
    }
}

/// Exactly one of the kinds of action.
fn handler(at: &str, h: &Value, kinds: &[&str], errors: &mut Errors) {
    let mut given = 0;
    for kind in kinds.iter().filter(|k| h[**k].is_object()) {
        given += 1;
        let at = format!("{at}.{kind}");
        if given > 1 {
            errors.forbidden(at, "may not specify more than 1 handler type");
            continue;
        }
        let action = &h[*kind];
        match *kind {
            "exec" if items(action, "command").next().is_none() => {
                errors.required(format!("{at}.command"), "");
            }
            "httpGet" => {
                if action["path"].as_str().unwrap_or_default().is_empty() {
                    errors.required(format!("{at}.path"), "");
                }
                port(&format!("{at}.port"), &action["port"], errors);
                let scheme = action["scheme"].as_str().unwrap_or_default();
                errors.one_of(format!("{at}.scheme"), scheme, &["HTTP", "HTTPS"]);
            }
            "tcpSocket" => port(&format!("{at}.port"), &action["port"], errors),
            "grpc" => {
                let n = action["port"].as_i64().unwrap_or(0);
                errors.all_invalid(format!("{at}.port"), n, port_number(n));
            }
            _ => {}
        }
    }
    if given == 0 {
        errors.required(at, "must specify a handler type");
    }
}

fn port(at: &str, value: &Value, errors: &mut Errors) {
    match value {
        Value::String(name) => errors.all_invalid(at, &**name, port_name(name)),
        number => {
            let n = number.as_i64().unwrap_or(0);
            errors.all_invalid(at, n, port_number(n));
        }
    }
}

fn resources(at: &str, r: &Value, errors: &mut Errors) {
    let lists = [("limits", &r["limits"]), ("requests", &r["requests"])];
    for (list, amounts) in lists {
        for (name, amount) in amounts.as_object().into_iter().flatten() {
            let at = format!("{at}.{list}[{name}]");
            resource_name(&format!("{at}"), name, errors);
            let Ok(q) = Quantity::from_json(amount) else { continue };
            if q.is_negative() {
                errors.invalid(&*at, amount.clone(), "must be greater than or equal to 0");
            }
            let fractional = matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage");
            if !fractional && !q.is_integer() {
                errors.invalid(&*at, amount.clone(), "must be an integer");
            }
        }
    }
    for (name, request) in r["requests"].as_object().into_iter().flatten() {
        let Some(limit) = r["limits"].get(name) else {
            if !overcommits(name) {
                errors.required(format!("{at}.limits"), "Limit must be set for non overcommitable resources");
            }
            continue;
        };
        let (Ok(q), Ok(l)) = (Quantity::from_json(request), Quantity::from_json(limit)) else { continue };
        let text = request.as_str().unwrap_or_default();
        if !overcommits(name) && q != l {
            let detail = format!("must be equal to {name} limit of {l}");
            errors.invalid(format!("{at}.requests"), text, detail);
        } else if q > l {
            let detail = format!("must be less than or equal to {name} limit of {l}");
            errors.invalid(format!("{at}.requests"), text, detail);
        }
    }
}

/// Whether more may be used than is asked for.
fn overcommits(name: &str) -> bool {
    !name.starts_with("hugepages-") && !name.contains('/')
}

fn resource_name(at: &str, name: &str, errors: &mut Errors) {
    errors.all_invalid(at, name, qualified_name(name));
    let standard = matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
    if !name.contains('/') && !standard {
        errors.invalid(at, name, "must be a standard resource type or fully qualified");
        errors.invalid(at, name, "must be a standard resource for containers");
    }
}

fn security(at: &str, context: &Value, errors: &mut Errors) {
    if !context.is_object() {
        return;
    }
    ids(at, context, &["runAsUser", "runAsGroup"], errors);
    seccomp(&format!("{at}.seccompProfile"), &context["seccompProfile"], errors);
    if context["allowPrivilegeEscalation"] == false {
        let detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
        if context["privileged"] == true {
            errors.invalid(at, context.clone(), detail);
        }
        let adds = items(&context["capabilities"], "add");
        if adds.into_iter().any(|c| c == "CAP_SYS_ADMIN") {
            let detail =
                "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            errors.invalid(at, context.clone(), detail);
        }
    }
}
