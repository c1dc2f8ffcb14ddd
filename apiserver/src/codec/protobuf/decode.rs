//! Protobuf bodies to objects.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use coracle_api::{Gvk, Object, duration};
use serde_json::{Map, Value, json};

use super::MAGIC;
use super::wire::{Reader, Result, Wire};
use crate::codec::decode::Decoded;
use crate::schema::{Field, LeafKind, Noticed, Numbered, Schema, Struct, Type, TypeId, Types, print_instant};

/// Messages nested deeper are refused.
const MAX_DEPTH: usize = 120;

/// Reads a body: the envelope, then the message of the kind it names.
pub(crate) fn decode(body: &[u8], default_gvk: Option<&Gvk>) -> Result<Decoded> {
    let envelope = body.strip_prefix(MAGIC).ok_or_else(|| {
        if body.is_empty() {
            "empty data".to_owned()
        } else {
            "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]"
                .to_owned()
        }
    })?;
    let envelope = Envelope::read(envelope)?;
    let (mut api_version, mut kind) = (envelope.api_version, envelope.kind);
    if let Some(default) = default_gvk {
        if kind.is_empty() {
            kind.clone_from(&default.kind);
        }
        if api_version.is_empty() {
            api_version = default.api_version();
        }
    }
    let gvk = Gvk::from_api_version(&api_version, &kind);
    let schema = Schema::builtin(&gvk)
        .ok_or_else(|| format!("no kind {kind:?} is registered for version {api_version:?} in scheme \"pkg/runtime/scheme.go:111\""))?;
    let node = schema.root();
    let mut map = Map::new();
    if let Some(root) = node.as_struct() {
        Transcoder { types: node.types }.message(root, envelope.raw, &mut map, 0)?;
    }
    map.insert("apiVersion".into(), api_version.into());
    map.insert("kind".into(), kind.into());
    Ok(Decoded { object: Object(Value::Object(map)), noticed: Noticed::default() })
}

/// `runtime.Unknown`.
#[derive(Default)]
struct Envelope<'a> {
    api_version: String,
    kind: String,
    raw: &'a [u8],
}

impl<'a> Envelope<'a> {
    fn read(message: &'a [u8]) -> Result<Self> {
        let mut envelope = Envelope::default();
        let mut reader = Reader::new(message);
        while let Some((number, wire)) = reader.field()? {
            match (number, wire) {
                (1, Wire::Bytes(meta)) => {
                    let mut reader = Reader::new(meta);
                    while let Some((number, wire)) = reader.field()? {
                        match (number, wire) {
                            (1, Wire::Bytes(v)) => envelope.api_version = text(v),
                            (2, Wire::Bytes(v)) => envelope.kind = text(v),
                            _ => {}
                        }
                    }
                }
                (2, Wire::Bytes(raw)) => envelope.raw = raw,
                _ => {}
            }
        }
        Ok(envelope)
    }
}

struct Transcoder<'t> {
    types: &'t Types,
}

