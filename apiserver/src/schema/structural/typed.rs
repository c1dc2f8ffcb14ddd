//! A structural schema as the typed tree that apply, patches and OpenAPI walk: the same facts in the same fields as those
//! of built-in kinds.

use std::collections::HashMap;

use serde_json::Value;

use super::super::BUILTIN;
use super::super::types::{Field, Leaf, LeafKind, List, ListKind, MapOf, Merge, Struct, Type, TypeId, Types};
use super::embedded::metadata_type;
use super::{Additional, Structural};

/// The tree of one custom kind, and its root.
pub(crate) fn types(schema: &Structural) -> (Types, TypeId) {
    let mut builder = Builder { types: Types::default(), imported: HashMap::new() };
    let root = builder.object(schema, true);
    (builder.types, root)
}

struct Builder {
    types: Types,
    /// Built-in types by their number there.
    imported: HashMap<TypeId, TypeId>,
}

// === impl Builder ===

impl Builder {
    fn add(&mut self, ty: Type) -> TypeId {
        self.types.all.push(ty);
        TypeId::try_from(self.types.all.len() - 1).expect("far fewer types than u32 holds")
    }

    fn leaf(&mut self, kind: LeafKind) -> TypeId {
        self.add(Type::Leaf(Leaf { kind, go_type: "interface {}".into() }))
    }

    fn value(&mut self, schema: &Structural) -> TypeId {
        if schema.int_or_string {
            return self.leaf(LeafKind::IntOrString);
        }
        match (&*schema.kind, &schema.additional, &schema.items) {
            ("string", ..) => self.leaf(LeafKind::String),
            ("boolean", ..) => self.leaf(LeafKind::Bool),
            ("integer", ..) => self.leaf(LeafKind::Int64),
            ("number", ..) => self.leaf(LeafKind::Double),
            ("array", _, Some(items)) => {
                let items = self.value(items);
                self.add(Type::List(List { items, go_type: "[]interface {}".into(), wrapped: false }))
            }
            ("object", Additional::Of(values), _) if schema.properties.is_empty() => {
                let values = self.value(values);
                self.add(Type::Map(MapOf { values, go_type: "map[string]interface {}".into() }))
            }
            ("object", ..) if schema.embedded || !schema.properties.is_empty() => {
                self.object(schema, schema.embedded)
            }
            _ => self.leaf(LeafKind::Json),
        }
    }

    /// `whole`: with the fields that every Kubernetes object has.
    fn object(&mut self, schema: &Structural, whole: bool) -> TypeId {
        let mut fields: Vec<Field> = vec![];
        if whole {
            let text = self.leaf(LeafKind::String);
            let metadata = self.import(metadata_type());
            fields.extend([field("apiVersion", text), field("kind", text), field("metadata", metadata)]);
        }
        for (name, schema) in &schema.properties {
            if fields.iter().any(|f| f.name == *name) {
                continue;
            }
            let ty = self.value(schema);
            fields.push(Field {
                list: match &*schema.list_type {
                    "set" => ListKind::Set,
                    "map" => ListKind::Map,
                    "atomic" => ListKind::Atomic,
                    _ => ListKind::Unknown,
                },
                keys: schema.list_keys.clone(),
                map_atomic: match &*schema.map_type {
                    "atomic" => Some(true),
                    "granular" => Some(false),
                    _ => None,
                },
                default: schema.default.clone(),
                ..field(name, ty)
            });
        }
        fields.sort_by(|a, b| a.name.cmp(&b.name));
        // Unknown fields that are kept are of no known type: each is whatever its value is.
        let extra = match &schema.additional {
            Additional::Of(values) => Some(self.value(values)),
            _ if schema.preserve_unknown => Some(self.leaf(LeafKind::Json)),
            _ => None,
        };
        self.add(Type::Struct(Struct {
            fields,
            extra,
            required: schema.limits.required.clone(),
            atomic: &*schema.map_type == "atomic",
            ..Struct::default()
        }))
    }

    /// A built-in type with all it is made of.
    fn import(&mut self, id: TypeId) -> TypeId {
        if let Some(known) = self.imported.get(&id) {
            return *known;
        }
        // Before its parts: types refer to themselves.
        let copy = self.leaf(LeafKind::Json);
        self.imported.insert(id, copy);
        let ty = match BUILTIN.get(id).clone() {
            Type::Struct(mut s) => {
                for field in &mut s.fields {
                    field.ty = self.import(field.ty);
                }
                s.numbers.clear();
                Type::Struct(s)
            }
            Type::List(list) => Type::List(List { items: self.import(list.items), ..list }),
            Type::Map(map) => Type::Map(MapOf { values: self.import(map.values), ..map }),
            Type::Leaf(leaf) => Type::Leaf(leaf),
        };
        self.types.all[copy as usize] = ty;
        copy
    }
}

fn field(name: &str, ty: TypeId) -> Field {
    Field {
        name: name.into(),
        ty,
        pointer: true,
        omit_empty: true,
        omit_zero: false,
        number: 0,
        embedded: "".into(),
        merge: Merge::default(),
        list: ListKind::Unknown,
        keys: vec![],
        map_atomic: None,
        default: None::<Value>,
        values: vec![],
        item_values: vec![],
        format: "".into(),
    }
}
