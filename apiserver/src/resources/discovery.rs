//! `discovery.k8s.io`: endpoint slices.

use coracle_api::Object;
use serde_json::{Value, json};

use super::columns::{AGE, NAME, first_of, path, rule};
use super::defaulting::{each, fill};
use super::validation::Errors;
use crate::field::FieldError;
use crate::resource::{NAMESPACED, Row, Strategy, WriteContext};

pub(super) static ROWS: &[Row] = &[Row {
    group: "discovery.k8s.io",
    kind: "EndpointSlice",
    plural: "endpointslices",
    generation: true,
    columns: &[
        NAME,
        path("AddressType", &["addressType"]),
        rule("Ports", |o, _| json!(ports(o))),
        rule("Endpoints", |o, _| json!(addresses(o))),
        AGE,
    ],
    strategy: &Slices,
    ..NAMESPACED
}];

struct Slices;

impl Strategy for Slices {
    fn default(&self, new: &mut Object) {
        each(&mut new.0, "ports", |p| {
            fill(p, "name", "");
            fill(p, "protocol", "TCP");
        });
    }

    fn validate(&self, _cx: &WriteContext<'_>, new: &Object, old: Option<&Object>) -> Vec<FieldError> {
        let mut errors = Errors::default();
        errors.one_of("addressType", new.str_at(&["addressType"]), &["FQDN", "IPv4", "IPv6"]);
        for (i, endpoint) in new.items_at(&["endpoints"]).iter().enumerate() {
            if endpoint["addresses"].as_array().is_none_or(Vec::is_empty) {
                let detail = "must contain at least 1 address";
                errors.required(format!("endpoints[{i}].addresses"), detail);
            }
        }
        if let Some(old) = old {
            errors.immutable("addressType", new.at(&["addressType"]), old.at(&["addressType"]));
        }
        errors.0
    }
}

fn ports(o: &Object) -> String {
    let text = |p: &Value| match (&p["port"], p["name"].as_str()) {
        (Value::Null, Some(name)) => name.to_owned(),
        (Value::Null, None) => "*".to_owned(),
        (number, _) => number.to_string(),
    };
    let all: Vec<String> = o.items_at(&["ports"]).iter().map(text).collect();
    first_of(&all, 3, "<unset>")
}

fn addresses(o: &Object) -> String {
    let all: Vec<String> = o
        .items_at(&["endpoints"])
        .iter()
        .flat_map(|e| e["addresses"].as_array().into_iter().flatten())
        .filter_map(|a| a.as_str().map(str::to_owned))
        .collect();
    first_of(&all, 3, "<unset>")
}
