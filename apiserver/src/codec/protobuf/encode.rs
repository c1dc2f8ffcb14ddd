//! Objects to protobuf answers.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use coracle_api::{Gvk, duration};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value};

use super::MAGIC;
use crate::schema::{Leaf, LeafKind, Numbered, Schema, Struct, Type, TypeId, Types};

/// An object or list in its envelope; `None` where its kind has no protobuf form (custom resources, tables).
pub(crate) fn encode(object: &Value) -> Option<Vec<u8>> {
    let (api_version, kind) = named(object);
    Some(envelope(api_version, kind, &encode_message(object)?))
}

/// The message alone.
pub(crate) fn encode_message(object: &Value) -> Option<Vec<u8>> {
    let (api_version, kind) = named(object);
    let schema = Schema::builtin(&Gvk::from_api_version(api_version, kind))?;
    let node = schema.root();
    let mut raw = vec![];
    if let (Some(root), Value::Object(map)) = (node.as_struct(), object) {
        Encoder { types: node.types }.message(root, map, &mut raw);
    }
    Some(raw)
}

fn named(object: &Value) -> (&str, &str) {
    let text = |key: &str| object.get(key).and_then(Value::as_str).unwrap_or_default();
    (text("apiVersion"), text("kind"))
}

/// A message in the envelope of every body.
pub fn envelope(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let mut body = open(api_version, kind, raw.len());
    body.reserve(raw.len() + CLOSE.len());
    body.extend(raw);
    body.extend(CLOSE);
    body
}

/// What ends an envelope: upstream's generated code writes both its strings even when empty.
pub const CLOSE: &[u8] = &[3 << 3 | 2, 0, 4 << 3 | 2, 0];

/// An envelope up to its message of `length` bytes.
fn open(api_version: &str, kind: &str, length: usize) -> Vec<u8> {
    let mut meta = vec![];
    bytes(&mut meta, 1, api_version.as_bytes());
    bytes(&mut meta, 2, kind.as_bytes());
    let mut body = Vec::with_capacity(MAGIC.len() + meta.len() + 16);
    body.extend(MAGIC);
    bytes(&mut body, 1, &meta);
    varint(&mut body, 2 << 3 | 2);
    varint(&mut body, length as u64);
    body
}

/// A list whose items are messages already, up to its first item. `list` has everything but the items; each of them
/// follows as [`list_item`] writes it, and [`CLOSE`] ends the list.
pub fn begin_list(list: &Value, items: &[Bytes]) -> Option<Vec<u8>> {
    let head = encode_message(list)?;
    let (api_version, kind) = named(list);
    let framed = |item: &Bytes| 1 + varint_size(item.len()) + item.len();
    let mut body = open(api_version, kind, head.len() + items.iter().map(framed).sum::<usize>());
    body.extend(head);
    Some(body)
}

pub fn list_item(out: &mut BytesMut, item: &[u8]) {
    const ITEMS: u64 = 2;
    let mut tag = vec![];
    varint(&mut tag, ITEMS << 3 | 2);
    varint(&mut tag, item.len() as u64);
    out.extend_from_slice(&tag);
    out.extend_from_slice(item);
}

fn varint_size(value: usize) -> usize {
    (value.max(1).ilog2() as usize) / 7 + 1
}

/// A frame of a watch: four bytes of length, then a `WatchEvent` with the object inside.
pub(crate) fn encode_event(kind: &str, object: &Value) -> Vec<u8> {
    frame_event(kind, &encode(object).unwrap_or_else(|| object.to_string().into_bytes()))
}

/// The same of a body that is there.
pub(crate) fn frame_event(kind: &str, inner: &[u8]) -> Vec<u8> {
    let mut raw = Vec::with_capacity(inner.len() + 8);
    bytes(&mut raw, 1, inner);
    let mut frame = vec![0; 4];
    bytes(&mut frame, 1, kind.as_bytes());
    bytes(&mut frame, 2, &raw);
    let length = u32::try_from(frame.len() - 4).expect("an object is far below 4 GiB");
    frame[..4].copy_from_slice(&length.to_be_bytes());
    frame
}

struct Encoder<'t> {
    types: &'t Types,
}

