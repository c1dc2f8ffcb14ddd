//! Types of the schema table as OpenAPI v3 definitions.

use std::collections::BTreeMap;

use coracle_api::Gvk;
use serde_json::{Map, Value, json};

use super::custom::{self, Edition};
use crate::resource::Resource;
use crate::schema::{Field, Leaf, LeafKind, ListKind, Node, Schema, Struct, Type};

const PREFIX: &str = "#/components/schemas/";
const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
const APIEXTENSIONS: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1";

/// The definitions that a document refers to.
pub(super) struct Definitions {
    done: BTreeMap<String, Value>,
    edition: Edition,
    /// Group and version of the document.
    own: (String, String),
    /// Custom kinds are referred to and not defined.
    names_only: bool,
}

impl Definitions {
    pub(super) fn new(edition: Edition, group: &str, version: &str) -> Self {
        let own = (group.to_owned(), version.to_owned());
        Definitions { done: BTreeMap::new(), edition, own, names_only: false }
    }

    /// For who wants the references: definitions of custom kinds, which may be large, are not made.
    pub(super) fn names(edition: Edition, group: &str, version: &str) -> Self {
        Definitions { names_only: true, ..Definitions::new(edition, group, version) }
    }

    /// References to the definitions of a resource's kind and of its list.
    pub(super) fn resource(&mut self, resource: &Resource) -> (Value, Value) {
        let gvk = &resource.gvk;
        if resource.typed {
            let object = self.node(resource.schema.root());
            let list = self.kind(&Gvk::new(&*gvk.group, &*gvk.version, &*resource.list_kind));
            return (object.clone(), list.unwrap_or(object));
        }
        let metadata = self.metadata("ConfigMap");
        let edition = self.edition;
        let object = self.custom(custom::name(gvk), || custom::definition(resource, &metadata, edition));
        let metadata = self.metadata("ConfigMapList");
        let list = Gvk { kind: resource.list_kind.clone(), ..gvk.clone() };
        let list = self.custom(custom::name(&list), || custom::list(resource, &object, &metadata));
        (object, list)
    }

    fn custom(&mut self, name: String, define: impl FnOnce() -> Value) -> Value {
        let reference = json!({"$ref": format!("{PREFIX}{name}")});
        if !self.names_only {
            self.done.insert(name, define());
        }
        reference
    }

    /// The type of `metadata` of a built-in kind.
    fn metadata(&mut self, kind: &str) -> Value {
        let schema = Schema::builtin(&Gvk::new("", "v1", kind));
        schema.and_then(|s| Some(self.node(s.root().child("metadata")?))).unwrap_or_default()
    }

    /// A reference to the definition of a built-in kind, which is added with all it needs.
    pub(super) fn kind(&mut self, gvk: &Gvk) -> Option<Value> {
        Some(self.node(Schema::builtin(gvk)?.root()))
    }

    /// A reference to the definition of a schema's root.
    pub(super) fn node(&mut self, node: Node<'_>) -> Value {
        self.schema(node, None)
    }

    /// `Patch` has no fields: any JSON may be one.
    pub(super) fn patch(&mut self) -> Value {
        let name = format!("{META}.Patch");
        self.done.entry(name.clone()).or_insert_with(|| json!({"type": "object"}));
        json!({"$ref": format!("{PREFIX}{name}")})
    }

    pub(super) fn finish(self) -> Map<String, Value> {
        self.done.into_iter().collect()
    }

    fn schema(&mut self, node: Node<'_>, field: Option<&Field>) -> Value {
        match node.ty() {
            Type::Struct(s) => self.structure(node, s),
            Type::Leaf(leaf) => self.leaf(node, leaf),
            Type::List(_) => {
                let item = node.item().expect("a list has items");
                let mut items = self.element(item);
                if let Some(field) = field.filter(|f| !f.item_values.is_empty()) {
                    items["enum"] = json!(field.item_values);
                }
                json!({"type": "array", "items": items})
            }
            Type::Map(_) => {
                let mut values = self.element(node.child("").expect("a map has values"));
                if let Some(field) = field.filter(|f| !f.item_values.is_empty()) {
                    values["enum"] = json!(field.item_values);
                }
                json!({"type": "object", "additionalProperties": values})
            }
        }
    }

    /// The schema of a list's items or a map's values: with Go's zero value as default.
    fn element(&mut self, node: Node<'_>) -> Value {
        let schema = self.schema(node, None);
        match (node.ty(), schema.get("$ref")) {
            (Type::Leaf(leaf), Some(_)) if zero(leaf.kind).is_none() => schema,
            (_, Some(_)) => json!({"default": {}, "allOf": [schema]}),
            (Type::Leaf(leaf), None) => match zero(leaf.kind) {
                Some(zero) => with(schema, "default", zero),
                None => schema,
            },
            (_, None) => schema,
        }
    }

    fn structure(&mut self, node: Node<'_>, s: &Struct) -> Value {
        let name = s.name.to_string();
        let reference = json!({"$ref": format!("{PREFIX}{name}")});
        if self.done.contains_key(&name) {
            return reference;
        }
        // Before its fields: types refer to themselves.
        self.done.insert(name.clone(), Value::Null);
        let mut properties = Map::new();
        for field in &s.fields {
            properties.insert(field.name.to_string(), self.property(node.at(field.ty), field));
        }
        let mut definition = json!({"type": "object"});
        if !properties.is_empty() {
            definition["properties"] = properties.into();
        }
        if !s.required.is_empty() {
            definition["required"] = json!(s.required);
        }
        if s.atomic {
            definition["x-kubernetes-map-type"] = "atomic".into();
        }
        if let Some(unions) = &s.unions {
            definition["x-kubernetes-unions"] = unions.clone();
        }
        let kinds = self.shown_kinds(&node.kinds());
        if !kinds.is_empty() {
            definition["x-kubernetes-group-version-kind"] = kinds.into();
        }
        self.done.insert(name, definition);
        reference
    }

