//! The `paths` of a document: every endpoint that the registry's resources have, with its operations.

use std::sync::Arc;

use coracle_api::Gvk;
use serde_json::{Map, Value, json};

use super::connect::{self, Opening};
use super::definitions::Definitions;
use super::descriptions;
use crate::resource::{Connect, Resource, Scope};

/// Query parameters, by name and type; what they mean is told by the API conventions.
pub(super) type Parameters = &'static [(&'static str, &'static str)];

const LIST: Parameters = &[
    ("allowWatchBookmarks", "boolean"),
    ("continue", "string"),
    ("fieldSelector", "string"),
    ("labelSelector", "string"),
    ("limit", "integer"),
    ("resourceVersion", "string"),
    ("resourceVersionMatch", "string"),
    ("sendInitialEvents", "boolean"),
    ("shardSelector", "string"),
    ("timeoutSeconds", "integer"),
    ("watch", "boolean"),
];
const WRITE: Parameters = &[("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string")];
const PATCH: Parameters =
    &[("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string"), ("force", "boolean")];
const DELETE: Parameters = &[
    ("dryRun", "string"),
    ("gracePeriodSeconds", "integer"),
    ("ignoreStoreReadErrorWithClusterBreakingPotential", "boolean"),
    ("orphanDependents", "boolean"),
    ("propagationPolicy", "string"),
];
const DELETE_COLLECTION: Parameters = &[
    ("continue", "string"),
    ("dryRun", "string"),
    ("fieldSelector", "string"),
    ("gracePeriodSeconds", "integer"),
    ("ignoreStoreReadErrorWithClusterBreakingPotential", "boolean"),
    ("labelSelector", "string"),
    ("limit", "integer"),
    ("orphanDependents", "boolean"),
    ("propagationPolicy", "string"),
    ("resourceVersion", "string"),
    ("resourceVersionMatch", "string"),
    ("sendInitialEvents", "boolean"),
    ("shardSelector", "string"),
    ("timeoutSeconds", "integer"),
];

/// One kind of operation: what `x-kubernetes-action` calls it, its method, the first word of its id, its parameters and
/// the statuses of its success.
struct Action {
    name: &'static str,
    method: &'static str,
    word: &'static str,
    parameters: Parameters,
    statuses: &'static [&'static str],
}

const LISTING: Action =
    Action { name: "list", method: "get", word: "list", parameters: LIST, statuses: &["200"] };
const WATCHING_ALL: Action = Action { name: "watchlist", word: "watch", ..LISTING };
const WATCHING: Action = Action { name: "watch", word: "watch", ..LISTING };
const CREATING: Action = Action {
    name: "post",
    method: "post",
    word: "create",
    parameters: WRITE,
    statuses: &["200", "201", "202"],
};
const DELETING_ALL: Action = Action {
    name: "deletecollection",
    method: "delete",
    word: "deleteCollection",
    parameters: DELETE_COLLECTION,
    statuses: &["200"],
};
const READING: Action =
    Action { name: "get", method: "get", word: "read", parameters: &[], statuses: &["200"] };
const REPLACING: Action =
    Action { name: "put", method: "put", word: "replace", parameters: WRITE, statuses: &["200", "201"] };
const PATCHING: Action =
    Action { name: "patch", method: "patch", word: "patch", parameters: PATCH, statuses: &["200", "201"] };
const DELETING: Action = Action {
    name: "delete",
    method: "delete",
    word: "delete",
    parameters: DELETE,
    statuses: &["200", "202"],
};

pub(super) fn of_group_version(
    group: &str,
    version: &str,
    resources: &[Arc<Resource>],
    definitions: &mut Definitions,
) -> Map<String, Value> {
    let mut paths = Map::new();
    let root = super::path(group, version);
    let prefix = camel_group(group, version);
    let tag = format!("{}_{version}", uncapital(&camel_group(group, "")));
    if let Some(answer) = definitions.kind(&meta("APIResourceList")) {
        let operation = json!({"tags": [tag], "description": "get available resources",
            "operationId": format!("get{prefix}APIResources"), "responses": responses(&READING, &answer)});
        paths.insert(format!("/{root}/"), json!({"get": operation}));
    }
    for resource in resources {
        let mut endpoints =
            Endpoints { prefix: &prefix, tag: &tag, resource, definitions, paths: &mut paths };
        endpoints.add(&root);
        if resource.typed && resource.serves("watch") {
            endpoints.add_watches(&root);
        }
    }
    paths.values_mut().for_each(hoist);
    paths
}

