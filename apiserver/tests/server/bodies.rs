//! What clients send as objects: what the server keeps of it, and what no body may do.

use std::sync::Arc;

use axum::body::Body;
use coracle_api::Object;
use coracle_apiserver::limits;
use coracle_apiserver::store::{Change, Expect};
use http::Request;
use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::cluster::{Cluster, read};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const THINGS: &str = "/apis/example.com/v1/namespaces/default/things";

async fn patch(c: &Cluster, path: &str, media: &str, body: &Value) -> (u16, Value) {
    let request = Request::builder().method("PATCH").uri(path);
    let request = request.header("content-type", format!("application/{media}"));
    read(c.answer(request.body(Body::from(body.to_string())).unwrap()).await).await
}

/// A custom kind whose objects may hold anything.
async fn define_things(c: &Cluster) {
    let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let version =
        json!({"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}});
    let names = json!({"plural": "things", "singular": "thing", "kind": "Thing", "listKind": "ThingList"});
    let crd = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "things.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced", "names": names, "versions": [version]}});
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let (code, made) = c.send("POST", path, crd).await;
    assert_eq!(code, 201, "{made}");
    while c.send("GET", THINGS, Value::Null).await.0 != 200 {
        tokio::task::yield_now().await;
    }
}

fn thing(name: &str, more: &Value) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": name}, "spec": more})
}

fn nested(depth: usize) -> Value {
    (0..depth).fold(json!(1), |inner, _| json!({"a": inner}))
}

#[tokio::test]
async fn the_servers_metadata_is_not_the_clients() {
    let c = Cluster::start().await;
    let config_map =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"a": "0"}});
    let made = c.send("POST", MAPS, config_map.clone()).await.1;
    let one = format!("{MAPS}/m");
    let other = json!({"creationTimestamp": "2001-02-03T04:05:06Z", "generation": 7, "selfLink": "/x"});
    let mut put = config_map.clone();
    put["metadata"].as_object_mut().unwrap().append(&mut other.clone().as_object().unwrap().clone());
    put["data"]["a"] = "1".into();
    let operations: Vec<Value> = other
        .as_object()
        .unwrap()
        .iter()
        .map(|(field, value)| json!({"op": "add", "path": format!("/metadata/{field}"), "value": value}))
        .collect();
    let apply = format!("{one}?fieldManager=m&force=true");
    let answers = [
        c.send("PUT", &one, put.clone()).await,
        patch(&c, &one, "merge-patch+json", &json!({"metadata": other})).await,
        patch(&c, &one, "strategic-merge-patch+json", &json!({"metadata": other})).await,
        patch(&c, &one, "json-patch+json", &operations.into()).await,
        patch(&c, &apply, "apply-patch+yaml", &put).await,
    ];
    for (code, object) in answers {
        assert_eq!(code, 200, "{object}");
        assert_eq!(object["metadata"]["creationTimestamp"], made["metadata"]["creationTimestamp"]);
        assert_eq!(
            (&object["metadata"]["generation"], &object["metadata"]["selfLink"]),
            (&Value::Null, &Value::Null)
        );
    }
    // What a client may only repeat.
    for (field, value) in [("uid", json!("x")), ("deletionTimestamp", json!("2001-02-03T04:05:06Z"))] {
        let (code, refused) = patch(&c, &one, "merge-patch+json", &json!({"metadata": {field: value}})).await;
        assert!(matches!(code, 409 | 422), "{field}: {refused}");
    }
    // Upstream lets only the first grace period be set.
    let (code, refused) =
        patch(&c, &one, "merge-patch+json", &json!({"metadata": {"deletionGracePeriodSeconds": 3}})).await;
    assert_eq!(code, 422, "{refused}");
    c.running.stop().await;
}

