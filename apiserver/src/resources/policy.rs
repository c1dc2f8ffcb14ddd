//! `policy`: disruption budgets.

use coracle_api::Object;
use serde_json::{Value, json};

use super::apps::{at_most_all, int_or_percent};
use super::columns::{AGE, NAME, integer, rule};
use super::located::{Located, conditions};
use super::validation::Errors;
use crate::field::FieldError;
use crate::field_names::path_segment;
use crate::resource::{NAMESPACED, Row, Strategy, WriteContext};

pub(super) static ROWS: &[Row] = &[Row {
    group: "policy",
    kind: "PodDisruptionBudget",
    metadata_looks: [0, 0],
    plural: "poddisruptionbudgets",
    short: &["pdb"],
    status: true,
    generation: true,
    columns: &[
        NAME,
        rule("Min Available", |o, _| bound(o, "minAvailable")),
        rule("Max Unavailable", |o, _| bound(o, "maxUnavailable")),
        integer("Allowed Disruptions", &["status", "disruptionsAllowed"]),
        AGE,
    ],
    strategy: &Budgets,
    conditional_update: true,
    free_finalizers: true,
    ..NAMESPACED
}];

struct Budgets;

impl Strategy for Budgets {
    fn validate_name(&self, name: &str, _of: &Object) -> Vec<String> {
        path_segment(name)
    }

    fn prepare(&self, _cx: &WriteContext<'_>, new: &mut Object, old: Option<&Object>) {
        if old.is_none() {
            let zero =
                json!({"disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0});
            new.set(&["status"], zero);
        }
    }

    fn validates(&self, _subresource: &str) -> bool {
        true
    }

    fn validate(&self, cx: &WriteContext<'_>, new: &Object, old: Option<&Object>) -> Vec<FieldError> {
        let mut errors = Errors::default();
        let new = Located::root(new);
        if cx.subresource == "status" {
            let status = new.at("status");
            conditions(&status.at("conditions"), &mut errors);
            for count in ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"] {
                status.at(count).not_negative(&mut errors);
            }
            return errors.0;
        }
        let spec = new.at("spec");
        let bounds = [spec.at("minAvailable"), spec.at("maxUnavailable")];
        if bounds.iter().all(Located::is_set) {
            spec.wrong("minAvailable and maxUnavailable cannot be both set", &mut errors);
        }
        for bound in bounds.iter().filter(|b| b.is_set()) {
            int_or_percent(bound.path(), bound.value(), &mut errors);
            at_most_all(bound.path(), bound.value(), &mut errors);
        }
        let before = old.map(|o| Located::root(o).at("spec").at("selector"));
        spec.at("selector").label_selector_unlike(before.as_ref(), &mut errors);
        spec.at("unhealthyPodEvictionPolicy").one_of(&["AlwaysAllow", "IfHealthyBudget"], &mut errors);
        errors.0
    }
}

fn bound(o: &Object, key: &str) -> Value {
    match o.at(&["spec", key]) {
        Some(Value::String(text)) => json!(text),
        Some(number) => json!(number.to_string()),
        None => json!("N/A"),
    }
}
