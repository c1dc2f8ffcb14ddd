//! The published form of custom kinds: what their definition says, with what every Kubernetes object has.

use coracle_api::Gvk;
use serde_json::{Map, Value, json};

use crate::resource::Resource;

const API_VERSION: &str = "APIVersion defines the versioned schema of this representation of an object. Servers should convert recognized schemas to the latest internal value, and may reject unrecognized values. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources";
const KIND: &str = "Kind is a string value representing the REST resource this object represents. Servers may infer this from the endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";
const METADATA: &str = "Standard object's metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";
const LIST_METADATA: &str = "Standard list metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";

/// Which version of OpenAPI a document is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Edition {
    V2,
    V3,
}

/// `com.example.v1.Widget`
pub(super) fn name(gvk: &Gvk) -> String {
    let group: Vec<&str> = gvk.group.split('.').rev().collect();
    format!("{}.{}.{}", group.join("."), gvk.version, gvk.kind)
}

/// The definition of a custom kind. `metadata` refers to the type of every object's.
pub(super) fn definition(resource: &Resource, metadata: &Value, edition: Edition) -> Value {
    let written = resource.schema.definition().map(|d| d.written()).unwrap_or_default();
    let keeps = written["x-kubernetes-preserve-unknown-fields"] == true;
    let mut definition = match written {
        Value::Null => json!({"type": "object"}),
        // Clients would take unknown fields of a kind whose fields are known for mistakes.
        _ if keeps && edition == Edition::V2 => json!({"type": "object"}),
        mut definition => {
            publish(&mut definition, metadata, edition);
            add_object_fields(&mut definition, metadata, API_VERSION, KIND);
            definition
        }
    };
    mark(&mut definition, resource, &resource.gvk.kind);
    definition
}

/// The definition of its list.
pub(super) fn list(resource: &Resource, item: &Value, metadata: &Value) -> Value {
    let (kind, plural) = (&resource.gvk.kind, &resource.gvr.resource);
    let doc = format!(
        "List of {plural}. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md"
    );
    let mut definition = json!({"description": format!("{} is a list of {kind}", resource.list_kind), "type": "object",
        "required": ["items"], "properties": {
            "apiVersion": {"description": API_VERSION, "type": "string"},
            "kind": {"description": KIND, "type": "string"},
            "metadata": described(metadata, LIST_METADATA),
            "items": {"description": doc, "type": "array", "items": item}}});
    mark(&mut definition, resource, &resource.list_kind);
    definition
}

fn mark(definition: &mut Value, resource: &Resource, kind: &str) {
    let gvk = &resource.gvk;
    definition["x-kubernetes-group-version-kind"] =
        json!([{"group": gvk.group, "version": gvk.version, "kind": kind}]);
    if !resource.fields.is_empty() {
        definition["x-kubernetes-selectable-fields"] =
            resource.fields.iter().map(|f| json!({"fieldPath": f.label})).collect();
    }
}

fn described(reference: &Value, description: &str) -> Value {
    json!({"allOf": [reference], "description": description})
}

fn add_object_fields(schema: &mut Value, metadata: &Value, api_version: &str, kind: &str) {
    schema["properties"]["apiVersion"] = json!({"type": "string", "description": api_version});
    schema["properties"]["kind"] = json!({"type": "string", "description": kind});
    schema["properties"]["metadata"] = described(metadata, METADATA);
}

/// Brings a schema and all inside it into the form that is told to clients.
fn publish(schema: &mut Value, metadata: &Value, edition: Edition) {
    let Value::Object(map) = schema else { return };
    match edition {
        Edition::V2 => simplify(map),
        Edition::V3 => unfold(map),
    }
    for key in ["properties"] {
        for (_, field) in map.get_mut(key).and_then(Value::as_object_mut).into_iter().flatten() {
            publish(field, metadata, edition);
        }
    }
    for key in ["items", "additionalProperties"] {
        if let Some(inner) = map.get_mut(key) {
            publish(inner, metadata, edition);
        }
    }
    let is = |key: &str| map.get(key) == Some(&Value::Bool(true));
    let keeps = is("x-kubernetes-preserve-unknown-fields") && edition == Edition::V2;
    if is("x-kubernetes-embedded-resource") && !keeps {
        let required = map.entry("required").or_insert_with(|| json!([]));
        for key in ["kind", "apiVersion"] {
            if let Some(list) = required.as_array_mut().filter(|l| !l.iter().any(|k| k == key)) {
                list.push(key.into());
            }
        }
        let api_version = API_VERSION.replacen("APIVersion", "apiVersion", 1);
        let (api_version, _) = api_version.split_once(" Servers").unwrap_or((&api_version, ""));
        let more =
            "More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md";
        let api_version = format!("{api_version} {more}#resources");
        let kind = format!(
            "kind is a string value representing the type of this object. In CamelCase. {more}#types-kinds"
        );
        add_object_fields(schema, metadata, &api_version, &kind);
    }
}

/// Says in OpenAPI's own words what the mark of an integer or a string means.
fn unfold(map: &mut Map<String, Value>) {
    if map.get("x-kubernetes-int-or-string") != Some(&Value::Bool(true)) {
        return;
    }
    let both = json!([{"type": "integer"}, {"type": "string"}]);
    let first = map.get("allOf").and_then(|all| all.get(0)?.get("anyOf"));
    if map.get("anyOf") == Some(&both) || first == Some(&both) {
        return;
    }
    match map.get("anyOf") {
        None | Some(Value::Null) => drop(map.insert("anyOf".to_owned(), both)),
        Some(_) => {
            let all = map.entry("allOf").or_insert_with(|| json!([]));
            if let Value::Array(all) = all {
                all.insert(0, json!({"anyOf": both}));
            }
        }
    }
}

/// Drops what the second version of OpenAPI, or those who read it, cannot express.
fn simplify(map: &mut Map<String, Value>) {
    for key in ["allOf", "oneOf", "anyOf", "not"] {
        map.remove(key);
    }
    let is = |map: &Map<String, Value>, key: &str| map.get(key) == Some(&Value::Bool(true));
    let keeps = is(map, "x-kubernetes-preserve-unknown-fields");
    let nullable = map.remove("nullable").is_some_and(|n| n == true);
    if nullable || keeps {
        map.remove("items");
        map.remove("properties");
    }
    let kind = map.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
    if nullable || (kind == "array" && !map.contains_key("items")) || (keeps && kind == "object") {
        map.remove("type");
    }
    let optional: Vec<String> = map
        .get("properties")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .filter(|(_, field)| field["nullable"] == true)
        .map(|(name, _)| name.clone())
        .collect();
    if let Some(required) = map.get_mut("required").and_then(Value::as_array_mut) {
        required.retain(|name| !optional.iter().any(|o| name == o));
        if required.is_empty() {
            map.remove("required");
        }
    }
}
