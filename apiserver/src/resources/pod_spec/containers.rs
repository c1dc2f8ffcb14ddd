//! What is wrong with containers: names, images, ports, environment, mounts, probes, resources.

use std::collections::{BTreeSet, HashMap, HashSet};

use coracle_api::{Quantity, resources::is_sidecar};
use serde_json::Value;

use super::super::core::limit_rules::is_standard_resource;
use super::super::located::Located;
use super::super::validation::Errors;
use super::actions::{lifecycle, probes};
use super::environment::{env, env_from};
use super::mounts;
use super::validation::{app_armor, ids, items, seccomp, trimmed_image};
use super::volumes::VolumeNames;
use super::windows;
use crate::field::FieldError;
use crate::field_names::{dns1123_label, port_name, port_number, qualified_name};
use crate::limits;

const PULL_POLICIES: [&str; 3] = ["Always", "IfNotPresent", "Never"];
const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];

/// What only a container that is part of the pod's work can have.
const NOT_EPHEMERAL: [&str; 8] = [
    "ports",
    "livenessProbe",
    "readinessProbe",
    "startupProbe",
    "lifecycle",
    "resizePolicy",
    "restartPolicy",
    "restartPolicyRules",
];

pub(super) fn containers(at: &str, spec: &Value, volumes: &VolumeNames, errors: &mut Errors) {
    if items(spec, "containers").next().is_none() {
        errors.required(at, "");
        return;
    }
    let mut names = HashSet::new();
    for (i, c) in items(spec, "containers").enumerate() {
        let at = format!("{at}[{i}]");
        container(&at, c, spec, volumes, errors);
        unique(&at, c, &mut names, errors);
        lifecycle(&at, c, &spec["terminationGracePeriodSeconds"], errors);
        probes(&at, c, errors);
        restart_policy(&at, c, errors);
    }
    let all = spec["containers"].as_array().map(Vec::as_slice).unwrap_or_default();
    host_ports(all, at, errors);
}

pub(super) fn init_containers(at: &str, spec: &Value, volumes: &VolumeNames, errors: &mut Errors) {
    let mut names = name_set(spec, "containers");
    let list = at;
    for (i, c) in items(spec, "initContainers").enumerate() {
        let at = format!("{at}[{i}]");
        container(&at, c, spec, volumes, errors);
        if c["restartPolicy"].is_string() {
            restart_policy(&at, c, errors);
        } else if items(c, "restartPolicyRules").next().is_some() {
            errors.required(format!("{at}.restartPolicy"), NO_POLICY);
        }
        unique(&at, c, &mut names, errors);
        host_ports(std::slice::from_ref(c), list, errors);
        if is_sidecar(c["restartPolicy"].as_str()) {
            lifecycle(&at, c, &spec["terminationGracePeriodSeconds"], errors);
            probes(&at, c, errors);
            continue;
        }
        for key in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
            if !c[key].is_null() {
                let detail = "may not be set for init containers without restartPolicy=Always";
                errors.forbidden(format!("{at}.{key}"), detail);
            }
        }
        for (j, policy) in items(c, "resizePolicy").enumerate() {
            if policy["restartPolicy"] == "RestartContainer" {
                let at = format!("{at}.resizePolicy[{j}].restartPolicy");
                let detail = "must not be set to 'RestartContainer' for non-sidecar initContainers";
                errors.invalid(at, "RestartContainer", detail);
            }
        }
    }
}

