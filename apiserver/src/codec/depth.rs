//! How deep JSON is nested: every walk over a value recurses, so nothing that is too deep may come into being.

use serde_json::Value;

/// Whether a value is nested deeper than `most`: a scalar is 0 deep, a list of scalars 1. Looks no deeper than that.
pub(crate) fn exceeds(value: &Value, most: usize) -> bool {
    match value {
        Value::Array(items) => most == 0 || items.iter().any(|item| exceeds(item, most - 1)),
        Value::Object(map) => most == 0 || map.values().any(|value| exceeds(value, most - 1)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

/// A JSON text of any depth with null in the place of all that is nested deeper than `most`. Without recursion, and
/// linear in the text. For objects that were stored before there was a limit: their metadata can be read, and so they
/// can be deleted as their finalizers allow.
pub(crate) fn cut(text: &[u8], most: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let (mut depth, mut quoted, mut escaped) = (0usize, false, false);
    for &byte in text {
        let opens = !quoted && matches!(byte, b'{' | b'[');
        if opens {
            depth += 1;
            if depth == most + 1 {
                out.extend_from_slice(b"null");
            }
        }
        if depth <= most {
            out.push(byte);
        }
        if !quoted && matches!(byte, b'}' | b']') {
            depth = depth.saturating_sub(1);
        }
        match (quoted, byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (_, b'"') => quoted = !quoted,
            _ => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn depth_counts_lists_and_maps() {
        let table = [(json!(1), 0), (json!([]), 1), (json!([1, "x"]), 1), (json!({"a": [{"b": 1}]}), 3)];
        for (value, depth) in table {
            assert!(!exceeds(&value, depth), "{value}");
            assert!(depth == 0 || exceeds(&value, depth - 1), "{value}");
        }
    }

    #[test]
    fn what_is_too_deep_is_cut_out_of_a_text() {
        let deep = format!(
            r#"{{"a":"[{{\"\\","b":{}1{},"metadata":{{"finalizers":["x/y"]}}}}"#,
            "[".repeat(100_000),
            "]".repeat(100_000)
        );
        let value: Value = serde_json::from_slice(&cut(deep.as_bytes(), 4)).unwrap();
        let wanted = json!({"a": "[{\"\\", "b": [[[null]]], "metadata": {"finalizers": ["x/y"]}});
        assert_eq!(value, wanted);
    }
}
