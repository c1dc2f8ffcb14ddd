//! Hostile patches: refused, or what they make can be written and read again.

use std::sync::{Arc, LazyLock};

use coracle_api::{Gvk, Object};
use serde_json::{Value, json};

use super::{PatchKind, apply_normalized};
use crate::codec::depth;
use crate::fuzz::{first_line, parts};
use crate::limits;
use crate::schema::Schema;

static CUSTOM: LazyLock<Arc<Schema>> = LazyLock::new(|| {
    let kept = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    Schema::of(&kept, 1)
});

/// A line `media-type apiVersion Kind`, the object, and after a NUL the patch.
pub(crate) fn patched(bytes: &[u8]) {
    let (line, rest) = first_line(bytes);
    let words: Vec<&str> = line.split(' ').collect();
    let word = |at: usize| words.get(at).copied().unwrap_or_default();
    let kind = match PatchKind::from_content_type(word(0)) {
        Ok(kind) if kind != PatchKind::Apply => kind,
        _ => PatchKind::Json,
    };
    let gvk = Gvk::from_api_version(word(1), word(2));
    let schema = Schema::builtin(&gvk).unwrap_or_else(|| CUSTOM.clone());
    let [object, patch] = parts(rest);
    let Ok(object) = serde_json::from_slice::<Value>(object) else { return };
    let mut object = Object(if object.is_object() { object } else { json!({}) });
    object.set_gvk(&gvk);
    // What is stored has its kind's form.
    if depth::exceeds(&object.0, limits::STORED_DEPTH) || schema.normalize(&mut object).is_err() {
        return;
    }
    let Ok(patched) = apply_normalized(kind, &object, patch, &schema) else { return };
    assert!(!depth::exceeds(&patched.object.0, limits::BODY_DEPTH));
    let text = patched.object.0.to_string();
    assert_eq!(serde_json::from_str::<Value>(&text).ok().as_ref(), Some(&patched.object.0));
    let _ = patched.strict_error();
    let mut again = patched.object.clone();
    assert!(schema.normalize(&mut again).is_ok_and(|unknown| unknown.is_empty()), "{text}");
    assert_eq!(again, patched.object);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::decode;

    /// Depth in every language of bodies and patches: refused, and never by the end of the stack.
    #[test]
    fn deep_bodies_are_refused() {
        let gvk = Gvk::new("", "v1", "ConfigMap");
        for levels in [limits::BODY_DEPTH + 2, 1_000, 500_000] {
            let json = format!("{}{}", "{\"a\":".repeat(levels), "}".repeat(levels));
            let list = format!("{}{}", "[".repeat(levels), "]".repeat(levels));
            for (media, body) in [
                ("application/json", json.as_str()),
                ("application/json", &list),
                ("application/yaml", &list),
                ("application/yaml", &json),
            ] {
                assert!(decode(Some(media), body.as_bytes(), Some(&gvk)).is_err(), "{media} {levels}");
            }
            let schema = Schema::builtin(&gvk).unwrap();
            let object = Object(json!({"apiVersion": "v1", "kind": "ConfigMap"}));
            let operation = format!("[{{\"op\":\"add\",\"path\":\"/data\",\"value\":{list}}}]");
            for (kind, patch) in
                [(PatchKind::Json, &operation), (PatchKind::Merge, &json), (PatchKind::Strategic, &json)]
            {
                assert!(
                    apply_normalized(kind, &object, patch.as_bytes(), &schema).is_err(),
                    "{kind:?} {levels}"
                );
            }
        }
        // Schemas in schemas: `not` within `not`, in the one version of a definition.
        let field = |number: u64, inner: &[u8]| {
            let mut out = vec![];
            for mut varint in [number << 3 | 2, inner.len() as u64] {
                while varint >= 0x80 {
                    out.push(u8::try_from(varint & 0x7f).unwrap() | 0x80);
                    varint >>= 7;
                }
                out.push(u8::try_from(varint).unwrap());
            }
            [&out, inner].concat()
        };
        for levels in [limits::BODY_DEPTH, 5_000] {
            let mut message = vec![];
            for _ in 0..levels {
                message = field(28, &message);
            }
            for number in [1, 4, 7, 2] {
                message = field(number, &message);
            }
            let body = [b"k8s\0".to_vec(), field(2, &message)].concat();
            let gvk = Gvk::new("apiextensions.k8s.io", "v1", "CustomResourceDefinition");
            assert!(
                decode(Some("application/vnd.kubernetes.protobuf"), &body, Some(&gvk)).is_err(),
                "{levels}"
            );
        }
    }
}
