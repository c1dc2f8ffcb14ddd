//! A change said as a patch of each type.

use serde_json::{Value, json};

use super::changes::{Change, Edit};

/// The types of patches, by the word that names them in a request's name.
pub(super) const TYPES: [(&str, &str); 4] = [
    ("json", "application/json-patch+json"),
    ("merge", "application/merge-patch+json"),
    ("strategic", "application/strategic-merge-patch+json"),
    ("apply", "application/apply-patch+yaml"),
];

/// The body of a patch of this type that makes this change of the object.
pub(super) fn body(how: &str, change: &Change, object: &Value) -> Value {
    match how {
        "json" => change.edits.iter().map(|edit| operation(edit, object)).collect(),
        "apply" => change.apply(object),
        _ => {
            let changed = change.apply(object);
            let mut patch = json!({});
            for edit in &change.edits {
                nested(&mut patch, &edit.place, &changed);
            }
            patch
        }
    }
}

fn operation(edit: &Edit, object: &Value) -> Value {
    let steps: String =
        edit.place.iter().map(|s| format!("/{}", s.replace('~', "~0").replace('/', "~1"))).collect();
    match &edit.value {
        None => json!({"op": "remove", "path": steps}),
        Some(value) if object.pointer(&steps).is_some() => {
            json!({"op": "replace", "path": steps, "value": value})
        }
        Some(value) => json!({"op": "add", "path": steps, "value": value}),
    }
}

/// Puts what the changed object has at a place into a patch: the whole of the first list on the way.
fn nested(patch: &mut Value, place: &[String], changed: &Value) {
    let Some((step, rest)) = place.split_first() else { return };
    match changed.get(step) {
        Some(inner @ Value::Object(_)) if !rest.is_empty() => {
            if !patch[step.as_str()].is_object() {
                patch[step.as_str()] = json!({});
            }
            nested(&mut patch[step.as_str()], rest, inner);
        }
        other => patch[step.as_str()] = other.cloned().unwrap_or_default(),
    }
}