pub(super) fn ephemeral_containers(at: &str, spec: &Value, volumes: &VolumeNames, errors: &mut Errors) {
    let mut names = name_set(spec, "containers");
    names.extend(name_set(spec, "initContainers"));
    let others = names.clone();
    for (i, c) in items(spec, "ephemeralContainers").enumerate() {
        let at = format!("{at}[{i}]");
        container(&at, c, spec, volumes, errors);
        trimmed_image(&at, c, errors);
        unique(&at, c, &mut names, errors);
        let target = c["targetContainerName"].as_str().unwrap_or_default();
        if !target.is_empty() && !others.contains(target) {
            errors.not_found(format!("{at}.targetContainerName"), target);
        }
        for key in NOT_EPHEMERAL {
            let unset = c[key].is_null() || c[key].as_array().is_some_and(Vec::is_empty);
            if !unset {
                errors.forbidden(format!("{at}.{key}"), "cannot be set for an Ephemeral Container");
            }
        }
        if c["resources"].as_object().is_some_and(|r| !r.is_empty()) {
            errors.forbidden(format!("{at}.resources"), "cannot be set for an Ephemeral Container");
        }
        for (j, m) in items(c, "volumeMounts").enumerate() {
            for key in ["subPath", "subPathExpr"] {
                if m[key].as_str().is_some_and(|p| !p.is_empty()) {
                    let at = format!("{at}.volumeMounts[{j}].{key}");
                    errors.forbidden(at, "cannot be set for an Ephemeral Container");
                }
            }
        }
    }
}

fn name_set(spec: &Value, list: &str) -> HashSet<String> {
    items(spec, list).filter_map(|c| c["name"].as_str()).map(str::to_owned).collect()
}

fn unique(at: &str, c: &Value, names: &mut HashSet<String>, errors: &mut Errors) {
    let name = c["name"].as_str().unwrap_or_default();
    if !names.insert(name.to_owned()) {
        errors.duplicate(format!("{at}.name"), name);
    }
}

fn container(at: &str, c: &Value, spec: &Value, volumes: &VolumeNames, errors: &mut Errors) {
    let text = |key: &str| c[key].as_str().unwrap_or_default();
    match text("name") {
        "" => errors.required(format!("{at}.name"), ""),
        name => errors.all_invalid(format!("{at}.name"), name, dns1123_label(name)),
    }
    if text("image").is_empty() {
        errors.required(format!("{at}.image"), "");
    }
    let policy = text("terminationMessagePolicy");
    errors.one_of(format!("{at}.terminationMessagePolicy"), policy, &["File", "FallbackToLogsOnError"]);
    ports(&format!("{at}.ports"), c, errors);
    env(&format!("{at}.env"), c, errors);
    env_from(&format!("{at}.envFrom"), c, errors);
    mounts::mounts(at, c, spec, volumes, errors);
    errors.one_of(format!("{at}.imagePullPolicy"), text("imagePullPolicy"), &PULL_POLICIES);
    resources(&format!("{at}.resources"), &c["resources"], errors);
    claims(&format!("{at}.resources.claims"), &c["resources"], spec, errors);
    resize_policy(&format!("{at}.resizePolicy"), c, &spec["restartPolicy"], errors);
    security(&format!("{at}.securityContext"), &c["securityContext"], spec["hostUsers"] != false, errors);
}

const NO_POLICY: &str = "must specify restartPolicy when restart rules are used";

/// On the host's network a container's ports are the host's.
pub(super) fn host_network_ports(at: &str, spec: &Value, errors: &mut Errors) {
    if spec["hostNetwork"] != true {
        return;
    }
    // In a template a port of the host may be left out: it is filled in as the pod is made.
    let of_pod = at == "spec";
    for (i, c) in items(spec, "containers").enumerate() {
        for (j, port) in items(c, "ports").enumerate() {
            let [host, own] = ["hostPort", "containerPort"].map(|f| port[f].as_i64().unwrap_or(0));
            if (of_pod || host != 0) && host != own {
                let why = "must match `containerPort` when `hostNetwork` is true";
                errors.invalid(format!("{at}.containers[{i}].ports[{j}].hostPort"), host, why);
            }
        }
    }
}

