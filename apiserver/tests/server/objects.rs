//! The API over its in-process service: each test is a table of requests and what upstream answers to them.

use serde_json::{Value, json};

use crate::cluster::Cluster;

fn config_map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"n": name}}, "data": {"a": "1"}})
}

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test]
async fn an_object_lives_and_dies() {
    let c = Cluster::start().await;
    let (code, made) = c.send("POST", MAPS, config_map("x")).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(made["metadata"]["namespace"], "default");
    assert!(made["metadata"]["uid"].is_string() && made["metadata"]["resourceVersion"].is_string());
    let (code, again) = c.send("POST", MAPS, config_map("x")).await;
    assert_eq!((code, &again["reason"]), (409, &json!("AlreadyExists")));
    assert_eq!(again["message"], "configmaps \"x\" already exists");
    let one = format!("{MAPS}/x");
    let (code, patched) = c.send("PATCH", &one, json!({"data": {"b": "2", "a": null}})).await;
    assert_eq!((code, &patched["data"]), (200, &json!({"b": "2"})), "{patched}");
    let (code, stale) = c.send("PUT", &one, made.clone()).await;
    assert_eq!((code, &stale["reason"]), (409, &json!("Conflict")), "{stale}");
    let same = c.get(&one).await;
    let (code, unchanged) = c.send("PUT", &one, same.clone()).await;
    assert_eq!((code, &unchanged), (200, &same), "a PUT that changes nothing is not written");
    let (code, gone) = c.send("DELETE", &one, Value::Null).await;
    assert_eq!((code, &gone["status"]), (200, &json!("Success")), "{gone}");
    let (code, missing) = c.send("GET", &one, Value::Null).await;
    assert_eq!((code, &missing["message"]), (404, &json!("configmaps \"x\" not found")));
    c.running.stop().await;
}

#[tokio::test]
async fn lists_page_select_and_expire() {
    let c = Cluster::start().await;
    for name in ["a", "b", "c", "d", "e"] {
        assert_eq!(c.send("POST", MAPS, config_map(name)).await.0, 201);
    }
    let first = c.get(&format!("{MAPS}?limit=2")).await;
    assert_eq!(first["items"].as_array().unwrap().len(), 2);
    assert_eq!(first["metadata"]["remainingItemCount"], 3);
    c.send("DELETE", &format!("{MAPS}/e"), Value::Null).await;
    let token = first["metadata"]["continue"].as_str().unwrap();
    let rest = c.get(&format!("{MAPS}?limit=10&continue={token}")).await;
    let names: Vec<&str> =
        rest["items"].as_array().unwrap().iter().map(|o| o["metadata"]["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["c", "d", "e"], "a continued list shows the state it began with");
    assert_eq!(rest["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    for (query, expected) in [
        ("labelSelector=n%3Da", 1),
        ("labelSelector=n%20in%20(a,b)", 2),
        ("fieldSelector=metadata.name!%3Da", 3),
        ("fieldSelector=metadata.namespace%3Ddefault", 4),
    ] {
        let list = c.get(&format!("{MAPS}?{query}")).await;
        assert_eq!(list["items"].as_array().unwrap().len(), expected, "{query}");
    }
    c.running.server.store.compact(u64::MAX).await.unwrap();
    c.send("POST", MAPS, config_map("f")).await;
    let (code, expired) = c.send("GET", &format!("{MAPS}?limit=10&continue={token}"), Value::Null).await;
    assert_eq!((code, &expired["reason"]), (410, &json!("Expired")));
    let token = expired["metadata"]["continue"].as_str().unwrap();
    let rest = c.get(&format!("{MAPS}?continue={token}")).await;
    assert_eq!(
        rest["items"].as_array().unwrap().len(),
        3,
        "an inconsistent continuation shows what is there now"
    );
    c.running.stop().await;
}

#[tokio::test]
async fn a_watch_sees_what_its_selector_sees() {
    let c = Cluster::start().await;
    let from = c.get(MAPS).await["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    c.send("POST", MAPS, config_map("w")).await;
    let one = format!("{MAPS}/w");
    c.send("PATCH", &one, json!({"data": {"z": "1"}})).await;
    c.send("PATCH", &one, json!({"metadata": {"labels": {"n": "other"}}})).await;
    c.send("PATCH", &one, json!({"metadata": {"labels": {"n": "w"}}})).await;
    c.send("DELETE", &one, Value::Null).await;
    let query = format!("{MAPS}?watch=1&resourceVersion={from}&labelSelector=n%3Dw&timeoutSeconds=1");
    let (_, text) = c.send("GET", &query, Value::Null).await;
    let kinds: Vec<String> = text
        .as_str()
        .unwrap()
        .lines()
        .map(|l| serde_json::from_str::<Value>(l).unwrap()["type"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(kinds, ["ADDED", "MODIFIED", "DELETED", "ADDED", "DELETED"]);
    c.running.stop().await;
}

#[tokio::test]
async fn finalizers_keep_an_object() {
    let c = Cluster::start().await;
    let mut body = config_map("f");
    body["metadata"]["finalizers"] = json!(["example.com/hold"]);
    assert_eq!(c.send("POST", MAPS, body).await.0, 201);
    let one = format!("{MAPS}/f");
    let (code, marked) = c.send("DELETE", &one, Value::Null).await;
    assert_eq!(code, 200);
    assert!(marked["metadata"]["deletionTimestamp"].is_string(), "{marked}");
    let (code, refused) = c
        .send("PATCH", &one, json!({"metadata": {"finalizers": ["example.com/hold", "example.com/new"]}}))
        .await;
    assert_eq!((code, &refused["reason"]), (422, &json!("Invalid")));
    assert_eq!(c.send("PATCH", &one, json!({"metadata": {"finalizers": null}})).await.0, 200);
    assert_eq!(c.send("GET", &one, Value::Null).await.0, 404, "the last finalizer's end is the object's");
    c.running.stop().await;
}

#[tokio::test]
async fn bad_requests_change_nothing() {
    let c = Cluster::start().await;
    let before = c.running.server.store.revision();
    let other =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x", "namespace": "other"}});
    for (method, path, body, code, message) in [
        (
            "POST",
            MAPS,
            other,
            400,
            "the namespace of the provided object does not match the namespace sent on the request",
        ),
        ("GET", "/api/v1/nothing", Value::Null, 404, "the server could not find the requested resource"),
        (
            "GET",
            "/api/v1/pods?fieldSelector=spec.foo%3Dx",
            Value::Null,
            400,
            "field label not supported: spec.foo",
        ),
        (
            "GET",
            "/api/v1/pods?labelSelector=a%20b",
            Value::Null,
            400,
            "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt",
        ),
        (
            "POST",
            MAPS,
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {}}),
            422,
            "ConfigMap \"\" is invalid: metadata.name: Required value: name or generateName is required",
        ),
    ] {
        let (got, status) = c.send(method, path, body).await;
        assert_eq!((got, status["message"].as_str().unwrap()), (code, message), "{method} {path}");
    }
    assert_eq!(c.running.server.store.revision(), before);
    c.running.stop().await;
}
