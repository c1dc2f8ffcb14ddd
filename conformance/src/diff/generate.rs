//! Scripts for every kind that is served, made from discovery: what can be asked of any kind.

use anyhow::{Context, Result};
use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};

use super::script::{Request, Script};
use crate::wire::Connection;

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";
const METADATA: &str = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";

/// One script a kind that can be created and listed.
pub(super) async fn scripts(server: &mut Connection) -> Result<Vec<Script>> {
    let mut scripts = vec![];
    let groups = get(server, "/apis").await?;
    let mut versions = vec![("/api/v1".to_owned(), "v1".to_owned())];
    for version in groups["groups"]
        .as_array()
        .context("groups")?
        .iter()
        .flat_map(|g| g["versions"].as_array().into_iter().flatten())
    {
        let name = version["groupVersion"].as_str().context("groupVersion")?;
        versions.push((format!("/apis/{name}"), name.to_owned()));
    }
    for (base, api_version) in versions {
        for resource in get(server, &base).await?["resources"].as_array().context("resources")? {
            let serves =
                |verb: &str| resource["verbs"].as_array().is_some_and(|v| v.iter().any(|x| x == verb));
            let (Some(name), Some(kind)) = (resource["name"].as_str(), resource["kind"].as_str()) else {
                continue;
            };
            if name.contains('/') || !serves("create") || !serves("list") {
                continue;
            }
            let collection = match resource["namespaced"] == true {
                true => format!("{base}/namespaces/diff/{name}"),
                false => format!("{base}/{name}"),
            };
            let requests = requests(&collection, &api_version, kind);
            scripts.push(Script { name: format!("every kind: {api_version} {name}"), requests });
        }
    }
    Ok(scripts)
}

async fn get(server: &mut Connection, path: &str) -> Result<Value> {
    let body = server.call(Method::GET, path, "application/json", Bytes::new()).await?;
    serde_json::from_slice(&body).with_context(|| path.to_owned())
}

fn requests(collection: &str, api_version: &str, kind: &str) -> Vec<Request> {
    let object = |metadata: Value, more: Value| {
        let mut body = json!({"apiVersion": api_version, "kind": kind, "metadata": metadata});
        for (key, value) in more.as_object().into_iter().flatten() {
            body[key] = value.clone();
        }
        body.to_string()
    };
    let named = |name: &str| object(json!({"name": name}), json!({}));
    let missing = format!("{collection}/none");
    let listed = format!("{collection}?labelSelector=diff%3Dnone");
    let mut all = vec![
        Request::new("GET", &missing, ""),
        Request::new("GET", &listed, ""),
        Request::new("GET", &listed, "").with("accept", TABLE),
        Request::new("GET", &listed, "").with("accept", METADATA),
        Request::new("GET", &listed, "").with("accept", "text/html"),
        Request::new("GET", &format!("{collection}?fieldSelector=spec.nonsense%3Dx"), ""),
        Request::new("GET", &format!("{collection}?labelSelector=%21%21"), ""),
        Request::new("GET", &format!("{collection}?limit=x"), ""),
        Request::new("GET", &format!("{collection}?continue=x"), ""),
        Request::new("GET", &format!("{collection}?resourceVersion=x"), ""),
        Request::new("GET", &format!("{collection}?resourceVersionMatch=Exact"), ""),
        Request::new("DELETE", &missing, ""),
        Request::new("PATCH", &missing, "{}"),
        Request::new("PUT", &missing, &named("other")),
        Request::new("PUT", &missing, "{"),
    ];
    let dry = format!("{collection}?dryRun=All");
    for body in [
        "{}".to_owned(),
        "[]".to_owned(),
        "{".to_owned(),
        json!({"apiVersion": "v1", "kind": "Nonsense", "metadata": {"name": "a"}}).to_string(),
        object(json!({}), json!({})),
        named("a"),
        named("Not_A_Name"),
        object(json!({"name": "a", "namespace": "other"}), json!({})),
        object(json!({"name": "a", "labels": {"a": "b c"}, "annotations": {"/": "x"}}), json!({})),
        object(json!({"name": "a", "finalizers": ["x"], "ownerReferences": [{"name": "x"}]}), json!({})),
        object(json!({"generateName": "a-"}), json!({})),
        object(json!({"name": "a"}), json!({"spec": "x"})),
        object(json!({"name": "a"}), json!({"spec": {}})),
        object(json!({"name": "a", "resourceVersion": "1"}), json!({})),
        object(json!({"name": 1}), json!({})),
    ] {
        all.push(Request::new("POST", &dry, &body));
    }
    let strict = format!("{dry}&fieldValidation=Strict");
    all.push(Request::new(
        "POST",
        &strict,
        &object(json!({"name": "a", "nonsense": 1}), json!({"nonsense": 1})),
    ));
    all.push(Request::new("POST", &format!("{collection}?dryRun=Some"), &named("a")));
    all.push(Request::new("POST", &format!("{dry}&fieldValidation=Perhaps"), &named("a")));
    all.push(Request::new("POST", &dry, &named("a")).with("content-type", "text/html"));
    all
}
