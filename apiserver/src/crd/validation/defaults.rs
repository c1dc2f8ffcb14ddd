//! Whether the defaults in a schema are as the schema itself wants values.

use serde_json::Value;

use super::invalid;
use crate::field::FieldError;
use crate::schema::structural::{self, Structural};

pub(super) fn validate(at: &str, schema: &Value) -> Vec<FieldError> {
    let mut errors = vec![];
    walk(at, schema, &mut errors);
    errors
}

fn walk(at: &str, schema: &Value, errors: &mut Vec<FieldError>) {
    let default = &schema["default"];
    if !default.is_null() {
        let of = Structural::parse(schema);
        let here = format!("{at}.default");
        let mut pruned = default.clone();
        if !structural::prune_value(&mut pruned, &of).is_empty() {
            errors.push(invalid(&*here, default.clone(), "must not have unknown fields"));
        }
        errors.extend(structural::validate(default, None, &of, &here));
    }
    if schema["items"].is_object() {
        walk(&format!("{at}.items"), &schema["items"], errors);
    }
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        walk(&format!("{at}.properties[{name}]"), field, errors);
    }
}
