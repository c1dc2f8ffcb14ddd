//! What is wrong with the metrics and the behaviour of an autoscaler.

use coracle_api::Quantity;
use serde_json::Value;

use super::located::Located;
use super::validation::Errors;
use crate::field_names::{dns1123_label, path_segment, qualified_name};

/// In the order in which upstream looks at them: what a metric may be, and the key that tells of it.
const SOURCES: [(&str, &str); 5] = [
    ("Object", "object"),
    ("External", "external"),
    ("Pods", "pods"),
    ("Resource", "resource"),
    ("ContainerResource", "containerResource"),
];
const TYPES: [&str; 5] = ["ContainerResource", "External", "Object", "Pods", "Resource"];

pub(super) fn metrics(all: &[Value], min_replicas: Option<i64>, errors: &mut Errors) {
    for (i, metric) in all.iter().enumerate() {
        check(&format!("spec.metrics[{i}]"), metric, errors);
    }
    let from_outside = |m: &Value| m["type"] == "Object" || m["type"] == "External";
    if min_replicas == Some(0) && !all.iter().any(from_outside) {
        let detail =
            "must specify at least one Object or External metric to support scaling to zero replicas";
        errors.forbidden("spec.metrics", detail);
    }
}

fn check(at: &str, metric: &Value, errors: &mut Errors) {
    let kind = metric["type"].as_str().unwrap_or_default();
    if kind.is_empty() {
        errors.required(format!("{at}.type"), "must specify a metric source type");
    }
    errors.supported(format!("{at}.type"), kind, &TYPES);
    let present: Vec<&str> =
        SOURCES.iter().map(|(_, key)| *key).filter(|key| metric[key].is_object()).collect();
    if let Some(first) = present.first() {
        source(&format!("{at}.{first}"), first, &metric[first], errors);
    }
    let Some((_, wanted)) = SOURCES.iter().find(|(name, _)| *name == kind) else {
        // Upstream says it once more here.
        errors.supported(format!("{at}.type"), kind, &TYPES);
        return;
    };
    if !present.contains(wanted) {
        errors.required(format!("{at}.{wanted}"), "must populate information for the given metric source");
    }
    if present.len() > 1 {
        for other in present.iter().filter(|key| *key != wanted) {
            errors.forbidden(format!("{at}.{other}"), "must populate the given metric source only");
        }
    }
}

fn source(at: &str, key: &str, source: &Value, errors: &mut Errors) {
    let given = |name: &str| !source["target"][name].is_null();
    match key {
        "object" => {
            described(at, &source["describedObject"], errors);
            identifier(at, source, errors);
            target(at, &source["target"], errors);
            if !given("value") && !given("averageValue") {
                let detail = "must set either a target value or averageValue";
                errors.required(format!("{at}.target.averageValue"), detail);
            }
        }
        "external" => {
            identifier(at, source, errors);
            target(at, &source["target"], errors);
            if !given("value") && !given("averageValue") {
                let detail = "must set either a target value for metric or a per-pod target";
                errors.required(format!("{at}.target.averageValue"), detail);
            }
            if given("value") && given("averageValue") {
                let detail = "may not set both a target value for metric and a per-pod target";
                errors.forbidden(format!("{at}.target.value"), detail);
            }
        }
        "pods" => {
            identifier(at, source, errors);
            target(at, &source["target"], errors);
            if !given("averageValue") {
                let detail = "must specify a positive target averageValue";
                errors.required(format!("{at}.target.averageValue"), detail);
            }
        }
        _ => resource(at, key, source, errors),
    }
}

