//! Whether a schema is structural: every field has a type outside of the value validations, which say nothing but values.

use serde_json::{Map, Value, json};

use super::{invalid, text};
use crate::field::FieldError;
use crate::regexp::Regexp;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Item,
    Field,
}

/// All violations, sorted by their text.
pub(super) fn validate(at: &str, schema: &Value) -> Vec<FieldError> {
    let mut errors = vec![];
    invariants(at, schema, Level::Root, &mut errors);
    complete(schema, schema, at, at, &mut errors);
    errors.sort_by_key(ToString::to_string);
    errors
}

fn required(at: String, why: &str) -> FieldError {
    FieldError::required(at, why)
}

fn invariants(at: &str, schema: &Value, level: Level, errors: &mut Vec<FieldError>) {
    let kind = text(schema, "type");
    let is = |key: &str| schema[key] == true;
    if kind == "array" && !schema["items"].is_object() {
        errors.push(required(format!("{at}.items"), "must be specified"));
    }
    if schema["items"].is_object() {
        invariants(&format!("{at}.items"), &schema["items"], Level::Item, errors);
    }
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        invariants(&format!("{at}.properties[{name}]"), field, Level::Field, errors);
    }
    let additional = &schema["additionalProperties"];
    if !additional.is_null() && level == Level::Root {
        errors.push(FieldError::forbidden(
            format!("{at}.additionalProperties"),
            "must not be used at the root",
        ));
    }
    if additional.is_object() {
        invariants(&format!("{at}.additionalProperties"), additional, Level::Field, errors);
    }
    let (mixed, embedded) = (is("x-kubernetes-int-or-string"), is("x-kubernetes-embedded-resource"));
    let keeps = is("x-kubernetes-preserve-unknown-fields");
    for (on, key) in [(keeps, "preserve-unknown-fields"), (embedded, "embedded-resource")] {
        if mixed && on {
            let why = "must be false if x-kubernetes-int-or-string is true";
            errors.push(invalid(format!("{at}.x-kubernetes-{key}"), true, why));
        }
    }
    values(
        at,
        schema,
        is_int_or_string(&schema["anyOf"]),
        is_int_or_string(&schema["allOf"][0]["anyOf"]),
        errors,
    );
    let type_at = format!("{at}.type");
    if embedded && kind != "object" {
        let why = "must be object if x-kubernetes-embedded-resource is true";
        match kind {
            "" => errors.push(required(type_at, why)),
            other => errors.push(invalid(type_at, other, why)),
        }
    } else if kind.is_empty() && !mixed && !keeps {
        let why = match level {
            Level::Root => "must not be empty at the root",
            Level::Item => "must not be empty for specified array items",
            Level::Field => "must not be empty for specified object fields",
        };
        errors.push(required(type_at, why));
    } else if level == Level::Root && !kind.is_empty() && kind != "object" {
        errors.push(invalid(type_at, kind, "must be object at the root"));
    }
    if embedded && !additional.is_null() {
        let why = "must not be used if x-kubernetes-embedded-resource is set";
        errors.push(FieldError::forbidden(format!("{at}.additionalProperties"), why));
    }
    object_fields(at, schema, level, errors);
    let fields = schema["properties"].as_object().map_or(0, Map::len);
    if embedded && !keeps && fields == 0 {
        let why = "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields";
        errors.push(required(format!("{at}.properties"), why));
    }
}

/// What a schema may say of the fields that every object has.
fn object_fields(at: &str, schema: &Value, level: Level, errors: &mut Vec<FieldError>) {
    let object = level == Level::Root || schema["x-kubernetes-embedded-resource"] == true;
    for key in ["kind", "apiVersion"] {
        let Some(field) = schema["properties"].get(key).filter(|_| object) else { continue };
        if text(field, "type") != "string" {
            errors.push(invalid(
                format!("{at}.properties[{key}].type"),
                text(field, "type"),
                "must be string",
            ));
        }
    }
    let Some(metadata) = schema["properties"].get("metadata") else { return };
    let at = format!("{at}.properties[metadata]");
    if object && text(metadata, "type") != "object" {
        errors.push(invalid(format!("{at}.type"), text(metadata, "type"), "must be object"));
    }
    if level != Level::Root {
        return;
    }
    let names_only = metadata["properties"]
        .as_object()
        .is_none_or(|p| p.keys().all(|k| matches!(k.as_str(), "name" | "generateName")));
    let others = metadata.as_object().into_iter().flatten().any(|(key, value)| {
        !matches!(key.as_str(), "type" | "properties" | "default") && !value.is_null() && *value != ""
    });
    if others || !names_only {
        let why = "must not specify anything other than name and generateName, but metadata is implicitly specified";
        errors.push(FieldError::forbidden(at, why));
    }
}

