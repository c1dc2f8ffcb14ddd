//! `apps`: workloads that keep pods running.

use coracle_api::Object;
use serde_json::{Value, json};

use super::columns::{
    AGE, LABEL_SELECTOR, NAME, TEMPLATE_CONTAINERS, TEMPLATE_IMAGES, count, integer, labels, rule,
};
use super::defaulting::{fill, fill_zero, object};
use super::located::Located;
use super::pod_spec;
use super::validation::{Errors, is_empty_selector, label_selector, selector_matches, selector_text};
use super::workload_status::{self, Counts};
use crate::field::FieldError;
use crate::resource::{Column, NAMESPACED, Row, ScalePaths, Strategy, WriteContext};

const KIND: Row = Row { group: "apps", ..NAMESPACED };
const WORKLOAD: Row = Row { categories: &["all"], status: true, generation: true, ..KIND };

/// Where all scalable workloads keep their replica counts.
const SCALE: Option<ScalePaths> = Some(ScalePaths {
    spec_replicas: &["spec", "replicas"],
    status_replicas: &["status", "replicas"],
    selector: &["spec", "selector"],
});

pub(super) static ROWS: &[Row] = &[
    Row {
        kind: "ControllerRevision",
        metadata_looks: [2, 1],
        plural: "controllerrevisions",
        columns: &[
            NAME,
            rule("Controller", |o, _| controller(o)),
            Column { kind: "string", ..integer("Revision", &["revision"]) },
            AGE,
        ],
        strategy: &Revisions,
        ..KIND
    },
    Row {
        kind: "DaemonSet",
        plural: "daemonsets",
        short: &["ds"],
        columns: DAEMON_SET,
        first_status: r#"{"currentNumberScheduled": 0, "desiredNumberScheduled": 0, "numberMisscheduled": 0, "numberReady": 0}"#,
        strategy: &DaemonSets,
        ..WORKLOAD
    },
    Row {
        kind: "Deployment",
        plural: "deployments",
        resets: &[("status", &[&["spec"], &["metadata", "labels"]])],
        short: &["deploy"],
        scale: SCALE,
        columns: DEPLOYMENT,
        first_status: "{}",
        strategy: &Deployments,
        ..WORKLOAD
    },
    Row {
        kind: "ReplicaSet",
        plural: "replicasets",
        short: &["rs"],
        scale: SCALE,
        columns: REPLICA_SET,
        first_status: r#"{"replicas": 0}"#,
        strategy: &ReplicaSets,
        ..WORKLOAD
    },
    Row {
        kind: "StatefulSet",
        plural: "statefulsets",
        short: &["sts"],
        scale: SCALE,
        columns: STATEFUL_SET,
        first_status: r#"{"replicas": 0, "availableReplicas": 0}"#,
        strategy: &super::stateful_sets::StatefulSets,
        ..WORKLOAD
    },
];

const DAEMON_SET: &[Column] = &[
    NAME,
    integer("Desired", &["status", "desiredNumberScheduled"]),
    integer("Current", &["status", "currentNumberScheduled"]),
    integer("Ready", &["status", "numberReady"]),
    integer("Up-to-date", &["status", "updatedNumberScheduled"]),
    integer("Available", &["status", "numberAvailable"]),
    rule("Node Selector", |o, _| labels(o.at(&["spec", "template", "spec", "nodeSelector"]))),
    AGE,
    TEMPLATE_CONTAINERS,
    TEMPLATE_IMAGES,
    LABEL_SELECTOR,
];

const DEPLOYMENT: &[Column] = &[
    NAME,
    rule("Ready", |o, _| ready(o)),
    rule("Up-to-date", |o, _| count(o, &["status", "updatedReplicas"])),
    rule("Available", |o, _| count(o, &["status", "availableReplicas"])),
    AGE,
    TEMPLATE_CONTAINERS,
    TEMPLATE_IMAGES,
    LABEL_SELECTOR,
];

const REPLICA_SET: &[Column] = &[
    NAME,
    integer("Desired", &["spec", "replicas"]),
    integer("Current", &["status", "replicas"]),
    integer("Ready", &["status", "readyReplicas"]),
    AGE,
    TEMPLATE_CONTAINERS,
    TEMPLATE_IMAGES,
    LABEL_SELECTOR,
];

const STATEFUL_SET: &[Column] =
    &[NAME, rule("Ready", |o, _| ready(o)), AGE, TEMPLATE_CONTAINERS, TEMPLATE_IMAGES];

fn ready(o: &Object) -> Value {
    let (ready, wanted) = (count(o, &["status", "readyReplicas"]), count(o, &["spec", "replicas"]));
    json!(format!("{ready}/{wanted}"))
}

