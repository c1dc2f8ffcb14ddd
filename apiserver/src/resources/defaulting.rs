//! The vocabulary of defaulting: fill what is absent, in one JSON map at a time.

use serde_json::{Value, json};

/// Sets `key` where it is absent. `null`, the empty string and zero numbers of fields that Go would omit count as absent
/// only through [`fill_zero`].
pub(super) fn fill(map: &mut Value, key: &str, value: impl Into<Value>) {
    if let Some(map) = map.as_object_mut() {
        let slot = map.entry(key).or_insert(Value::Null);
        if slot.is_null() {
            *slot = value.into();
        }
    }
}

/// Sets `key` where it is absent or holds the zero value of its Go type.
pub(super) fn fill_zero(map: &mut Value, key: &str, value: impl Into<Value>) {
    if let Some(map) = map.as_object_mut() {
        let slot = map.entry(key).or_insert(Value::Null);
        if slot.is_null() || *slot == json!("") || *slot == json!(0) {
            *slot = value.into();
        }
    }
}

/// Applies a rule to every element of a list field; an absent list has none.
pub(super) fn each(map: &mut Value, key: &str, rule: impl FnMut(&mut Value)) {
    if let Some(items) = map.get_mut(key).and_then(Value::as_array_mut) {
        items.iter_mut().for_each(rule);
    }
}

/// Applies a rule to a field that is present.
pub(super) fn within(map: &mut Value, key: &str, rule: impl FnOnce(&mut Value)) {
    if let Some(value) = map.get_mut(key).filter(|v| v.is_object()) {
        rule(value);
    }
}

/// The object in a field, made where it is absent.
pub(super) fn object<'a>(map: &'a mut Value, key: &str) -> &'a mut Value {
    if !map.is_object() {
        *map = json!({});
    }
    let slot = map.as_object_mut().expect("made an object above").entry(key).or_insert(Value::Null);
    if !slot.is_object() {
        *slot = json!({});
    }
    slot
}