#[tokio::test]
async fn nothing_is_stored_that_cannot_be_read() {
    let c = Cluster::start().await;
    define_things(&c).await;
    let deepest = limits::STORED_DEPTH - 1;
    let one = format!("{THINGS}/t");
    let too_deep = c.send("POST", THINGS, thing("t", &nested(deepest + 1))).await;
    assert_eq!(too_deep.0, 400, "{}", too_deep.1);
    let half = deepest / 2;
    assert_eq!(c.send("POST", THINGS, thing("t", &json!({"x": nested(half)}))).await.0, 201);
    let before = c.get(&one).await;
    let at = format!("/spec/x{}", "/a".repeat(half - 1));
    let beyond = nested(limits::STORED_DEPTH - half);
    let copies: Vec<Value> =
        (0..8).map(|_| json!({"op": "copy", "from": "/spec/x", "path": format!("{at}/b")})).collect();
    let deep = (0..half).fold(beyond.clone(), |inner, _| json!({"a": inner}));
    for (media, body) in [
        ("json-patch+json", json!([{"op": "add", "path": at, "value": beyond}])),
        ("json-patch+json", copies.into()),
        ("merge-patch+json", json!({"spec": {"x": deep}})),
        ("apply-patch+yaml", thing("t", &json!({"y": nested(deepest)}))),
    ] {
        let path = format!("{one}?fieldManager=m");
        let path = if media.starts_with("apply") { &path } else { &one };
        let (code, refused) = patch(&c, path, media, &body).await;
        assert!((400..500).contains(&code), "{media}: {code} {refused}");
        assert_eq!(c.get(&one).await, before, "{media}");
    }
    c.running.stop().await;
}

/// Objects from before there was a limit.
#[tokio::test]
async fn what_is_too_deep_already_is_deleted_as_its_finalizers_allow() {
    let c = Cluster::start().await;
    define_things(&c).await;
    let mut old = thing("old", &nested(400));
    old["metadata"] = json!({"name": "old", "namespace": "default", "uid": "u", "finalizers": ["example.com/hold"],
        "creationTimestamp": "2001-02-03T04:05:06Z"});
    let store = &c.running.server.store;
    let storage: Arc<str> = "example.com/things".into();
    let draft = store.draft(&storage, &Object(old));
    store.commit(&storage, "default/old", Expect::Absent, Change::Put(draft)).await.unwrap();
    let one = format!("{THINGS}/old");
    let (code, marked) = c.send("DELETE", &one, Value::Null).await;
    assert_eq!(code, 200, "{marked}");
    assert!(marked["metadata"]["deletionTimestamp"].is_string(), "{marked}");
    let (code, kept) = c.send("GET", &one, Value::Null).await;
    assert_eq!((code, &kept["metadata"]["finalizers"]), (200, &json!(["example.com/hold"])));
    let freed = patch(&c, &one, "merge-patch+json", &json!({"metadata": {"finalizers": null}})).await;
    assert_eq!(freed.0, 200, "{}", freed.1);
    assert_eq!(c.send("GET", &one, Value::Null).await.0, 404);
    c.running.stop().await;
}

#[tokio::test]
async fn an_object_does_not_grow_without_end() {
    let c = Cluster::start().await;
    define_things(&c).await;
    assert_eq!(c.send("POST", THINGS, thing("g", &json!({}))).await.0, 201);
    let one = format!("{THINGS}/g");
    let piece = "x".repeat(limits::STORED_BYTES / 2);
    assert_eq!(patch(&c, &one, "merge-patch+json", &json!({"spec": {"a": piece}})).await.0, 200);
    let (code, refused) = patch(&c, &one, "merge-patch+json", &json!({"spec": {"b": piece}})).await;
    assert_eq!((code, &refused["message"]), (500, &json!("etcdserver: request is too large")));
    assert_eq!(c.get(&one).await["spec"].as_object().unwrap().len(), 1);
    // Built-in kinds are measured as upstream stores them, where a line end is one byte.
    let lines = "\n".repeat(1 << 20);
    let map =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "lines"}, "data": {"a": lines}});
    assert_eq!(c.send("POST", MAPS, map).await.0, 201);
    c.running.stop().await;
}

