//! `apiregistration.k8s.io`: which group versions other servers answer.

use coracle_api::{Object, conditions};
use serde_json::{Value, json};

use super::columns::{AGE, NAME, rule};
use crate::resource::{CLUSTER, Row};

pub(super) static ROWS: &[Row] = &[Row {
    group: "apiregistration.k8s.io",
    kind: "APIService",
    plural: "apiservices",
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
    conditional_update: true,
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
