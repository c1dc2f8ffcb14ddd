//! What the schema says of one place in an object: whether it is merged field by field, item by item, or as a whole.

use serde_json::Value;

use crate::schema::{Field, LeafKind, ListKind, Node, Schema, Type};

/// A place in a schema. Where nothing is declared the values themselves tell: objects are merged by field, all else is
/// a whole.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    node: Option<Node<'a>>,
    /// The field through which the place is reached: it says what lists and maps are.
    field: Option<&'a Field>,
}

/// How a place is merged and owned.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Rule<'a> {
    /// As one value.
    Whole,
    Fields,
    /// A list whose items are known by these fields.
    Keyed(&'a [Box<str>]),
    /// A list of distinct scalars.
    Set,
}

// === impl Place ===

impl<'a> Place<'a> {
    pub(super) fn root(schema: &'a Schema) -> Self {
        Place { node: Some(schema.root()), field: None }
    }

    fn undeclared() -> Self {
        Place { node: None, field: None }
    }

    /// What is declared here; leaves that hold any JSON declare nothing.
    pub(super) fn ty(self) -> Option<&'a Type> {
        let ty = self.node?.ty();
        match ty {
            Type::Leaf(leaf) if is_open(leaf.kind) => None,
            ty => Some(ty),
        }
    }

    /// The rule, given the values that are there.
    pub(super) fn rule(self, values: [Option<&Value>; 2]) -> Rule<'a> {
        let Some(ty) = self.ty() else {
            let mut there = values.into_iter().flatten().filter(|v| !v.is_null()).peekable();
            let objects = there.peek().is_some() && there.all(Value::is_object);
            return if objects { Rule::Fields } else { Rule::Whole };
        };
        let atomic = self.field.and_then(|f| f.map_atomic);
        match ty {
            Type::Struct(s) if atomic.unwrap_or(s.atomic) => Rule::Whole,
            Type::Map(_) if atomic == Some(true) => Rule::Whole,
            Type::Struct(_) | Type::Map(_) => Rule::Fields,
            Type::Leaf(_) => Rule::Whole,
            Type::List(_) => self.field.map_or(Rule::Whole, list),
        }
    }

    /// Whether a struct declares the field; entries of maps are never declared.
    pub(super) fn declares(self, name: &str) -> bool {
        self.node.and_then(|n| n.field(name)).is_some()
    }

    /// Whether nothing but declared fields may be here.
    pub(super) fn is_closed(self) -> bool {
        matches!(self.ty(), Some(Type::Struct(_))) && self.node.and_then(Node::extra).is_none()
    }

    pub(super) fn child(self, name: &str) -> Place<'a> {
        match self.ty().zip(self.node) {
            Some((Type::Struct(s), node)) => match s.field(name) {
                Some(field) => Place { node: Some(node.at(field.ty)), field: Some(field) },
                None => Place { node: node.extra(), field: None },
            },
            Some((Type::Map(_), node)) => Place { node: node.child(name), field: None },
            Some((Type::List(_) | Type::Leaf(_), _)) | None => Place::undeclared(),
        }
    }

    pub(super) fn item(self) -> Place<'a> {
        Place { node: self.node.and_then(Node::item), field: None }
    }

    /// The default of a field of the struct that is here.
    pub(super) fn default_of(self, name: &str) -> Option<&'a Value> {
        self.node?.field(name)?.default.as_ref()
    }

    /// The place under a path element.
    pub(super) fn under(self, element: &str) -> Place<'a> {
        match element.split_once(':') {
            Some(("f", name)) => self.child(name),
            Some(("k", _)) => self.item(),
            _ => Place::undeclared(),
        }
    }
}

fn is_open(kind: LeafKind) -> bool {
    matches!(
        kind,
        LeafKind::Json
            | LeafKind::Fields
            | LeafKind::SchemaOrBool
            | LeafKind::SchemaOrArray
            | LeafKind::SchemaOrStrings
    )
}

/// A list without a type is merged as a strategic patch would merge it.
fn list(field: &Field) -> Rule<'_> {
    match field.list {
        ListKind::Map => Rule::Keyed(&field.keys),
        ListKind::Set => Rule::Set,
        ListKind::Atomic => Rule::Whole,
        ListKind::Unknown if !field.merge.merge => Rule::Whole,
        ListKind::Unknown if field.merge.key.is_empty() => Rule::Set,
        ListKind::Unknown => Rule::Keyed(std::slice::from_ref(&field.merge.key)),
    }
}

// === impl Rule ===

impl Rule<'_> {
    /// The path element of a list's item.
    pub(super) fn element(self, item: &Value, place: Place<'_>) -> Result<String, String> {
        match self {
            Rule::Keyed(keys) => super::element::keyed(keys, item, place),
            Rule::Set | Rule::Whole | Rule::Fields => super::element::value(item),
        }
    }
}