/// The order of unknown fields is found in one walk: a body of 150,000 of them is refused, not pondered.
#[tokio::test]
async fn a_body_of_unknown_fields_is_linear_work() {
    let c = Cluster::start().await;
    let unknown: Vec<String> = (0..150_000).rev().map(|i| format!("\"k{i}\":0")).collect();
    let body = format!(
        "{{\"kind\":\"ConfigMap\",\"apiVersion\":\"v1\",\"metadata\":{{\"name\":\"u\",\"name\":\"u\"}},{}}}",
        unknown.join(",")
    );
    let request = Request::builder().method("POST").uri(format!("{MAPS}?fieldValidation=Strict"));
    let request = request.header("content-type", "application/json").body(Body::from(body)).unwrap();
    let (code, refused) = read(c.answer(request).await).await;
    let message = refused["message"].as_str().unwrap();
    assert_eq!(code, 400);
    assert!(
        message.contains("strict decoding error: duplicate field \"metadata.name\", unknown field"),
        "{message}"
    );
    c.running.stop().await;
}

async fn text(c: &Cluster, path: &str, headers: &[(&str, &str)]) -> (u16, String) {
    let mut request = Request::builder().uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = c.answer(request.body(Body::empty()).unwrap()).await;
    let code = answer.status().as_u16();
    let bytes = answer.into_body().collect().await.unwrap().to_bytes();
    (code, String::from_utf8_lossy(&bytes).into_owned())
}

#[tokio::test]
async fn answers_have_upstreams_order_of_keys_and_lines_for_people() {
    let c = Cluster::start().await;
    define_things(&c).await;
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"b": "1", "a": "2"},
        "metadata": {"name": "m", "labels": {"x": "y"}}});
    assert_eq!(c.send("POST", MAPS, map).await.0, 201);
    assert_eq!(c.send("POST", THINGS, thing("t", &json!({"b": 1, "a": 2}))).await.0, 201);
    let (_, one) = text(&c, &format!("{MAPS}/m"), &[]).await;
    let order = [
        "{\"kind\":",
        "\"apiVersion\":",
        "\"metadata\":{\"name\":",
        "\"namespace\":",
        "\"uid\":",
        "\"resourceVersion\":",
        "\"creationTimestamp\":",
        "\"labels\":",
        "\"managedFields\":",
        "\"data\":{\"a\":",
    ];
    let places: Vec<usize> =
        order.iter().map(|key| one.find(key).unwrap_or_else(|| panic!("{key}: {one}"))).collect();
    assert!(places.is_sorted(), "{one}");
    let (_, custom) = text(&c, &format!("{THINGS}/t"), &[]).await;
    assert!(
        custom.starts_with(
            "{\"apiVersion\":\"example.com/v1\",\"kind\":\"Thing\",\"metadata\":{\"creationTimestamp\":"
        ),
        "{custom}"
    );
    let (_, list) = text(&c, THINGS, &[]).await;
    assert!(list.starts_with("{\"apiVersion\":\"example.com/v1\",\"items\":[{"), "{list}");
    let (curl, plain) = (("user-agent", "curl/8.5.0"), ("user-agent", "kubectl/v1.36.0"));
    for (path, header, lines) in [
        (format!("{MAPS}/m"), curl, true),
        (MAPS.to_owned(), curl, true),
        (THINGS.to_owned(), ("user-agent", "Mozilla/5.0 (X11)"), true),
        (format!("{MAPS}/absent"), curl, true),
        (format!("{MAPS}/m?pretty=false"), curl, false),
        (format!("{MAPS}/m?pretty=1"), plain, true),
        (format!("{MAPS}/m"), plain, false),
    ] {
        let (_, answer) = text(&c, &path, &[header]).await;
        assert_eq!(answer.trim_end().contains('\n'), lines, "{path}: {answer}");
        let value: Value = serde_json::from_str(&answer).unwrap();
        if lines {
            // The same keys and values, two spaces a level.
            let sorted: Value = serde_json::from_str(
                &text(&c, &format!("{path}{}pretty=0", if path.contains('?') { "&" } else { "?" }), &[])
                    .await
                    .1,
            )
            .unwrap();
            assert_eq!(value, sorted);
            assert!(answer.starts_with("{\n  \""), "{answer}");
        }
    }
    c.running.stop().await;
}