/// `deployment.apps/name` of the managing owner.
fn controller(o: &Object) -> Value {
    let Some(owner) = coracle_api::owner::controller_in(o) else {
        return json!("<none>");
    };
    let text = |key: &str| owner[key].as_str().unwrap_or_default();
    let (group, _) = coracle_api::gvk::split_api_version(text("apiVersion"));
    let dot = if group.is_empty() { "" } else { "." };
    json!(format!("{}{dot}{group}/{}", text("kind").to_lowercase(), text("name")))
}

struct Deployments;

impl Strategy for Deployments {
    fn default(&self, new: &mut Object) {
        let spec = object(&mut new.0, "spec");
        fill(spec, "replicas", 1);
        let strategy = object(spec, "strategy");
        fill_zero(strategy, "type", "RollingUpdate");
        if strategy["type"] == "RollingUpdate" {
            let rolling = object(strategy, "rollingUpdate");
            fill(rolling, "maxUnavailable", "25%");
            fill(rolling, "maxSurge", "25%");
        }
        fill(spec, "revisionHistoryLimit", 10);
        fill(spec, "progressDeadlineSeconds", 600);
        pod_spec::template(object(spec, "template"));
    }

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        changed_template_warnings(new, old)
    }

    fn validates(&self, _subresource: &str) -> bool {
        true
    }

    fn validate(&self, cx: &WriteContext<'_>, new: &Object, old: Option<&Object>) -> Vec<FieldError> {
        if cx.subresource == "status" {
            return counts(&workload_status::DEPLOYMENT, new, old);
        }
        let mut errors = Errors::default();
        errors.non_negative("spec.replicas", new.i64_at(&["spec", "replicas"]));
        selected_template(new, "deployment", &mut errors);
        rollout("spec.strategy", new, &mut errors);
        let ready = new.i64_at(&["spec", "minReadySeconds"]);
        errors.non_negative("spec.minReadySeconds", ready);
        errors.non_negative("spec.revisionHistoryLimit", new.i64_at(&["spec", "revisionHistoryLimit"]));
        let at = "spec.progressDeadlineSeconds";
        if let Some(deadline) = new.i64_at(&["spec", "progressDeadlineSeconds"]) {
            errors.non_negative(at, Some(deadline));
            if deadline <= ready.unwrap_or(0) {
                errors.invalid(at, deadline, "must be greater than minReadySeconds");
            }
        }
        same_selector(new, old, &mut errors);
        errors.0
    }
}

struct ReplicaSets;

impl Strategy for ReplicaSets {
    fn default(&self, new: &mut Object) {
        let spec = object(&mut new.0, "spec");
        fill(spec, "replicas", 1);
        if !spec["template"].is_null() {
            pod_spec::template(object(spec, "template"));
        }
    }

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        changed_template_warnings(new, old)
    }

    fn validates(&self, _subresource: &str) -> bool {
        true
    }

    fn validate(&self, cx: &WriteContext<'_>, new: &Object, old: Option<&Object>) -> Vec<FieldError> {
        if cx.subresource == "status" {
            return counts(&workload_status::REPLICA_SET, new, old);
        }
        let mut errors = Errors::default();
        errors.non_negative("spec.replicas", new.i64_at(&["spec", "replicas"]));
        errors.non_negative("spec.minReadySeconds", new.i64_at(&["spec", "minReadySeconds"]));
        selected_template(new, "deployment", &mut errors);
        same_selector(new, old, &mut errors);
        errors.0
    }
}

struct DaemonSets;

impl Strategy for DaemonSets {
    fn default(&self, new: &mut Object) {
        let spec = object(&mut new.0, "spec");
        let strategy = object(spec, "updateStrategy");
        fill_zero(strategy, "type", "RollingUpdate");
        if strategy["type"] == "RollingUpdate" {
            let rolling = object(strategy, "rollingUpdate");
            fill(rolling, "maxUnavailable", 1);
            fill(rolling, "maxSurge", 0);
        }
        fill(spec, "revisionHistoryLimit", 10);
        pod_spec::template(object(spec, "template"));
        // Clients see the count as an annotation, which therefore has an owner before there is anything to count.
        new.set_default(&["metadata", "annotations", TEMPLATE_GENERATION], "0");
    }