/// Parameters that all operations of an endpoint have are the endpoint's.
fn hoist(endpoint: &mut Value) {
    let Value::Object(endpoint) = endpoint else { return };
    let of = |operation: &Value| operation["parameters"].as_array().cloned().unwrap_or_default();
    let mut operations: Vec<&mut Value> =
        endpoint.iter_mut().filter(|(key, _)| *key != "parameters").map(|(_, o)| o).collect();
    let Some(first) = operations.first() else { return };
    let mut shared = of(first);
    shared.retain(|p| operations.iter().all(|o| of(o).contains(p)));
    for operation in &mut operations {
        let mut own = of(operation);
        own.retain(|p| !shared.contains(p));
        match (own.is_empty(), operation.as_object_mut()) {
            (true, Some(operation)) => drop(operation.remove("parameters")),
            (_, Some(operation)) => drop(operation.insert("parameters".to_owned(), own.into())),
            (_, None) => {}
        }
    }
    if let Some(Value::Array(parameters)) = endpoint.get_mut("parameters") {
        parameters.extend(shared);
    }
}

struct Endpoints<'a> {
    prefix: &'a str,
    tag: &'a str,
    resource: &'a Resource,
    definitions: &'a mut Definitions,
    paths: &'a mut Map<String, Value>,
}

/// An endpoint's place, and what the ids of its operations are made of.
struct Place<'a> {
    path: String,
    scope: &'a str,
    suffix: String,
    named: bool,
    /// The subresource.
    part: &'a str,
}