#[tokio::test]
async fn parameters_that_upstream_refuses_are_refused() {
    let c = Cluster::start().await;
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "d"}});
    let (code, refused) = c.send("POST", &format!("{MAPS}?dryRun="), map.clone()).await;
    assert_eq!((code, &refused["reason"]), (422, &json!("Invalid")), "{refused}");
    assert_eq!(c.send("GET", &format!("{MAPS}/d"), Value::Null).await.0, 404, "nothing was written");
    assert_eq!(c.send("POST", &format!("{MAPS}?dryRun=All&dryRun=x"), map).await.0, 422);
    assert_eq!(c.send("DELETE", &format!("{MAPS}/d?dryRun="), Value::Null).await.0, 422);
    for (query, code) in [
        ("labelSelector=-a", 400),
        ("labelSelector=a%3D-b", 400),
        ("labelSelector=a%20in%20(b,-c)", 400),
        ("labelSelector=a%3Db,c!%3Dd", 200),
        ("limit=x", 400),
        ("limit=-1", 200),
        ("timeoutSeconds=x", 400),
        ("sendInitialEvents=true", 422),
        ("watch=1&timeoutSeconds=x", 400),
    ] {
        assert_eq!(text(&c, &format!("{MAPS}?{query}"), &[]).await.0, code, "{query}");
    }
    assert_eq!(text(&c, "/api/v1/persistentvolumes?fieldSelector=metadata.namespace%3Dx", &[]).await.0, 200);
    assert_eq!(text(&c, "/api/v1/nodes?fieldSelector=metadata.namespace%3Dx", &[]).await.0, 400);
    c.running.stop().await;
}

#[tokio::test]
async fn protobuf_is_answered_to_who_asks_for_it_first() {
    let c = Cluster::start().await;
    let accept = |value| [("accept", value)];
    let both = accept("application/vnd.kubernetes.protobuf,application/json");
    assert!(text(&c, MAPS, &both).await.1.starts_with("k8s\0"));
    let json = accept("application/json,application/vnd.kubernetes.protobuf");
    assert!(text(&c, MAPS, &json).await.1.starts_with('{'));
    let table = accept("application/json;as=Table;v=v1;g=meta.k8s.io,application/json");
    assert!(text(&c, MAPS, &table).await.1.contains("\"kind\":\"Table\""));
    c.running.stop().await;
}

#[tokio::test]
async fn numbers_are_kept_as_go_keeps_them() {
    let c = Cluster::start().await;
    define_things(&c).await;
    let body = r#"{"apiVersion":"example.com/v1","kind":"Thing","metadata":{"name":"n"},"spec":{"a":100.0,"b":1.5,"c":1e3,"d":1.2345678901234567e34}}"#;
    let send = |method: &str, path: String, media: &str| {
        let request = Request::builder().method(method).uri(path).header("content-type", media);
        c.answer(request.body(Body::from(body)).unwrap())
    };
    let (code, mut made) =
        read(send("POST", format!("{THINGS}?fieldManager=a"), "application/json").await).await;
    let long = made["spec"].as_object_mut().and_then(|spec| spec.remove("d"));
    assert_eq!(long, Some(json!(1.234_567_890_123_456_7e34)), "the last digit is not rounded away");
    assert_eq!((code, made["spec"].to_string().as_str()), (201, r#"{"a":100,"b":1.5,"c":1000}"#));
    let path = format!("{THINGS}/n?fieldManager=b");
    let (code, applied) = read(send("PATCH", path, "application/apply-patch+yaml").await).await;
    assert_eq!(code, 200, "the same numbers are no conflict: {applied}");
    c.running.stop().await;
}

/// What is unknown in a status that the endpoint does not write is told all the same.
#[tokio::test]
async fn unknown_fields_below_status_are_told() {
    let c = Cluster::start().await;
    let pod =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "s"}, "status": {"odd": 1}});
    let (code, refused) = c.send("POST", "/api/v1/namespaces?fieldValidation=Strict", pod).await;
    assert_eq!(code, 400, "{refused}");
    assert!(refused["message"].as_str().unwrap().contains("unknown field \"status.odd\""), "{refused}");
    c.running.stop().await;
}
