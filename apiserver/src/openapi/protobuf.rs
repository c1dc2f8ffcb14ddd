//! JSON to protobuf by a table of messages: how documents that are written as JSON get their binary form.

use serde_json::Value;

/// A message: how the JSON in its place becomes its fields.
pub(super) enum Message {
    /// Known fields by their names; vendor extensions (`x-…`) are pairs of name and value at `extensions`.
    Record { fields: &'static [Field], extensions: u32 },
    /// Any names: repeated pairs (1: the name, 2: the value) at `number`, vendor extensions at `extensions` where it is not 0.
    Pairs { number: u32, value: Shape, extensions: u32 },
    /// One of several fields; what stands there decides which.
    Union(fn(&Value) -> (u32, Shape)),
    /// One value, or a list of them: a repeated field with number 1.
    Several(Shape),
}

/// A field: its name in JSON, its number, its type.
pub(super) struct Field(pub(super) &'static str, pub(super) u32, pub(super) Shape);

/// What a field holds. A list in JSON is a repeated field.
#[derive(Clone, Copy)]
pub(super) enum Shape {
    Text,
    Flag,
    Integer,
    Number,
    /// A message of which field 2 is the value as YAML; also where that is a list.
    Any,
    /// The same, and one for each where there is a list of them.
    EachAny,
    Of(&'static Message),
}

/// The message at the root of a document.
pub(super) fn encode(message: &Message, document: &Value) -> Vec<u8> {
    let mut out = vec![];
    write(&mut out, message, document);
    out
}

fn write(out: &mut Vec<u8>, message: &Message, value: &Value) {
    match message {
        Message::Record { fields, extensions } => {
            let Value::Object(map) = value else { return };
            for Field(name, number, shape) in *fields {
                match map.get(*name) {
                    Some(Value::Array(items)) if !shape.takes_lists() => {
                        items.iter().for_each(|item| element(out, *number, *shape, item));
                    }
                    Some(value) => field(out, *number, *shape, value),
                    None => {}
                }
            }
            for (name, value) in map.iter().filter(|(name, _)| is_extension(name)) {
                pair(out, *extensions, name, Shape::Any, value);
            }
        }
        Message::Pairs { number, value: shape, extensions } => {
            let Value::Object(map) = value else { return };
            for (name, value) in map {
                match *extensions != 0 && is_extension(name) {
                    true => pair(out, *extensions, name, Shape::Any, value),
                    false => pair(out, *number, name, *shape, value),
                }
            }
        }
        Message::Union(choose) => {
            let (number, shape) = choose(value);
            element(out, number, shape, value);
        }
        Message::Several(shape) => match value {
            Value::Array(items) => items.iter().for_each(|item| element(out, 1, *shape, item)),
            one => element(out, 1, *shape, one),
        },
    }
}

fn is_extension(name: &str) -> bool {
    name.starts_with("x-")
}

fn pair(out: &mut Vec<u8>, number: u32, name: &str, shape: Shape, value: &Value) {
    nested(out, number, |out| {
        bytes(out, 1, name.as_bytes());
        match shape {
            Shape::Text => element(out, 2, shape, value),
            shape => field(out, 2, shape, value),
        }
    });
}

/// A field that is not repeated: zero values are left out.
fn field(out: &mut Vec<u8>, number: u32, shape: Shape, value: &Value) {
    let is_zero = match shape {
        Shape::Text => value.as_str().is_none_or(str::is_empty),
        Shape::Flag => value != true,
        Shape::Integer | Shape::Number => value.as_f64().is_none_or(|n| n == 0.0),
        Shape::Any | Shape::EachAny | Shape::Of(_) => false,
    };
    if !is_zero {
        element(out, number, shape, value);
    }
}

fn element(out: &mut Vec<u8>, number: u32, shape: Shape, value: &Value) {
    match shape {
        Shape::Text => bytes(out, number, value.as_str().unwrap_or_default().as_bytes()),
        Shape::Flag => {
            varint(out, u64::from(number) << 3);
            varint(out, u64::from(value == true));
        }
        Shape::Integer => {
            let whole = value.as_i64().or_else(|| value.as_f64().map(|n| n as i64)).unwrap_or_default();
            varint(out, u64::from(number) << 3);
            varint(out, whole.cast_unsigned());
        }
        Shape::Number => {
            varint(out, u64::from(number) << 3 | 1);
            out.extend(value.as_f64().unwrap_or_default().to_le_bytes());
        }
        Shape::Any | Shape::EachAny => nested(out, number, |out| bytes(out, 2, yaml(value).as_bytes())),
        Shape::Of(message) => nested(out, number, |out| write(out, message, value)),
    }
}

/// JSON is YAML, but for what a reader of YAML folds or refuses inside of a text.
fn yaml(value: &Value) -> String {
    let json = value.to_string();
    let is_plain = |c: char| {
        matches!(c, ' '..='~' | '\u{a0}'..='\u{2027}' | '\u{202a}'..='\u{d7ff}' | '\u{e000}'..='\u{fefe}'
            | '\u{ff00}'..='\u{fffd}' | '\u{10000}'..)
    };
    if json.chars().all(is_plain) {
        return json;
    }
    let mut out = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        match is_plain(c) {
            true => out.push(c),
            false => out.push_str(&format!("\\u{:04x}", u32::from(c))),
        }
    }
    out
}

fn bytes(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    varint(out, u64::from(number) << 3 | 2);
    varint(out, bytes.len() as u64);
    out.extend(bytes);
}

/// A message within a message: its length stands before it.
fn nested(out: &mut Vec<u8>, number: u32, fill: impl FnOnce(&mut Vec<u8>)) {
    varint(out, u64::from(number) << 3 | 2);
    let start = out.len();
    fill(out);
    let length = out.len() - start;
    varint(out, length as u64);
    out[start..].rotate_left(length);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

// === impl Shape ===

impl Shape {
    /// Whether a JSON list is one value of this type.
    fn takes_lists(self) -> bool {
        matches!(self, Shape::Any | Shape::Of(Message::Several(_)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::swagger;
    use super::*;

    /// What upstream's library makes of the same JSON, but for the spelling of YAML; the document has every construct that
    /// servers of the Kubernetes API publish.
    #[test]
    fn a_document_has_upstreams_bytes() {
        let document: Value = serde_json::from_str(include_str!("testdata/swagger.json")).unwrap();
        let expected = include_str!("testdata/swagger.hex").trim();
        assert_eq!(hex::encode(encode(&swagger::DOCUMENT, &document)), expected);
    }

    #[test]
    fn any_text_is_readable_as_yaml() {
        for (value, expected) in [
            (json!("a\u{85}b\u{7f}\u{2028}\u{feff}"), r#""a\u0085b\u007f\u2028\ufeff""#),
            (json!({"é": [1, null, "\n"]}), r#"{"é":[1,null,"\n"]}"#),
        ] {
            assert_eq!(yaml(&value), expected);
        }
    }
}