impl Encoder<'_> {
    fn message(&self, s: &Struct, map: &Map<String, Value>, out: &mut Vec<u8>) {
        for (number, what) in &s.numbers {
            match what {
                Numbered::Field(i) => {
                    let field = &s.fields[usize::from(*i)];
                    if let Some(value) = map.get(&*field.name).filter(|v| !v.is_null()) {
                        self.field(*number, field.ty, value, out);
                    }
                }
                Numbered::Embedded(id) => {
                    if let Type::Struct(embedded) = self.types.get(*id) {
                        let mut part = vec![];
                        self.message(embedded, map, &mut part);
                        bytes(out, *number, &part);
                    }
                }
            }
        }
    }

    fn field(&self, number: u32, ty: TypeId, value: &Value, out: &mut Vec<u8>) {
        match (self.types.get(ty), value) {
            (Type::Struct(s), Value::Object(map)) => {
                let mut part = vec![];
                self.message(s, map, &mut part);
                bytes(out, number, &part);
            }
            (Type::List(list), Value::Array(items)) => {
                let mut part = vec![];
                let (number_of_items, target) =
                    if list.wrapped { (1, &mut part) } else { (number, &mut *out) };
                items.iter().for_each(|item| self.field(number_of_items, list.items, item, target));
                if list.wrapped {
                    bytes(out, number, &part);
                }
            }
            (Type::Map(of), Value::Object(map)) => {
                for (key, value) in map {
                    let mut entry = vec![];
                    bytes(&mut entry, 1, key.as_bytes());
                    self.field(2, of.values, value, &mut entry);
                    bytes(out, number, &entry);
                }
            }
            (Type::Leaf(leaf), value) => self.leaf(number, leaf, value, out),
            _ => {}
        }
    }

    fn leaf(&self, number: u32, leaf: &Leaf, value: &Value, out: &mut Vec<u8>) {
        let text = value.as_str().unwrap_or_default();
        #[allow(clippy::cast_sign_loss, reason = "protobuf's varints hold two's complement")]
        let integer = value.as_i64().unwrap_or_default() as u64;
        match leaf.kind {
            LeafKind::String => bytes(out, number, text.as_bytes()),
            LeafKind::Bool => varint_field(out, number, u64::from(value.as_bool().unwrap_or_default())),
            LeafKind::Int32 | LeafKind::Int64 => varint_field(out, number, integer),
            LeafKind::Double => {
                varint(out, u64::from(number) << 3 | 1);
                out.extend(value.as_f64().unwrap_or_default().to_bits().to_le_bytes());
            }
            LeafKind::Bytes => bytes(out, number, &STANDARD.decode(text).unwrap_or_default()),
            _ => {
                let mut part = vec![];
                self.structured(leaf.kind, value, text, integer, &mut part);
                bytes(out, number, &part);
            }
        }
    }

    /// The leaves that are messages on the wire.
    fn structured(&self, kind: LeafKind, value: &Value, text: &str, integer: u64, part: &mut Vec<u8>) {
        match kind {
            LeafKind::Quantity => bytes(part, 1, text.as_bytes()),
            LeafKind::Time | LeafKind::MicroTime => {
                if let Ok(at) = text.parse::<Timestamp>() {
                    let since = at.duration_since(Timestamp::UNIX_EPOCH);
                    instant(part, since);
                }
            }
            #[allow(clippy::cast_sign_loss, reason = "protobuf's varints hold two's complement")]
            LeafKind::Duration => varint_field(part, 1, duration::parse(text).unwrap_or_default() as u64),
            LeafKind::IntOrString => {
                varint_field(part, 1, u64::from(value.is_string()));
                varint_field(part, 2, integer);
                bytes(part, 3, text.as_bytes());
            }
            LeafKind::Raw | LeafKind::Fields | LeafKind::Json => bytes(part, 1, value.to_string().as_bytes()),
            LeafKind::SchemaOrBool => match value {
                Value::Bool(allows) => varint_field(part, 1, u64::from(*allows)),
                schema => {
                    varint_field(part, 1, 1);
                    self.field(2, self.types.schema_props, schema, part);
                }
            },
            LeafKind::SchemaOrArray | LeafKind::SchemaOrStrings => match value {
                Value::Array(items) => items.iter().for_each(|item| match item {
                    Value::String(s) => bytes(part, 2, s.as_bytes()),
                    schema => self.field(2, self.types.schema_props, schema, part),
                }),
                schema => self.field(1, self.types.schema_props, schema, part),
            },
            LeafKind::String
            | LeafKind::Bool
            | LeafKind::Int32
            | LeafKind::Int64
            | LeafKind::Double
            | LeafKind::Bytes => {}
        }
    }
}

/// `Time` and `MicroTime`: whole seconds rounded down, and the nanoseconds above them.
fn instant(part: &mut Vec<u8>, since: SignedDuration) {
    let (mut seconds, mut nanos) = (since.as_secs(), since.subsec_nanos());
    if nanos < 0 {
        (seconds, nanos) = (seconds - 1, nanos + 1_000_000_000);
    }
    #[allow(clippy::cast_sign_loss, reason = "protobuf's varints hold two's complement")]
    {
        varint_field(part, 1, seconds as u64);
        varint_field(part, 2, nanos as u64);
    }
}

fn bytes(out: &mut Vec<u8>, number: u32, content: &[u8]) {
    varint(out, u64::from(number) << 3 | 2);
    varint(out, content.len() as u64);
    out.extend(content);
}

fn varint_field(out: &mut Vec<u8>, number: u32, value: u64) {
    varint(out, u64::from(number) << 3);
    varint(out, value);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        #[allow(clippy::cast_possible_truncation, reason = "seven bits at a time")]
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    #[allow(clippy::cast_possible_truncation, reason = "below 0x80")]
    out.push(value as u8);
}
