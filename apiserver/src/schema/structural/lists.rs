//! Lists that are sets or maps: no item, and no key, comes twice.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::Structural;
use super::told::{At, Told};
use crate::codec::html_safe;
use crate::field::FieldError;

/// Duplicates in lists that may have none.
pub(crate) fn duplicates(object: &Value, schema: &Structural) -> Vec<FieldError> {
    let mut told = Told::new();
    walk(object, schema, At::Root, &mut told);
    told.errors
}

fn walk(value: &Value, schema: &Structural, path: At<'_>, told: &mut Told) {
    if told.is_full() {
        return;
    }
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let Some(field) = schema.field(key) else { continue };
                let named = schema.properties.contains_key(&**key);
                let path = if named { At::Field(&path, key) } else { At::Keyed(&path, key) };
                walk(value, field, path, told);
            }
        }
        Value::Array(items) => {
            match &*schema.list_type {
                "set" => set(items, path, told),
                "map" => map(items, schema, path, told),
                _ => {}
            }
            let Some(schema) = &schema.items else { return };
            for (i, item) in items.iter().enumerate() {
                walk(item, schema, At::Item(&path, i), told);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn set(items: &[Value], path: At<'_>, told: &mut Told) {
    for i in seconds(items.iter().map(Value::to_string)) {
        told.add(|| duplicate(path, i, &items[i]));
    }
}

fn map(items: &[Value], schema: &Structural, path: At<'_>, told: &mut Told) {
    if let Some((i, item)) = items.iter().enumerate().find(|(_, i)| !i.is_object() && !i.is_null()) {
        let why = "must be an object for an array of list-type map";
        return told.add(|| FieldError::invalid(At::Item(&path, i).text(), item, why));
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
        told.add(|| duplicate(path, i, &keys[i]));
    }
}

/// Upstream shows the value as Go's encoder writes it, which is safe inside HTML.
fn duplicate(path: At<'_>, i: usize, value: &Value) -> FieldError {
    let error = FieldError::duplicate(At::Item(&path, i).text(), &Value::Null);
    FieldError { value: html_safe(&value.to_string()).into_owned(), ..error }
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
