//! Random hostile bytes, always the same ones: nothing panics, and what is made can be written and read again.

use coracle_api::{Gvk, Object};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use super::{PatchKind, apply_normalized};
use crate::codec::{decode, depth};
use crate::limits;
use crate::schema::Schema;

const KEYS: [&str; 8] = ["a", "b", "metadata", "data", "spec", "0", "-1", "$patch"];

/// A value of at most so many levels.
fn value(rng: &mut StdRng, levels: usize) -> Value {
    match rng.random_range(0..if levels == 0 { 4 } else { 7 }) {
        0 => Value::Null,
        1 => rng.random::<bool>().into(),
        2 => rng.random::<i64>().into(),
        3 => "x".repeat(rng.random_range(0..20)).into(),
        4 => (0..rng.random_range(0..4)).map(|_| value(rng, levels - 1)).collect(),
        _ => (0..rng.random_range(0..4))
            .map(|_| (KEYS[rng.random_range(0..KEYS.len())].to_owned(), value(rng, levels - 1)))
            .collect::<serde_json::Map<_, _>>()
            .into(),
    }
}

fn pointer(rng: &mut StdRng) -> String {
    (0..rng.random_range(0..40)).map(|_| format!("/{}", KEYS[rng.random_range(0..KEYS.len())])).collect()
}

fn operation(rng: &mut StdRng) -> Value {
    let op = ["add", "remove", "replace", "move", "copy", "test", "odd"][rng.random_range(0..7)];
    json!({"op": op, "path": pointer(rng), "from": pointer(rng), "value": value(rng, 4)})
}

#[test]
fn random_patches_leave_what_can_be_read() {
    let mut rng = StdRng::seed_from_u64(1);
    let custom = Schema::custom(&json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}), 1);
    let builtin = Schema::builtin(&Gvk::new("", "v1", "ConfigMap")).unwrap();
    let mut applied = 0;
    for round in 0..3000 {
        let mut object = value(&mut rng, 6);
        if !object.is_object() {
            object = json!({});
        }
        let (schema, kind) = if round % 2 == 0 { (&custom, "Thing") } else { (&builtin, "ConfigMap") };
        object["kind"] = kind.into();
        object["apiVersion"] = "v1".into();
        let patch_kind = [PatchKind::Json, PatchKind::Merge, PatchKind::Strategic][rng.random_range(0..3)];
        let patch = match patch_kind {
            PatchKind::Json => (0..rng.random_range(1..4)).map(|_| operation(&mut rng)).collect(),
            _ => value(&mut rng, 6),
        };
        let patch = patch.to_string();
        let Ok(patched) = apply_normalized(patch_kind, &Object(object), patch.as_bytes(), schema) else {
            continue;
        };
        applied += 1;
        assert!(!depth::exceeds(&patched.object.0, limits::BODY_DEPTH), "{patch}");
        let text = patched.object.0.to_string();
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), patched.object.0);
    }
    assert!(applied > 500, "{applied}");
}

#[test]
fn random_bodies_are_read_or_refused() {
    let mut rng = StdRng::seed_from_u64(2);
    let gvk = Gvk::new("", "v1", "ConfigMap");
    let kinds = ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
    for _ in 0..6000 {
        let media = kinds[rng.random_range(0..kinds.len())];
        let mut body = match media {
            "application/vnd.kubernetes.protobuf" => {
                [b"k8s\0".to_vec(), (0..rng.random_range(0..60)).map(|_| rng.random()).collect()].concat()
            }
            _ => value(&mut rng, 7).to_string().into_bytes(),
        };
        // A few bytes of it are something else.
        for _ in 0..rng.random_range(0..4) {
            if !body.is_empty() {
                let at = rng.random_range(0..body.len());
                body[at] = b"{}[],:\"&*!|>-\n #\\0e\xff"[rng.random_range(0..20)];
            }
        }
        if let Ok(decoded) = decode(Some(media), &body, Some(&gvk)) {
            let text = decoded.object.0.to_string();
            assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), decoded.object.0);
        }
    }
}

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
            assert!(apply_normalized(kind, &object, patch.as_bytes(), &schema).is_err(), "{kind:?} {levels}");
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
        assert!(decode(Some("application/vnd.kubernetes.protobuf"), &body, Some(&gvk)).is_err(), "{levels}");
    }
}
