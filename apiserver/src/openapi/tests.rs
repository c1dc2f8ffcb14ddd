//! Documents by themselves; `tests/upstream.rs` holds them against upstream's.

use std::collections::BTreeMap;

use serde_json::Value;

use super::*;
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

#[test]
fn every_reference_has_its_definition() {
    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                if let Some(Value::String(target)) = map.get("$ref") {
                    found.push(target.trim_start_matches("#/components/schemas/").to_owned());
                }
                map.values().for_each(|v| references(v, found));
            }
            Value::Array(items) => items.iter().for_each(|v| references(v, found)),
            _ => {}
        }
    }
    for (path, document) in documents() {
        let mut found = vec![];
        references(&document, &mut found);
        for name in found {
            assert!(document["components"]["schemas"][&name].is_object(), "{path}: {name}");
        }
    }
}
