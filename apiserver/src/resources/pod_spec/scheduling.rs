//! What is wrong with a pod's wishes where to run: affinity, tolerations, spreading, gates.

use std::collections::HashSet;

use serde_json::Value;

use super::super::validation::{Errors, label_selector};
use super::validation::items;
use crate::field_names::{label_value, qualified_name};

pub(super) fn scheduling(at: &str, spec: &Value, errors: &mut Errors) {
    affinity(&format!("{at}.affinity"), &spec["affinity"], errors);
    for (i, t) in items(spec, "tolerations").enumerate() {
        toleration(&format!("{at}.tolerations[{i}]"), t, errors);
    }
    spread(&format!("{at}.topologySpreadConstraints"), spec, errors);
    let mut gates = HashSet::new();
    for (i, gate) in items(spec, "schedulingGates").enumerate() {
        let name = gate["name"].as_str().unwrap_or_default();
        let at = format!("{at}.schedulingGates[{i}]");
        errors.all_invalid(&*at, name, qualified_name(name));
        if !gates.insert(name) {
            errors.duplicate(at, name);
        }
    }
    if !gates.is_empty() && spec["nodeName"].as_str().is_some_and(|n| !n.is_empty()) {
        let detail = "cannot be set until all schedulingGates have been cleared";
        errors.forbidden(format!("{at}.nodeName"), detail);
    }
}

fn affinity(at: &str, affinity: &Value, errors: &mut Errors) {
    let node = &affinity["nodeAffinity"];
    let required = &node["requiredDuringSchedulingIgnoredDuringExecution"];
    let at_node = format!("{at}.nodeAffinity");
    if required.is_object() {
        let at = format!("{at_node}.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms");
        if items(required, "nodeSelectorTerms").next().is_none() {
            errors.required(&*at, "must have at least one node selector term");
        }
        for (i, term) in items(required, "nodeSelectorTerms").enumerate() {
            node_term(&format!("{at}[{i}]"), term, errors);
        }
    }
    for (i, p) in items(node, "preferredDuringSchedulingIgnoredDuringExecution").enumerate() {
        let at = format!("{at_node}.preferredDuringSchedulingIgnoredDuringExecution[{i}]");
        weight(&at, p, errors);
        node_term(&format!("{at}.preference"), &p["preference"], errors);
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

fn weight(at: &str, preference: &Value, errors: &mut Errors) {
    let weight = preference["weight"].as_i64().unwrap_or(0);
    if !(1..=100).contains(&weight) {
        errors.invalid(format!("{at}.weight"), weight, "must be in the range 1-100");
    }
}

fn node_term(at: &str, term: &Value, errors: &mut Errors) {
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
    }
}

fn pod_term(at: &str, term: &Value, errors: &mut Errors) {
    for key in ["labelSelector", "namespaceSelector"] {
        label_selector(&format!("{at}.{key}"), &term[key], errors);
    }
    topology_key(&format!("{at}.topologyKey"), term, "can not be empty", errors);
}

fn topology_key(at: &str, term: &Value, detail: &str, errors: &mut Errors) {
    match term["topologyKey"].as_str().unwrap_or_default() {
        "" => errors.required(at, detail),
        key => errors.all_invalid(at, key, qualified_name(key)),
    }
}

fn toleration(at: &str, t: &Value, errors: &mut Errors) {
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
            errors.invalid(format!("{at}.operator"), t.clone(), detail);
        }
        "Exists" | "Lt" | "Gt" => {}
        other => errors.one_of(format!("{at}.operator"), other, &["Equal", "Exists"]),
    }
    if !text("effect").is_empty() {
        let effects = ["NoExecute", "NoSchedule", "PreferNoSchedule"];
        errors.one_of(format!("{at}.effect"), text("effect"), &effects);
    }
}

fn spread(at: &str, spec: &Value, errors: &mut Errors) {
    let mut seen = HashSet::new();
    for (i, c) in items(spec, "topologySpreadConstraints").enumerate() {
        let at = format!("{at}[{i}]");
        let skew = c["maxSkew"].as_i64().unwrap_or(0);
        if skew <= 0 {
            errors.invalid(format!("{at}.maxSkew"), skew, "must be greater than zero");
        }
        topology_key(&format!("{at}.topologyKey"), c, "can not be empty", errors);
        let action = c["whenUnsatisfiable"].as_str().unwrap_or_default();
        errors.one_of(format!("{at}.whenUnsatisfiable"), action, &["DoNotSchedule", "ScheduleAnyway"]);
        let key = c["topologyKey"].as_str().unwrap_or_default();
        if !seen.insert((key, action)) {
            let at = format!("{at}.{{topologyKey, whenUnsatisfiable}}");
            errors.duplicate_text(at, format!("\"{{{key}, {action}}}\""));
        }
        label_selector(&format!("{at}.labelSelector"), &c["labelSelector"], errors);
    }
}
