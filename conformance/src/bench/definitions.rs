//! Definitions of kinds as large operators bring them: how long they take, and what is kept of each.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bytes::Bytes;
use http::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{Server, load};
use crate::wire::JSON;

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
/// The bytes of one, about.
const BYTES: usize = 68_000;
/// Writers at a time.
const CLIENTS: usize = 4;
/// How long a server may take until it serves them all, and what follows from that is done.
const PATIENCE: Duration = Duration::from_secs(300);
const SETTLE: Duration = Duration::from_secs(5);

/// What many definitions cost.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Definitions {
    pub count: usize,
    /// Of one, as it was sent.
    pub bytes: usize,
    /// Seconds until all were written, and until all were served.
    pub written: f64,
    pub served: f64,
    /// What the server's memory grew by, in bytes.
    pub rss_growth: u64,
    /// Seconds of the first `/openapi/v2`, its bytes, and what the memory grew by with it.
    pub openapi: f64,
    pub openapi_bytes: usize,
    pub openapi_rss_growth: u64,
}

pub(super) async fn measure(server: &mut Server, count: usize) -> Result<()> {
    let texts: Arc<Vec<Bytes>> = Arc::new((0..count).map(|n| definition(n).to_string().into()).collect());
    let bytes = texts.iter().map(Bytes::len).max().unwrap_or_default();
    let before = server.processes.rss_bytes();
    let begun = Instant::now();
    let written = load::run("create definitions", server, CLIENTS, count, move |mut c, n| {
        let text = texts[n].clone();
        async move { Ok(c.call(Method::POST, DEFINITIONS, JSON, text).await?.len()) }
    });
    server.figures.measures.push(written.await?);
    let written = begun.elapsed().as_secs_f64();
    let mut admin = server.endpoint.connect().await?;
    for n in 0..count {
        let group = n / 10;
        let path = format!("/apis/group{group}.example.com/v1/widget{n}s?limit=1");
        while admin.exchange(Method::GET, &path, &[], Bytes::new()).await?.code != 200 {
            ensure!(begun.elapsed() < PATIENCE, "widget{n}s is not served after {PATIENCE:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    let served = begun.elapsed().as_secs_f64();
    tokio::time::sleep(SETTLE).await;
    let grown = server.processes.rss_bytes();
    let begun = Instant::now();
    let openapi_bytes = admin.call(Method::GET, "/openapi/v2", JSON, Bytes::new()).await?.len();
    let openapi = begun.elapsed().as_secs_f64();
    server.figures.definitions = Some(Definitions {
        count,
        bytes,
        written,
        served,
        rss_growth: grown.saturating_sub(before),
        openapi,
        openapi_bytes,
        openapi_rss_growth: server.processes.rss_bytes().saturating_sub(grown),
    });
    for n in 0..count {
        let path = format!("{DEFINITIONS}/widget{n}s.group{}.example.com", n / 10);
        admin.call(Method::DELETE, &path, JSON, Bytes::new()).await?;
    }
    Ok(())
}

/// Ten kinds to a group. Their schemas embed containers as those of operators do, described at length, until they have the
/// size.
fn definition(n: usize) -> Value {
    let mut parts = Map::new();
    parts.insert(
        "replicas".to_owned(),
        json!({"type": "integer", "format": "int32", "default": 1, "minimum": 0}),
    );
    let (one, nested) = (container(0), container(1));
    let mut size = 0;
    for k in 0_u32.. {
        let part = if k % 2 == 0 { json!({"type": "array", "items": one}) } else { nested.clone() };
        size += part.to_string().len();
        if size > BYTES {
            break;
        }
        parts.insert(format!("part{k}"), part);
    }
    let condition =
        ["type", "status", "reason", "message"].map(|k| (k, json!({"type": "string", "maxLength": 1024})));
    let condition: Map<String, Value> = condition.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
    let schema = json!({"type": "object", "properties": {
        "spec": {"type": "object", "description": "Desired state.", "properties": parts, "x-kubernetes-validations": [
            {"rule": "!has(self.replicas) || self.replicas >= 0", "message": "replicas must not be negative"}]},
        "status": {"type": "object", "properties": {"conditions": {
            "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"],
            "items": {"type": "object", "required": ["type", "status"], "properties": condition}}}},
    }});
    let (plural, kind, group) =
        (format!("widget{n}s"), format!("Widget{n}"), format!("group{}.example.com", n / 10));
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{group}")},
        "spec": {"group": group, "scope": "Namespaced", "names": {"plural": plural, "kind": kind}, "versions": [{
            "name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema},
            "subresources": {"status": {}},
            "additionalPrinterColumns": [{"name": "Replicas", "type": "integer", "jsonPath": ".spec.replicas"}],
        }]},
    })
}

/// The schema of a container, `deep` others inside.
fn container(deep: usize) -> Value {
    const QUANTITY: &str = r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$";
    let mut fields = Map::new();
    for n in 0..14 {
        let description = format!(
            "Field {n} of the container: what it is for, when it is read, and which values it may take in practice. \
             Cannot be updated."
        );
        fields.insert(format!("field{n}"), json!({"type": "string", "description": description}));
    }
    let amounts = json!({"type": "object", "additionalProperties": {
        "anyOf": [{"type": "integer"}, {"type": "string"}], "pattern": QUANTITY, "x-kubernetes-int-or-string": true}});
    fields.insert(
        "resources".to_owned(),
        json!({"type": "object", "description": "Compute resources.", "properties": {"limits": amounts, "requests": amounts}}),
    );
    let reference = json!({"type": "object", "x-kubernetes-map-type": "atomic", "required": ["key"], "properties": {
        "key": {"type": "string"}, "name": {"type": "string", "default": ""}, "optional": {"type": "boolean"}}});
    let variable = json!({"type": "object", "required": ["name"], "properties": {
        "name": {"type": "string", "description": "Name of the variable."},
        "value": {"type": "string", "default": ""},
        "valueFrom": {"type": "object", "properties": {
            "configMapKeyRef": reference, "secretKeyRef": reference, "fieldRef": reference}}}});
    fields.insert(
        "env".to_owned(),
        json!({"type": "array", "items": variable, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}),
    );
    fields.insert(
        "ports".to_owned(),
        json!({"type": "array", "items": {"type": "object", "properties": {
            "containerPort": {"type": "integer", "format": "int32", "minimum": 1, "maximum": 65535},
            "name": {"type": "string", "pattern": "^[a-z0-9-]+$", "maxLength": 15},
            "protocol": {"type": "string", "default": "TCP", "enum": ["TCP", "UDP", "SCTP"]}}}}),
    );
    if let Some(deep) = deep.checked_sub(1) {
        fields.insert("more".to_owned(), container(deep));
    }
    json!({"type": "object", "properties": fields,
        "description": "A container that is run within the pod, with all its fields spelled out as operators do who embed the type."})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_are_as_large_as_is_said() {
        let bytes = definition(499).to_string().len();
        assert!((BYTES * 9 / 10..=BYTES * 11 / 10).contains(&bytes), "{bytes}");
    }
}
