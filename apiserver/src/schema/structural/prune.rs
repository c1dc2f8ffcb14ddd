//! What is not in the schema goes: unknown fields of a custom object, unless it keeps them.

use serde_json::Value;

use super::super::normalize::{Path, Paths};
use super::{Additional, Structural};

/// The fields that every object and every embedded one has.
const OBJECT_FIELDS: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// Removes unknown fields; answers their paths.
pub(crate) fn prune(object: &mut Value, schema: &Structural) -> Vec<String> {
    let mut pruner = Pruner { unknown: Paths::default() };
    pruner.value(object, Some(schema), true, Path::Root);
    pruner.unknown.list.sort();
    pruner.unknown.list
}

/// The same of a value that is no whole object unless its schema says so.
pub(crate) fn prune_value(value: &mut Value, schema: &Structural) -> Vec<String> {
    let mut pruner = Pruner { unknown: Paths::default() };
    pruner.value(value, Some(schema), schema.embedded, Path::Root);
    pruner.unknown.list
}

struct Pruner {
    unknown: Paths,
}

// === impl Pruner ===

impl Pruner {
    /// `object`: whether this is a whole Kubernetes object.
    fn value(&mut self, value: &mut Value, schema: Option<&Structural>, object: bool, path: Path<'_>) {
        let keeps = schema.is_some_and(|s| s.preserve_unknown);
        match value {
            Value::Object(map) => map.retain(|key, value| {
                let here = Path::Key(&path, key);
                if object && OBJECT_FIELDS.contains(&key.as_str()) {
                    return true;
                }
                match (schema.and_then(|s| s.field(key)), schema.map(|s| &s.additional)) {
                    (Some(field), _) => self.value(value, Some(field), field.embedded, here),
                    (None, _) if keeps => {}
                    (None, Some(Additional::Any)) => self.value(value, None, false, here),
                    (None, _) => {
                        self.unknown.push(&here);
                        return false;
                    }
                }
                true
            }),
            Value::Array(items) => {
                let schema = schema.and_then(|s| s.items.as_deref());
                // Upstream looks into the items of what keeps unknown fields only for the fields it knows.
                if keeps && schema.is_none() {
                    return;
                }
                let embedded = schema.is_some_and(|s| s.embedded);
                for (i, item) in items.iter_mut().enumerate() {
                    self.value(item, schema, embedded, Path::Index(&path, i));
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
}
