//! Nodes: what they can take, their taints, and how they show.

use coracle_api::{Object, conditions};
use serde_json::{Value, json};

use super::super::columns::{AGE, NAME, or, path, rule, wide};
use super::super::located::Located;
use super::super::pod_spec::round_up_to_millis;
use super::super::validation::Errors;
use super::node_rules as rules;
use super::proxy;
use crate::field::FieldError;
use crate::resource::{CLUSTER, Column, Row, SelectableField, Strategy, WriteContext};

pub(super) const ROW: Row = Row {
    kind: "Node",
    metadata_looks: [2, 1],
    plural: "nodes",
    short: &["no"],
    status: true,
    fields: &[SelectableField {
        label: "spec.unschedulable",
        path: &["spec", "unschedulable"],
        absent: "false",
        or: &[],
    }],
    columns: COLUMNS,
    subresources: &[proxy("NodeProxyOptions")],
    strategy: &Nodes,
    status_on_create: true,
    ..CLUSTER
};

const COLUMNS: &[Column] = &[
    NAME,
    rule("Status", |o, _| status(o)),
    rule("Roles", |o, _| roles(o)),
    AGE,
    path("Version", &["status", "nodeInfo", "kubeletVersion"]),
    wide(rule("Internal-IP", |o, _| address(o, "InternalIP"))),
    wide(rule("External-IP", |o, _| address(o, "ExternalIP"))),
    wide(rule("OS-Image", |o, _| or(o, &["status", "nodeInfo", "osImage"], "<unknown>"))),
    wide(rule("Kernel-Version", |o, _| kernel(o))),
    wide(rule("Container-Runtime", |o, _| {
        or(o, &["status", "nodeInfo", "containerRuntimeVersion"], "<unknown>")
    })),
];

struct Nodes;

impl Strategy for Nodes {
    fn default(&self, new: &mut Object) {
        for list in ["capacity", "allocatable"] {
            if let Some(list) = new.0.get_mut("status").and_then(|s| s.get_mut(list)) {
                round_up_to_millis(list);
            }
        }
        if let Some(capacity) = new.at(&["status", "capacity"]).cloned() {
            new.set_default(&["status", "allocatable"], capacity);
        }
        // The older field is the first of the newer ones.
        let only = new.str_at(&["spec", "podCIDR"]).to_owned();
        let first = new.items_at(&["spec", "podCIDRs"]).first().and_then(Value::as_str).unwrap_or_default();
        if !only.is_empty() && first != only {
            new.set(&["spec", "podCIDRs"], json!([only]));
        } else if only.is_empty() && !first.is_empty() {
            let first = first.to_owned();
            new.set(&["spec", "podCIDR"], first);
        }
    }

    fn validates(&self, subresource: &str) -> bool {
        matches!(subresource, "" | "status")
    }

    fn warnings(&self, new: &Object, _old: Option<&Object>) -> Vec<String> {
        let outdated = new.at(&["spec", "externalID"]).is_some();
        let text = "spec.externalID: this field is deprecated, and is unused by Kubernetes";
        outdated.then(|| text.to_owned()).into_iter().collect()
    }

    fn validate(&self, cx: &WriteContext<'_>, new: &Object, old: Option<&Object>) -> Vec<FieldError> {
        let mut errors = Errors::default();
        let new = Located::root(new);
        if cx.subresource.is_empty() {
            rules::node(&new, &mut errors);
        }
        if let Some(old) = old {
            rules::update(&new, &Located::root(old), &mut errors);
        }
        errors.0
    }
}

fn status(o: &Object) -> Value {
    let ready = conditions::find(o.items_at(&["status", "conditions"]), "Ready");
    let word = match ready {
        Some(c) if c["status"] == "True" => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    };
    match o.bool_at(&["spec", "unschedulable"]) {
        Some(true) => json!(format!("{word},SchedulingDisabled")),
        _ => json!(word),
    }
}

fn roles(o: &Object) -> Value {
    let mut roles: Vec<&str> = o
        .labels()
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => Some(role),
            None if key == "kubernetes.io/role" => value.as_str(),
            None => None,
        })
        .filter(|role| !role.is_empty())
        .collect();
    roles.sort_unstable();
    roles.dedup();
    if roles.is_empty() { json!("<none>") } else { json!(roles.join(",")) }
}

fn address(o: &Object, kind: &str) -> Value {
    let all = o.items_at(&["status", "addresses"]);
    all.iter().find(|a| a["type"] == kind).map_or(json!("<none>"), |a| a["address"].clone())
}

fn kernel(o: &Object) -> Value {
    let version = match o.str_at(&["status", "nodeInfo", "kernelVersion"]) {
        "" => "<unknown>",
        version => version,
    };
    match o.str_at(&["status", "nodeInfo", "architecture"]) {
        "" => json!(version),
        architecture => json!(format!("{version} ({architecture})")),
    }
}
