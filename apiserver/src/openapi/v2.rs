//! `/openapi/v2`: everything that is served in one Swagger document, made of the documents of the third version and written
//! piece by piece.

use std::collections::HashSet;
use std::io::{self, Write};
use std::iter;

use bytes::Bytes;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::custom::{self, Edition};
use super::definitions::Definitions;
use super::documents::Form;
use super::{descriptions, paths, protobuf, swagger};
use crate::registry::{Catalog, Version};

const DEFINITIONS: &str = "#/definitions/";

/// What another server publishes of a group version that it answers.
#[derive(Clone, Debug)]
pub struct Remote {
    /// `paths` and `definitions`, as JSON.
    json: Bytes,
    /// Changes when they do.
    pub hash: String,
}

/// Writes the document of everything. Of custom kinds, of which there may be many with large schemas, one at a time is there.
pub(super) fn write(catalog: &Catalog, form: Form, out: &mut dyn Write) -> io::Result<()> {
    let (paths, definitions) = common(catalog);
    let known: HashSet<String> = definitions.keys().cloned().collect();
    let more_paths = customs(catalog).map(|(group, version)| {
        let mut names = Definitions::names(Edition::V2, group, &version.name);
        paths_of(group, version, &mut names)
    });
    let more_definitions = customs(catalog).flat_map(|(group, version)| {
        let known = &known;
        version.resources.iter().map(move |resource| {
            let mut definitions = Definitions::new(Edition::V2, group, &version.name);
            definitions.resource(resource);
            let own = custom::name(&resource.gvk);
            let new = definitions.finish().into_iter().filter(|(name, _)| !known.contains(name));
            new.map(|(name, schema)| {
                let builtin = name != own;
                (name, schema_of(schema, builtin))
            })
            .collect()
        })
    });
    let head = json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": "1.36"},
        "securityDefinitions": {"BearerToken": {"description": "Bearer Token authentication", "type": "apiKey",
                                                "name": "authorization", "in": "header"}},
        "security": [{"BearerToken": []}],
    });
    let parts: [(&str, Parts<'_>); 2] = [
        ("paths", Box::new(iter::once(paths).chain(more_paths))),
        ("definitions", Box::new(iter::once(definitions).chain(more_definitions))),
    ];
    match form {
        Form::Json => write_json(&head, parts, out),
        Form::Protobuf => write_protobuf(&head, parts, out),
    }
}

/// One member of the document, in pieces.
type Parts<'a> = Box<dyn Iterator<Item = Map<String, Value>> + 'a>;