    /// The kinds that a type has. What every group has (`DeleteOptions`, `WatchEvent`) is in the document of one group
    /// version of that and of the core.
    fn shown_kinds(&self, kinds: &[Gvk]) -> Vec<Value> {
        let is_own = |k: &Gvk| (&*k.group, &*k.version) == (&*self.own.0, &*self.own.1);
        let all = self.edition == Edition::V2 || !kinds.iter().any(is_own);
        kinds
            .iter()
            .filter(|k| all || is_own(k) || (k.group.is_empty() && &*k.version == "v1"))
            .map(|k| json!({"group": k.group, "version": k.version, "kind": k.kind}))
            .collect()
    }

    fn property(&mut self, node: Node<'_>, field: &Field) -> Value {
        let mut schema = self.schema(node, Some(field));
        if schema.get("$ref").is_some() {
            schema = json!({"allOf": [schema]});
            if !field.pointer && matches!(node.ty(), Type::Struct(_)) {
                schema["default"] = json!({});
            }
        }
        if let Some(default) = &field.default {
            schema["default"] = default.clone();
        }
        if !field.values.is_empty() {
            schema["enum"] = json!(field.values);
        }
        if !field.format.is_empty() {
            schema["format"] = (*field.format).into();
        }
        let list_type = match field.list {
            ListKind::Unknown => "",
            ListKind::Atomic => "atomic",
            ListKind::Set => "set",
            ListKind::Map => "map",
        };
        let strategies: Vec<&str> = [
            (field.merge.merge, "merge"),
            (field.merge.replace, "replace"),
            (field.merge.retain_keys, "retainKeys"),
        ]
        .into_iter()
        .filter_map(|(on, name)| on.then_some(name))
        .collect();
        let map_type = field.map_atomic.map_or("", |atomic| if atomic { "atomic" } else { "granular" });
        for (key, value) in [
            ("x-kubernetes-list-type", list_type),
            ("x-kubernetes-map-type", map_type),
            ("x-kubernetes-patch-merge-key", &*field.merge.key),
            ("x-kubernetes-patch-strategy", &strategies.join(",")),
        ] {
            if !value.is_empty() {
                schema[key] = value.into();
            }
        }
        if !field.keys.is_empty() {
            schema["x-kubernetes-list-map-keys"] = json!(field.keys);
        }
        schema
    }

    fn leaf(&mut self, node: Node<'_>, leaf: &Leaf) -> Value {
        let (name, definition) = match leaf.kind {
            LeafKind::String => return json!({"type": "string"}),
            LeafKind::Bool => return json!({"type": "boolean"}),
            LeafKind::Int32 => return json!({"type": "integer", "format": "int32"}),
            LeafKind::Int64 => return json!({"type": "integer", "format": "int64"}),
            LeafKind::Double => return json!({"type": "number", "format": "double"}),
            LeafKind::Bytes => return json!({"type": "string", "format": "byte"}),
            LeafKind::Quantity => (
                "io.k8s.apimachinery.pkg.api.resource.Quantity".to_owned(),
                json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
            ),
            LeafKind::IntOrString => (
                "io.k8s.apimachinery.pkg.util.intstr.IntOrString".to_owned(),
                json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]}),
            ),
            LeafKind::Time => (format!("{META}.Time"), json!({"type": "string", "format": "date-time"})),
            LeafKind::MicroTime => {
                (format!("{META}.MicroTime"), json!({"type": "string", "format": "date-time"}))
            }
            LeafKind::Duration => (format!("{META}.Duration"), json!({"type": "string"})),
            LeafKind::Fields => (format!("{META}.FieldsV1"), json!({"type": "object"})),
            LeafKind::Raw => {
                ("io.k8s.apimachinery.pkg.runtime.RawExtension".to_owned(), json!({"type": "object"}))
            }
            LeafKind::Json => (format!("{APIEXTENSIONS}.JSON"), json!({})),
            LeafKind::SchemaOrBool => (format!("{APIEXTENSIONS}.JSONSchemaPropsOrBool"), json!({})),
            LeafKind::SchemaOrArray => (format!("{APIEXTENSIONS}.JSONSchemaPropsOrArray"), json!({})),
            LeafKind::SchemaOrStrings => (format!("{APIEXTENSIONS}.JSONSchemaPropsOrStringArray"), json!({})),
        };
        let reference = json!({"$ref": format!("{PREFIX}{name}")});
        let is_new = !self.done.contains_key(&name);
        self.done.entry(name).or_insert(definition);
        if is_new
            && matches!(
                leaf.kind,
                LeafKind::SchemaOrBool | LeafKind::SchemaOrArray | LeafKind::SchemaOrStrings
            )
        {
            self.node(node.at(node.types.schema_props));
        }
        reference
    }
}

/// Go's zero value of an element, which its schema has as default.
fn zero(kind: LeafKind) -> Option<Value> {
    match kind {
        LeafKind::String => Some("".into()),
        LeafKind::Bool => Some(false.into()),
        LeafKind::Int32 | LeafKind::Int64 | LeafKind::Double => Some(0.into()),
        _ => None,
    }
}

fn with(mut schema: Value, key: &str, value: Value) -> Value {
    schema[key] = value;
    schema
}
