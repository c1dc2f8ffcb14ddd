//! Whether an applied configuration has the form that its kind's schema demands, in upstream's words.

use std::collections::HashSet;

use serde_json::Value;

use super::element;
use super::place::{Place, Rule};
use crate::patch::strategic::go_value;
use crate::schema::{LeafKind, Type};

/// All that is wrong, as one text; `None` where nothing is.
pub(super) fn validate(root: Place<'_>, object: &Value) -> Option<String> {
    let mut errors = vec![];
    check(root, object, &mut String::new(), &mut errors);
    match &errors[..] {
        [] => None,
        [one] => Some(one.clone()),
        many => Some(format!("errors:\n  {}", many.join("\n  "))),
    }
}

fn check(place: Place<'_>, value: &Value, path: &mut String, errors: &mut Vec<String>) {
    if value.is_null() {
        return;
    }
    let expected = match (place.ty(), value) {
        (None, _) => None,
        (Some(Type::Struct(_) | Type::Map(_)), Value::Object(_)) => None,
        (Some(Type::Struct(_) | Type::Map(_)), other) => {
            Some(format!("expected map, got &{{{}}}", go_value(other)))
        }
        (Some(Type::List(_)), Value::Array(_)) => None,
        (Some(Type::List(_)), other) => Some(format!("expected list, got &{{{}}}", go_value(other))),
        (Some(Type::Leaf(leaf)), value) => scalar(leaf.kind, value),
    };
    if let Some(why) = expected {
        errors.push(format!("{path}: {why}"));
        return;
    }
    let end = path.len();
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                element::show(&element::field(name), path);
                let known = !place.is_closed() || place.declares(name);
                if known {
                    check(place.child(name), value, path, errors);
                } else {
                    errors.push(format!("{path}: field not declared in schema"));
                }
                path.truncate(end);
                if !known {
                    break;
                }
            }
        }
        Value::Array(items) => check_items(place, items, path, errors),
        _ => {}
    }
}

fn check_items(place: Place<'_>, items: &[Value], path: &mut String, errors: &mut Vec<String>) {
    let (rule, item, end) = (place.rule([None, None]), place.item(), path.len());
    let mut seen = HashSet::new();
    for (i, value) in items.iter().enumerate() {
        if matches!(rule, Rule::Keyed(_) | Rule::Set) {
            match rule.element(value, item) {
                Ok(element) => {
                    element::show(&element, path);
                    if seen.contains(&element) {
                        errors.push(format!("{}: duplicate entries for key {}", &path[..end], &path[end..]));
                    }
                    seen.insert(element);
                }
                Err(why) => {
                    errors.push(format!("{path}: element {i}: {why}"));
                    return;
                }
            }
        } else {
            path.push_str(&format!("[{i}]"));
        }
        check(item, value, path, errors);
        path.truncate(end);
    }
}

fn scalar(kind: LeafKind, value: &Value) -> Option<String> {
    let is_scalar = !value.is_object() && !value.is_array();
    match kind {
        LeafKind::Int32 | LeafKind::Int64 | LeafKind::Double => {
            (!value.is_number()).then(|| format!("expected numeric (int or float), got {}", go_type(value)))
        }
        LeafKind::String | LeafKind::Bytes | LeafKind::Duration => (!value.is_string())
            .then(|| format!("expected string, got &value.valueUnstructured{{Value:{}}}", go_value(value))),
        LeafKind::Bool => {
            (!value.is_boolean()).then(|| format!("expected boolean, got &{{{}}}", go_value(value)))
        }
        LeafKind::Quantity | LeafKind::Time | LeafKind::MicroTime | LeafKind::IntOrString => {
            (!is_scalar).then(|| format!("expected any scalar, got &{{{}}}", go_value(value)))
        }
        LeafKind::Raw
        | LeafKind::Fields
        | LeafKind::Json
        | LeafKind::SchemaOrBool
        | LeafKind::SchemaOrArray
        | LeafKind::SchemaOrStrings => None,
    }
}

fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(n) if n.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}
