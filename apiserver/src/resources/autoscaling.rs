//! `autoscaling`: horizontal pod autoscalers, served in two versions from one storage (that of v2).

use coracle_api::Object;
use serde_json::{Value, json};

use super::autoscaling_metrics::{behavior, metrics};
use super::columns::{AGE, NAME, count, rule};
use super::defaulting::{fill, object, within};
use super::located::Located;
use super::validation::Errors;
use crate::field::FieldError;
use crate::field_names::path_segment;
use crate::resource::{Column, Conversion, NAMESPACED, Row, Strategy, WriteContext};

const KIND: Row = Row {
    group: "autoscaling",
    kind: "HorizontalPodAutoscaler",
    plural: "horizontalpodautoscalers",
    short: &["hpa"],
    categories: &["all"],
    storage: "autoscaling/horizontalpodautoscalers",
    stored_as: "autoscaling/v2/HorizontalPodAutoscaler",
    status: true,
    columns: COLUMNS,
    strategy: &Autoscalers,
    ..NAMESPACED
};

pub(super) static ROWS: &[Row] = &[
    Row { version: "v2", ..KIND },
    Row { version: "v1", conversion: Some(&Conversion { from_storage, to_storage }), ..KIND },
];

const COLUMNS: &[Column] = &[
    NAME,
    rule("Reference", |o, _| {
        let text = |key: &str| o.str_at(&["spec", "scaleTargetRef", key]);
        json!(format!("{}/{}", text("kind"), text("name")))
    }),
    rule("Targets", |o, _| json!(targets(o))),
    rule("MinPods", |o, _| match o.i64_at(&["spec", "minReplicas"]) {
        Some(min) => json!(min.to_string()),
        None => json!("<unset>"),
    }),
    rule("MaxPods", |o, _| count(o, &["spec", "maxReplicas"])),
    rule("Replicas", |o, _| count(o, &["status", "currentReplicas"])),
    AGE,
];

/// The CPU utilization aimed at where nothing else is named.
const CPU_PERCENT: i64 = 80;

fn cpu(percent: &Value) -> Value {
    json!({"type": "Resource", "resource": {"name": "cpu",
           "target": {"type": "Utilization", "averageUtilization": percent}}})
}

/// v1 knows one metric, CPU utilization.
fn from_storage(o: &mut Object) {
    o.set(&["apiVersion"], "autoscaling/v1");
    let is_cpu = |m: &&Value| m["resource"]["name"] == "cpu";
    let target = o.items_at(&["spec", "metrics"]).iter().find(is_cpu);
    let target = target.map(|m| m["resource"]["target"]["averageUtilization"].clone());
    o.remove(&["spec", "metrics"]);
    if let Some(percent) = target.filter(|p| !p.is_null()) {
        o.set(&["spec", "targetCPUUtilizationPercentage"], percent);
    }
    let current = o.items_at(&["status", "currentMetrics"]).iter().find(is_cpu);
    let current = current.map(|m| m["resource"]["current"]["averageUtilization"].clone());
    if let Some(percent) = current.filter(|p| !p.is_null()) {
        o.set(&["status", "currentCPUUtilizationPercentage"], percent);
    }
    for path in [["status", "currentMetrics"], ["status", "conditions"], ["spec", "behavior"]] {
        o.remove(&path);
    }
}

fn to_storage(o: &mut Object) {
    o.set(&["apiVersion"], "autoscaling/v2");
    if let Some(percent) = o.remove(&["spec", "targetCPUUtilizationPercentage"]) {
        o.set(&["spec", "metrics"], json!([cpu(&percent)]));
    }
    o.remove(&["status", "currentCPUUtilizationPercentage"]);
}

/// Two metrics as `cpu: 10%/80%`, and how many more.
fn targets(o: &Object) -> String {
    let specs = o.items_at(&["spec", "metrics"]);
    if let Some(percent) = o.i64_at(&["spec", "targetCPUUtilizationPercentage"]) {
        let current = o.i64_at(&["status", "currentCPUUtilizationPercentage"]);
        return format!("cpu: {}/{percent}%", current.map_or("<unknown>".into(), |c| format!("{c}%")));
    }
    let statuses = o.items_at(&["status", "currentMetrics"]);
    let texts: Vec<String> = specs
        .iter()
        .enumerate()
        .map(|(i, spec)| target(spec, statuses.get(i).unwrap_or(&Value::Null)))
        .collect();
    match texts.len() {
        0 => "<none>".to_owned(),
        n if n > 2 => format!("{} + {} more...", texts[..2].join(", "), n - 2),
        _ => texts.join(", "),
    }
}

