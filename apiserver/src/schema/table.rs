//! Reads the generated table of built-in types (`data/builtin.schema`, made by `hack/generate-schema`).
//!
//! ```text
//! kind apps/v1 Deployment apps/v1.Deployment      a served kind and its struct
//! package core/v1 io.k8s.api.core.v1              an alias and the prefix of its OpenAPI names
//! type core/v1.PodSpec [map=atomic] [unions=<json>]       a struct; its fields follow
//!  name type number flags...                      a field
//!  + 2 core/v1.VolumeSource                       an embedded struct with a protobuf number of its own
//! ```
//! A type is `*T`, `[go name]T`, `{go name}T`, `alias.Name`, or a leaf with an optional Go name (`string:v1.PullPolicy`).
//! Flags: `o` omitempty, `z` omitzero, `r` required, `@` embedded in, `s=` patch strategies, `k=` merge key, `l=` list type,
//! `i=` list map keys, `m=` map type, `d=` default, `e=` enum, `E=` enum of the items or values, `f=` format. In enums `~` is a space.

use std::collections::HashMap;

use super::types::{
    Field, Leaf, LeafKind, List, ListKind, MapOf, Merge, Numbered, Struct, Type, TypeId, Types,
};

const TABLE: &str = include_str!("../../data/builtin.schema");

/// The types of all built-in kinds. Panics only on a table that the tests would have refused.
pub(super) fn builtin() -> Types {
    Reader::default().read(TABLE).expect("the generated table is well formed")
}

#[derive(Default)]
struct Reader<'a> {
    types: Types,
    /// Alias to OpenAPI prefix.
    packages: HashMap<&'a str, &'a str>,
    /// Type text to id: each distinct text is one type.
    ids: HashMap<&'a str, TypeId>,
}

impl<'a> Reader<'a> {
    fn read(mut self, table: &'a str) -> Option<Types> {
        let mut current = 0;
        for line in table.lines() {
            let mut words = line.split(' ');
            match words.next()? {
                "kind" => {
                    let (gv, kind, ty) = (words.next()?, words.next()?, words.next()?);
                    let id = self.type_id(ty)?;
                    self.types.kinds.insert((gv.to_owned(), kind.to_owned()), id);
                }
                "package" => {
                    let (alias, prefix) = (words.next()?, words.next()?);
                    self.packages.insert(alias, prefix);
                }
                "type" => current = self.open_struct(words)?,
                "" => self.member(current, words)?,
                _ => return None,
            }
        }
        self.close();
        Some(self.types)
    }

    fn open_struct(&mut self, mut words: std::str::Split<'a, char>) -> Option<TypeId> {
        let reference = words.next()?;
        let id = self.type_id(reference)?;
        let (alias, go) = reference.split_once('.')?;
        let prefix = *self.packages.get(alias)?;
        let s = self.strukt(id)?;
        s.name = format!("{prefix}.{go}").into();
        s.go = go.into();
        for word in words {
            match word.split_once('=')? {
                ("map", kind) => s.atomic = kind == "atomic",
                ("unions", json) => s.unions = serde_json::from_str(json).ok(),
                _ => return None,
            }
        }
        Some(id)
    }

    fn member(&mut self, owner: TypeId, mut words: std::str::Split<'a, char>) -> Option<()> {
        let name = words.next()?;
        if name == "+" {
            let number = words.next()?.parse().ok()?;
            let embedded = Numbered::Embedded(self.type_id(words.next()?)?);
            self.strukt(owner)?.numbers.push((number, embedded));
            return Some(());
        }
        let text = words.next()?;
        let target = text.trim_start_matches('*');
        let mut field = Field {
            name: name.into(),
            ty: self.type_id(target)?,
            pointer: target.len() < text.len(),
            omit_empty: false,
            omit_zero: false,
            number: words.next()?.parse().ok()?,
            embedded: "".into(),
            merge: Merge::default(),
            list: ListKind::Unknown,
            keys: vec![],
            map_atomic: None,
            default: None,
            values: vec![],
            item_values: vec![],
            format: "".into(),
        };
        let mut required = false;
        for word in words {
            match word {
                "r" => required = true,
                word => flag(&mut field, word)?,
            }
        }
        let owner = self.strukt(owner)?;
        if required {
            owner.required.push(field.name.clone());
        }
        owner.fields.push(field);
        Some(())
    }

    fn strukt(&mut self, id: TypeId) -> Option<&mut Struct> {
        match &mut self.types.all[id as usize] {
            Type::Struct(s) => Some(s),
            Type::List(_) | Type::Map(_) | Type::Leaf(_) => None,
        }
    }

    fn add(&mut self, text: &'a str, ty: Type) -> TypeId {
        let id = TypeId::try_from(self.types.all.len()).expect("far fewer types than u32 holds");
        self.types.all.push(ty);
        self.ids.insert(text, id);
        id
    }

    fn type_id(&mut self, text: &'a str) -> Option<TypeId> {
        if let Some(id) = self.ids.get(text) {
            return Some(*id);
        }
        if let Some(rest) = text.strip_prefix('[') {
            let (go, items) = rest.split_once(']')?;
            let items = self.type_id(items.trim_start_matches('*'))?;
            let wrapped = matches!(go, "v1.ExtraValue" | "v1.Verbs");
            let go_type = if go.is_empty() { format!("[]{}", self.go_type(items)) } else { go.to_owned() };
            return Some(self.add(text, Type::List(List { items, go_type: go_type.into(), wrapped })));
        }
        if let Some(rest) = text.strip_prefix('{') {
            let (go, values) = rest.split_once('}')?;
            let values = self.type_id(values.trim_start_matches('*'))?;
            let go_type =
                if go.is_empty() { format!("map[string]{}", self.go_type(values)) } else { go.to_owned() };
            return Some(self.add(text, Type::Map(MapOf { values, go_type: go_type.into() })));
        }
        if text.contains('/') {
            let version = &text[text.find('/')? + 1..];
            let forward = Struct { go_type: version.into(), ..Struct::default() };
            return Some(self.add(text, Type::Struct(forward)));
        }
        let (leaf, go) = text.split_once(':').unwrap_or((text, ""));
        let kind = leaf_kind(leaf)?;
        let go_type = if go.is_empty() { default_go_type(kind) } else { go };
        Some(self.add(text, Type::Leaf(Leaf { kind, go_type: go_type.into() })))
    }

