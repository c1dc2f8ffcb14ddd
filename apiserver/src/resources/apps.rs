//! `apps`: workloads that keep pods running.

use coracle_api::Object;
use serde_json::{Value, json};

use super::columns::{
    AGE, LABEL_SELECTOR, NAME, TEMPLATE_CONTAINERS, TEMPLATE_IMAGES, count, integer, labels, rule,
};
use super::defaulting::{each, fill, fill_zero, object};
use super::pod_spec;
use super::validation::{Errors, is_empty_selector, label_selector};
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
        plural: "controllerrevisions",
        columns: &[
            NAME,
            rule("Controller", |o, _| controller(o)),
            Column { kind: "string", ..integer("Revision", &["revision"]) },
            AGE,
        ],
        ..KIND
    },
    Row {
        kind: "DaemonSet",
        plural: "daemonsets",
        short: &["ds"],
        columns: DAEMON_SET,
        strategy: &DaemonSets,
        ..WORKLOAD
    },
    Row {
        kind: "Deployment",
        plural: "deployments",
        short: &["deploy"],
        scale: SCALE,
        columns: DEPLOYMENT,
        strategy: &Deployments,
        ..WORKLOAD
    },
    Row {
        kind: "ReplicaSet",
        plural: "replicasets",
        short: &["rs"],
        scale: SCALE,
        columns: REPLICA_SET,
        strategy: &ReplicaSets,
        ..WORKLOAD
    },
    Row {
        kind: "StatefulSet",
        plural: "statefulsets",
        short: &["sts"],
        scale: SCALE,
        columns: STATEFUL_SET,
        strategy: &StatefulSets,
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
    let Some(owner) = o.owner_references().iter().find(|r| r["controller"] == true) else {
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

    fn prepare(&self, _cx: &WriteContext<'_>, new: &mut Object, old: Option<&Object>) {
        if old.is_none() {
            new.set(&["status"], json!({}));
        }
    }

    fn validate(&self, cx: &WriteContext<'_>, new: &Object, old: Option<&Object>) -> Vec<FieldError> {
        let mut errors = Errors::default();
        if !cx.subresource.is_empty() {
            return errors.0;
        }
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

    fn prepare(&self, _cx: &WriteContext<'_>, new: &mut Object, old: Option<&Object>) {
        if old.is_none() {
            new.set(&["status"], json!({"replicas": 0}));
        }
    }

    fn validate(&self, cx: &WriteContext<'_>, new: &Object, old: Option<&Object>) -> Vec<FieldError> {
        let mut errors = Errors::default();
        if !cx.subresource.is_empty() {
            return errors.0;
        }
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
    }

    fn prepare(&self, _cx: &WriteContext<'_>, new: &mut Object, old: Option<&Object>) {
        if old.is_none() {
            let zero = json!({"currentNumberScheduled": 0, "desiredNumberScheduled": 0,
                              "numberMisscheduled": 0, "numberReady": 0});
            new.set(&["status"], zero);
        }
        template_generation(new, old);
    }

    fn validate(&self, cx: &WriteContext<'_>, new: &Object, old: Option<&Object>) -> Vec<FieldError> {
        let mut errors = Errors::default();
        if !cx.subresource.is_empty() {
            return errors.0;
        }
        selected_template(new, "daemonset", &mut errors);
        errors.non_negative("spec.minReadySeconds", new.i64_at(&["spec", "minReadySeconds"]));
        let kind = new.str_at(&["spec", "updateStrategy", "type"]);
        errors.one_of("spec.updateStrategy", kind, &["OnDelete", "RollingUpdate"]);
        errors.non_negative("spec.revisionHistoryLimit", new.i64_at(&["spec", "revisionHistoryLimit"]));
        same_selector(new, old, &mut errors);
        errors.0
    }
}

/// A count of template changes, older than `metadata.generation`, that clients may still look at.
fn template_generation(new: &mut Object, old: Option<&Object>) {
    const NAME: &str = "deprecated.daemonset.template.generation";
    let before = old.map(|o| o.annotation(NAME).and_then(|a| a.parse::<i64>().ok()).unwrap_or(0));
    let count = match (before, old) {
        (Some(n), Some(old)) if old.at(&["spec", "template"]) != new.at(&["spec", "template"]) => n + 1,
        (Some(n), _) => n,
        (None, _) => 1,
    };
    new.set(&["metadata", "annotations", NAME], count.to_string());
}

struct StatefulSets;

impl Strategy for StatefulSets {
    fn default(&self, new: &mut Object) {
        let spec = object(&mut new.0, "spec");
        fill_zero(spec, "podManagementPolicy", "OrderedReady");
        let strategy = object(spec, "updateStrategy");
        if strategy["type"].as_str().unwrap_or_default().is_empty() {
            strategy["type"] = json!("RollingUpdate");
            fill(strategy, "rollingUpdate", json!({}));
        }
        if strategy["type"] == "RollingUpdate" && strategy["rollingUpdate"].is_object() {
            fill(object(strategy, "rollingUpdate"), "partition", 0);
        }
        let retention = object(spec, "persistentVolumeClaimRetentionPolicy");
        fill_zero(retention, "whenDeleted", "Retain");
        fill_zero(retention, "whenScaled", "Retain");
        fill(spec, "replicas", 1);
        fill(spec, "revisionHistoryLimit", 10);
        each(spec, "volumeClaimTemplates", |claim| {
            fill_zero(claim, "apiVersion", "v1");
            fill_zero(claim, "kind", "PersistentVolumeClaim");
            fill(object(claim, "spec"), "volumeMode", "Filesystem");
            fill_zero(object(claim, "status"), "phase", "Pending");
        });
        pod_spec::template(object(spec, "template"));
    }

    fn prepare(&self, _cx: &WriteContext<'_>, new: &mut Object, old: Option<&Object>) {
        if old.is_none() {
            new.set(&["status"], json!({"replicas": 0, "availableReplicas": 0}));
        }
    }

    fn validate(&self, cx: &WriteContext<'_>, new: &Object, old: Option<&Object>) -> Vec<FieldError> {
        let mut errors = Errors::default();
        if !cx.subresource.is_empty() {
            return errors.0;
        }
        let policy = new.str_at(&["spec", "podManagementPolicy"]);
        errors.one_of("spec.podManagementPolicy", policy, &["OrderedReady", "Parallel"]);
        let kind = new.str_at(&["spec", "updateStrategy", "type"]);
        errors.one_of("spec.updateStrategy", kind, &["OnDelete", "RollingUpdate"]);
        errors.non_negative("spec.replicas", new.i64_at(&["spec", "replicas"]));
        errors.non_negative("spec.minReadySeconds", new.i64_at(&["spec", "minReadySeconds"]));
        selected_template(new, "statefulset", &mut errors);
        if let Some(old) = old {
            fixed_stateful_set(new, old, &mut errors);
        }
        errors.0
    }
}

/// A StatefulSet's identity is fixed: only what does not touch existing claims and names may change.
fn fixed_stateful_set(new: &Object, old: &Object, errors: &mut Errors) {
    const FREE: [&str; 7] = [
        "replicas",
        "ordinals",
        "template",
        "updateStrategy",
        "revisionHistoryLimit",
        "persistentVolumeClaimRetentionPolicy",
        "minReadySeconds",
    ];
    let fixed = |o: &Object| {
        let mut spec = o.at(&["spec"]).and_then(Value::as_object).cloned().unwrap_or_default();
        spec.retain(|key, _| !FREE.contains(&key.as_str()));
        spec
    };
    if fixed(new) != fixed(old) {
        errors.forbidden(
            "spec",
            "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
        );
    }
}

/// The selector names something, and the template carries its labels.
fn selected_template(new: &Object, kind: &str, errors: &mut Errors) {
    let selector = new.at(&["spec", "selector"]);
    match selector {
        None => errors.required("spec.selector", ""),
        Some(selector) => {
            label_selector("spec.selector", selector, errors);
            if is_empty_selector(selector) {
                let detail = format!("empty selector is invalid for {kind}");
                errors.invalid("spec.selector", selector.clone(), detail);
            }
        }
    }
    let owner = if kind == "daemonset" { "DaemonSet" } else { "ReplicaSet" };
    let template = new.at(&["spec", "template"]).cloned().unwrap_or_else(|| json!({}));
    let selector = selector.cloned().unwrap_or_default();
    pod_spec::replicated_template("spec.template", &template, &selector, owner, errors);
}

fn same_selector(new: &Object, old: Option<&Object>, errors: &mut Errors) {
    if let Some(old) = old {
        errors.immutable("spec.selector", new.at(&["spec", "selector"]), old.at(&["spec", "selector"]));
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
            let percent = rolling["maxUnavailable"].as_str().is_some();
            if percent && number(&rolling["maxUnavailable"]).is_some_and(|n| n > 100) {
                errors.invalid(&*at, rolling["maxUnavailable"].clone(), "must not be greater than 100%");
            }
        }
        _ => errors.0.push(FieldError::not_supported(at, &strategy, &["Recreate", "RollingUpdate"])),
    }
}

fn number(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_str()?.strip_suffix('%')?.parse().ok())
}

fn int_or_percent(at: &str, value: &Value, errors: &mut Errors) {
    match value {
        Value::String(text) if number(value).is_none_or(|n| n < 0) => {
            let detail = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')";
            errors.invalid(at, &**text, detail);
        }
        number => errors.non_negative(at, number.as_i64()),
    }
}