fn target(spec: &Value, status: &Value) -> String {
    let text = |v: &Value| v.as_str().unwrap_or("<unknown>").to_owned();
    let kind = spec["type"].as_str().unwrap_or_default();
    let key = match kind {
        "External" => "external",
        "Pods" => "pods",
        "Object" => "object",
        "Resource" => "resource",
        "ContainerResource" => "containerResource",
        _ => return "<unknown type>".to_owned(),
    };
    let (goal, current) = (&spec[key]["target"], &status[key]["current"]);
    let average = format!("{}/{}", text(&current["averageValue"]), text(&goal["averageValue"]));
    let by_average = goal["averageValue"].is_string();
    match key {
        "pods" => average,
        "external" | "object" if by_average => format!("{average} (avg)"),
        "external" | "object" => format!("{}/{}", text(&current["value"]), text(&goal["value"])),
        _ => {
            let name = spec[key]["name"].as_str().unwrap_or_default();
            let percent = |v: &Value, absent: &str| v.as_i64().map_or(absent.to_owned(), |n| format!("{n}%"));
            match by_average {
                true => format!("{name}: {average}"),
                false => format!(
                    "{name}: {}/{}",
                    percent(&current["averageUtilization"], "<unknown>"),
                    percent(&goal["averageUtilization"], "<auto>")
                ),
            }
        }
    }
}

struct Autoscalers;

impl Strategy for Autoscalers {
    fn default(&self, new: &mut Object) {
        let v1 = new.api_version() == "autoscaling/v1";
        let spec = object(&mut new.0, "spec");
        fill(spec, "minReplicas", 1);
        if v1 {
            fill(spec, "targetCPUUtilizationPercentage", CPU_PERCENT);
        } else if spec["metrics"].as_array().is_none_or(Vec::is_empty) {
            spec["metrics"] = json!([cpu(&json!(CPU_PERCENT))]);
        }
        within(spec, "behavior", |behavior| {
            let all = json!({"type": "Percent", "value": 100, "periodSeconds": 15});
            let four = json!({"type": "Pods", "value": 4, "periodSeconds": 15});
            fill(object(behavior, "scaleUp"), "stabilizationWindowSeconds", 0);
            for (direction, policies) in [("scaleUp", json!([four, all])), ("scaleDown", json!([all]))] {
                let rules = object(behavior, direction);
                fill(rules, "selectPolicy", "Max");
                fill(rules, "policies", policies);
            }
        });
    }

    fn prepare(&self, cx: &WriteContext<'_>, new: &mut Object, old: Option<&Object>) {
        if old.is_none() {
            let v1 = cx.resource.gvr.version == "v1";
            let status = match v1 {
                true => json!({"currentReplicas": 0, "desiredReplicas": 0}),
                false => json!({"desiredReplicas": 0, "currentMetrics": null}),
            };
            new.set(&["status"], status);
        }
    }

    fn validates(&self, _subresource: &str) -> bool {
        true
    }

    fn validate(&self, cx: &WriteContext<'_>, new: &Object, old: Option<&Object>) -> Vec<FieldError> {
        let mut errors = Errors::default();
        let (root, before) = (Located::root(new), old.map(|o| Located::root(o).at("spec")));
        if cx.subresource == "status" {
            for count in ["currentReplicas", "desiredReplicas"] {
                root.at("status").at(count).not_negative(&mut errors);
            }
            return errors.0;
        }
        let spec = root.at("spec");
        let (min, max) = (spec.at("minReplicas"), spec.at("maxReplicas"));
        // One that was allowed to have none stays so.
        let least =
            if before.as_ref().is_some_and(|b| b.at("minReplicas").number() == Some(0)) { 0 } else { 1 };
        min.at_least(least, &format!("must be greater than or equal to {least}"), &mut errors);
        match max.number().unwrap_or(0) {
            0 => max.missing("must be set and greater than 0", &mut errors),
            _ => max.at_least(1, "must be greater than or equal to 1", &mut errors),
        }
        let most = max.number().unwrap_or(0);
        if min.number().is_some_and(|min| most < min) {
            errors.invalid(max.path(), most, "must be greater than or equal to `minReplicas`");
        }
        scale_target(&spec.at("scaleTargetRef"), before.as_ref(), &mut errors);
        let min = min.number();
        match new.at(&["spec", "targetCPUUtilizationPercentage"]) {
            Some(percent) => metrics(&[cpu(percent)], min, &mut errors),
            None => metrics(new.items_at(&["spec", "metrics"]), min, &mut errors),
        }
        for direction in ["scaleUp", "scaleDown"] {
            let rules = new.at(&["spec", "behavior", direction]).unwrap_or(&Value::Null);
            behavior(&format!("spec.behavior.{direction}"), rules, &mut errors);
        }
        errors.0
    }
}

fn scale_target(target: &Located<'_>, before: Option<&Located<'_>>, errors: &mut Errors) {
    let [version, kind, name] = ["apiVersion", "kind", "name"].map(|field| target.at(field));
    kind.required_as(path_segment, errors);
    name.required_as(path_segment, errors);
    let same = before.map(|b| b.at("scaleTargetRef")).is_some_and(|was| {
        was.at("apiVersion").text() == version.text() && was.at("kind").text() == kind.text()
    });
    // Only the replication controller of the core group can be scaled without a group.
    let alone = kind.text() == "ReplicationController";
    match version.text().matches('/').count() {
        _ if same => {}
        0 if !alone => {
            errors.invalid(version.path(), version.text(), "apiVersion must specify API group");
        }
        0 | 1 => {}
        _ => version.wrong(format!("unexpected GroupVersion string: {}", version.text()), errors),
    }
}