    fn prepare(&self, _cx: &WriteContext<'_>, new: &mut Object, old: Option<&Object>) {
        template_generation(new, old);
    }

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        changed_template_warnings(new, old)
    }

    fn validates(&self, _subresource: &str) -> bool {
        true
    }

    fn validate(&self, cx: &WriteContext<'_>, new: &Object, old: Option<&Object>) -> Vec<FieldError> {
        if cx.subresource == "status" {
            return counts(&workload_status::DAEMON_SET, new, old);
        }
        let mut errors = Errors::default();
        same_selector(new, old, &mut errors);
        daemon_selector(new, &mut errors);
        let template = new.at(&["spec", "template"]).cloned().unwrap_or_else(|| json!({}));
        pod_spec::replicated_template("spec.template", &template, None, "DaemonSet", &mut errors);
        errors.non_negative("spec.minReadySeconds", new.i64_at(&["spec", "minReadySeconds"]));
        daemon_rollout(new, &mut errors);
        errors.non_negative("spec.revisionHistoryLimit", new.i64_at(&["spec", "revisionHistoryLimit"]));
        errors.0
    }
}

/// What is wrong with the counts of a status.
pub(super) fn counts(of: &Counts, new: &Object, old: Option<&Object>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    of.check(&Located::root(new), old.map(Located::root).as_ref(), &mut errors);
    errors.0
}

fn daemon_selector(new: &Object, errors: &mut Errors) {
    let labels = new.at(&["spec", "template", "metadata", "labels"]).unwrap_or(&Value::Null);
    let selector = new.at(&["spec", "selector"]);
    let before = errors.0.len();
    label_selector("spec.selector", selector.unwrap_or(&Value::Null), errors);
    let valid = errors.0.len() == before;
    if valid && !selector.is_some_and(|s| selector_matches(s, labels)) {
        let detail = "`selector` does not match template `labels`";
        errors.invalid("spec.template.metadata.labels", labels.clone(), detail);
    }
    if let Some(selector) = selector.filter(|s| is_empty_selector(s)) {
        let detail = "empty selector is invalid for daemonset";
        errors.invalid_text("spec.selector", selector_text(selector), detail);
    }
}

/// Exactly one of `maxUnavailable` and `maxSurge` moves an update on.
fn daemon_rollout(new: &Object, errors: &mut Errors) {
    const AT: &str = "spec.updateStrategy";
    let strategy = new.at(&["spec", "updateStrategy"]).unwrap_or(&Value::Null);
    let rolling = &strategy["rollingUpdate"];
    match strategy["type"].as_str().unwrap_or_default() {
        "OnDelete" => {}
        "RollingUpdate" if rolling.is_null() => errors.required(format!("{AT}.rollingUpdate"), ""),
        "RollingUpdate" => {
            let keys = ["maxUnavailable", "maxSurge"];
            for key in keys {
                int_or_percent(&format!("{AT}.rollingUpdate.{key}"), &rolling[key], errors);
            }
            for key in keys {
                at_most_all(&format!("{AT}.rollingUpdate.{key}"), &rolling[key], errors);
            }
            let some = |key: &str| number(&rolling[key]).is_some_and(|n| n != 0);
            if some("maxUnavailable") && some("maxSurge") {
                let detail = "may not be set when maxUnavailable is non-zero";
                errors.invalid(format!("{AT}.rollingUpdate.maxSurge"), rolling["maxSurge"].clone(), detail);
            } else if !some("maxUnavailable") && !some("maxSurge") {
                let at = format!("{AT}.rollingUpdate.maxUnavailable");
                errors.required(at, "cannot be 0 when maxSurge is 0");
            }
        }
        other => {
            let limits = match rolling.as_object() {
                Some(r) => format!(
                    "{{\"MaxUnavailable\":{},\"MaxSurge\":{}}}",
                    r.get("maxUnavailable").unwrap_or(&Value::Null),
                    r.get("maxSurge").unwrap_or(&Value::Null)
                ),
                None => "null".to_owned(),
            };
            let text = format!("{{\"Type\":{other:?},\"RollingUpdate\":{limits}}}");
            errors.unsupported_text(AT, text, &["RollingUpdate", "OnDelete"]);
        }
    }
}

pub(super) fn at_most_all(at: &str, value: &Value, errors: &mut Errors) {
    if percent(value).is_some_and(|n| n > 100) {
        errors.invalid(at, value.clone(), "must not be greater than 100%");
    }
}

/// A count of template changes, older than `metadata.generation`, that clients may still look at.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

fn template_generation(new: &mut Object, old: Option<&Object>) {
    let before =
        old.map(|o| o.annotation(TEMPLATE_GENERATION).and_then(|a| a.parse::<i64>().ok()).unwrap_or(0));
    let count = match (before, old) {
        (Some(n), Some(old)) if old.at(&["spec", "template"]) != new.at(&["spec", "template"]) => n + 1,
        (Some(n), _) => n,
        (None, _) => 1,
    };
    new.set(&["metadata", "annotations", TEMPLATE_GENERATION], count.to_string());
}

/// The selector names something, and the template carries its labels.
fn selected_template(new: &Object, kind: &str, errors: &mut Errors) {
    let template = new.at(&["spec", "template"]).cloned().unwrap_or_else(|| json!({}));
    let owner = if kind == "statefulset" { "StatefulSet" } else { "ReplicaSet" };
    let picked = selector(new, kind, &template, errors);
    pod_spec::replicated_template("spec.template", &template, picked, owner, errors);
}

