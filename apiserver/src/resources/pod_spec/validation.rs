//! What is wrong with a pod spec: the spec as a whole. Its containers, volumes and scheduling have files of their own.

use std::collections::BTreeSet;
use std::net::IpAddr;

use coracle_api::Object;
use serde_json::{Value, json};

use super::super::located::Located;
use super::super::validation::{Errors, annotations, labels};
use super::containers::{
    containers, ephemeral_containers, host_network_ports, init_containers, relative_path, resources,
};
use super::environment::file_volumes;
use super::pod_resources::of_pod;
use super::scheduling::{affinity, gates, spread, toleration};
use super::volumes::volumes;
use super::windows::{self, host_processes, none_on_linux, only_windows};
use crate::field::FieldError;
use crate::field_names::{dns1123_label, dns1123_subdomain, qualified_name};

const RESTART_POLICIES: [&str; 3] = ["Always", "OnFailure", "Never"];
const DNS_POLICIES: [&str; 4] = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];

pub(in super::super) fn validate_pod(pod: &Object) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let spec = pod.at(&["spec"]).cloned().unwrap_or_else(|| json!({}));
    whole_pod(pod, &spec, None, &mut errors);
    if items(&spec, "ephemeralContainers").next().is_some() {
        errors.forbidden("spec.ephemeralContainers", "cannot be set on create");
    }
    host_sysctls("spec", &spec, &mut errors);
    own_users("spec", &spec, &mut errors);
    let gated = items(&spec, "schedulingGates").next().is_some();
    if gated && spec["nodeName"].as_str().is_some_and(|n| !n.is_empty()) {
        errors.forbidden("spec.nodeName", "cannot be set until all schedulingGates have been cleared");
    }
    errors.0
}

/// What holds for a pod in every write, but not for templates. What the spec before was allowed stays allowed.
pub(super) fn whole_pod(pod: &Object, spec: &Value, before: Option<&Value>, errors: &mut Errors) {
    const COST: &str = "controller.kubernetes.io/pod-deletion-cost";
    const MIRROR: &str = "kubernetes.io/config.mirror";
    let bound = spec["nodeName"].as_str().is_some_and(|node| !node.is_empty());
    if let Some(hash) = pod.annotation(MIRROR).filter(|_| !bound) {
        let why = "must set spec.nodeName if mirror pod annotation is set";
        errors.invalid(format!("metadata.annotations[{MIRROR}]"), hash, why);
    }
    if let Some(cost) = pod.annotation(COST)
        && cost.parse::<i32>().is_err()
    {
        errors.invalid(format!("metadata.annotations[{COST}]"), cost, "must be a 32bit integer");
    }
    pod_spec("spec", spec, Owner { name: pod.name(), before }, errors);
    if spec["serviceAccountName"].as_str().unwrap_or_default().is_empty() {
        for (i, v) in items(spec, "volumes").enumerate() {
            for (j, s) in items(&v["projected"], "sources").enumerate() {
                if s["serviceAccountToken"].is_object() {
                    let at = format!("spec.volumes[{i}].projected.sources[{j}].serviceAccountToken");
                    errors.forbidden(at, "must not be specified when serviceAccountName is not set");
                }
            }
        }
    }
    for list in ["containers", "initContainers"] {
        for (i, c) in items(spec, list).enumerate() {
            trimmed_image(&format!("spec.{list}[{i}]"), c, errors);
        }
    }
}

/// Templates may carry spaces around an image, pods may not.
pub(super) fn trimmed_image(at: &str, container: &Value, errors: &mut Errors) {
    let image = container["image"].as_str().unwrap_or_default();
    if image.trim() != image {
        errors.invalid(format!("{at}.image"), image, "must not have leading or trailing whitespace");
    }
}