impl Endpoints<'_> {
    fn add(&mut self, root: &str) {
        let resource = self.resource;
        let plural = &resource.gvr.resource;
        let namespaced = resource.scope == Scope::Namespaced;
        let (scope, collection) = match namespaced {
            true => ("Namespaced", format!("/{root}/namespaces/{{namespace}}/{plural}")),
            false => ("", format!("/{root}/{plural}")),
        };
        let gvk = &resource.gvk;
        let (object, list) = self.definitions.resource(resource);
        let place = |path: String, part, named| Place { path, scope, suffix: capital(part), named, part };

        let here = place(collection.clone(), "", false);
        self.operation(&here, &LISTING, "list", &list, gvk);
        self.operation(&here, &CREATING, "create", &object, gvk);
        let deletes = resource.serves("delete") || resource.serves("deletecollection");
        let status = if deletes { self.definitions.kind(&meta("Status")) } else { None };
        if let Some(status) = &status {
            self.operation(&here, &DELETING_ALL, "deletecollection", status, gvk);
        }
        if namespaced {
            let everywhere = Place {
                path: format!("/{root}/{plural}"),
                scope: "",
                suffix: "ForAllNamespaces".into(),
                named: false,
                part: "",
            };
            self.operation(&everywhere, &LISTING, "list", &list, gvk);
        }

        let item = format!("{collection}/{{name}}");
        let here = place(item.clone(), "", true);
        self.operation(&here, &READING, "get", &object, gvk);
        self.operation(&here, &REPLACING, "update", &object, gvk);
        self.operation(&here, &PATCHING, "patch", &object, gvk);
        let answer = if resource.returns_deleted { Some(object.clone()) } else { status };
        if let Some(answer) = answer {
            self.operation(&here, &DELETING, "delete", &answer, gvk);
        }
        let mut parts = vec![];
        const PART: &[&str] = &["get", "update", "patch"];
        if resource.status {
            parts.push(("status", gvk.clone(), PART));
        }
        if resource.scale.is_some() {
            parts.push(("scale", Gvk::new("autoscaling", "v1", "Scale"), PART));
        }
        for s in resource.subresources {
            let gvk = Gvk::new(s.kind.0, s.kind.1, s.kind.2);
            match connect::opening(s) {
                Some(opening) => {
                    self.connects(&place(format!("{item}/{}", s.name), s.name, true), &gvk, &opening)
                }
                None => parts.push((s.name, gvk, s.verbs)),
            }
        }
        for (name, gvk, verbs) in parts {
            let same = gvk == resource.gvk;
            let Some(schema) = (if same { Some(object.clone()) } else { self.definitions.kind(&gvk) }) else {
                continue;
            };
            let here = place(format!("{item}/{name}"), name, true);
            for (verb, action) in
                [("get", &READING), ("update", &REPLACING), ("patch", &PATCHING), ("create", &CREATING)]
            {
                if verbs.contains(&verb) {
                    self.write(&here, action, &schema, &gvk);
                }
            }
        }
    }

    /// A log, a raw connection, or a proxy; the last also with what may follow it in the path.
    fn connects(&mut self, place: &Place<'_>, gvk: &Gvk, opening: &Opening) {
        self.connect(place, gvk, opening);
        if opening.connect == Connect::Proxy {
            let (path, suffix) = (format!("{}/{{path}}", place.path), format!("{}WithPath", place.suffix));
            self.connect(&Place { path, suffix, ..*place }, gvk, opening);
        }
    }

    fn connect(&mut self, place: &Place<'_>, gvk: &Gvk, opening: &Opening) {
        let mut endpoint = shared_parameters(place);
        let own = opening.parameters.iter().map(|(name, ty)| parameter("query", name, ty));
        if let Some(parameters) = endpoint["parameters"].as_array_mut() {
            parameters.retain(|p| p["name"] != "pretty" || opening.connect == Connect::Log);
            parameters.extend(own);
        }
        for method in opening.methods {
            let (action, word, which) = match opening.connect {
                Connect::Log => ("get", "read", String::new()),
                _ => ("connect", "connect", capital(method)),
            };
            let (scope, kind) = (place.scope, &self.resource.gvk.kind);
            let done = if action == "get" { action } else { method };
            endpoint[method] = json!({
                "tags": [self.tag],
                "description": descriptions::operation(action, done, place.part, kind, true),
                "operationId": format!("{word}{}{which}{scope}{kind}{}", self.prefix, place.suffix),
                "responses": connect::responses(opening.connect),
                "x-kubernetes-action": action,
                "x-kubernetes-group-version-kind": {"group": gvk.group, "version": gvk.version, "kind": gvk.kind},
            });
        }
        self.paths.insert(place.path.clone(), endpoint);
    }

    /// The older paths of watches.
    fn add_watches(&mut self, root: &str) {
        let event = &self.definitions.kind(&meta("WatchEvent")).unwrap_or_default();
        let (resource, gvk) = (self.resource, &self.resource.gvk);
        let plural = &resource.gvr.resource;
        let namespaced = resource.scope == Scope::Namespaced;
        let (scope, collection) = match namespaced {
            true => ("Namespaced", format!("/{root}/watch/namespaces/{{namespace}}/{plural}")),
            false => ("", format!("/{root}/watch/{plural}")),
        };
        let mut places = vec![
            (&WATCHING, format!("{collection}/{{name}}"), scope, "", true),
            (&WATCHING_ALL, collection, scope, "List", false),
        ];
        if namespaced {
            places.push((
                &WATCHING_ALL,
                format!("/{root}/watch/{plural}"),
                "",
                "ListForAllNamespaces",
                false,
            ));
        }
        for (action, path, scope, suffix, named) in places {
            let place = Place { path, scope, suffix: suffix.to_owned(), named, part: "" };
            self.operation(&place, action, "watch", event, gvk);
        }
    }

    /// Adds an operation if the resource serves its verb.
    fn operation(&mut self, place: &Place<'_>, action: &Action, verb: &str, answer: &Value, gvk: &Gvk) {
        if self.resource.verbs.contains(&verb) {
            self.write(place, action, answer, gvk);
        }
    }

    fn write(&mut self, place: &Place<'_>, action: &Action, answer: &Value, gvk: &Gvk) {
        let body = match action.name {
            "post" | "put" => Some(json!({"content": {"*/*": {"schema": answer}}, "required": true})),
            "patch" => Some(self.patch_body()),
            "delete" | "deletecollection" => self
                .definitions
                .kind(&meta("DeleteOptions"))
                .map(|o| json!({"content": {"*/*": {"schema": o}}})),
            _ => None,
        };
        let (word, collection) = match action.word {
            "deleteCollection" => ("delete", "Collection"),
            word => (word, ""),
        };
        let id = format!(
            "{word}{}{collection}{}{}{}",
            self.prefix, place.scope, self.resource.gvk.kind, place.suffix
        );
        let resource = self.resource;
        let text = descriptions::operation(
            action.name,
            action.method,
            place.part,
            &resource.gvk.kind,
            resource.typed,
        );
        let mut operation = json!({
            "tags": [self.tag],
            "description": text,
            "operationId": id,
            "responses": responses(action, answer),
            "x-kubernetes-action": action.name,
            "x-kubernetes-group-version-kind": {"group": gvk.group, "version": gvk.version, "kind": gvk.kind},
        });
        if !action.parameters.is_empty() {
            operation["parameters"] =
                action.parameters.iter().map(|(name, ty)| parameter("query", name, ty)).collect();
        }
        if let Some(body) = body {
            operation["requestBody"] = body;
        }
        let endpoint = self.paths.entry(&*place.path).or_insert_with(|| shared_parameters(place));
        endpoint[action.method] = operation;
    }

    fn patch_body(&mut self) -> Value {
        let schema = self.definitions.patch();
        let typed = self.resource.typed;
        let content: Map<String, Value> =
            ["apply-patch+yaml", "json-patch+json", "merge-patch+json", "strategic-merge-patch+json"]
                .into_iter()
                .filter(|kind| typed || !kind.starts_with("strategic"))
                .map(|kind| (format!("application/{kind}"), json!({"schema": schema})))
                .collect();
        json!({"content": content, "required": true})
    }
}