fn write_json(head: &Value, parts: [(&str, Parts<'_>); 2], out: &mut dyn Write) -> io::Result<()> {
    let head = head.to_string();
    out.write_all(head.strip_suffix('}').unwrap_or(&head).as_bytes())?;
    for (name, parts) in parts {
        write!(out, ",{}:", Value::from(name))?;
        let mut before = '{';
        for (key, value) in parts.flatten() {
            write!(out, "{before}{}:", Value::from(key))?;
            serde_json::to_writer(&mut *out, &value)?;
            before = ',';
        }
        out.write_all(b"}")?;
    }
    out.write_all(b"}")
}

/// A message that comes several times is one, of all that they hold: as Protocol Buffers have it.
fn write_protobuf(head: &Value, parts: [(&str, Parts<'_>); 2], out: &mut dyn Write) -> io::Result<()> {
    out.write_all(&protobuf::encode(&swagger::DOCUMENT, head))?;
    for (name, parts) in parts {
        for part in parts {
            out.write_all(&protobuf::encode(&swagger::DOCUMENT, &json!({name: part})))?;
        }
    }
    Ok(())
}

/// The group versions that have no built-in kind.
fn customs(catalog: &Catalog) -> impl Iterator<Item = (&str, &Version)> {
    let all = catalog.groups().iter().flat_map(|g| g.versions.iter().map(move |v| (&*g.name, v)));
    all.filter(|(_, version)| is_custom(version))
}

fn is_custom(version: &Version) -> bool {
    version.remote.is_none() && version.resources.iter().all(|r| !r.typed)
}

/// The paths and definitions of all other group versions.
fn common(catalog: &Catalog) -> (Map<String, Value>, Map<String, Value>) {
    let (mut paths, mut schemas) = (Map::new(), Map::new());
    let mut custom = HashSet::new();
    let mut remotes = vec![];
    for group in catalog.groups() {
        for version in group.versions.iter().filter(|v| !is_custom(v)) {
            if let Some(remote) = &version.remote {
                remotes.extend(remote.discovered().swagger.clone());
                continue;
            }
            let mut definitions = Definitions::new(Edition::V2, &group.name, &version.name);
            paths.extend(paths_of(&group.name, version, &mut definitions));
            custom.extend(version.resources.iter().filter(|r| !r.typed).map(|r| custom::name(&r.gvk)));
            for (name, schema) in definitions.finish() {
                schemas.entry(name).or_insert(schema);
            }
        }
    }
    descriptions::fill(None, &mut schemas);
    let mut definitions: Map<String, Value> = schemas
        .into_iter()
        .map(|(name, schema)| {
            let schema = schema_of(schema, !custom.contains(&name));
            (name, schema)
        })
        .collect();
    for remote in remotes {
        remote.merge(&mut paths, &mut definitions);
    }
    (paths, definitions)
}

fn paths_of(group: &str, version: &Version, definitions: &mut Definitions) -> Map<String, Value> {
    let own = paths::of_group_version(group, &version.name, &version.resources, definitions);
    own.into_iter().map(|(path, endpoint)| (path, endpoint_of(endpoint))).collect()
}

// === impl Remote ===

impl Remote {
    /// What a server's document says of a group version: its paths, and the definitions that they need. `None` where it says
    /// nothing.
    pub fn new(group: &str, version: &str, document: &[u8]) -> Option<Self> {
        let mut document: Map<String, Value> = serde_json::from_slice(document).ok()?;
        let root = format!("/{}", super::path(group, version));
        let is_own = |path: &str| {
            path.strip_prefix(&root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let mut part = |name: &str| match document.remove(name) {
            Some(Value::Object(part)) => Some(part),
            _ => None,
        };
        let mut paths = part("paths")?;
        paths.retain(|path, _| is_own(path));
        if paths.is_empty() {
            return None;
        }
        let mut all = part("definitions").unwrap_or_default();
        let mut definitions = Map::new();
        let mut wanted = vec![];
        paths.values_mut().for_each(|p| references(p, &mut |name| wanted.push(name.clone())));
        while let Some(name) = wanted.pop() {
            if let Some(mut definition) = all.remove(&name) {
                references(&mut definition, &mut |name| wanted.push(name.clone()));
                definitions.insert(name, definition);
            }
        }
        let json = json!({"paths": paths, "definitions": definitions}).to_string();
        let hash = hex::encode(Sha256::digest(&json));
        Some(Remote { json: json.into(), hash })
    }

    /// Adds it to what is published already. A definition that has the name of another one gets a new one, as upstream
    /// gives it: `…ObjectMeta_v2`.
    pub(super) fn merge(&self, paths: &mut Map<String, Value>, definitions: &mut Map<String, Value>) {
        let Ok(mut own) = serde_json::from_slice::<Value>(&self.json) else { return };
        let mut renamed: Map<String, Value> = Map::new();
        for (name, definition) in own["definitions"].as_object().into_iter().flatten() {
            if definitions.get(name).is_none_or(|known| known == definition) {
                continue;
            }
            let free = (2..).map(|n| format!("{name}_v{n}")).find(|new| !definitions.contains_key(new));
            renamed.insert(name.clone(), free.unwrap_or_default().into());
        }
        references(&mut own, &mut |name| {
            if let Some(Value::String(new)) = renamed.get(name) {
                name.clone_from(new);
            }
        });
        for (name, definition) in own["definitions"].as_object_mut().map(std::mem::take).unwrap_or_default() {
            let name = renamed.get(&name).and_then(Value::as_str).map(str::to_owned).unwrap_or(name);
            definitions.insert(name, definition);
        }
        for (path, endpoint) in own["paths"].as_object_mut().map(std::mem::take).unwrap_or_default() {
            paths.entry(path).or_insert(endpoint);
        }
    }
}

/// Shows the name of each definition that something refers to, to read or change it.
fn references(value: &mut Value, visit: &mut dyn FnMut(&mut String)) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(reference)) = map.get_mut("$ref")
                && let Some(mut name) = reference.strip_prefix(DEFINITIONS).map(str::to_owned)
            {
                visit(&mut name);
                *reference = format!("{DEFINITIONS}{name}");
            }
            map.values_mut().for_each(|v| references(v, visit));
        }
        Value::Array(items) => items.iter_mut().for_each(|v| references(v, visit)),
        _ => {}
    }
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
