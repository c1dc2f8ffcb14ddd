//! Defaults: what a schema says of fields that nobody set. Nulls of fields that may not be null count as absent.

use serde_json::Value;

use super::{Additional, Structural};

/// Removes nulls that are not allowed and fills in what has a default.
pub(crate) fn fill(value: &mut Value, schema: &Structural) {
    match value {
        Value::Object(map) => {
            map.retain(|key, value| {
                let field = schema.field(key);
                !(value.is_null() && field.is_some_and(|f| f.refuses_null() && f.default.is_none()))
            });
            for (name, field) in &schema.properties {
                let Some(default) = &field.default else { continue };
                let absent = match map.get(&**name) {
                    None => true,
                    Some(value) => value.is_null() && field.refuses_null(),
                };
                if absent {
                    map.insert(name.to_string(), default.clone());
                }
            }
            for (key, value) in map.iter_mut() {
                let Some(field) = schema.field(key) else { continue };
                if let (true, Additional::Of(_), Some(default)) =
                    (value.is_null() && field.refuses_null(), &schema.additional, &field.default)
                {
                    *value = default.clone();
                }
                fill(value, field);
            }
        }
        Value::Array(items) => {
            let Some(schema) = &schema.items else { return };
            for item in items {
                if let (true, Some(default)) = (item.is_null() && schema.refuses_null(), &schema.default) {
                    *item = default.clone();
                }
                fill(item, schema);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
