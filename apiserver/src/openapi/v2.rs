//! `/openapi/v2`: everything that is served in one Swagger document, made of the documents of the third version.

use std::collections::HashSet;

use serde_json::{Map, Value, json};

use super::custom::{self, Edition};
use crate::registry::Catalog;

/// The document of everything.
pub(super) fn document(catalog: &Catalog) -> Value {
    let (mut paths, mut definitions) = (Map::new(), Map::new());
    for group in catalog.groups() {
        for version in &group.versions {
            let document = super::parts(&group.name, &version.name, &version.resources, Edition::V2);
            paths.extend(document.paths.into_iter().map(|(path, endpoint)| (path, endpoint_of(endpoint))));
            let custom: HashSet<String> =
                version.resources.iter().filter(|r| !r.typed).map(|r| custom::name(&r.gvk)).collect();
            for (name, schema) in document.schemas {
                let builtin = !custom.contains(&name);
                definitions.entry(name).or_insert_with(|| schema_of(schema, builtin));
            }
        }
    }
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": "1.36"},
        "paths": paths,
        "definitions": definitions,
        "securityDefinitions": {"BearerToken": {"description": "Bearer Token authentication", "type": "apiKey",
                                                "name": "authorization", "in": "header"}},
        "security": [{"BearerToken": []}],
    })
}

/// A schema: other places of definitions, no wrapping of references, and of built-in kinds no defaults.
fn schema_of(schema: Value, builtin: bool) -> Value {
    let Value::Object(mut map) = schema else { return schema };
    if let Some(Value::String(reference)) = map.get("$ref") {
        return json!({"$ref": reference.replace("#/components/schemas/", "#/definitions/")});
    }
    if builtin {
        map.remove("default");
    }
    if let Some(Value::Array(all)) = map.get("allOf")
        && let [only] = all.as_slice()
        && let Some(Value::String(reference)) = only.get("$ref")
    {
        let reference = reference.replace("#/components/schemas/", "#/definitions/");
        map.remove("allOf");
        map.remove("default");
        map.insert("$ref".to_owned(), reference.into());
        return Value::Object(map);
    }
    if builtin && map.remove("oneOf").is_some() {
        // Values of two types: Swagger knows one.
        map.insert("type".to_owned(), "string".into());
    }
    for (_, field) in map.get_mut("properties").and_then(Value::as_object_mut).into_iter().flatten() {
        *field = schema_of(field.take(), builtin);
    }
    for key in ["items", "additionalProperties"] {
        if let Some(inner) = map.get_mut(key) {
            *inner = schema_of(inner.take(), builtin);
        }
    }
    Value::Object(map)
}

fn endpoint_of(endpoint: Value) -> Value {
    let Value::Object(endpoint) = endpoint else { return endpoint };
    let converted = endpoint.into_iter().map(|(key, value)| match key.as_str() {
        "parameters" => (key, parameters_of(&value)),
        _ => (key, operation_of(value)),
    });
    Value::Object(converted.collect())
}

fn parameters_of(parameters: &Value) -> Value {
    let one = |parameter: &Value| {
        let mut flat = parameter.clone();
        if let Some(Value::Object(schema)) = flat.as_object_mut().and_then(|p| p.remove("schema")) {
            for (key, value) in schema {
                flat[key] = value;
            }
        }
        flat
    };
    parameters.as_array().into_iter().flatten().map(one).collect()
}

fn operation_of(mut operation: Value) -> Value {
    let mut consumes = json!(["*/*"]);
    let mut parameters = parameters_of(&operation["parameters"]);
    if let Some(body) = operation.as_object_mut().and_then(|o| o.remove("requestBody")) {
        let content = body["content"].as_object();
        let media: Vec<&String> = content.into_iter().flatten().map(|(media, _)| media).collect();
        consumes = json!(media);
        let schema =
            content.into_iter().flatten().next().map(|(_, c)| c["schema"].clone()).unwrap_or_default();
        let mut parameter = json!({"name": "body", "in": "body", "schema": schema_of(schema, true)});
        if body["required"] == true {
            parameter["required"] = true.into();
        }
        if let Some(list) = parameters.as_array_mut() {
            list.insert(0, parameter);
        }
    }
    let mut produces: Vec<String> = vec![];
    for (_, response) in operation["responses"].as_object_mut().into_iter().flatten() {
        let Some(Value::Object(content)) = response.as_object_mut().and_then(|r| r.remove("content")) else {
            continue;
        };
        if let Some((_, answer)) = content.iter().next() {
            response["schema"] = schema_of(answer["schema"].clone(), true);
        }
        produces = content.into_iter().map(|(media, _)| media).collect();
    }
    if produces.is_empty() {
        produces.push("*/*".to_owned());
    }
    operation["consumes"] = consumes;
    operation["produces"] = json!(produces);
    operation["schemes"] = json!(["https"]);
    if parameters.as_array().is_some_and(|p| !p.is_empty()) {
        operation["parameters"] = parameters;
    }
    operation
}