/// A template of pods that are started again for ever. `picked` tells whether the owner's selector picks its labels;
/// `None` where that cannot be told.
pub(in super::super) fn replicated_template(
    at: &str,
    template: &Value,
    picked: Option<bool>,
    owner: &str,
    errors: &mut Errors,
) {
    if picked == Some(false) {
        let own = template["metadata"].get("labels").cloned().unwrap_or(Value::Null);
        let detail = "`selector` does not match template `labels`";
        errors.invalid(format!("{at}.metadata.labels"), own, detail);
    }
    job_template(at, template, errors);
    let spec = &template["spec"];
    let policy = spec["restartPolicy"].as_str().unwrap_or_default();
    errors.supported(format!("{at}.spec.restartPolicy"), policy, &["Always"]);
    if !spec["activeDeadlineSeconds"].is_null() {
        let detail = format!("activeDeadlineSeconds in {owner} is not Supported");
        errors.forbidden(format!("{at}.spec.activeDeadlineSeconds"), detail);
    }
}

/// A template of pods with any restart policy.
pub(in super::super) fn job_template(at: &str, template: &Value, errors: &mut Errors) {
    labels(&format!("{at}.labels"), template["metadata"].get("labels"), errors);
    annotations(&format!("{at}.annotations"), &template["metadata"]["annotations"], errors);
    pod_spec(&format!("{at}.spec"), &template["spec"], Owner::default(), errors);
    host_sysctls(&format!("{at}.spec"), &template["spec"], errors);
    own_users(&format!("{at}.spec"), &template["spec"], errors);
    if items(&template["spec"], "ephemeralContainers").next().is_some() {
        let at = format!("{at}.spec.ephemeralContainers");
        errors.forbidden(at, "ephemeral containers not allowed in pod template");
    }
}

/// The pod whose spec it is: its name, and the spec that it had. A template is of none.
#[derive(Clone, Copy, Default)]
struct Owner<'a> {
    name: &'a str,
    before: Option<&'a Value>,
}

fn pod_spec(at: &str, spec: &Value, of: Owner<'_>, errors: &mut Errors) {
    let names = volumes(&format!("{at}.volumes"), spec, of.name, errors);
    claims(&Located::placed(format!("{at}.resourceClaims"), &spec["resourceClaims"]), errors);
    containers(&format!("{at}.containers"), spec, &names, errors);
    init_containers(&format!("{at}.initContainers"), spec, &names, errors);
    ephemeral_containers(&format!("{at}.ephemeralContainers"), spec, &names, errors);
    of_pod(at, spec, errors);
    host_network_ports(at, spec, errors);
    let text = |key: &str| spec[key].as_str().unwrap_or_default();
    errors.one_of(format!("{at}.restartPolicy"), text("restartPolicy"), &RESTART_POLICIES);
    errors.one_of(format!("{at}.dnsPolicy"), text("dnsPolicy"), &DNS_POLICIES);
    labels(&format!("{at}.nodeSelector"), spec.get("nodeSelector"), errors);
    security_context(&format!("{at}.securityContext"), spec, of.before, errors);
    affinity(&format!("{at}.affinity"), &spec["affinity"], errors);
    dns_config(&format!("{at}.dnsConfig"), spec, errors);
    for (i, gate) in items(spec, "readinessGates").enumerate() {
        let kind = gate["conditionType"].as_str().unwrap_or_default();
        errors.all_invalid(format!("{at}.readinessGates[{i}].conditionType"), kind, qualified_name(kind));
    }
    gates(&format!("{at}.schedulingGates"), spec, errors);
    spread(&format!("{at}.topologySpreadConstraints"), spec, errors);
    host_processes(at, spec, errors);
    host_name(at, spec, errors);
    names_and_times(at, spec, errors);
    for (i, t) in items(spec, "tolerations").enumerate() {
        toleration(&format!("{at}.tolerations[{i}]"), t, errors);
    }
    host_aliases(&format!("{at}.hostAliases"), spec, errors);
    named(at, spec, &["priorityClassName"], dns1123_subdomain, errors);
    if let Some(class) = spec["runtimeClassName"].as_str() {
        errors.all_invalid(format!("{at}.runtimeClassName"), class, dns1123_subdomain(class));
    }
    if let Some(policy) = spec["preemptionPolicy"].as_str() {
        errors.one_of(format!("{at}.preemptionPolicy"), policy, &["PreemptLowerPriority", "Never"]);
    }
    if spec["overhead"].is_object() {
        resources(&format!("{at}.overhead"), &json!({"limits": spec["overhead"]}), errors);
    }
    if let Some(os) = spec["os"]["name"].as_str() {
        match os {
            "" => errors.required(format!("{at}.os.name"), ""),
            "linux" => none_on_linux(at, spec, errors),
            "windows" => only_windows(at, spec, errors),
            _ => errors.supported(format!("{at}.os"), os, &["linux", "windows"]),
        }
    }
    file_volumes(at, spec, errors);
}