/// What all operations of an endpoint have in common.
fn shared_parameters(place: &Place<'_>) -> Value {
    let mut parameters = vec![];
    if place.named {
        parameters.push(parameter("path", "name", "string"));
    }
    for name in ["namespace", "path"] {
        if place.path.contains(&format!("{{{name}}}")) {
            parameters.push(parameter("path", name, "string"));
        }
    }
    parameters.push(parameter("query", "pretty", "string"));
    json!({"parameters": parameters})
}

fn parameter(place: &str, name: &str, ty: &str) -> Value {
    let mut parameter = json!({"name": name, "in": place, "schema": {"type": ty, "uniqueItems": true}});
    if place == "path" {
        parameter["required"] = true.into();
    }
    parameter
}

fn responses(action: &Action, answer: &Value) -> Value {
    let plain = ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
    let streams = ["application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch"];
    let may_stream = matches!(action.name, "list" | "watch" | "watchlist");
    let content: Map<String, Value> = plain
        .into_iter()
        .chain(streams.into_iter().filter(|_| may_stream))
        .map(|media| (media.to_owned(), json!({"schema": answer})))
        .collect();
    let mut responses = json!({"401": {"description": "Unauthorized"}});
    for status in action.statuses {
        let description = match *status {
            "201" => "Created",
            "202" => "Accepted",
            _ => "OK",
        };
        responses[*status] = json!({"description": description, "content": content});
    }
    responses
}

fn meta(kind: &str) -> Gvk {
    Gvk::new("", "v1", kind)
}

/// `AppsV1`, `CoreV1`, `RbacAuthorizationV1`: a group version in the ids of operations.
fn camel_group(group: &str, version: &str) -> String {
    let group = if group.is_empty() { "core" } else { group.trim_end_matches(".k8s.io") };
    group.split('.').chain([version]).map(capital).collect()
}

fn uncapital(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map(|first| first.to_lowercase().chain(chars).collect()).unwrap_or_default()
}

fn capital(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}
