//! What is wrong with a pod's wishes where to run: affinity, tolerations, spreading, gates.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::super::validation::{Errors, label_selector};
use super::label_keys;
use super::validation::items;
use crate::field_names::{dns1123_label, dns1123_subdomain, label_value, qualified_name};

/// Names of what must happen before the pod may be scheduled.
pub(super) fn gates(at: &str, spec: &Value, errors: &mut Errors) {
    let mut seen = HashSet::new();
    for (i, gate) in items(spec, "schedulingGates").enumerate() {
        let name = gate["name"].as_str().unwrap_or_default();
        let at = format!("{at}[{i}]");
        errors.all_invalid(&*at, name, qualified_name(name));
        if !seen.insert(name) {
            errors.duplicate(at, name);
        }
    }
}

pub(super) fn affinity(at: &str, affinity: &Value, errors: &mut Errors) {
    let node = &affinity["nodeAffinity"];
    let required = &node["requiredDuringSchedulingIgnoredDuringExecution"];
    let at_node = format!("{at}.nodeAffinity");
    if required.is_object() {
        let at = format!("{at_node}.requiredDuringSchedulingIgnoredDuringExecution");
        node_selector(&at, required, errors);
    }
    for (i, p) in items(node, "preferredDuringSchedulingIgnoredDuringExecution").enumerate() {
        let at = format!("{at_node}.preferredDuringSchedulingIgnoredDuringExecution[{i}]");
        weight(&at, p, errors);
        // A value that no label can have is a wish that nothing fulfils, and no fault.
        node_term(&format!("{at}.preference"), &p["preference"], true, errors);
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let rules = &affinity[kind];
        for (i, term) in items(rules, "requiredDuringSchedulingIgnoredDuringExecution").enumerate() {
            let at = format!("{at}.{kind}.requiredDuringSchedulingIgnoredDuringExecution[{i}]");
            pod_term(&at, term, errors);
        }
        for (i, p) in items(rules, "preferredDuringSchedulingIgnoredDuringExecution").enumerate() {
            let at = format!("{at}.{kind}.preferredDuringSchedulingIgnoredDuringExecution[{i}]");
            weight(&at, p, errors);
            pod_term(&format!("{at}.podAffinityTerm"), &p["podAffinityTerm"], errors);
        }
    }
}

/// A `NodeSelector`.
pub(in super::super) fn node_selector(at: &str, selector: &Value, errors: &mut Errors) {
    let at = format!("{at}.nodeSelectorTerms");
    if items(selector, "nodeSelectorTerms").next().is_none() {
        errors.required(&*at, "must have at least one node selector term");
    }
    for (i, term) in items(selector, "nodeSelectorTerms").enumerate() {
        node_term(&format!("{at}[{i}]"), term, false, errors);
    }
}

fn weight(at: &str, preference: &Value, errors: &mut Errors) {
    let weight = preference["weight"].as_i64().unwrap_or(0);
    if !(1..=100).contains(&weight) {
        errors.invalid(format!("{at}.weight"), weight, "must be in the range 1-100");
    }
}

fn node_term(at: &str, term: &Value, any_value: bool, errors: &mut Errors) {
    for (i, e) in items(term, "matchExpressions").enumerate() {
        let at = format!("{at}.matchExpressions[{i}]");
        let count = items(e, "values").count();
        match e["operator"].as_str().unwrap_or_default() {
            "In" | "NotIn" if count == 0 => errors
                .required(format!("{at}.values"), "must be specified when `operator` is 'In' or 'NotIn'"),
            "Exists" | "DoesNotExist" if count > 0 => errors.forbidden(
                format!("{at}.values"),
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            ),
            "Gt" | "Lt" if count != 1 => errors.required(
                format!("{at}.values"),
                "must be specified single value when `operator` is 'Lt' or 'Gt'",
            ),
            "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
            other => errors.invalid(format!("{at}.operator"), other, "not a valid selector operator"),
        }
        let key = e["key"].as_str().unwrap_or_default();
        errors.all_invalid(format!("{at}.key"), key, qualified_name(key));
        for (j, value) in items(e, "values").enumerate().filter(|_| !any_value) {
            let value = value.as_str().unwrap_or_default();
            errors.all_invalid(format!("{at}.values[{j}]"), value, label_value(value));
        }
    }
    for (i, e) in items(term, "matchFields").enumerate() {
        field_requirement(&format!("{at}.matchFields[{i}]"), e, errors);
    }
}