/// Claims on devices: each named once, and made here or elsewhere.
fn claims(list: &Located<'_>, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for claim in list.each() {
        let [name, made, template] =
            ["name", "resourceClaimName", "resourceClaimTemplateName"].map(|field| claim.at(field));
        if name.required(errors) {
            match seen.insert(name.text()) {
                true => name.obeys(dns1123_label, errors),
                false => name.duplicate(errors),
            }
        }
        let shown = || {
            format!(
                "{{\"Name\":{},\"ResourceClaimName\":{},\"ResourceClaimTemplateName\":{}}}",
                json!(name.text()),
                made.value(),
                template.value()
            )
        };
        match (made.is_set(), template.is_set()) {
            (true, true) => {
                let why =
                    "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified";
                errors.invalid_text(claim.path(), shown(), why);
            }
            (false, false) => {
                let why = "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`";
                errors.invalid_text(claim.path(), shown(), why);
            }
            _ => {}
        }
        for name in [made, template].iter().filter(|n| n.is_set()) {
            name.obeys(dns1123_subdomain, errors);
        }
    }
}

fn host_name(at: &str, spec: &Value, errors: &mut Errors) {
    let name = Located::placed(format!("{at}.hostnameOverride"), &spec["hostnameOverride"]);
    if !name.is_set() {
        return;
    }
    for field in ["setHostnameAsFQDN", "hostNetwork"].into_iter().filter(|f| spec[*f] == true) {
        name.forbidden(format!("may not be specified when {field} is true"), errors);
    }
    name.at_most_bytes(64, errors);
    name.obeys(dns1123_subdomain, errors);
}

fn named(at: &str, spec: &Value, keys: &[&str], rule: fn(&str) -> Vec<String>, errors: &mut Errors) {
    for key in keys {
        let name = spec[*key].as_str().unwrap_or_default();
        if !name.is_empty() {
            errors.all_invalid(format!("{at}.{key}"), name, rule(name));
        }
    }
}

fn names_and_times(at: &str, spec: &Value, errors: &mut Errors) {
    named(at, spec, &["serviceAccountName", "nodeName"], dns1123_subdomain, errors);
    if let Some(seconds) = spec["activeDeadlineSeconds"].as_i64()
        && !(1..=i64::from(i32::MAX)).contains(&seconds)
    {
        let detail = format!("must be between 1 and {}, inclusive", i32::MAX);
        errors.invalid(format!("{at}.activeDeadlineSeconds"), seconds, detail);
    }
    named(at, spec, &["hostname", "subdomain"], dns1123_label, errors);
}

fn security_context(at: &str, spec: &Value, before: Option<&Value>, errors: &mut Errors) {
    let context = &spec["securityContext"];
    ids(at, context, &["fsGroup", "runAsUser", "runAsGroup"], errors);
    for (i, group) in items(context, "supplementalGroups").enumerate() {
        id(&format!("{at}.supplementalGroups[{i}]"), group, errors);
    }
    if spec["shareProcessNamespace"] == true && spec["hostPID"] == true {
        let detail = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.invalid(format!("{at}.shareProcessNamespace"), true, detail);
    }
    sysctls(at, context, errors);
    if let Some(policy) = context["fsGroupChangePolicy"].as_str() {
        errors.supported(format!("{at}.fsGroupChangePolicy"), policy, &["Always", "OnRootMismatch"]);
    }
    // Mounting with a label is not switched on in upstream: a pod that had said something may still.
    let had = before.is_some_and(|spec| spec["securityContext"]["seLinuxChangePolicy"].is_string());
    let changes = if had { &["MountOption", "Recursive"][..] } else { &["Recursive"] };
    for (field, words) in
        [("supplementalGroupsPolicy", &["Merge", "Strict"][..]), ("seLinuxChangePolicy", changes)]
    {
        if let Some(word) = context[field].as_str() {
            errors.supported(format!("{at}.{field}"), word, words);
        }
    }
    seccomp(&format!("{at}.seccompProfile"), &context["seccompProfile"], errors);
    windows::options(&Located::placed(at, context).at("windowsOptions"), errors);
    app_armor(&format!("{at}.appArmorProfile"), &context["appArmorProfile"], errors);
}

