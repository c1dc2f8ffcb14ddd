//! The tree of types that every schema is a root in: structural facts only, shared by all kinds of one source.

use std::collections::HashMap;

use serde_json::{Map, Value};

/// Index of a [`Type`] in its [`Types`].
pub(crate) type TypeId = u32;

/// All types of one source: the built-in kinds, or one custom resource definition.
#[derive(Debug, Default)]
pub struct Types {
    pub(crate) all: Vec<Type>,
    /// `(group/version, kind)` to the kind's struct; the group version `*` holds what every group serves.
    pub(crate) kinds: HashMap<(String, String), TypeId>,
    /// What the `SchemaOr...` leaves hold.
    pub(crate) schema_props: TypeId,
}

#[derive(Clone, Debug)]
pub enum Type {
    Struct(Struct),
    List(List),
    Map(MapOf),
    Leaf(Leaf),
}

/// An object with known fields.
#[derive(Clone, Debug, Default)]
pub struct Struct {
    /// The name of its OpenAPI definition: `io.k8s.api.core.v1.PodSpec`.
    pub name: Box<str>,
    /// Go's name without and with the package: `PodSpec`, `v1.PodSpec`.
    pub go: Box<str>,
    pub go_type: Box<str>,
    /// Sorted by name.
    pub fields: Vec<Field>,
    /// The place of each of them in Go's type.
    pub(crate) ranks: Vec<u16>,
    /// The required fields' names in Go's order.
    pub required: Vec<Box<str>>,
    /// Which fields the JSON form always has, even when nobody set them.
    pub(crate) always: Vec<u16>,
    /// Protobuf numbers, sorted: fields, and embedded structs whose fields are lifted into this one.
    pub(crate) numbers: Vec<(u32, Numbered)>,
    /// What fields hold that are not among `fields` and are kept nevertheless (custom resources only).
    pub(crate) extra: Option<TypeId>,
    /// Merged as a whole by server-side apply.
    pub atomic: bool,
    /// `x-kubernetes-unions`, for OpenAPI only.
    pub unions: Option<Value>,
}

/// What a protobuf field number of a struct means.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Numbered {
    Field(u16),
    /// An embedded struct: a message on the wire, part of its parent in JSON.
    Embedded(TypeId),
}

#[derive(Clone, Debug)]
pub struct Field {
    pub name: Box<str>,
    pub(crate) ty: TypeId,
    pub pointer: bool,
    pub omit_empty: bool,
    pub omit_zero: bool,
    /// 0 where the field is on the wire in an embedded struct only, or not at all.
    pub number: u32,
    /// Go's names of the embedded structs the field is lifted from, joined by dots.
    pub embedded: Box<str>,
    pub merge: Merge,
    pub list: ListKind,
    /// The fields that identify an item of a `map` list.
    pub keys: Vec<Box<str>>,
    /// `x-kubernetes-map-type` on this field: atomic or granular.
    pub map_atomic: Option<bool>,
    pub default: Option<Value>,
    /// The values allowed: of the field, or of its items.
    pub values: Vec<Box<str>>,
    pub item_values: Vec<Box<str>>,
    pub format: Box<str>,
}

/// How a strategic merge patch treats a field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Merge {
    /// A list is merged by key or as a set (else it is replaced).
    pub merge: bool,
    pub replace: bool,
    pub retain_keys: bool,
    /// Empty where the items are scalars.
    pub key: Box<str>,
}

/// `x-kubernetes-list-type`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ListKind {
    /// Nothing is said; counts as atomic.
    #[default]
    Unknown,
    Atomic,
    Set,
    Map,
}

#[derive(Clone, Debug)]
pub struct List {
    pub(crate) items: TypeId,
    /// Go's name of the list type, as errors print it.
    pub go_type: Box<str>,
    /// On the protobuf wire a message of its own that holds the items in field 1.
    pub(crate) wrapped: bool,
}

#[derive(Clone, Debug)]
pub struct MapOf {
    pub(crate) values: TypeId,
    pub go_type: Box<str>,
}

#[derive(Clone, Debug)]
pub struct Leaf {
    pub kind: LeafKind,
    pub go_type: Box<str>,
}

