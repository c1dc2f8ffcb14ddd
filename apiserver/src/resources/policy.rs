//! `policy`: disruption budgets.

use coracle_api::Object;
use serde_json::{Value, json};

use super::columns::{AGE, NAME, integer, rule};
use super::validation::{Errors, label_selector};
use crate::field::FieldError;
use crate::field_names::path_segment;
use crate::resource::{NAMESPACED, Row, Strategy, WriteContext};

pub(super) static ROWS: &[Row] = &[Row {
    group: "policy",
    kind: "PodDisruptionBudget",
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

    fn validate(&self, _cx: &WriteContext<'_>, new: &Object, _old: Option<&Object>) -> Vec<FieldError> {
        let mut errors = Errors::default();
        let (min, max) = (new.at(&["spec", "minAvailable"]), new.at(&["spec", "maxUnavailable"]));
        if min.is_some() && max.is_some() {
            let spec = new.at(&["spec"]).cloned().unwrap_or_default();
            errors.invalid("spec", spec, "minAvailable and maxUnavailable cannot be both set");
        }
        for (key, value) in [("minAvailable", min), ("maxUnavailable", max)] {
            errors.non_negative(format!("spec.{key}"), value.and_then(Value::as_i64));
        }
        label_selector("spec.selector", new.at(&["spec", "selector"]).unwrap_or(&Value::Null), &mut errors);
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
