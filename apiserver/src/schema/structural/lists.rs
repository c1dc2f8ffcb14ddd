//! Lists that are sets or maps: no item, and no key, comes twice.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::Structural;
use crate::field::FieldError;

/// Duplicates in lists that may have none.
pub(crate) fn duplicates(object: &Value, schema: &Structural) -> Vec<FieldError> {
    let mut errors = vec![];
    walk(object, schema, "", &mut errors);
    errors
}

fn walk(value: &Value, schema: &Structural, path: &str, errors: &mut Vec<FieldError>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let Some(field) = schema.field(key) else { continue };
                let named = schema.properties.contains_key(&**key);
                let path = match (path, named) {
                    ("", true) => key.clone(),
                    (_, true) => format!("{path}.{key}"),
                    (_, false) => format!("{path}[{key}]"),
                };
                walk(value, field, &path, errors);
            }
        }
        Value::Array(items) => {
            match &*schema.list_type {
                "set" => set(items, path, errors),
                "map" => map(items, schema, path, errors),
                _ => {}
            }
            let Some(schema) = &schema.items else { return };
            for (i, item) in items.iter().enumerate() {
                walk(item, schema, &format!("{path}[{i}]"), errors);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn set(items: &[Value], path: &str, errors: &mut Vec<FieldError>) {
    for i in seconds(items.iter().map(Value::to_string)) {
        errors.push(FieldError::duplicate(format!("{path}[{i}]"), &items[i]));
    }
}

fn map(items: &[Value], schema: &Structural, path: &str, errors: &mut Vec<FieldError>) {
    if let Some((i, item)) = items.iter().enumerate().find(|(_, i)| !i.is_object() && !i.is_null()) {
        let why = "must be an object for an array of list-type map";
        return errors.push(FieldError::invalid(format!("{path}[{i}]"), item, why));
    }
    let keys: Vec<Value> = items
        .iter()
        .map(|item| {
            let of = |key: &str| item.get(key).cloned();
            schema
                .list_keys
                .iter()
                .filter_map(|k| Some((k.to_string(), of(k)?)))
                .collect::<Map<_, _>>()
                .into()
        })
        .collect();
    for i in seconds(keys.iter().map(Value::to_string)) {
        errors.push(FieldError::duplicate(format!("{path}[{i}]"), &keys[i]));
    }
}

/// Where each value that comes more than once does so for the first time.
fn seconds(texts: impl Iterator<Item = String>) -> Vec<usize> {
    let mut seen: HashMap<String, usize> = HashMap::new();
    let mut found = vec![];
    for (i, text) in texts.enumerate() {
        let times = seen.entry(text).or_default();
        *times += 1;
        if *times == 2 {
            found.push(i);
        }
    }
    found
}