    fn go_type(&self, id: TypeId) -> &str {
        match self.types.get(id) {
            Type::Struct(s) => &s.go_type,
            Type::List(l) => &l.go_type,
            Type::Map(m) => &m.go_type,
            Type::Leaf(l) => &l.go_type,
        }
    }

    /// Sorts the fields and fills what follows from them.
    fn close(&mut self) {
        self.types.schema_props =
            self.ids.get("apiextensions/v1.JSONSchemaProps").copied().unwrap_or_default();
        for i in 0..self.types.all.len() {
            let Type::Struct(s) = &mut self.types.all[i] else { continue };
            let mut ranked: Vec<(u16, Field)> = (0u16..).zip(std::mem::take(&mut s.fields)).collect();
            ranked.sort_by(|(_, a), (_, b)| a.name.cmp(&b.name));
            let (ranks, fields): (Vec<u16>, Vec<Field>) = ranked.into_iter().unzip();
            let always =
                (0u16..).zip(&fields).filter(|(_, f)| self.types.always(f)).map(|(at, _)| at).collect();
            let numbered: Vec<_> = (0u16..)
                .zip(&fields)
                .filter(|(_, f)| f.number != 0)
                .map(|(at, f)| (f.number, Numbered::Field(at)))
                .collect();
            let Type::Struct(s) = &mut self.types.all[i] else { continue };
            s.always = always;
            s.fields = fields;
            s.ranks = ranks;
            s.numbers.extend(numbered);
            s.numbers.sort_by_key(|(n, _)| *n);
        }
    }
}

fn flag(field: &mut Field, word: &str) -> Option<()> {
    let list = |text: &str| text.split(',').map(|v| v.replace('~', " ").into()).collect();
    match word {
        "o" => field.omit_empty = true,
        "z" => field.omit_zero = true,
        _ if word.starts_with('@') => field.embedded = word[1..].into(),
        _ => {
            let (key, value) = word.split_once('=')?;
            match key {
                "s" => {
                    for strategy in value.split(',') {
                        match strategy {
                            "merge" => field.merge.merge = true,
                            "replace" => field.merge.replace = true,
                            "retainKeys" => field.merge.retain_keys = true,
                            _ => return None,
                        }
                    }
                }
                "k" => field.merge.key = value.into(),
                "l" => {
                    field.list = match value {
                        "atomic" => ListKind::Atomic,
                        "set" => ListKind::Set,
                        "map" => ListKind::Map,
                        _ => return None,
                    }
                }
                "i" => field.keys = list(value),
                "m" => field.map_atomic = Some(value == "atomic"),
                "d" => field.default = Some(serde_json::from_str(value).ok()?),
                "e" => field.values = list(value),
                "E" => field.item_values = list(value),
                "f" => field.format = value.into(),
                _ => return None,
            }
        }
    }
    Some(())
}

fn leaf_kind(text: &str) -> Option<LeafKind> {
    Some(match text {
        "string" => LeafKind::String,
        "bool" => LeafKind::Bool,
        "int32" => LeafKind::Int32,
        "int64" => LeafKind::Int64,
        "double" => LeafKind::Double,
        "bytes" => LeafKind::Bytes,
        "quantity" => LeafKind::Quantity,
        "time" => LeafKind::Time,
        "microtime" => LeafKind::MicroTime,
        "duration" => LeafKind::Duration,
        "intorstring" => LeafKind::IntOrString,
        "raw" => LeafKind::Raw,
        "fieldsv1" => LeafKind::Fields,
        "json" => LeafKind::Json,
        "schemaorbool" => LeafKind::SchemaOrBool,
        "schemaorarray" => LeafKind::SchemaOrArray,
        "schemaorstrings" => LeafKind::SchemaOrStrings,
        _ => return None,
    })
}

/// Go's name of a leaf as list types and errors show it; the types with a decoder of their own report that decoder's target.
fn default_go_type(kind: LeafKind) -> &'static str {
    match kind {
        LeafKind::String => "string",
        LeafKind::Bool => "bool",
        LeafKind::Int32 => "int32",
        LeafKind::Int64 => "int64",
        LeafKind::Double => "float64",
        LeafKind::Bytes => "[]uint8",
        LeafKind::Quantity => "resource.Quantity",
        LeafKind::Time => "v1.Time",
        LeafKind::MicroTime => "v1.MicroTime",
        LeafKind::Duration => "v1.Duration",
        LeafKind::IntOrString => "intstr.IntOrString",
        LeafKind::Raw => "runtime.RawExtension",
        LeafKind::Fields => "v1.FieldsV1",
        LeafKind::Json => "v1.JSON",
        LeafKind::SchemaOrBool => "v1.JSONSchemaPropsOrBool",
        LeafKind::SchemaOrArray => "v1.JSONSchemaPropsOrArray",
        LeafKind::SchemaOrStrings => "v1.JSONSchemaPropsOrStringArray",
    }
}