/// The types that are not built of others, or whose JSON form follows a rule of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeafKind {
    String,
    Bool,
    Int32,
    Int64,
    Double,
    Bytes,
    Quantity,
    Time,
    MicroTime,
    Duration,
    IntOrString,
    /// Any JSON: `RawExtension`, `FieldsV1`, the `JSON` of custom resource definitions.
    Raw,
    Fields,
    Json,
    SchemaOrBool,
    SchemaOrArray,
    SchemaOrStrings,
}

// === impl Types ===

impl Types {
    pub(crate) fn get(&self, id: TypeId) -> &Type {
        &self.all[id as usize]
    }

    /// The value that Go's zero value of a type is in JSON.
    pub(crate) fn zero(&self, id: TypeId) -> Value {
        match self.get(id) {
            Type::List(_) | Type::Map(_) => Value::Null,
            Type::Leaf(leaf) => leaf.kind.zero(),
            Type::Struct(s) => {
                let mut map = Map::new();
                for &i in &s.always {
                    let field = &s.fields[usize::from(i)];
                    map.insert(field.name.to_string(), self.absent(field));
                }
                Value::Object(map)
            }
        }
    }

    /// What a field that nobody set is in JSON, if it appears at all.
    pub(crate) fn absent(&self, field: &Field) -> Value {
        if field.pointer { Value::Null } else { self.zero(field.ty) }
    }

    /// Whether a field is in the JSON form even when nobody set it.
    pub(crate) fn always(&self, field: &Field) -> bool {
        if !field.omit_empty && !field.omit_zero {
            return true;
        }
        // Go's `omitempty` has no effect on structs.
        !field.pointer && !field.omit_zero && self.is_go_struct(field.ty)
    }

    pub(super) fn is_bytes(&self, id: TypeId) -> bool {
        matches!(self.get(id), Type::Leaf(leaf) if leaf.kind == LeafKind::Bytes)
    }

    fn is_go_struct(&self, id: TypeId) -> bool {
        match self.get(id) {
            Type::Struct(_) => true,
            Type::List(_) | Type::Map(_) => false,
            Type::Leaf(leaf) => leaf.kind.is_go_struct(),
        }
    }
}

// === impl Struct ===

impl Struct {
    pub fn field(&self, name: &str) -> Option<&Field> {
        let i = self.fields.binary_search_by(|f| (*f.name).cmp(name)).ok()?;
        Some(&self.fields[i])
    }

    /// Where Go prints the field; what the type does not have comes last.
    pub(crate) fn rank(&self, name: &str) -> u16 {
        let at = self.fields.binary_search_by(|f| (*f.name).cmp(name));
        at.ok().and_then(|at| self.ranks.get(at)).copied().unwrap_or(u16::MAX)
    }

    pub(crate) fn numbered(&self, number: u32) -> Option<Numbered> {
        let i = self.numbers.binary_search_by_key(&number, |(n, _)| *n).ok()?;
        Some(self.numbers[i].1)
    }
}

// === impl LeafKind ===

impl LeafKind {
    fn is_go_struct(self) -> bool {
        !matches!(
            self,
            LeafKind::String
                | LeafKind::Bool
                | LeafKind::Int32
                | LeafKind::Int64
                | LeafKind::Double
                | LeafKind::Bytes
        )
    }

    /// Whether it is a schema of a custom resource definition, or something simpler in its place.
    pub(crate) fn holds_schema(self) -> bool {
        matches!(self, LeafKind::SchemaOrBool | LeafKind::SchemaOrArray | LeafKind::SchemaOrStrings)
    }

    pub(super) fn zero(self) -> Value {
        match self {
            LeafKind::String => "".into(),
            LeafKind::Bool => false.into(),
            LeafKind::Int32 | LeafKind::Int64 | LeafKind::Double | LeafKind::IntOrString => 0.into(),
            LeafKind::Quantity => "0".into(),
            LeafKind::Duration => "0s".into(),
            LeafKind::Bytes
            | LeafKind::Time
            | LeafKind::MicroTime
            | LeafKind::Raw
            | LeafKind::Fields
            | LeafKind::Json
            | LeafKind::SchemaOrBool
            | LeafKind::SchemaOrArray
            | LeafKind::SchemaOrStrings => Value::Null,
        }
    }
}