fn resource(at: &str, key: &str, source: &Value, errors: &mut Errors) {
    let text = |name: &str| source[name].as_str().unwrap_or_default();
    if text("name").is_empty() {
        errors.required(format!("{at}.name"), "must specify a resource name");
    } else if key == "containerResource" {
        let standard = text("name").contains('/')
            || ["cpu", "memory", "ephemeral-storage"].contains(&text("name"))
            || text("name").starts_with("hugepages-");
        errors.all_invalid(format!("{at}.name"), text("name"), qualified_name(text("name")));
        if !standard {
            errors.invalid(format!("{at}.name"), text("name"), "must be a standard resource for containers");
        }
    }
    if key == "containerResource" {
        match text("container") {
            "" => errors.required(format!("{at}.container"), "must specify a container"),
            name => errors.all_invalid(format!("{at}.container"), name, dns1123_label(name)),
        }
    }
    target(at, &source["target"], errors);
    let given = |name: &str| !source["target"][name].is_null();
    match (given("averageUtilization"), given("averageValue")) {
        (false, false) => {
            let detail = "must set either a target raw value or a target utilization";
            errors.required(format!("{at}.target.averageUtilization"), detail);
        }
        (true, true) => {
            let detail = "may not set both a target raw value and a target utilization";
            errors.forbidden(format!("{at}.target.averageValue"), detail);
        }
        _ => {}
    }
}

fn described(at: &str, object: &Value, errors: &mut Errors) {
    let object = Located::placed(format!("{at}.describedObject"), object);
    object.at("kind").required_as(path_segment, errors);
    object.at("name").required_as(path_segment, errors);
    let version = object.at("apiVersion");
    if version.text().matches('/').count() > 1 {
        version.wrong(format!("unexpected GroupVersion string: {}", version.text()), errors);
    }
}

fn identifier(at: &str, source: &Value, errors: &mut Errors) {
    match source["metric"]["name"].as_str().unwrap_or_default() {
        "" => errors.required(format!("{at}.metric.name"), "must specify a metric name"),
        name => errors.all_invalid(format!("{at}.metric.name"), name, path_segment(name)),
    }
}

fn target(at: &str, target: &Value, errors: &mut Errors) {
    let kind = target["type"].as_str().unwrap_or_default();
    if kind.is_empty() {
        errors.required(format!("{at}.target.type"), "must specify a metric target type");
    }
    if !matches!(kind, "Utilization" | "Value" | "AverageValue") {
        let detail = "must be either Utilization, Value, or AverageValue";
        errors.invalid(format!("{at}.target.type"), kind, detail);
    }
    for key in ["value", "averageValue"] {
        let amount = &target[key];
        if !amount.is_null() && Quantity::from_json(amount).is_ok_and(|q| q <= Quantity::default()) {
            errors.invalid(format!("{at}.target.{key}"), amount.clone(), "must be positive");
        }
    }
    if let Some(percent) = target["averageUtilization"].as_i64().filter(|p| *p < 1) {
        errors.invalid(format!("{at}.target.averageUtilization"), percent, "must be greater than 0");
    }
}

/// The rules of scaling up or down.
pub(super) fn behavior(at: &str, rules: &Value, errors: &mut Errors) {
    if !rules.is_object() {
        return;
    }
    let window = rules["stabilizationWindowSeconds"].as_i64();
    let at_window = format!("{at}.stabilizationWindowSeconds");
    match window {
        Some(seconds) if seconds < 0 => {
            errors.invalid(at_window, seconds, "must be greater than or equal to zero");
        }
        Some(seconds) if seconds > 3600 => {
            errors.invalid(at_window, seconds, "must be less than or equal to 3600");
        }
        _ => {}
    }
    if let Some(policy) = rules["selectPolicy"].as_str() {
        errors.supported(format!("{at}.selectPolicy"), policy, &["Disabled", "Max", "Min"]);
    }
    let policies = rules["policies"].as_array().map(Vec::as_slice).unwrap_or_default();
    if policies.is_empty() {
        errors.required(format!("{at}.policies"), "must specify at least one Policy");
    }
    for (i, policy) in policies.iter().enumerate() {
        let at = format!("{at}.policies[{i}]");
        errors.supported(
            format!("{at}.type"),
            policy["type"].as_str().unwrap_or_default(),
            &["Percent", "Pods"],
        );
        for key in ["value", "periodSeconds"] {
            let number = policy[key].as_i64().unwrap_or(0);
            if number <= 0 {
                errors.invalid(format!("{at}.{key}"), number, "must be greater than zero");
            } else if key == "periodSeconds" && number > 1800 {
                errors.invalid(format!("{at}.{key}"), number, "must be less than or equal to 1800");
            }
        }
    }
    Located::placed(format!("{at}.tolerance"), &rules["tolerance"]).quantity_not_negative(errors);
}
