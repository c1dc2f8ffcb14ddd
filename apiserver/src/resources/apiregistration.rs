//! `apiregistration.k8s.io`: which group versions other servers answer.

use coracle_api::{Object, conditions};
use serde_json::{Value, json};

use super::columns::{AGE, NAME, rule};
use super::validation::Errors;
use crate::field::FieldError;
use crate::field_names::{dns1035_label, dns1123_subdomain};
use crate::resource::{CLUSTER, Row, Strategy, WriteContext};

pub(super) static ROWS: &[Row] = &[Row {
    group: "apiregistration.k8s.io",
    kind: "APIService",
    plural: "apiservices",
    resets: &[("status", &[&["metadata"], &["spec"]])],
    categories: &["api-extensions"],
    status: true,
    columns: &[
        NAME,
        rule("Service", |o, _| match o.at(&["spec", "service"]) {
            Some(s) => {
                let text = |key: &str| s[key].as_str().unwrap_or_default();
                json!(format!("{}/{}", text("namespace"), text("name")))
            }
            None => json!("Local"),
        }),
        rule("Available", |o, _| available(o)),
        AGE,
    ],
    strategy: &Services,
    conditional_update: true,
    free_finalizers: true,
    ..CLUSTER
}];

fn available(o: &Object) -> Value {
    match conditions::find(o.items_at(&["status", "conditions"]), "Available") {
        Some(c) if c["status"] == "True" => json!("True"),
        Some(c) => {
            let text = |key: &str| c[key].as_str().unwrap_or_default();
            json!(format!("{} ({})", text("status"), text("reason")))
        }
        None => json!("Unknown"),
    }
}

struct Services;

impl Strategy for Services {
    /// The rule for names needs the spec: it is in `validate`.
    fn validate_name(&self, _name: &str) -> Vec<String> {
        vec![]
    }

    fn validate(&self, _cx: &WriteContext<'_>, new: &Object, _old: Option<&Object>) -> Vec<FieldError> {
        let mut errors = Errors::default();
        let text = |key: &str| new.str_at(&["spec", key]);
        let (group, version) = (text("group"), text("version"));
        let name = format!("{version}.{group}");
        if !new.name().is_empty() && new.name() != name {
            let detail = format!("must be `spec.version+\".\"+spec.group`: {name:?}");
            errors.invalid("metadata.name", new.name(), detail);
        }
        match group {
            "" if version != "v1" => {
                errors.required("spec.group", "only v1 may have an empty group and it better be legacy kube");
            }
            "" => {}
            group => errors.all_invalid("spec.group", group, dns1123_subdomain(group)),
        }
        errors.all_invalid("spec.version", version, dns1035_label(version));
        for (key, below) in [("groupPriorityMinimum", 20_000), ("versionPriority", 1000)] {
            let value = new.i64_at(&["spec", key]).unwrap_or(0);
            if !(1..=below).contains(&value) {
                let detail = format!("must be positive and less than {below}");
                errors.invalid(format!("spec.{key}"), value, detail);
            }
        }
        errors.0
    }
}
