//! `node.k8s.io`: runtime classes.

use coracle_api::Object;
use serde_json::json;

use super::columns::{AGE, NAME, path};
use super::located::Located;
use super::pod_spec::{outdated_node_label, resources, toleration};
use super::validation::Errors;
use crate::field::FieldError;
use crate::field_names::dns1123_label;
use crate::resource::{CLUSTER, Row, Strategy, WriteContext};

pub(super) static ROWS: &[Row] = &[Row {
    group: "node.k8s.io",
    kind: "RuntimeClass",
    metadata_looks: [2, 1],
    plural: "runtimeclasses",
    columns: &[NAME, path("Handler", &["handler"]), AGE],
    strategy: &RuntimeClasses,
    create_on_update: true,
    conditional_update: true,
    free_finalizers: true,
    ..CLUSTER
}];

struct RuntimeClasses;

impl Strategy for RuntimeClasses {
    fn validate(&self, _cx: &WriteContext<'_>, new: &Object, old: Option<&Object>) -> Vec<FieldError> {
        let mut errors = Errors::default();
        let new = Located::root(new);
        let handler = new.at("handler");
        handler.required_as(dns1123_label, &mut errors);
        let overhead = new.at("overhead");
        if overhead.is_set() {
            let limits = json!({"limits": overhead.at("podFixed").value()});
            resources(overhead.path(), &limits, &mut errors);
        }
        scheduling(&new.at("scheduling"), &mut errors);
        if let Some(old) = old {
            handler.immutable(&Located::root(old).at("handler"), &mut errors);
        }
        errors.0
    }

    fn warnings(&self, new: &Object, _old: Option<&Object>) -> Vec<String> {
        let labels = Located::root(new).at("scheduling").at("nodeSelector");
        let why = |(key, _)| outdated_node_label(key);
        labels.entries().filter_map(why).map(|why| format!("{}: {why}", labels.path())).collect()
    }
}

/// Nodes that can run such pods; a toleration is named once.
fn scheduling(at: &Located<'_>, errors: &mut Errors) {
    at.at("nodeSelector").labels(errors);
    let tolerations = at.at("tolerations");
    for t in tolerations.each() {
        toleration(t.path(), t.value(), errors);
    }
    let mut seen = vec![];
    for t in tolerations.each() {
        let key = ["key", "operator", "value", "effect"].map(|field| t.at(field).text());
        if seen.contains(&key) {
            t.duplicate(errors);
        } else {
            seen.push(key);
        }
    }
}