fn sysctls(at: &str, context: &Value, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    let alphanumeric = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let fine = |b: u8| alphanumeric(Some(&b)) || b == b'-' || b == b'_';
    let segment = |s: &str| {
        alphanumeric(s.as_bytes().first()) && alphanumeric(s.as_bytes().last()) && s.bytes().all(fine)
    };
    for (i, sysctl) in items(context, "sysctls").enumerate() {
        let name = sysctl["name"].as_str().unwrap_or_default();
        let at = format!("{at}.sysctls[{i}].name");
        if name.is_empty() {
            errors.required(at, "");
        } else if name.len() > 253 || !name.split(['.', '/']).all(segment) {
            let detail = "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
            errors.invalid(at, name, detail);
        } else if !seen.insert(name) {
            errors.duplicate(at, name);
        }
    }
}

/// A sysctl of a namespace that the pod shares with its node would be set for the whole node.
pub(super) fn host_sysctls(at: &str, spec: &Value, errors: &mut Errors) {
    for (i, sysctl) in items(&spec["securityContext"], "sysctls").enumerate() {
        let name = sysctl["name"].as_str().unwrap_or_default();
        // Either separator will do.
        let plain = if name.find('/') < name.find('.').or(Some(name.len())) && name.contains('/') {
            name.replace('/', ".")
        } else {
            name.to_owned()
        };
        let ipc = plain == "kernel.sem"
            || ["kernel.shm", "kernel.msg", "fs.mqueue."].iter().any(|prefix| plain.starts_with(prefix));
        let shared = [("hostNetwork", plain.starts_with("net.")), ("hostIPC", ipc)];
        for (field, _) in shared.iter().filter(|(field, own)| *own && spec[*field] == true) {
            let at = format!("{at}.securityContext.sysctls[{i}].name");
            errors.invalid(at, name, format!("may not be specified when '{field}' is true"));
        }
    }
}

/// A pod with users of its own has no other namespace of the host. The names are as upstream tells them.
fn own_users(at: &str, spec: &Value, errors: &mut Errors) {
    const WHY: &str = "when `hostUsers` is false";
    if spec["hostUsers"] != false {
        return;
    }
    for (key, told) in [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")] {
        if spec[key] == true {
            errors.forbidden(format!("{at}.{told}"), WHY);
        }
    }
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for (i, _) in
            items(spec, list).enumerate().filter(|(_, c)| items(c, "volumeDevices").next().is_some())
        {
            errors.forbidden(format!("{at}.{list}[{i}].volumeDevices"), WHY);
        }
    }
}

/// User and group numbers of a security context.
pub(super) fn ids(at: &str, context: &Value, keys: &[&str], errors: &mut Errors) {
    for key in keys {
        id(&format!("{at}.{key}"), &context[*key], errors);
    }
}

fn id(at: &str, value: &Value, errors: &mut Errors) {
    if let Some(n) = value.as_i64()
        && !(0..=i64::from(i32::MAX)).contains(&n)
    {
        errors.invalid(at, n, format!("must be between 0 and {}, inclusive", i32::MAX));
    }
}

/// Only a local profile names a file.
pub(super) fn seccomp(at: &str, profile: &Value, errors: &mut Errors) {
    if !profile.is_object() {
        return;
    }
    let kind = profile["type"].as_str().unwrap_or_default();
    match kind {
        "" => errors.required(format!("{at}.type"), "type is required when seccompProfile is set"),
        kind => {
            errors.one_of(format!("{at}.type"), kind, &["Localhost", "RuntimeDefault", "Unconfined"]);
        }
    }
    let at = format!("{at}.localhostProfile");
    match (kind, profile["localhostProfile"].as_str()) {
        ("Localhost", None) => errors.required(at, "must be set when seccomp type is Localhost"),
        ("Localhost", Some(path)) => relative_path(&at, path, errors),
        (_, Some(path)) => {
            let value = format!("{{\"Type\":{},\"LocalhostProfile\":{}}}", json!(kind), json!(path));
            errors.invalid_text(at, value, "can only be set when seccomp type is Localhost");
        }
        _ => {}
    }
}

