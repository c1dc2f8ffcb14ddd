//! Whether the rules of a definition can be what they are: their expressions compile, and `oldSelf` has a meaning.

use serde_json::{Value as Json, json};

use super::compile::{self, SELF};
use super::types;
use crate::field::{Cause, FieldError};

/// Where a schema is.
#[derive(Clone, Copy)]
struct Place<'a> {
    at: &'a str,
    name: &'a str,
    root: bool,
    /// The first list around it whose items are not known by keys.
    uncorrelated: Option<&'a str>,
}

/// All that is wrong, the innermost first. Where `found` has something of a schema, its rules are not looked at.
pub(in crate::crd) fn check(at: &str, schema: &Json, found: &[FieldError]) -> Vec<FieldError> {
    let mut errors = vec![];
    let place = Place { at, name: SELF, root: true, uncorrelated: None };
    below(place, schema, found, &mut errors);
    errors
}

fn below(place: Place<'_>, schema: &Json, found: &[FieldError], errors: &mut Vec<FieldError>) {
    let Place { at, name, uncorrelated, .. } = place;
    let mut go = |at: String, name: String, uncorrelated: Option<&str>, schema: &Json| {
        let root = types::is_embedded(schema);
        below(Place { at: &at, name: &name, root, uncorrelated }, schema, found, errors);
    };
    if schema["additionalProperties"].is_object() {
        let at = format!("{at}.additionalProperties");
        go(at, format!("{name}.@values"), uncorrelated, &schema["additionalProperties"]);
    }
    for (key, field) in schema["properties"].as_object().into_iter().flatten() {
        go(format!("{at}.properties[{key}]"), format!("{name}.{key}"), uncorrelated, field);
    }
    if schema["items"].is_object() {
        let known = schema["x-kubernetes-list-type"] == "map";
        let uncorrelated = if known { uncorrelated } else { Some(at) };
        go(format!("{at}.items"), format!("{name}.@items"), uncorrelated, &schema["items"]);
    }
    if !found.iter().any(|e| e.field.starts_with(at)) {
        rules(place, schema, errors);
    }
}

fn rules(place: Place<'_>, schema: &Json, errors: &mut Vec<FieldError>) {
    let rules = schema["x-kubernetes-validations"].as_array().map(Vec::as_slice).unwrap_or_default();
    if rules.is_empty() {
        return;
    }
    let Some(typed) = types::of(schema, place.name, place.root) else {
        let field = format!("{}.x-kubernetes-validations", place.at);
        let why = "internal error: failed to retrieve type information for x-kubernetes-validations";
        let (cause, value) = (Cause::Internal, String::new());
        return errors.push(FieldError { field, cause, value, detail: why.to_owned() });
    };
    for (i, rule) in rules.iter().enumerate() {
        let at = |key: &str| format!("{}.x-kubernetes-validations[{i}].{key}", place.at);
        let compiled = compile::compile(rule, &typed.ty);
        let mut wrong = |key: &str, why: &str| errors.push(shown(at(key), rule, why));
        if let Err(why) = &compiled.program {
            wrong("rule", why);
        }
        if let Some(Err(why)) = &compiled.made {
            wrong("messageExpression", why);
        }
        match (compiled.uses_old, place.uncorrelated) {
            (true, Some(list)) => {
                let why = format!(
                    "oldSelf cannot be used on the uncorrelatable portion of the schema within {list}"
                );
                errors.push(FieldError::invalid(at("rule"), &rule["rule"], why));
            }
            (false, _) if !rule["optionalOldSelf"].is_null() => {
                let why = "may not be set if oldSelf is not used in rule";
                errors.push(FieldError::invalid(at("optionalOldSelf"), &rule["optionalOldSelf"], why));
            }
            _ => {}
        }
    }
}

/// A rule in upstream's internal form.
fn shown(field: String, rule: &Json, why: &str) -> FieldError {
    let text = |key: &str| json!(rule[key].as_str().unwrap_or_default());
    let value = format!(
        r#"{{"Rule":{},"Message":{},"MessageExpression":{},"Reason":{},"FieldPath":{},"OptionalOldSelf":{}}}"#,
        text("rule"),
        text("message"),
        text("messageExpression"),
        rule["reason"],
        text("fieldPath"),
        rule["optionalOldSelf"]
    );
    FieldError { field, cause: Cause::Invalid, value, detail: why.to_owned() }
}