impl Transcoder<'_> {
    fn message(&self, s: &Struct, message: &[u8], map: &mut Map<String, Value>, depth: usize) -> Result<()> {
        if depth > MAX_DEPTH {
            return Err("proto: exceeded max depth".to_owned());
        }
        let mut reader = Reader::new(message);
        while let Some((number, wire)) = reader.field()? {
            match s.numbered(number) {
                None => {}
                Some(Numbered::Field(i)) => self.field(&s.fields[usize::from(i)], wire, map, depth)?,
                Some(Numbered::Embedded(id)) => {
                    if let (Type::Struct(embedded), Wire::Bytes(message)) = (self.types.get(id), wire) {
                        self.message(embedded, message, map, depth + 1)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn field(&self, field: &Field, wire: Wire<'_>, map: &mut Map<String, Value>, depth: usize) -> Result<()> {
        match self.types.get(field.ty) {
            Type::List(list) if !list.wrapped => {
                let slot = map.entry(&*field.name).or_insert_with(|| json!([]));
                let Value::Array(items) = slot else { return Ok(()) };
                self.items(list.items, wire, items, depth)
            }
            Type::Map(of) => {
                let slot = map.entry(&*field.name).or_insert_with(|| json!({}));
                let (Value::Object(entries), Wire::Bytes(entry)) = (slot, wire) else {
                    return Err(mistyped(field));
                };
                let (key, value) = self.entry(of.values, entry, depth)?;
                entries.insert(key, value);
                Ok(())
            }
            _ => {
                let value = self
                    .value(field.ty, wire, depth)
                    .map_err(|e| if e.is_empty() { mistyped(field) } else { e })?;
                map.insert(field.name.to_string(), value);
                Ok(())
            }
        }
    }

    /// One item of a repeated field, or many packed into one.
    fn items(&self, ty: TypeId, wire: Wire<'_>, items: &mut Vec<Value>, depth: usize) -> Result<()> {
        let number = matches!(self.types.get(ty), Type::Leaf(l) if matches!(l.kind, LeafKind::Int32 | LeafKind::Int64 | LeafKind::Bool));
        if let (true, Wire::Bytes(packed)) = (number, wire) {
            let mut reader = Reader::new(packed);
            while !reader.is_empty() {
                items.push(self.value(ty, Wire::Varint(reader.varint()?), depth)?);
            }
            return Ok(());
        }
        items.push(self.value(ty, wire, depth)?);
        Ok(())
    }

    fn entry(&self, ty: TypeId, entry: &[u8], depth: usize) -> Result<(String, Value)> {
        let (mut key, mut value) = (String::new(), None);
        let mut reader = Reader::new(entry);
        while let Some((number, wire)) = reader.field()? {
            match (number, wire) {
                (1, Wire::Bytes(k)) => key = text(k),
                (2, wire) => value = Some(self.value(ty, wire, depth + 1)?),
                _ => {}
            }
        }
        Ok((key, value.unwrap_or_else(|| self.types.zero(ty))))
    }

    fn value(&self, ty: TypeId, wire: Wire<'_>, depth: usize) -> Result<Value> {
        match (self.types.get(ty), wire) {
            (Type::Struct(s), Wire::Bytes(message)) => {
                let mut map = Map::new();
                self.message(s, message, &mut map, depth + 1)?;
                Ok(Value::Object(map))
            }
            (Type::List(list), Wire::Bytes(message)) => {
                let mut items = vec![];
                let mut reader = Reader::new(message);
                while let Some((number, wire)) = reader.field()? {
                    if number == 1 {
                        self.items(list.items, wire, &mut items, depth + 1)?;
                    }
                }
                Ok(items.into())
            }
            (Type::Leaf(leaf), wire) => self.leaf(leaf.kind, wire, depth),
            _ => Err("proto: wrong wireType".to_owned()),
        }
    }

    fn leaf(&self, kind: LeafKind, wire: Wire<'_>, depth: usize) -> Result<Value> {
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_possible_wrap,
            reason = "protobuf's integers wrap"
        )]
        Ok(match (kind, wire) {
            (LeafKind::String, Wire::Bytes(v)) => text(v).into(),
            (LeafKind::Bool, Wire::Varint(v)) => (v != 0).into(),
            (LeafKind::Int32, Wire::Varint(v)) => (v as i32).into(),
            (LeafKind::Int64, Wire::Varint(v)) => (v as i64).into(),
            (LeafKind::Double, Wire::Fixed64(v)) => f64::from_bits(v).into(),
            (LeafKind::Bytes, Wire::Bytes(v)) => STANDARD.encode(v).into(),
            (LeafKind::Quantity, Wire::Bytes(v)) => match first(v, 1)? {
                Some(Wire::Bytes(v)) => text(v).into(),
                _ => "0".into(),
            },
            (LeafKind::Time | LeafKind::MicroTime, Wire::Bytes(v)) => time(v, kind == LeafKind::MicroTime)?,
            (LeafKind::Duration, Wire::Bytes(v)) => match first(v, 1)? {
                Some(Wire::Varint(nanos)) => duration::print(nanos as i64).into(),
                _ => "0s".into(),
            },
            (LeafKind::IntOrString, Wire::Bytes(v)) => int_or_string(v)?,
            (LeafKind::Raw | LeafKind::Fields | LeafKind::Json, Wire::Bytes(v)) => match first(v, 1)? {
                Some(Wire::Bytes(raw)) if !raw.is_empty() => {
                    serde_json::from_slice(raw).map_err(|e| format!("embedded JSON: {e}"))?
                }
                _ => Value::Null,
            },
            (
                LeafKind::SchemaOrBool | LeafKind::SchemaOrArray | LeafKind::SchemaOrStrings,
                Wire::Bytes(v),
            ) => self.schema_or(kind, v, depth)?,
            _ => return Err("proto: wrong wireType".to_owned()),
        })
    }

    /// The three types of custom resource definitions that hold a schema or something simpler.
    fn schema_or(&self, kind: LeafKind, message: &[u8], depth: usize) -> Result<Value> {
        let props = |wire| self.value(self.types.schema_props, wire, depth + 1);
        let (mut schema, mut allows, mut list) = (None, false, vec![]);
        let mut reader = Reader::new(message);
        while let Some((number, wire)) = reader.field()? {
            match (kind, number, wire) {
                (LeafKind::SchemaOrBool, 1, Wire::Varint(v)) => allows = v != 0,
                (LeafKind::SchemaOrBool, 2, wire) => schema = Some(props(wire)?),
                (_, 1, wire) => schema = Some(props(wire)?),
                (LeafKind::SchemaOrArray, 2, wire) => list.push(props(wire)?),
                (LeafKind::SchemaOrStrings, 2, Wire::Bytes(v)) => list.push(text(v).into()),
                _ => {}
            }
        }
        Ok(match (schema, kind) {
            (Some(schema), _) => schema,
            (None, LeafKind::SchemaOrBool) => allows.into(),
            (None, _) if list.is_empty() => Value::Null,
            (None, _) => list.into(),
        })
    }
}

fn mistyped(field: &Field) -> String {
    format!("proto: wrong wireType for field {}", field.name)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The last value of one field of a message.
fn first(message: &[u8], wanted: u32) -> Result<Option<Wire<'_>>> {
    let mut reader = Reader::new(message);
    let mut found = None;
    while let Some((number, wire)) = reader.field()? {
        if number == wanted {
            found = Some(wire);
        }
    }
    Ok(found)
}

fn time(message: &[u8], micro: bool) -> Result<Value> {
    if message.is_empty() {
        return Ok(Value::Null);
    }
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        reason = "protobuf's integers wrap"
    )]
    let part = |number| {
        Ok::<i64, String>(match first(message, number)? {
            Some(Wire::Varint(v)) => v as i64,
            _ => 0,
        })
    };
    let nanos = i32::try_from(part(2)?).map_err(|_| "time: nanoseconds out of range".to_owned())?;
    print_instant(part(1)?, nanos, micro)
        .map(Value::from)
        .ok_or_else(|| "time: seconds out of range".to_owned())
}

fn int_or_string(message: &[u8]) -> Result<Value> {
    let number = |n| {
        Ok::<u64, String>(match first(message, n)? {
            Some(Wire::Varint(v)) => v,
            _ => 0,
        })
    };
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        reason = "protobuf's integers wrap"
    )]
    Ok(match (number(1)?, first(message, 3)?) {
        (0, _) => (number(2)? as i32).into(),
        (_, Some(Wire::Bytes(v))) => text(v).into(),
        _ => "".into(),
    })
}
