//! Hostile configurations and `managedFields`: what is owned can be read again, and who says the same twice changes nothing.

use coracle_api::{Gvk, Object};
use serde_json::{Value, json};

use super::managers::Managers;
use super::{MANAGED_FIELDS, Writing, apply, track};
use crate::codec::depth;
use crate::fuzz::first_line;
use crate::limits;
use crate::schema::Schema;
use crate::status::{Result, Status};

/// A line `apiVersion Kind`, then steps that begin with NUL: a line `manager operation subresource`, and the object or
/// configuration.
pub(crate) fn steps(bytes: &[u8]) {
    let (line, rest) = first_line(bytes);
    let (api_version, kind) = line.split_once(' ').unwrap_or(("v1", &line));
    let gvk = Gvk::from_api_version(api_version, kind);
    if gvk.version.is_empty() {
        // No path leads to such a kind.
        return;
    }
    let schema = Schema::builtin(&gvk).unwrap_or_else(|| {
        let map = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
        let list = json!({"type": "array", "items": map, "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["name"]});
        let set = json!({"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"});
        let spec = json!({"type": "object", "properties": {"map": map, "list": list, "set": set}});
        Schema::of(&json!({"type": "object", "properties": {"spec": spec}}), 1)
    });
    let mut live: Option<Object> = None;
    for step in rest.split(|b| *b == 0).take(8) {
        let (line, body) = first_line(step);
        let words: Vec<&str> = line.split(' ').collect();
        let word = |at: usize| words.get(at).copied().unwrap_or_default();
        let Ok(body @ Value::Object(_)) = serde_json::from_slice::<Value>(body) else { continue };
        let mut body = Object(body);
        body.set_gvk(&gvk);
        if depth::exceeds(&body.0, limits::STORED_DEPTH) {
            continue;
        }
        body.set(&["metadata", "name"], "x");
        let w = Writing {
            schema: &schema,
            gvk: &gvk,
            manager: word(0),
            subresource: word(2),
            now: "2026-01-01T00:00:00Z",
            resets: &[&["status"]],
            served: &|version| version != "v0",
        };
        let Ok(new) = one(&w, word(1), live.as_ref(), &body) else { continue };
        owned(&new);
        let again = one(&w, word(1), Some(&new), &body).unwrap_or_else(|e| panic!("again: {}", e.0.message));
        // Who writes `managedFields` itself says each time how they are before the write.
        if body.at(&MANAGED_FIELDS).is_none() {
            assert_eq!(again.at(&MANAGED_FIELDS), new.at(&MANAGED_FIELDS), "the same again");
            assert_eq!(bare(again.0), bare(new.0.clone()), "the same again");
        }
        live = Some(new);
    }
}

fn one(w: &Writing<'_>, operation: &str, live: Option<&Object>, body: &Object) -> Result<Object> {
    let mut new = match operation {
        "Apply" => apply(w, live, body, false)?,
        "Force" => apply(w, live, body, true)?,
        _ => {
            let mut body = body.clone();
            w.schema.normalize(&mut body)?;
            let owners = track(w, live, &mut body);
            owners.into_iter().for_each(|list| body.set(&MANAGED_FIELDS, list));
            body
        }
    };
    w.schema.restore(&mut new).map_err(Status::bad_request)?;
    new.set(&["metadata", "uid"], "u");
    Ok(new)
}

/// A value without what is empty: of a map from which all is taken null is left, and the next apply makes it `{}`.
fn bare(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let all = map.into_iter().map(|(key, value)| (key, bare(value)));
            let map: serde_json::Map<String, Value> = all.filter(|(_, value)| !value.is_null()).collect();
            if map.is_empty() { Value::Null } else { map.into() }
        }
        Value::Array(items) if items.is_empty() => Value::Null,
        Value::Array(items) => items.into_iter().map(bare).collect(),
        other => other,
    }
}

/// The owners are in the form in which the server writes them.
fn owned(object: &Object) {
    let list = object.at(&MANAGED_FIELDS).cloned();
    let strict = Managers::read(list.clone(), false).expect("what the server wrote");
    assert_eq!(strict.write(), list);
    let written = Managers::read(list.clone(), true).expect("what the server wrote");
    assert_eq!(written.write(), list);
}
