//! What another server serves: its own aggregated document, or the plain list of one that has none, in the same form.

use std::collections::HashMap;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::header::ACCEPT;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use serde_json::{Map, Value, json};

use super::availability::aggregator;
use super::remote::Remote;
use crate::Server;
use crate::discovery::AGGREGATED;

const TIMEOUT: Duration = Duration::from_secs(5);
/// How much of a document is read.
const MAX_DOCUMENT: usize = 16 << 20;

/// The resources of a group version; why it could not be learned otherwise.
pub(super) async fn fetch(server: &Server, remote: &Remote) -> Result<Value, String> {
    let (code, headers, body) = get(server, remote, "/apis", AGGREGATED).await?;
    let media = headers.get(http::header::CONTENT_TYPE).and_then(|m| m.to_str().ok()).unwrap_or_default();
    if code == StatusCode::OK && media.contains("as=APIGroupDiscoveryList") {
        let list: Value = serde_json::from_slice(&body).map_err(|e| e.to_string())?;
        return Ok(find(&list, &remote.group, &remote.version).unwrap_or_else(|| json!([])));
    }
    let path = remote.path();
    let (code, _, body) = get(server, remote, &path, "application/json").await?;
    if code != StatusCode::OK {
        return Err(format!("failed to download legacy discovery for {path}: {code}"));
    }
    let list: Value = serde_json::from_slice(&body).map_err(|e| e.to_string())?;
    Ok(aggregated(&list))
}

/// Gets a document as the aggregator.
pub(super) async fn get(
    server: &Server,
    remote: &Remote,
    path: &str,
    accept: &str,
) -> Result<(StatusCode, HeaderMap, Bytes), String> {
    let address = remote.resolve(server).map_err(|e| e.to_string())?;
    let request = Request::get(path).header(ACCEPT, accept).body(Body::empty()).map_err(|e| e.to_string())?;
    let user = aggregator();
    let exchange = async {
        let answer = remote.call(&address, &user, request).await.map_err(|e| e.to_string())?;
        let (parts, body) = answer.into_parts();
        let body = Limited::new(body, MAX_DOCUMENT).collect().await.map_err(|e| e.to_string())?;
        Ok((parts.status, parts.headers, body.to_bytes()))
    };
    let answered = tokio::time::timeout(TIMEOUT, exchange).await;
    answered.unwrap_or_else(|_| Err("request timed out".to_owned()))
}

/// A group version's resources in an aggregated document.
fn find(list: &Value, group: &str, version: &str) -> Option<Value> {
    let groups = list["items"].as_array()?;
    let versions = groups.iter().find(|g| g["metadata"]["name"] == group)?["versions"].as_array()?;
    let found = versions.iter().find(|v| v["version"] == version)?;
    let mut resources = found["resources"].as_array().cloned().unwrap_or_default();
    resources.retain(Value::is_object);
    for resource in resources.iter_mut().filter_map(Value::as_object_mut) {
        kind_is_said(resource);
        match resource.get_mut("subresources") {
            Some(Value::Array(parts)) => {
                parts.retain(Value::is_object);
                parts.iter_mut().filter_map(Value::as_object_mut).for_each(kind_is_said);
            }
            Some(_) => drop(resource.remove("subresources")),
            None => {}
        }
    }
    Some(Value::Array(resources))
}

/// Lists of another server, aggregated and plain.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn hostile_discovery(list: &Value) {
    find(list, "example.com", "v1");
    aggregated(list);
}

/// Some clients fail where no kind is said.
fn kind_is_said(entry: &mut Map<String, Value>) {
    if entry.get("responseKind").is_none_or(Value::is_null) {
        entry.insert("responseKind".to_owned(), json!({"group": "", "version": "", "kind": ""}));
    }
}

/// A plain list (`APIResourceList`) in the aggregated form: subresources below their resource.
fn aggregated(list: &Value) -> Value {
    let mut resources: Vec<Value> = vec![];
    let entries = || list["resources"].as_array().into_iter().flatten();
    let text = |entry: &Value, key: &str| entry[key].as_str().unwrap_or_default().to_owned();
    let kind = |e: &Value| json!({"group": text(e, "group"), "version": text(e, "version"), "kind": text(e, "kind")});
    let mut parts: HashMap<&str, Vec<Value>> = HashMap::new();
    for entry in entries() {
        if let Some((resource, name)) = entry["name"].as_str().and_then(|name| name.split_once('/')) {
            let part = json!({"subresource": name, "responseKind": kind(entry), "verbs": entry["verbs"]});
            parts.entry(resource).or_default().push(part);
        }
    }
    for entry in entries().filter(|e| !text(e, "name").contains('/')) {
        let scope = if entry["namespaced"] == true { "Namespaced" } else { "Cluster" };
        let mut resource = json!({"resource": entry["name"], "responseKind": kind(entry), "scope": scope,
            "singularResource": text(entry, "singularName"), "verbs": entry["verbs"]});
        for key in ["shortNames", "categories"] {
            if entry[key].is_array() {
                resource[key] = entry[key].clone();
            }
        }
        // Of several resources with one name the first has them.
        if let Some(parts) = entry["name"].as_str().and_then(|name| parts.remove(name)) {
            resource["subresources"] = parts.into();
        }
        resources.push(resource);
    }
    Value::Array(resources)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_list_becomes_an_aggregated_one() {
        let list = json!({"kind": "APIResourceList", "groupVersion": "g/v1", "resources": [
            {"name": "boats", "singularName": "boat", "namespaced": true, "kind": "Boat", "verbs": ["get"], "shortNames": ["bo"]},
            {"name": "boats/status", "singularName": "", "namespaced": true, "kind": "Boat", "verbs": ["update"]}]});
        let kind = json!({"group": "", "version": "", "kind": "Boat"});
        let expected = json!([{"resource": "boats", "responseKind": kind, "scope": "Namespaced", "singularResource": "boat",
            "verbs": ["get"], "shortNames": ["bo"],
            "subresources": [{"subresource": "status", "responseKind": kind, "verbs": ["update"]}]}]);
        assert_eq!(aggregated(&list), expected);
        let whole = json!({"items": [{"metadata": {"name": "g"}, "versions": [{"version": "v1",
            "resources": [{"resource": "boats", "verbs": ["get"]}]}]}]});
        assert_eq!(find(&whole, "g", "v1").unwrap()[0]["responseKind"]["kind"], "");
        assert_eq!(find(&whole, "g", "v2"), None);
    }
}
