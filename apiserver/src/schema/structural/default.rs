//! Defaults: what a schema says of fields that nobody set. Nulls of fields that may not be null count as absent.

use serde_json::Value;

use super::{Additional, Structural};
use crate::limits;

/// What becomes of nulls that are not allowed and have no default.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Nulls {
    /// They go: what is read from a body is treated so.
    Go,
    /// They stay, to be refused: what an apply has made is.
    Stay,
}

/// Fills in what has a default. The defaults together may add so many bytes; false where there were more.
pub(crate) fn fill(value: &mut Value, schema: &Structural, nulls: Nulls) -> bool {
    let mut filler = Filler { nulls, room: Some(limits::DEFAULTED_BYTES) };
    filler.fill(value, schema);
    filler.room.is_some()
}

struct Filler {
    nulls: Nulls,
    /// `None` once there is none.
    room: Option<usize>,
}

// === impl Filler ===

impl Filler {
    fn default(&mut self, default: &Value) -> Value {
        self.room = self.room.and_then(|room| remaining(default, room));
        if self.room.is_some() { default.clone() } else { Value::Null }
    }

    fn fill(&mut self, value: &mut Value, schema: &Structural) {
        match value {
            Value::Object(map) => {
                if self.nulls == Nulls::Go {
                    map.retain(|key, value| {
                        let field = schema.field(key);
                        !(value.is_null() && field.is_some_and(|f| f.refuses_null() && f.default.is_none()))
                    });
                }
                for (name, field) in &schema.properties {
                    let Some(default) = &field.default else { continue };
                    let absent = match map.get(&**name) {
                        None => true,
                        Some(value) => value.is_null() && field.refuses_null(),
                    };
                    if absent {
                        map.insert(name.to_string(), self.default(default));
                    }
                }
                for (key, value) in map.iter_mut() {
                    let Some(field) = schema.field(key) else { continue };
                    if let (true, Additional::Of(_), Some(default)) =
                        (value.is_null() && field.refuses_null(), &schema.additional, &field.default)
                    {
                        *value = self.default(default);
                    }
                    self.fill(value, field);
                }
            }
            Value::Array(items) => {
                let Some(schema) = &schema.items else { return };
                for item in items {
                    if let (true, Some(default)) = (item.is_null() && schema.refuses_null(), &schema.default)
                    {
                        *item = self.default(default);
                    }
                    self.fill(item, schema);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
}

/// What a value leaves of so many bytes.
fn remaining(value: &Value, room: usize) -> Option<usize> {
    let room = room.checked_sub(1)?;
    match value {
        Value::String(text) => room.checked_sub(text.len()),
        Value::Array(items) => items.iter().try_fold(room, |room, item| remaining(item, room)),
        Value::Object(map) => {
            map.iter().try_fold(room, |room, (key, value)| remaining(value, room.checked_sub(key.len())?))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => Some(room),
    }
}
