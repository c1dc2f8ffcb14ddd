//! What is not in the schema goes: unknown fields of a custom object, unless it keeps them.

use serde_json::Value;

use super::super::normalize::{Path, Paths};
use super::{Additional, Structural};

/// The fields that every object and every embedded one has.
const OBJECT_FIELDS: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// Removes unknown fields; answers their paths.
pub(crate) fn prune(object: &mut Value, schema: &Structural) -> Vec<String> {
    let mut pruner = Pruner { unknown: Paths::default() };
    pruner.value(object, Some(schema), Keeps { object: true, unknown: false }, Path::Root);
    pruner.unknown.list.sort();
    pruner.unknown.list
}

/// The same of a value that is no whole object unless its schema says so.
pub(crate) fn prune_value(value: &mut Value, schema: &Structural) -> Vec<String> {
    let mut pruner = Pruner { unknown: Paths::default() };
    pruner.value(value, Some(schema), Keeps::by(Some(schema)), Path::Root);
    pruner.unknown.list
}

struct Pruner {
    unknown: Paths,
}

/// What a place keeps beyond the fields of its schema.
#[derive(Clone, Copy)]
struct Keeps {
    /// It is a whole Kubernetes object.
    object: bool,
    /// It is an item of a list that keeps unknown fields, at any depth of lists.
    unknown: bool,
}

// === impl Keeps ===

impl Keeps {
    fn by(schema: Option<&Structural>) -> Self {
        Keeps { object: schema.is_some_and(|s| s.embedded), unknown: false }
    }
}

// === impl Pruner ===

impl Pruner {
    fn value(&mut self, value: &mut Value, schema: Option<&Structural>, keeps: Keeps, path: Path<'_>) {
        let unknown = keeps.unknown || schema.is_some_and(|s| s.preserve_unknown);
        if unknown && schema.is_none() {
            return;
        }
        match value {
            Value::Object(map) => map.retain(|key, value| {
                let here = Path::Key(&path, key);
                if keeps.object && OBJECT_FIELDS.contains(&key.as_str()) {
                    return true;
                }
                match (schema.and_then(|s| s.field(key)), schema.map(|s| &s.additional)) {
                    (Some(field), _) => self.value(value, Some(field), Keeps::by(Some(field)), here),
                    (None, Some(Additional::Any)) => self.value(value, None, Keeps::by(None), here),
                    (None, _) if unknown => {}
                    (None, _) => {
                        self.unknown.push(&here);
                        return false;
                    }
                }
                true
            }),
            Value::Array(items) => {
                let schema = schema.and_then(|s| s.items.as_deref());
                let keeps = Keeps { unknown, ..Keeps::by(schema) };
                for (i, item) in items.iter_mut().enumerate() {
                    self.value(item, schema, keeps, Path::Index(&path, i));
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
}
