//! One pass over an object that leaves exactly what upstream's round trip through Go types leaves.

use std::fmt::Write;

use serde_json::{Map, Value};

use super::leaf;
use super::types::{Field, Leaf, Struct, Type, TypeId, Types};
use crate::limits;

/// A value that does not fit its type.
pub(super) enum Mismatch {
    /// `cannot unmarshal <value> into Go struct field <struct>.<path> of type <ty>`
    Type { value: String, found: &'static str, ty: String, target: Target, place: Place },
    /// A decoder's own words, reported as they are.
    Words(String),
}

/// What a value was to become.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    Struct,
    Map,
    Slice,
    /// One of Go's basic types.
    Basic(&'static str),
    /// A type with a decoder of its own.
    Custom,
}

/// Where a mismatch is: the innermost struct, and the fields from the root in reverse order.
#[derive(Default)]
pub(super) struct Place {
    owner: String,
    reversed: Vec<String>,
}

/// The way from the root to the value at hand, for naming unknown fields.
#[derive(Clone, Copy)]
pub(crate) enum Path<'a> {
    Root,
    Key(&'a Path<'a>, &'a str),
    Index(&'a Path<'a>, usize),
}

pub(super) struct Normalizer<'a> {
    types: &'a Types,
    pub(super) noticed: Paths,
    /// How many fields the form of the kind may still add.
    room: usize,
}

/// Paths that are told to the client: no more than may be, in number and in bytes.
#[derive(Default)]
pub(super) struct Paths {
    pub(super) list: Vec<String>,
    bytes: usize,
}

// === impl Mismatch ===

impl Mismatch {
    pub(super) fn of(value: &Value, ty: &str, target: Target) -> Self {
        Mismatch::described(describe(value).to_owned(), value, ty, target)
    }

    pub(super) fn described(described: String, value: &Value, ty: &str, target: Target) -> Self {
        let found = go_kind(value);
        Mismatch::Type { value: described, found, ty: ty.to_owned(), target, place: Place::default() }
    }

    /// Adds the field through which the mismatch was reached.
    fn within(mut self, owner: &Struct, field: &Field) -> Self {
        if let Mismatch::Type { place, .. } = &mut self {
            if place.owner.is_empty() {
                place.owner = owner.go.to_string();
            }
            place.reversed.push(field.name.to_string());
            if !field.embedded.is_empty() && &*field.embedded != "TypeMeta" {
                place.reversed.push(field.embedded.to_string());
            }
        }
        self
    }

    /// In Go's words.
    pub(super) fn message(&self) -> String {
        match self {
            Mismatch::Words(words) => words.clone(),
            Mismatch::Type { value, ty, place, .. } if place.owner.is_empty() => {
                format!("json: cannot unmarshal {value} into Go value of type {ty}")
            }
            Mismatch::Type { value, ty, place, .. } => {
                let mut text = format!("json: cannot unmarshal {value} into Go struct field {}", place.owner);
                for name in place.reversed.iter().rev() {
                    text.push('.');
                    text.push_str(name);
                }
                text.push_str(" of type ");
                text.push_str(ty);
                text
            }
        }
    }
}

impl Mismatch {
    /// In the words of upstream's converter of maps to structs, which takes what patches have made.
    pub(super) fn restored(&self) -> String {
        let Mismatch::Type { found, ty, target, .. } = self else { return self.message() };
        match (*target, *found) {
            (Target::Map, found) => format!("cannot restore map from {found}"),
            (Target::Slice, found) => format!("cannot restore slice from {found}"),
            (Target::Struct, found) => format!("cannot restore struct from: {found}"),
            // What Go could convert, but JSON may not.
            (Target::Basic("string"), "int64") => format!("cannot convert int64 to {ty}"),
            (Target::Basic("int32" | "int64"), "float64") => format!("cannot convert float64 to {ty}"),
            (Target::Basic(kind), _) => format!("unrecognized type: {kind}"),
            (Target::Custom, _) => self.message(),
        }
    }
}

// === impl Path ===

impl Path<'_> {
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        self.write(&mut text);
        text
    }

    fn write(&self, text: &mut String) {
        match self {
            Path::Root => {}
            Path::Key(parent, key) => {
                parent.write(text);
                if !text.is_empty() {
                    text.push('.');
                }
                text.push_str(key);
            }
            Path::Index(parent, i) => {
                parent.write(text);
                write!(text, "[{i}]").expect("a String takes everything");
            }
        }
    }
}

// === impl Paths ===

impl Paths {
    pub(super) fn push(&mut self, path: &Path<'_>) {
        if self.list.len() < limits::NOTICES && self.bytes < limits::NOTICED_BYTES {
            let text = path.text();
            self.bytes += text.len();
            self.list.push(text);
        }
    }
}

// === impl Normalizer ===