/// Whether the selector is such that the template's labels can be held against it, and if so whether it picks them.
pub(super) fn selector(new: &Object, kind: &str, template: &Value, errors: &mut Errors) -> Option<bool> {
    let Some(selector) = new.at(&["spec", "selector"]) else {
        errors.required("spec.selector", "");
        return Some(false);
    };
    let before = errors.0.len();
    label_selector("spec.selector", selector, errors);
    let valid = errors.0.len() == before;
    if is_empty_selector(selector) {
        let detail = format!("empty selector is invalid for {kind}");
        errors.invalid_text("spec.selector", selector_text(selector), detail);
    }
    if !valid {
        let detail = if kind == "statefulset" { "" } else { "invalid label selector" };
        errors.invalid_text("spec.selector", selector_text(selector), detail);
        return None;
    }
    Some(selector_matches(selector, &template["metadata"]["labels"]))
}

/// Warnings about a template, where it is new or has changed.
pub(super) fn changed_template_warnings(new: &Object, old: Option<&Object>) -> Vec<String> {
    let template = |o: &Object| o.at(&["spec", "template"]).cloned();
    match (template(new), old) {
        (Some(is), Some(old)) if template(old).as_ref() == Some(&is) => vec![],
        (Some(is), _) => pod_spec::template_warnings("spec.template", &is),
        (None, _) => vec![],
    }
}

fn same_selector(new: &Object, old: Option<&Object>, errors: &mut Errors) {
    let Some(old) = old else { return };
    let (is, was) = (new.at(&["spec", "selector"]), old.at(&["spec", "selector"]));
    if is != was {
        let text = is.map_or("null".to_owned(), selector_text);
        errors.invalid_text("spec.selector", text, "field is immutable");
    }
}

fn rollout(at: &str, new: &Object, errors: &mut Errors) {
    let strategy = new.at(&["spec", "strategy"]).cloned().unwrap_or_default();
    match strategy["type"].as_str().unwrap_or_default() {
        "Recreate" if !strategy["rollingUpdate"].is_null() => errors.forbidden(
            format!("{at}.rollingUpdate"),
            "may not be specified when strategy `type` is 'Recreate'",
        ),
        "Recreate" => {}
        "RollingUpdate" => {
            let rolling = &strategy["rollingUpdate"];
            let at = format!("{at}.rollingUpdate");
            for key in ["maxUnavailable", "maxSurge"] {
                int_or_percent(&format!("{at}.{key}"), &rolling[key], errors);
            }
            let zero = |key: &str| number(&rolling[key]) == Some(0);
            let at = format!("{at}.maxUnavailable");
            if zero("maxUnavailable") && zero("maxSurge") {
                let value = rolling["maxUnavailable"].clone();
                errors.invalid(&*at, value, "may not be 0 when `maxSurge` is 0");
            }
            at_most_all(&at, &rolling["maxUnavailable"], errors);
        }
        _ => {
            let shown = Located::root(new).at("spec").at("strategy").shown();
            errors.unsupported_text(at, shown, &["Recreate", "RollingUpdate"]);
        }
    }
}

/// A count, or so many of a hundred; a text that is no percentage counts as its number, or as none.
pub(super) fn number(value: &Value) -> Option<i64> {
    let text = || value.as_str().map(|text| text.parse().unwrap_or(0));
    value.as_i64().or_else(|| percent(value)).or_else(text)
}

fn percent(value: &Value) -> Option<i64> {
    let digits = value.as_str()?.strip_suffix('%')?;
    let fine = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    digits.parse().ok().filter(|_| fine)
}

pub(super) fn int_or_percent(at: &str, value: &Value, errors: &mut Errors) {
    match value {
        Value::String(text) if percent(value).is_none() => {
            let detail = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')";
            errors.invalid(at, &**text, detail);
        }
        number => errors.non_negative(at, number.as_i64()),
    }
}

struct Revisions;

impl Strategy for Revisions {
    fn validate(&self, _cx: &WriteContext<'_>, new: &Object, old: Option<&Object>) -> Vec<FieldError> {
        let mut errors = Errors::default();
        let new = Located::root(new);
        let data = new.at("data");
        new.at("revision").not_negative(&mut errors);
        match old {
            Some(old) => data.immutable(&Located::root(old).at("data"), &mut errors),
            None if !data.is_set() => data.missing("data is mandatory", &mut errors),
            None if !data.value().is_object() => {
                data.missing("data must be a valid JSON object", &mut errors);
            }
            None => {}
        }
        errors.0
    }
}