fn is_int_or_string(any_of: &Value) -> bool {
    *any_of == json!([{"type": "integer"}, {"type": "string"}])
}

/// The value validations at a place. The patterns for "integer or string" may name types.
fn values(at: &str, schema: &Value, skip_any: bool, skip_first_all: bool, errors: &mut Vec<FieldError>) {
    if !skip_any {
        for (i, one) in list(schema, "anyOf").iter().enumerate() {
            nested(&format!("{at}.anyOf[{i}]"), one, false, errors);
        }
    }
    for (i, one) in list(schema, "allOf").iter().enumerate() {
        nested(&format!("{at}.allOf[{i}]"), one, skip_first_all && i == 0, errors);
    }
    for (i, one) in list(schema, "oneOf").iter().enumerate() {
        nested(&format!("{at}.oneOf[{i}]"), one, false, errors);
    }
    nested(&format!("{at}.not"), &schema["not"], false, errors);
    let pattern = text(schema, "pattern");
    if let Err(e) = Regexp::new(pattern) {
        let why = format!("must be a valid regular expression, but isn't: {e}");
        errors.push(invalid(format!("{at}.pattern"), pattern, why));
    }
}

fn list<'a>(schema: &'a Value, key: &str) -> &'a [Value] {
    schema[key].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// What stands inside a value validation.
fn nested(at: &str, schema: &Value, skip_any: bool, errors: &mut Vec<FieldError>) {
    if !schema.is_object() {
        return;
    }
    values(at, schema, skip_any, false, errors);
    nested(&format!("{at}.items"), &schema["items"], false, errors);
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        nested(&format!("{at}.properties[{name}]"), field, false, errors);
    }
    let mut forbid = |key: &str, why: &str| {
        let given = match &schema[key] {
            Value::Null | Value::Bool(false) => key == "additionalProperties" && schema[key] == false,
            Value::String(text) => !text.is_empty(),
            Value::Array(list) => !list.is_empty(),
            _ => true,
        };
        if given {
            errors.push(FieldError::forbidden(
                format!("{at}.{key}"),
                format!("must be {why} to be structural"),
            ));
        }
    };
    for (key, why) in [
        ("type", "empty"),
        ("additionalProperties", "undefined"),
        ("default", "undefined"),
        ("title", "empty"),
        ("description", "empty"),
        ("nullable", "false"),
        ("x-kubernetes-preserve-unknown-fields", "false"),
        ("x-kubernetes-embedded-resource", "false"),
        ("x-kubernetes-int-or-string", "false"),
        ("x-kubernetes-list-map-keys", "empty"),
        ("x-kubernetes-list-type", "undefined"),
        ("x-kubernetes-map-type", "undefined"),
        ("x-kubernetes-validations", "empty"),
    ] {
        forbid(key, why);
    }
    if schema["properties"].get("metadata").is_some() {
        let why = "must not be specified in a nested context";
        errors.push(FieldError::forbidden(format!("{at}.properties[metadata]"), why));
    }
}

/// Whether what value validations speak of is there structurally. `nested` is at `here`, its counterpart at `at`.
fn complete(nested: &Value, schema: &Value, at: &str, here: &str, errors: &mut Vec<FieldError>) {
    for key in ["allOf", "anyOf", "oneOf"] {
        for (i, one) in list(nested, key).iter().enumerate() {
            complete_nested(one, schema, at, &format!("{here}.{key}[{i}]"), errors);
        }
    }
    if nested["not"].is_object() {
        complete_nested(&nested["not"], schema, at, &format!("{here}.not"), errors);
    }
}

fn complete_nested(nested: &Value, schema: &Value, at: &str, here: &str, errors: &mut Vec<FieldError>) {
    complete(nested, schema, at, here, errors);
    let mut each = |nested: &Value, schema: Option<&Value>, at: String, here: String| match schema {
        None => errors.push(FieldError::required(at, format!("because it is defined in {here}"))),
        Some(schema) => complete_nested(nested, schema, &at, &here, errors),
    };
    if nested["items"].is_object() {
        let items = schema.get("items").filter(|i| i.is_object());
        each(&nested["items"], items, format!("{at}.items"), format!("{here}.items"));
    }
    for (name, field) in nested["properties"].as_object().into_iter().flatten() {
        let there = schema["properties"].get(name);
        each(field, there, format!("{at}.properties[{name}]"), format!("{here}.properties[{name}]"));
    }
}