fn restart_policy(at: &str, c: &Value, errors: &mut Errors) {
    let rules = items(c, "restartPolicyRules").count();
    match c["restartPolicy"].as_str() {
        None if rules > 0 => {
            errors.required(format!("{at}.restartPolicy"), NO_POLICY);
        }
        None => {}
        Some(policy) => {
            let words = ["Always", "Never", "OnFailure"];
            errors.supported(format!("{at}.restartPolicy"), policy, &words);
        }
    }
    let at = Located::placed(format!("{at}.restartPolicyRules"), &c["restartPolicyRules"]);
    at.at_most_items(20, errors);
    for rule in at.each() {
        let (action, codes) = (rule.at("action"), rule.at("exitCodes"));
        errors.supported(action.path(), action.text(), &["Restart", "RestartAllContainers"]);
        if codes.is_set() {
            let operator = codes.at("operator");
            errors.supported(operator.path(), operator.text(), &["In", "NotIn"]);
            codes.at("values").at_most_items(255, errors);
        } else {
            codes.missing("must be specified", errors);
        }
    }
}

/// What a change of resources does to the container. All is said of the list, not of its elements.
fn resize_policy(at: &str, c: &Value, pod_policy: &Value, errors: &mut Errors) {
    let mut seen = HashSet::new();
    for (i, p) in items(c, "resizePolicy").enumerate() {
        let text = |key: &str| p[key].as_str().unwrap_or_default();
        let (resource, policy) = (text("resourceName"), text("restartPolicy"));
        if !seen.insert(resource) {
            errors.duplicate(format!("{at}[{i}]"), resource);
        }
        errors.one_of(at, resource, &["cpu", "memory"]);
        errors.one_of(at, policy, &["NotRequired", "RestartContainer"]);
        if pod_policy == "Never" && policy != "NotRequired" {
            let detail = "must be 'NotRequired' when pod `restartPolicy` is 'Never'";
            errors.invalid(at, policy, detail);
        }
    }
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
fn host_ports(containers: &[Value], at: &str, errors: &mut Errors) {
    let mut taken = HashSet::new();
    for (i, c) in containers.iter().enumerate() {
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

/// A path that stays below where it starts.
pub(super) fn relative_path(at: &str, path: &str, errors: &mut Errors) {
    if path.starts_with('/') {
        errors.invalid(at, path, "must be a relative path");
    }
    if path.split('/').any(|part| part == "..") {
        errors.invalid(at, path, "must not contain '..'");
    }
}

/// The claims a container uses: each once, and each known to the pod.
fn claims(at: &str, resources: &Value, spec: &Value, errors: &mut Errors) {
    let name = |claim: &Value| claim["name"].as_str().unwrap_or_default().to_owned();
    let known: BTreeSet<String> = items(spec, "resourceClaims").map(name).collect();
    let mut seen: HashMap<String, HashSet<&str>> = HashMap::new();
    let mut room = limits::TOLD_BYTES;
    for (i, claim) in items(resources, "claims").enumerate() {
        let (at, name) = (format!("{at}[{i}]"), name(claim));
        let request = claim["request"].as_str().unwrap_or_default();
        if name.is_empty() {
            errors.required(at, "");
            continue;
        }
        if !request.is_empty() {
            errors.all_invalid(format!("{at}.request"), request, dns1123_label(request));
        }
        // A whole claim, and requests of it: one excludes the other.
        let of_claim: &mut HashSet<&str> = seen.entry(name.clone()).or_default();
        if of_claim.contains("") || request.is_empty() && !of_claim.is_empty() {
            errors.duplicate(&*at, &*name);
        } else if !of_claim.insert(request) {
            errors.duplicate(&*at, format!("{name}/{request}"));
        }
        if !known.contains(&name) {
            // Each error names all claims, and there may be many of both.
            let Some(left) = room.checked_sub(known.iter().map(|name| name.len() + 2).sum()) else {
                continue;
            };
            room = left;
            let known: Vec<&String> = known.iter().filter(|name| !name.is_empty()).collect();
            let names = known.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
            let which = if known.is_empty() { " which is empty".to_owned() } else { format!(": {names}") };
            let mut error = FieldError::not_found(at, &name.into());
            error.detail = format!("must be one of the names in pod.spec.resourceClaims{which}");
            errors.0.push(error);
        }
    }
}

pub(in super::super) fn resources(at: &str, r: &Value, errors: &mut Errors) {
    resources_named(at, r, resource_name, errors);
}

/// Amounts under names that obey a rule.
pub(super) fn resources_named(
    at: &str,
    r: &Value,
    name_rule: fn(&str, &str, &mut Errors),
    errors: &mut Errors,
) {
    let lists = [("limits", &r["limits"]), ("requests", &r["requests"])];
    for (list, amounts) in lists {
        for (name, amount) in amounts.as_object().into_iter().flatten() {
            let at = format!("{at}.{list}[{name}]");
            name_rule(&at, name, errors);
            let Ok(q) = Quantity::from_json(amount) else { continue };
            if q.is_negative() {
                errors.invalid(&*at, amount.clone(), "must be greater than or equal to 0");
            }
            let whole =
                name.starts_with("hugepages-") || name.contains('/') && !name.contains("kubernetes.io/");
            if whole && !q.is_integer() {
                errors.invalid(&*at, amount.clone(), "must be an integer");
            }
            if let Some(page) = name.strip_prefix("hugepages-").filter(|page| !is_pages(&q, page)) {
                let why = format!("{q} is not positive integer multiple of hugepages-{page}");
                errors.invalid_text(&*at, format!("\"{q}\""), why);
            }
        }
    }
    let names =
        || lists.iter().flat_map(|(_, amounts)| amounts.as_object().into_iter().flatten()).map(|(n, _)| n);
    if names().any(|n| n.starts_with("hugepages-")) && !names().any(|n| matches!(&**n, "cpu" | "memory")) {
        errors.forbidden(at, "HugePages require cpu or memory");
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

/// Whether an amount is made of whole pages of this size.
fn is_pages(amount: &Quantity, page: &str) -> bool {
    let page = Quantity::from_json(&page.into()).ok().filter(Quantity::is_integer).map(|page| page.value());
    page.is_some_and(|page| page > 0 && amount.value() % page == 0)
}

/// Whether more may be used than is asked for.
fn overcommits(name: &str) -> bool {
    !name.starts_with("hugepages-") && !name.contains('/')
}

fn resource_name(at: &str, name: &str, errors: &mut Errors) {
    let wrong = qualified_name(name);
    let known = !wrong.is_empty() || name.contains('/') || is_standard_resource(name);
    errors.all_invalid(at, name, wrong);
    if !known {
        errors.invalid(at, name, "must be a standard resource type or fully qualified");
    }
    let of_containers =
        matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
    if !name.contains('/') && !of_containers {
        errors.invalid(at, name, "must be a standard resource for containers");
    }
    let extended = name.contains('/') && !name.contains("kubernetes.io/");
    let of_quotas =
        || name.starts_with("requests.") || !qualified_name(&format!("requests.{name}")).is_empty();
    if extended && of_quotas() {
        errors.invalid(at, name, "doesn't follow extended resource name standard");
    }
}

fn security(at: &str, context: &Value, host_users: bool, errors: &mut Errors) {
    if !context.is_object() {
        return;
    }
    ids(at, context, &["runAsUser", "runAsGroup"], errors);
    if let Some(mount) = context["procMount"].as_str() {
        errors.supported(format!("{at}.procMount"), mount, &["Default", "Unmasked"]);
        if host_users && mount == "Unmasked" {
            let detail = "`hostUsers` must be false to use `Unmasked`";
            errors.invalid(format!("{at}.procMount"), mount, detail);
        }
    }
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
    windows::options(&Located::placed(at, context).at("windowsOptions"), errors);
    app_armor(&format!("{at}.appArmorProfile"), &context["appArmorProfile"], errors);
}