impl<'a> Normalizer<'a> {
    pub(super) fn new(types: &'a Types) -> Self {
        Normalizer { types, noticed: Paths::default(), room: limits::ADDED_FIELDS }
    }
}

impl Normalizer<'_> {
    pub(super) fn value(&mut self, id: TypeId, value: &mut Value, path: Path<'_>) -> Result<(), Mismatch> {
        match self.types.get(id) {
            Type::Leaf(leaf) => self.leaf(leaf, value, path),
            Type::Struct(s) => match value {
                Value::Object(map) => self.structure(s, map, path),
                Value::Null => {
                    *value = self.types.zero(id);
                    Ok(())
                }
                other => Err(Mismatch::of(other, &s.go_type, Target::Struct)),
            },
            Type::List(list) => match value {
                Value::Array(items) => items
                    .iter_mut()
                    .enumerate()
                    .try_for_each(|(i, item)| self.value(list.items, item, Path::Index(&path, i))),
                Value::Null => Ok(()),
                other => Err(Mismatch::of(other, &list.go_type, Target::Slice)),
            },
            Type::Map(of) => match value {
                Value::Object(map) => map.iter_mut().try_for_each(|(key, value)| {
                    self.value(of.values, value, Path::Key(&path, key))?;
                    // Storage does not tell empty bytes from none.
                    if value.is_null() && self.types.is_bytes(of.values) {
                        *value = "".into();
                    }
                    Ok(())
                }),
                Value::Null => Ok(()),
                other => Err(Mismatch::of(other, &of.go_type, Target::Map)),
            },
        }
    }

    fn structure(
        &mut self,
        s: &Struct,
        map: &mut Map<String, Value>,
        path: Path<'_>,
    ) -> Result<(), Mismatch> {
        let mut failed = None;
        map.retain(|key, value| {
            if failed.is_some() {
                return true;
            }
            let here = Path::Key(&path, key);
            let Some(field) = s.field(key) else {
                self.noticed.push(&here);
                return false;
            };
            self.field(field, value, here).unwrap_or_else(|mismatch| {
                failed = Some(mismatch.within(s, field));
                true
            })
        });
        if let Some(mismatch) = failed {
            return Err(mismatch);
        }
        for &i in &s.always {
            let field = &s.fields[usize::from(i)];
            if !map.contains_key(&*field.name) {
                self.room = self.room.checked_sub(1).ok_or_else(too_large)?;
                map.insert(field.name.to_string(), self.types.absent(field));
            }
        }
        Ok(())
    }

    /// Whether the field stays.
    fn field(&mut self, field: &Field, value: &mut Value, path: Path<'_>) -> Result<bool, Mismatch> {
        if field.pointer && value.is_null() {
            return Ok(!field.omit_empty && !field.omit_zero);
        }
        self.value(field.ty, value, path)?;
        if field.omit_empty && !field.pointer {
            return Ok(!is_empty(value) || self.types.always(field));
        }
        if field.omit_zero {
            return Ok(!value.is_null());
        }
        if !field.pointer && is_empty_collection(value, self.types.get(field.ty)) {
            // Storage does not tell an empty list from none.
            *value = Value::Null;
        }
        Ok(true)
    }

    fn leaf(&mut self, leaf: &Leaf, value: &mut Value, path: Path<'_>) -> Result<(), Mismatch> {
        use super::types::LeafKind::*;
        let props = self.types.schema_props;
        match (leaf.kind, &mut *value) {
            (SchemaOrBool | SchemaOrArray, Value::Object(_)) => self.value(props, value, path),
            (SchemaOrArray, Value::Array(items)) => items
                .iter_mut()
                .enumerate()
                .try_for_each(|(i, item)| self.value(props, item, Path::Index(&path, i))),
            (SchemaOrStrings, Value::Object(_)) => self.value(props, value, path),
            _ => leaf::canonicalize(leaf, value),
        }
    }
}

/// What is refused here could not be stored.
pub(super) fn too_large() -> Mismatch {
    Mismatch::Words(format!("the object is too large: limit is {}", limits::STORED_BYTES))
}

/// What JSON's kinds are called in Go's decoding errors.
pub(crate) fn describe(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// The kind that Go gives a decoded value.
fn go_kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nil",
        Value::Bool(_) => "bool",
        Value::Number(n) if n.is_i64() => "int64",
        Value::Number(_) => "float64",
        Value::String(_) => "string",
        Value::Array(_) => "slice",
        Value::Object(_) => "map",
    }
}

/// What Go's `omitempty` leaves out.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(b) => !b,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.is_empty(),
    }
}

fn is_empty_collection(value: &Value, ty: &Type) -> bool {
    match ty {
        Type::List(_) => value.as_array().is_some_and(Vec::is_empty),
        Type::Map(_) => value.as_object().is_some_and(Map::is_empty),
        Type::Struct(_) | Type::Leaf(_) => false,
    }
}
