//! The schema of one version: what is not supported in it, and what its parts say of each other.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::{defaults, invalid, invalid_text, structural, text, unsupported};
use crate::field::FieldError;

const TYPES: &[&str] = &["array", "boolean", "integer", "number", "object", "string"];
const OBJECT_FIELDS: [&str; 3] = ["metadata", "kind", "apiVersion"];
const REASONS: &[&str] =
    &["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];

/// What a root schema may say where its status has an endpoint of its own.
const ROOT_KEYS: &[&str] = &[
    "description",
    "type",
    "format",
    "title",
    "maximum",
    "exclusiveMaximum",
    "minimum",
    "exclusiveMinimum",
    "maxLength",
    "minLength",
    "pattern",
    "maxItems",
    "minItems",
    "uniqueItems",
    "multipleOf",
    "required",
    "items",
    "properties",
    "externalDocs",
    "example",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-validations",
];
const ROOT_NAMES: &str = "[Description Type Format Title Maximum ExclusiveMaximum Minimum ExclusiveMinimum MaxLength MinLength Pattern MaxItems MinItems UniqueItems MultipleOf Required Items Properties ExternalDocs Example XPreserveUnknownFields XValidations]";

/// What holds at a place in the tree because of where it is.
#[derive(Clone)]
struct Place {
    /// Why there may be no default, if so.
    no_default: Option<String>,
    /// Inside the metadata of an object.
    in_metadata: bool,
}

/// `known`: the schema is that of the definition before.
pub(super) fn validate(
    at: &str,
    schema: &Value,
    has_status: bool,
    known: bool,
    errors: &mut Vec<FieldError>,
) {
    if has_status {
        root_of_status(at, schema, errors);
    }
    if schema["nullable"] == true {
        errors.push(FieldError::forbidden(format!("{at}.nullable"), "nullable cannot be true at the root"));
    }
    let mut found = structural::validate(at, schema);
    if found.is_empty() {
        found = defaults::validate(at, schema);
    }
    errors.extend(found);
    let place = Place { no_default: None, in_metadata: false };
    node(at, schema, &place, true, errors);
    errors.extend(crate::crd::rules::check(at, schema, known, errors));
}

fn root_of_status(at: &str, schema: &Value, errors: &mut Vec<FieldError>) {
    let kind = text(schema, "type");
    if !kind.is_empty() && kind != "object" {
        let why = "only \"object\" is allowed as the type at the root of the schema if the status subresource is enabled";
        return errors.push(invalid(format!("{at}.type"), kind, why));
    }
    let odd = schema.as_object().into_iter().flatten().any(|(key, value)| {
        let plain = matches!(key.as_str(), "id" | "$schema");
        let empty = matches!(value, Value::Null | Value::Bool(false)) || plain && *value == json!("");
        !empty && !ROOT_KEYS.contains(&key.as_str())
    });
    if odd {
        let why = format!(
            "only {ROOT_NAMES} fields are allowed at the root of the schema if the status subresource is enabled"
        );
        errors.push(invalid(at, schema.clone(), why));
    }
}

fn node(at: &str, schema: &Value, place: &Place, root: bool, errors: &mut Vec<FieldError>) {
    if !schema.is_object() {
        return;
    }
    unsupported_parts(at, schema, place, errors);
    if schema["uniqueItems"] == true {
        let why = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        errors.push(FieldError::forbidden(format!("{at}.uniqueItems"), why));
    }
    children(at, schema, place, root, errors);
    lists_and_maps(at, schema, errors);
    keys_of_lists(at, schema, errors);
    rules(at, schema, errors);
}

fn unsupported_parts(at: &str, schema: &Value, place: &Place, errors: &mut Vec<FieldError>) {
    let kind = text(schema, "type");
    if !kind.is_empty() && !TYPES.contains(&kind) {
        errors.push(unsupported(format!("{at}.type"), kind, TYPES));
    }
    if let (Some(why), false) = (&place.no_default, schema["default"].is_null()) {
        errors.push(FieldError::forbidden(format!("{at}.default"), format!("must not be set {why}")));
    }
    if !text(schema, "id").is_empty() {
        errors.push(FieldError::forbidden(format!("{at}.id"), "id is not supported"));
    }
    for key in ["additionalItems", "patternProperties", "definitions", "dependencies", "$ref"] {
        if !schema[key].is_null() {
            errors.push(FieldError::forbidden(format!("{at}.{key}"), format!("{key} is not supported")));
        }
    }
    if kind == "null" {
        let why = "type cannot be set to null, use nullable as an alternative";
        errors.push(FieldError::forbidden(format!("{at}.type"), why));
    }
    if schema["items"].is_array() {
        let why = "items must be a schema object and not an array";
        errors.push(FieldError::forbidden(format!("{at}.items"), why));
    }
    if place.in_metadata && schema["x-kubernetes-embedded-resource"] == true {
        let why = "must not be used inside of resource meta";
        errors.push(FieldError::forbidden(format!("{at}.x-kubernetes-embedded-resource"), why));
    }
}

fn children(at: &str, schema: &Value, place: &Place, root: bool, errors: &mut Vec<FieldError>) {
    let additional = &schema["additionalProperties"];
    let properties = schema["properties"].as_object();
    if !additional.is_null() {
        if properties.is_some_and(|p| !p.is_empty()) && *additional != true {
            let why = "additionalProperties and properties are mutual exclusive";
            errors.push(FieldError::forbidden(format!("{at}.additionalProperties"), why));
        }
        let mut below = place.clone();
        if place.in_metadata {
            below.no_default = Some("inside additionalProperties applying to object metadata".into());
        }
        node(&format!("{at}.additionalProperties"), additional, &below, false, errors);
    }
    for (name, field) in properties.into_iter().flatten() {
        let mut below = place.clone();
        let object = root || schema["x-kubernetes-embedded-resource"] == true;
        if object && OBJECT_FIELDS.contains(&name.as_str()) {
            below.in_metadata = true;
            if root {
                below.no_default = Some(format!("in top-level {name}"));
            }
        }
        node(&format!("{at}.properties[{name}]"), field, &below, false, errors);
    }
    node(&format!("{at}.not"), &schema["not"], place, false, errors);
    for key in ["allOf", "oneOf", "anyOf"] {
        for (i, one) in schema[key].as_array().into_iter().flatten().enumerate() {
            node(&format!("{at}.{key}[{i}]"), one, place, false, errors);
        }
    }
    node(&format!("{at}.items"), &schema["items"], place, false, errors);
}

fn lists_and_maps(at: &str, schema: &Value, errors: &mut Vec<FieldError>) {
    if schema["x-kubernetes-preserve-unknown-fields"] == false {
        let key = format!("{at}.x-kubernetes-preserve-unknown-fields");
        errors.push(invalid(key, false, "must be true or undefined"));
    }
    let kind = text(schema, "type");
    let wants = |key: &str, wanted: &str, errors: &mut Vec<FieldError>| {
        let why = format!("must be {wanted} if {key} is specified");
        match kind {
            _ if schema[key].is_null() || kind == wanted => return true,
            "" => errors.push(FieldError::required(format!("{at}.type"), why)),
            other => errors.push(invalid(format!("{at}.type"), other, why)),
        }
        false
    };
    wants("x-kubernetes-map-type", "object", errors);
    let map_type = text(schema, "x-kubernetes-map-type");
    if !schema["x-kubernetes-map-type"].is_null() && !matches!(map_type, "atomic" | "granular") {
        errors.push(unsupported(format!("{at}.x-kubernetes-map-type"), map_type, &["atomic", "granular"]));
    }
    let list_type = text(schema, "x-kubernetes-list-type");
    let items = &schema["items"];
    if wants("x-kubernetes-list-type", "array", errors) && list_type == "set" {
        let why = "must be atomic as item of a list with x-kubernetes-list-type=set";
        let wrong = match text(items, "type") {
            "array" if !matches!(text(items, "x-kubernetes-list-type"), "" | "atomic") => "list",
            "object" if text(items, "x-kubernetes-map-type") != "atomic" => "map",
            _ => "",
        };
        if !wrong.is_empty() {
            let shown = items["x-kubernetes-list-type"].to_string();
            errors.push(invalid_text(format!("{at}.items.x-kubernetes-{wrong}-type"), shown, why));
        }
    }
    if !schema["x-kubernetes-list-type"].is_null() && !matches!(list_type, "atomic" | "set" | "map") {
        let words = ["atomic", "set", "map"];
        errors.push(unsupported(format!("{at}.x-kubernetes-list-type"), list_type, &words));
    }
}

fn keys_of_lists(at: &str, schema: &Value, errors: &mut Vec<FieldError>) {
    const KEYS: &str = "x-kubernetes-list-map-keys";
    let list_type = text(schema, "x-kubernetes-list-type");
    let (items, list) = (&schema["items"], schema[KEYS].as_array().map(Vec::as_slice).unwrap_or_default());
    let keys: Vec<&str> = list.iter().filter_map(Value::as_str).collect();
    if !keys.is_empty() && list_type != "map" {
        let (at, why) =
            (format!("{at}.x-kubernetes-list-type"), format!("must be map if {KEYS} is non-empty"));
        match list_type {
            "" => errors.push(FieldError::required(at, why)),
            other => errors.push(invalid(at, other, why)),
        }
    }
    if list_type == "map" {
        if keys.is_empty() {
            let why = "must not be empty if x-kubernetes-list-type is map";
            errors.push(FieldError::required(format!("{at}.{KEYS}"), why));
        }
        match text(items, "type") {
            _ if items.is_null() => {
                let why = "must have a schema if x-kubernetes-list-type is map";
                errors.push(FieldError::required(format!("{at}.items"), why));
            }
            "object" => item_keys(at, items, &keys, &schema[KEYS], errors),
            other => {
                let why = "must be object if parent array's x-kubernetes-list-type is map";
                errors.push(invalid(format!("{at}.items.type"), other, why));
            }
        }
    }
    if matches!(list_type, "set" | "map") && items["nullable"] == true {
        let why = format!("cannot be nullable when x-kubernetes-list-type is {list_type}");
        errors.push(FieldError::forbidden(format!("{at}.items.nullable"), why));
    }
    if list_type != "map" {
        return;
    }
    for key in keys {
        let Some(field) = items["properties"].get(key) else { continue };
        let at = format!("{at}.items.properties[{key}]");
        let required = items["required"].as_array().is_some_and(|r| r.iter().any(|k| k == key));
        if !required && field["default"].is_null() {
            let why = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
            errors.push(FieldError::required(format!("{at}.default"), why));
        }
        if field["nullable"] == true {
            let why = "this property is in x-kubernetes-list-map-keys, so it cannot be nullable";
            errors.push(FieldError::forbidden(format!("{at}.nullable"), why));
        }
    }
}

fn item_keys(at: &str, items: &Value, keys: &[&str], shown: &Value, errors: &mut Vec<FieldError>) {
    let here = format!("{at}.x-kubernetes-list-map-keys");
    let mut seen = HashSet::new();
    for key in keys {
        match items["properties"].get(key) {
            None => {
                errors.push(invalid(&*here, shown.clone(), "entries must all be names of item properties"))
            }
            Some(field) if matches!(text(field, "type"), "array" | "object") => {
                let why = "must be a scalar type if parent array's x-kubernetes-list-type is map";
                errors.push(invalid(format!("{at}.items.properties[{key}].type"), text(items, "type"), why));
            }
            Some(_) => {}
        }
        if !seen.insert(key) {
            errors.push(invalid(&*here, shown.clone(), "must not contain duplicate entries"));
        }
    }
}

/// The form of rules; what they say is the expression language's matter.
fn rules(at: &str, schema: &Value, errors: &mut Vec<FieldError>) {
    for (i, rule) in schema["x-kubernetes-validations"].as_array().into_iter().flatten().enumerate() {
        let at = |key: &str| format!("{at}.x-kubernetes-validations[{i}].{key}");
        let (expression, message) = (text(rule, "rule"), text(rule, "message"));
        let breaks = |text: &str| text.trim().contains(['\n', '\r']);
        if expression.trim().is_empty() {
            errors.push(FieldError::required(at("rule"), "rule is not specified"));
        } else if !message.is_empty() && message.trim().is_empty() {
            errors.push(invalid(at("message"), message, "must be non-empty if specified"));
        } else if breaks(message) {
            errors.push(invalid(at("message"), message, "must not contain line breaks"));
        } else if breaks(expression) && message.trim().is_empty() {
            let why = "message must be specified if rule contains line breaks";
            errors.push(FieldError::required(at("message"), why));
        }
        let made = text(rule, "messageExpression");
        if !made.is_empty() && made.trim().is_empty() {
            let why = "messageExpression must be non-empty if specified";
            errors.push(FieldError::required(at("messageExpression"), why));
        }
        if let Some(reason) = rule["reason"].as_str().filter(|r| !REASONS.contains(r)) {
            errors.push(unsupported(at("reason"), reason, REASONS));
        }
        let path = text(rule, "fieldPath");
        if !path.is_empty() && path.trim().is_empty() {
            errors.push(invalid(at("fieldPath"), path, "must be non-empty if specified"));
        }
        if path.contains(['\n', '\r']) {
            errors.push(invalid(at("fieldPath"), path, "must not contain line breaks"));
        }
        if !path.is_empty() && crate::crd::rules::field_path(schema, path).is_none() {
            errors.push(invalid(at("fieldPath"), path, "must be a valid path"));
        }
    }
}
