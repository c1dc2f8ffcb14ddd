//! The schema table, as the server itself publishes it: what each place in an object is of.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::{Map, Value};

use super::super::generate;
use super::super::server::Server;

/// Every definition of every group.
#[derive(Debug, Default)]
pub(super) struct Documents(BTreeMap<String, Value>);

/// What a place is of.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place<'a> {
    Text,
    Bytes,
    Time,
    Quantity,
    Number,
    Flag,
    NumberOrText,
    List(&'a Value),
    Map(&'a Value),
    /// The name of the definition, and its fields.
    Struct(&'a str, &'a Map<String, Value>),
    /// Whatever anybody wants.
    Any,
}

/// One kind as it is served.
#[derive(Clone, Debug)]
pub(super) struct Served {
    /// `/api/v1/namespaces/diff/pods`
    pub collection: String,
    pub status: bool,
    pub listable: bool,
}

// === impl Documents ===

impl Documents {
    pub(super) async fn of(server: &mut Server) -> Result<Self> {
        let mut all = BTreeMap::new();
        for (path, _) in generate::versions(server).await? {
            let document = generate::get(server, &format!("/openapi/v3{path}")).await?;
            let schemas = document["components"]["schemas"].as_object().cloned().unwrap_or_default();
            all.extend(schemas);
        }
        Ok(Documents(all))
    }

    /// The definition of a kind, as a place.
    pub(super) fn kind(&self, api_version: &str, kind: &str) -> Result<Place<'_>> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let is = |(_, definition): &(&String, &Value)| {
            let kinds = definition["x-kubernetes-group-version-kind"].as_array().into_iter().flatten();
            kinds.into_iter().any(|k| k["group"] == group && k["version"] == version && k["kind"] == kind)
        };
        let found = self.0.iter().find(is);
        let (name, definition) = found.with_context(|| format!("{api_version} {kind} is in no document"))?;
        Ok(self.structure(name, definition))
    }

    pub(super) fn place<'a>(&'a self, schema: &'a Value) -> Place<'a> {
        let reference = schema["$ref"].as_str().or_else(|| schema["allOf"][0]["$ref"].as_str());
        if let Some(reference) = reference {
            let name = reference.rsplit('/').next().unwrap_or_default();
            return match name.rsplit('.').next().unwrap_or_default() {
                "Quantity" => Place::Quantity,
                "IntOrString" => Place::NumberOrText,
                "Time" | "MicroTime" => Place::Time,
                "RawExtension" | "FieldsV1" | "JSON" => Place::Any,
                _ => match self.0.get_key_value(name) {
                    Some((name, definition)) => self.structure(name, definition),
                    None => Place::Any,
                },
            };
        }
        match schema["type"].as_str() {
            Some("string") if schema["format"] == "byte" => Place::Bytes,
            Some("string") if schema["format"] == "date-time" => Place::Time,
            Some("string") => Place::Text,
            Some("integer" | "number") => Place::Number,
            Some("boolean") => Place::Flag,
            Some("array") => Place::List(&schema["items"]),
            Some("object") if schema["additionalProperties"].is_object() => {
                Place::Map(&schema["additionalProperties"])
            }
            _ => Place::Any,
        }
    }

    fn structure<'a>(&self, name: &'a str, definition: &'a Value) -> Place<'a> {
        match definition["properties"].as_object() {
            Some(fields) => Place::Struct(name, fields),
            None => Place::Any,
        }
    }
}

/// Where a kind is served.
pub(super) async fn served(server: &mut Server, api_version: &str, kind: &str) -> Result<Served> {
    let base = match api_version.contains('/') {
        true => format!("/apis/{api_version}"),
        false => format!("/api/{api_version}"),
    };
    let list = generate::get(server, &base).await?;
    let all = list["resources"].as_array().context("resources")?;
    let named = |r: &&Value| r["kind"] == kind && r["name"].as_str().is_some_and(|n| !n.contains('/'));
    let resource = all.iter().find(named).with_context(|| format!("{api_version} {kind} is not served"))?;
    let name = resource["name"].as_str().unwrap_or_default();
    let collection = match resource["namespaced"] == true {
        true => format!("{base}/namespaces/diff/{name}"),
        false => format!("{base}/{name}"),
    };
    let verb = |verb: &str| resource["verbs"].as_array().is_some_and(|v| v.iter().any(|x| x == verb));
    Ok(Served {
        collection,
        status: all.iter().any(|r| r["name"] == format!("{name}/status")),
        listable: verb("list"),
    })
}