/// The one field of a node that can be selected by is its name.
fn field_requirement(at: &str, e: &Value, errors: &mut Errors) {
    match e["operator"].as_str().unwrap_or_default() {
        "In" | "NotIn" => {
            if items(e, "values").count() != 1 {
                let detail =
                    "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
                errors.required(format!("{at}.values"), detail);
            }
        }
        other => errors.invalid(format!("{at}.operator"), other, "not a valid selector operator"),
    }
    match e["key"].as_str().unwrap_or_default() {
        "metadata.name" => {
            for (i, name) in items(e, "values").enumerate() {
                let name = name.as_str().unwrap_or_default();
                errors.all_invalid(format!("{at}.values[{i}]"), name, dns1123_subdomain(name));
            }
        }
        other => errors.invalid(format!("{at}.key"), other, "not a valid field selector key"),
    }
}

fn pod_term(at: &str, term: &Value, errors: &mut Errors) {
    for key in ["labelSelector", "namespaceSelector"] {
        label_selector(&format!("{at}.{key}"), &term[key], errors);
    }
    for name in items(term, "namespaces") {
        let name = name.as_str().unwrap_or_default();
        errors.all_invalid(format!("{at}.namespace"), name, dns1123_label(name));
    }
    let key = term["topologyKey"].as_str().unwrap_or_default();
    label_keys::check(at, term, errors);
    let at = format!("{at}.topologyKey");
    if key.is_empty() {
        errors.required(&*at, "can not be empty");
    }
    errors.all_invalid(at, key, qualified_name(key));
}

pub(in super::super) fn toleration(at: &str, t: &Value, errors: &mut Errors) {
    let text = |key: &str| t[key].as_str().unwrap_or_default();
    if !text("key").is_empty() {
        errors.all_invalid(format!("{at}.key"), text("key"), qualified_name(text("key")));
    }
    if text("key").is_empty() && text("operator") != "Exists" {
        let detail =
            "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
        errors.invalid(format!("{at}.operator"), text("operator"), detail);
    }
    if !t["tolerationSeconds"].is_null() && text("effect") != "NoExecute" {
        let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
        errors.invalid(format!("{at}.effect"), text("effect"), detail);
    }
    match text("operator") {
        "" | "Equal" => {
            errors.all_invalid(format!("{at}.operator"), text("value"), label_value(text("value")));
        }
        "Exists" if !text("value").is_empty() => {
            let detail = "value must be empty when `operator` is 'Exists'";
            errors.invalid(format!("{at}.operator"), text("value"), detail);
        }
        "Exists" => {}
        other => errors.one_of(format!("{at}.operator"), other, &["Equal", "Exists"]),
    }
    if !text("effect").is_empty() {
        let effects = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
        errors.one_of(format!("{at}.effect"), text("effect"), &effects);
    }
}

pub(super) fn spread(at: &str, spec: &Value, errors: &mut Errors) {
    fn pair(c: &Value) -> (Option<&str>, Option<&str>) {
        (c["topologyKey"].as_str(), c["whenUnsatisfiable"].as_str())
    }
    let all = items(spec, "topologySpreadConstraints").enumerate();
    let last: HashMap<_, usize> = all.map(|(i, c)| (pair(c), i)).collect();
    for (i, c) in items(spec, "topologySpreadConstraints").enumerate() {
        let at = format!("{at}[{i}]");
        let skew = c["maxSkew"].as_i64().unwrap_or(0);
        if skew <= 0 {
            errors.invalid(format!("{at}.maxSkew"), skew, "must be greater than zero");
        }
        let key = c["topologyKey"].as_str().unwrap_or_default();
        if key.is_empty() {
            errors.required(format!("{at}.topologyKey"), "can not be empty");
        }
        let action = c["whenUnsatisfiable"].as_str().unwrap_or_default();
        errors.supported(format!("{at}.whenUnsatisfiable"), action, &["DoNotSchedule", "ScheduleAnyway"]);
        if last.get(&pair(c)).is_some_and(|last| *last > i) {
            let at = format!("{at}.{{topologyKey, whenUnsatisfiable}}");
            errors.duplicate_text(at, format!("\"{{{key}, {action}}}\""));
        }
        if let Some(domains) = c["minDomains"].as_i64() {
            let at = format!("{at}.minDomains");
            if domains <= 0 {
                errors.invalid(&*at, domains, "must be greater than zero");
            }
            if action != "DoNotSchedule" {
                let detail =
                    format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}");
                errors.invalid(at, domains, detail);
            }
        }
        for policy in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            if let Some(word) = c[policy].as_str() {
                errors.supported(format!("{at}.{policy}"), word, &["Honor", "Ignore"]);
            }
        }
        label_selector(&format!("{at}.labelSelector"), &c["labelSelector"], errors);
        label_keys::check(&at, c, errors);
    }
}