/// Only a local profile is named; the name is a path that must be there.
pub(super) fn app_armor(at: &str, profile: &Value, errors: &mut Errors) {
    if !profile.is_object() {
        return;
    }
    let name = profile["localhostProfile"].as_str();
    let at_name = format!("{at}.localhostProfile");
    match profile["type"].as_str().unwrap_or_default() {
        "" => errors.required(format!("{at}.type"), "type is required when appArmorProfile is set"),
        "Localhost" => match name {
            None => errors.required(at_name, "must be set when AppArmor type is Localhost"),
            Some(name) => {
                if name.trim() != name {
                    errors.invalid(&*at_name, name, "must not be padded with whitespace");
                } else if name.is_empty() {
                    errors.required(&*at_name, "must be set when AppArmor type is Localhost");
                }
            }
        },
        "RuntimeDefault" | "Unconfined" => {
            if let Some(name) = name {
                let detail = "can only be set when AppArmor type is Localhost";
                errors.invalid(at_name, name, detail);
            }
        }
        other => {
            errors.one_of(format!("{at}.type"), other, &["Localhost", "RuntimeDefault", "Unconfined"]);
        }
    }
}

fn host_aliases(at: &str, spec: &Value, errors: &mut Errors) {
    for (i, alias) in items(spec, "hostAliases").enumerate() {
        let ip = alias["ip"].as_str().unwrap_or_default();
        if ip.parse::<IpAddr>().is_err() {
            let detail = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
            errors.invalid(format!("{at}[{i}].ip"), ip, detail);
        }
        for (j, name) in items(alias, "hostnames").enumerate() {
            let name = name.as_str().unwrap_or_default();
            errors.all_invalid(format!("{at}[{i}].hostnames[{j}]"), name, dns1123_subdomain(name));
        }
    }
}

fn dns_config(at: &str, spec: &Value, errors: &mut Errors) {
    let config = &spec["dnsConfig"];
    if spec["dnsPolicy"] == "None" {
        if config.is_null() {
            let detail = "must provide `dnsConfig` when `dnsPolicy` is None";
            errors.required(at, detail);
            return;
        }
        if items(config, "nameservers").next().is_none() {
            let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            errors.required(format!("{at}.nameservers"), detail);
            return;
        }
    }
    if items(config, "nameservers").count() > 3 {
        let value = config["nameservers"].clone();
        errors.invalid(format!("{at}.nameservers"), value, "must not have more than 3 nameservers");
    }
    for (i, server) in items(config, "nameservers").enumerate() {
        let server = server.as_str().unwrap_or_default();
        if server.parse::<IpAddr>().is_err() {
            let detail = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
            errors.invalid(format!("{at}.nameservers[{i}]"), server, detail);
        }
    }
    if items(config, "searches").count() > 32 {
        let value = config["searches"].clone();
        errors.invalid(format!("{at}.searches"), value, "must not have more than 32 search paths");
    }
    for (i, search) in items(config, "searches").enumerate() {
        let search = search.as_str().unwrap_or_default();
        if search != "." {
            let name = search.strip_suffix('.').unwrap_or(search);
            errors.all_invalid(format!("{at}.searches[{i}]"), name, subdomain_with_underscore(name));
        }
    }
    for (i, option) in items(config, "options").enumerate() {
        if option["name"].as_str().unwrap_or_default().is_empty() {
            errors.required(format!("{at}.options[{i}]"), "must not be empty");
        }
    }
}

/// A DNS subdomain whose labels may begin with an underscore, as in search paths.
fn subdomain_with_underscore(name: &str) -> Vec<String> {
    let label = |l: &str| {
        let edge = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
        let first = l.as_bytes().first().is_some_and(|b| edge(b) || *b == b'_');
        first && l.as_bytes().last().is_some_and(edge) && l.bytes().all(inner)
    };
    let mut wrong = vec![];
    if name.len() > 253 {
        wrong.push("must be no more than 253 characters".to_owned());
    }
    if !name.split('.').all(label) {
        wrong.push("a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*')".to_owned());
    }
    wrong
}

/// The elements of a list field.
pub(in super::super) fn items<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    value[key].as_array().into_iter().flatten()
}
