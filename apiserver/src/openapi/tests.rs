//! Documents by themselves; `tests/upstream.rs` holds them against upstream's.

use std::collections::BTreeMap;

use coracle_api::Object;
use serde_json::Value;

use super::*;
use crate::codec::{Reader, Wire};
use crate::registry::Registry;

fn documents() -> BTreeMap<String, Value> {
    let catalog = Registry::new(crate::resources::builtins()).snapshot();
    let mut documents = BTreeMap::new();
    for group in catalog.groups() {
        for version in &group.versions {
            let json = document(&group.name, &version.name, &version.resources);
            documents.insert(path(&group.name, &version.name), json);
        }
    }
    documents
}

#[test]
fn kubectl_finds_what_it_needs() {
    let documents = documents();
    let apps = &documents["apis/apps/v1"];
    let patch = &apps["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
    assert_eq!(patch["operationId"], "patchAppsV1NamespacedDeployment");
    assert_eq!(
        patch["x-kubernetes-group-version-kind"],
        json!({"group": "apps", "version": "v1", "kind": "Deployment"})
    );
    let parameters = patch["parameters"].as_array().unwrap();
    assert!(
        parameters.iter().any(|p| p["name"] == "fieldValidation"),
        "kubectl then leaves validation to the server"
    );
    let schemas = &apps["components"]["schemas"];
    let containers = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
    assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
    assert!(containers["description"].as_str().unwrap().starts_with("List of containers"));
}

fn references(value: &Value, prefix: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(target)) = map.get("$ref") {
                found.push(target.trim_start_matches(prefix).to_owned());
            }
            map.values().for_each(|v| references(v, prefix, found));
        }
        Value::Array(items) => items.iter().for_each(|v| references(v, prefix, found)),
        _ => {}
    }
}

#[test]
fn every_reference_has_its_definition() {
    for (path, document) in documents() {
        let mut found = vec![];
        references(&document, "#/components/schemas/", &mut found);
        for name in found {
            assert!(document["components"]["schemas"][&name].is_object(), "{path}: {name}");
        }
    }
}

/// A catalog with custom kinds of two group versions, one of which refers to what every object has.
fn with_custom_kinds() -> Arc<Catalog> {
    let registry = Registry::new(crate::resources::builtins());
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "template": {"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true},
        "size": {"type": "integer", "default": 1, "nullable": true}}}}});
    let custom = ["a", "b"].into_iter().flat_map(|name| {
        let names = json!({"plural": format!("{name}s"), "singular": name, "kind": name.to_uppercase(),
                           "listKind": format!("{}List", name.to_uppercase())});
        let version = |v: &str| json!({"name": v, "served": true, "storage": v == "v1", "schema": {"openAPIV3Schema": schema}});
        crate::crd::resources_of(&Object(json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": format!("{name}s.example.com")}, "status": {"acceptedNames": names},
            "spec": {"group": "example.com", "scope": "Namespaced", "names": names, "versions": [version("v1"), version("v2")]}})))
    });
    registry.replace_custom(custom);
    registry.snapshot()
}

fn written(catalog: &Catalog, form: documents::Form) -> Vec<u8> {
    let mut out = vec![];
    v2::write(catalog, form, &mut out).unwrap();
    out
}

#[test]
fn the_document_of_everything_is_whole_though_written_in_pieces() {
    let catalog = with_custom_kinds();
    let all: Value = serde_json::from_slice(&written(&catalog, documents::Form::Json)).unwrap();
    assert_eq!(all["swagger"], "2.0");
    assert_eq!(all["security"][0]["BearerToken"], json!([]));
    assert!(all["paths"]["/apis/example.com/v2/namespaces/{namespace}/bs/{name}"]["get"].is_object());
    let size = &all["definitions"]["com.example.v2.B"]["properties"]["spec"]["properties"]["size"];
    assert_eq!(*size, json!({"default": 1}));
    let mut refers = vec![];
    references(&all, "#/definitions/", &mut refers);
    assert!(refers.len() > 1_000);
    for name in refers {
        assert!(all["definitions"].get(&name).is_some(), "{name}");
    }

    // The same names in Protocol Buffers, where parts of one member come one after the other.
    let binary = written(&catalog, documents::Form::Protobuf);
    for (member, number) in [("paths", 2), ("definitions", 1)] {
        let field = if member == "paths" { 8 } else { 9 };
        let mut names: Vec<String> = fields(&binary)
            .into_iter()
            .filter(|(n, _)| *n == field)
            .flat_map(|(_, part)| fields(part))
            .filter(|(n, _)| *n == number)
            .map(|(_, pair)| String::from_utf8(fields(pair)[0].1.to_vec()).unwrap())
            .collect();
        names.sort();
        let mut expected: Vec<&String> = all[member].as_object().unwrap().keys().collect();
        expected.sort();
        assert!(names.iter().eq(expected), "{member}");
    }
}

/// The fields of a message that have a length, by number.
fn fields(message: &[u8]) -> Vec<(u32, &[u8])> {
    let mut reader = Reader::new(message);
    let fields = std::iter::from_fn(|| reader.field().unwrap());
    let bytes = fields.filter_map(|(number, value)| match value {
        Wire::Bytes(field) => Some((number, field)),
        _ => None,
    });
    bytes.collect()
}
