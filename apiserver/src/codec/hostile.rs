//! Hostile bodies: what is taken is written and read again as the same, in every encoding.

use std::sync::LazyLock;

use coracle_api::{Gvk, Object};
use serde_json::{Value, json};

use super::{decode, depth, encode_protobuf, indent, merge_noticed, yaml};
use crate::fuzz::first_line;
use crate::limits;
use crate::schema::Schema;

/// A line `media-type apiVersion Kind`, and a body.
pub(crate) fn body(bytes: &[u8]) {
    let (line, body) = first_line(bytes);
    let words: Vec<&str> = line.split(' ').collect();
    let word = |at: usize| words.get(at).copied().unwrap_or_default();
    let gvk = Gvk::from_api_version(word(1), word(2));
    // Nothing is served at such a path.
    if gvk.version.contains('/') {
        return;
    }
    let cut = depth::cut(body, limits::STORED_DEPTH);
    if serde_json::from_slice::<Value>(body).is_ok() {
        assert!(serde_json::from_slice::<Value>(&cut).is_ok());
    }
    let Ok(decoded) = decode(Some(word(0)), body, Some(&gvk)) else { return };
    let object = decoded.object;
    assert!(!depth::exceeds(&object.0, limits::BODY_DEPTH));
    let text = object.0.to_string();
    let again = decode(Some("application/json"), text.as_bytes(), Some(&gvk)).expect("what we wrote");
    assert_eq!(again.object, object);
    assert!(again.noticed.is_empty());
    let spread = indent::indented(text.as_bytes());
    assert_eq!(serde_json::from_slice::<Value>(&spread).ok().as_ref(), Some(&object.0));
    normalized(object, body, decoded.noticed);
}

fn normalized(mut object: Object, body: &[u8], duplicates: crate::schema::Noticed) {
    static OPEN: LazyLock<std::sync::Arc<Schema>> = LazyLock::new(|| {
        Schema::of(&json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}), 1)
    });
    let schema = Schema::builtin(&object.gvk()).unwrap_or_else(|| OPEN.clone());
    let Ok(unknown) = schema.normalize(&mut object) else { return };
    let told = duplicates.0.len() + unknown.0.len();
    assert!(merge_noticed(body, duplicates, unknown).0.len() <= told);
    settled(&schema, &object);
    // JSON is YAML, but for keys that are too long for it.
    let text = object.0.to_string();
    if let Ok((read, _)) = yaml::parse(text.as_bytes()) {
        assert_eq!(read, object.0, "{text}");
    }
    // What is written has Go's bytes, of which Go itself does not read all again (`<<`, breaks within quotes).
    let text = yaml::text(&object.0);
    let odd = |c: char| matches!(c, '\u{85}' | '\u{2028}' | '\u{2029}');
    if !text.contains("<<") && !text.contains(odd) {
        assert!(yaml::parse(text.as_bytes()).is_ok(), "not read again: {text}");
    }
}

/// The form of a kind is found at once, and what has it can be written as protobuf.
fn settled(schema: &Schema, object: &Object) {
    let mut again = object.clone();
    let unknown = schema.normalize(&mut again).expect("it has its kind's form");
    assert!(unknown.is_empty(), "{unknown:?} in {}", object.0);
    assert_eq!(again, *object);
    if let Some(message) = encode_protobuf(&object.0) {
        let read = decode(Some("application/vnd.kubernetes.protobuf"), &message, None);
        let mut read = read.unwrap_or_else(|e| panic!("{} of {}", e.0.message, object.0)).object;
        schema.normalize(&mut read).unwrap_or_else(|e| panic!("{} of {}", e.0.message, object.0));
        assert_eq!(read, *object);
    }
}

/// A line `apiVersion Kind`, and a message of that kind.
pub(crate) fn message(bytes: &[u8]) {
    let (line, message) = first_line(bytes);
    let (api_version, kind) = line.split_once(' ').unwrap_or(("v1", &line));
    let envelope = super::envelope(api_version, kind, message);
    let media = Some("application/vnd.kubernetes.protobuf");
    let _ = decode(media, message, None);
    let Ok(decoded) = decode(media, &envelope, None) else { return };
    let mut object = decoded.object;
    let Some(schema) = Schema::builtin(&object.gvk()) else { return };
    if schema.normalize(&mut object).is_ok() {
        settled(&schema, &object);
    }
}
