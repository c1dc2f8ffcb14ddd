//! Scripts for every kind that is served, made from discovery: what can be asked of any kind.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::script::{Request, Script};
use super::server::Server;

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";
const METADATA: &str = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";

/// One script a kind that can be created and listed.
pub(super) async fn scripts(server: &mut Server) -> Result<Vec<Script>> {
    let mut scripts = vec![];
    for (base, api_version) in versions(server).await? {
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

/// The path and name of every group version.
pub(super) async fn versions(server: &mut Server) -> Result<Vec<(String, String)>> {
    let groups = get(server, "/apis").await?;
    let mut versions = vec![("/api/v1".to_owned(), "v1".to_owned())];
    for group in groups["groups"].as_array().context("groups")? {
        for version in group["versions"].as_array().into_iter().flatten() {
            let name = version["groupVersion"].as_str().context("groupVersion")?;
            versions.push((format!("/apis/{name}"), name.to_owned()));
        }
    }
    Ok(versions)
}

pub(super) async fn get(server: &mut Server, path: &str) -> Result<Value> {
    let answer = server.answer(&Request::new("GET", path, "")).await?;
    serde_json::from_slice(&answer.body).with_context(|| path.to_owned())
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
