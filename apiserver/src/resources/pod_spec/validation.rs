//! What is wrong with a pod spec: the spec as a whole. Its containers, volumes and scheduling have files of their own.

use std::net::IpAddr;

use coracle_api::Object;
use serde_json::{Value, json};

use super::super::validation::{Errors, labels, selector_matches};
use super::containers::{containers, ephemeral_containers, init_containers};
use super::scheduling::scheduling;
use super::volumes::volumes;
use crate::field::FieldError;
use crate::field_names::{dns1123_label, dns1123_subdomain};

const RESTART_POLICIES: [&str; 3] = ["Always", "Never", "OnFailure"];
const DNS_POLICIES: [&str; 4] = ["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"];

pub(in super::super) fn validate_pod(pod: &Object) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let spec = pod.at(&["spec"]).cloned().unwrap_or_else(|| json!({}));
    pod_spec("spec", &spec, &mut errors);
    if items(&spec, "ephemeralContainers").next().is_some() {
        errors.forbidden("spec.ephemeralContainers", "cannot be set on create");
    }
    errors.0
}

/// A template of pods that are started again for ever, whose labels the selector picks.
pub(in super::super) fn replicated_template(
    at: &str,
    template: &Value,
    selector: &Value,
    owner: &str,
    errors: &mut Errors,
) {
    let own = template["metadata"].get("labels").cloned().unwrap_or(Value::Null);
    if !selector.is_null() && !selector_matches(selector, &own) {
        let detail = "`selector` does not match template `labels`";
        errors.invalid(format!("{at}.metadata.labels"), own, detail);
    }
    job_template(at, template, errors);
    let spec = &template["spec"];
    let policy = spec["restartPolicy"].as_str().unwrap_or_default();
    if policy != "Always" {
        let at = format!("{at}.spec.restartPolicy");
        errors.0.push(FieldError::not_supported(at, &json!(policy), &["Always"]));
    }
    if !spec["activeDeadlineSeconds"].is_null() {
        let detail = format!("activeDeadlineSeconds in {owner} is not Supported");
        errors.forbidden(format!("{at}.spec.activeDeadlineSeconds"), detail);
    }
}

/// A template of pods with any restart policy.
pub(in super::super) fn job_template(at: &str, template: &Value, errors: &mut Errors) {
    labels(&format!("{at}.labels"), template["metadata"].get("labels"), errors);
    pod_spec(&format!("{at}.spec"), &template["spec"], errors);
    if items(&template["spec"], "ephemeralContainers").next().is_some() {
        let at = format!("{at}.spec.ephemeralContainers");
        errors.forbidden(at, "ephemeral containers not allowed in pod template");
    }
}

fn pod_spec(at: &str, spec: &Value, errors: &mut Errors) {
    let names = volumes(&format!("{at}.volumes"), spec, errors);
    containers(&format!("{at}.containers"), spec, &names, errors);
    init_containers(&format!("{at}.initContainers"), spec, &names, errors);
    ephemeral_containers(&format!("{at}.ephemeralContainers"), spec, &names, errors);
    let text = |key: &str| spec[key].as_str().unwrap_or_default();
    errors.one_of(format!("{at}.restartPolicy"), text("restartPolicy"), &RESTART_POLICIES);
    errors.one_of(format!("{at}.dnsPolicy"), text("dnsPolicy"), &DNS_POLICIES);
    labels(&format!("{at}.nodeSelector"), spec.get("nodeSelector"), errors);
    security_context(&format!("{at}.securityContext"), spec, errors);
    for (i, secret) in items(spec, "imagePullSecrets").enumerate() {
        if secret["name"].as_str().unwrap_or_default().is_empty() {
            errors.required(format!("{at}.imagePullSecrets[{i}].name"), "");
        }
    }
    scheduling(at, spec, errors);
    names_and_times(at, spec, errors);
    host_aliases(&format!("{at}.hostAliases"), spec, errors);
    dns_config(&format!("{at}.dnsConfig"), spec, errors);
}

fn names_and_times(at: &str, spec: &Value, errors: &mut Errors) {
    let text = |key: &str| spec[key].as_str().unwrap_or_default();
    for (key, rule) in [
        ("serviceAccountName", dns1123_subdomain as fn(&str) -> Vec<String>),
        ("nodeName", dns1123_subdomain),
        ("hostname", dns1123_label),
        ("subdomain", dns1123_label),
        ("priorityClassName", dns1123_subdomain),
        ("runtimeClassName", dns1123_subdomain),
    ] {
        if !text(key).is_empty() {
            errors.all_invalid(format!("{at}.{key}"), text(key), rule(text(key)));
        }
    }
    if let Some(seconds) = spec["activeDeadlineSeconds"].as_i64()
        && !(1..=i64::from(i32::MAX)).contains(&seconds)
    {
        let detail = format!("must be between 1 and {}, inclusive", i32::MAX);
        errors.invalid(format!("{at}.activeDeadlineSeconds"), seconds, detail);
    }
    if let Some(seconds) = spec["terminationGracePeriodSeconds"].as_i64() {
        errors.non_negative(format!("{at}.terminationGracePeriodSeconds"), Some(seconds));
    }
    let os = spec["os"]["name"].as_str();
    if let Some(os) = os {
        errors.one_of(format!("{at}.os.name"), os, &["linux", "windows"]);
    }
}

fn security_context(at: &str, spec: &Value, errors: &mut Errors) {
    let context = &spec["securityContext"];
    ids(at, context, &["fsGroup", "runAsUser", "runAsGroup"], errors);
    for (i, group) in items(context, "supplementalGroups").enumerate() {
        id(&format!("{at}.supplementalGroups[{i}]"), group, errors);
    }
    if spec["shareProcessNamespace"] == true && spec["hostPID"] == true {
        let detail = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.invalid(format!("{at}.shareProcessNamespace"), true, detail);
    }
    if let Some(policy) = context["fsGroupChangePolicy"].as_str() {
        errors.one_of(format!("{at}.fsGroupChangePolicy"), policy, &["Always", "OnRootMismatch"]);
    }
    seccomp(&format!("{at}.seccompProfile"), &context["seccompProfile"], errors);
    for (i, sysctl) in items(context, "sysctls").enumerate() {
        let name = sysctl["name"].as_str().unwrap_or_default();
        let at = format!("{at}.sysctls[{i}].name");
        let fine = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_./".contains(&b);
        if name.is_empty() {
            errors.required(at, "");
        } else if name.len() > 253 || !name.bytes().all(fine) {
            let detail = "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
            errors.invalid(at, name, detail);
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
    let file = profile["localhostProfile"].as_str();
    match profile["type"].as_str().unwrap_or_default() {
        "Localhost" if file.is_none() => {
            errors.required(format!("{at}.localhostProfile"), "must be set when seccomp type is Localhost");
        }
        "Localhost" => {}
        other => {
            if file.is_some() {
                let detail = "can only be set when seccomp type is Localhost";
                errors.invalid(format!("{at}.localhostProfile"), profile["localhostProfile"].clone(), detail);
            }
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
    for (i, option) in items(config, "options").enumerate() {
        if option["name"].as_str().unwrap_or_default().is_empty() {
            errors.required(format!("{at}.options[{i}]"), "must not be empty");
        }
    }
}

/// The elements of a list field.
pub(super) fn items<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    value[key].as_array().into_iter().flatten()
}
