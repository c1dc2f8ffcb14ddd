//! Patches that make more of an object than they are.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};

use super::bodies::send_all;
use crate::hostile::book::{Attack, By, How};
use crate::hostile::scene::{Scene, tally};
use crate::wire::JSON;

const PATCH: &str = "application/json-patch+json";
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const APPLY: &str = "application/apply-patch+yaml";

const PATCHES: Attack = Attack {
    name: "",
    findings: "",
    by: By::Tenant,
    does: "",
    must: "422 or another 4xx, within the bounds on depth, copies and operations",
    quick: false,
    how: How::Asks(&[]),
};

#[rustfmt::skip]
pub(super) const ATTACKS: &[Attack] = &[
    Attack { name: "JSON patches that copy", findings: "security B9; CVE-2019-1002100", quick: true, does: "copies that double, copies that nest, 10,001 operations, moves into oneself, tests of large values", how: How::Tenant(|s| Box::pin(copies(s))), ..PATCHES },
    Attack { name: "patches that nest", findings: "security M17", does: "each patch puts a custom resource a hundred levels deeper", must: "4xx before it cannot be read; it can be read and deleted", how: How::Tenant(|s| Box::pin(nesting(s))), ..PATCHES },
    Attack { name: "strategic patches that are much work", findings: "issue 11.4", does: "directives, keys and orders of thousands of list items", how: How::Tenant(|s| Box::pin(strategic(s))), ..PATCHES },
    Attack { name: "field managers", findings: "reliability 8", does: "400 managers update and 400 apply one object", must: "at most 10 updaters are told apart; the object stays within its bound", how: How::Tenant(|s| Box::pin(managers(s))), ..PATCHES },
    Attack { name: "an object that grows", findings: "reliability 8", does: "19 patches of 2 MB, each under its own key, and 300 of 10 KB", must: "the object stays below 1.5 MiB", how: How::Tenant(|s| Box::pin(growth(s))), ..PATCHES },
];

async fn map(scene: &Scene<'_>, name: &str, data: Value) -> Result<String> {
    let mut tenant = scene.connect(By::Tenant).await?;
    let object = json!({"metadata": {"name": name}, "data": data});
    let made =
        scene.send(&mut tenant, Method::POST, &scene.path("configmaps"), JSON, object.to_string()).await?;
    ensure!(made.code == 201, "making {name}: {}", made.code);
    Ok(scene.path(&format!("configmaps/{name}")))
}

fn thing(scene: &Scene<'_>, name: &str) -> String {
    format!("/apis/hostile.example/v1/namespaces/{}/things/{name}", scene.namespace)
}

async fn make_thing(scene: &Scene<'_>, name: &str) -> Result<String> {
    let mut tenant = scene.connect(By::Tenant).await?;
    let object =
        json!({"apiVersion": "hostile.example/v1", "kind": "Thing", "metadata": {"name": name}, "a": {}});
    let path = thing(scene, "");
    let made =
        scene.send(&mut tenant, Method::POST, path.trim_end_matches('/'), JSON, object.to_string()).await?;
    ensure!(made.code == 201, "making {name}: {}", made.code);
    Ok(thing(scene, name))
}

async fn copies(scene: &Scene<'_>) -> Result<String> {
    let map = map(scene, "patched", json!({"a": "x".repeat(100_000)})).await?;
    let thing = make_thing(scene, "patched").await?;
    let op = |op: &str, from: String, path: String| json!({"op": op, "from": from, "path": path});
    // Each copy holds all that was there before.
    let doubling: Vec<Value> = (0..26).map(|n| op("copy", "/a".to_owned(), format!("/a/b{n}"))).collect();
    let nested: Vec<Value> = (0..600).map(|_| op("copy", "/a".to_owned(), "/a/a".to_owned())).collect();
    let big: Vec<Value> = (0..500).map(|n| op("copy", "/data/a".to_owned(), format!("/data/c{n}"))).collect();
    let many: Vec<Value> =
        (0..10_001).map(|_| json!({"op": "test", "path": "/kind", "value": "x"})).collect();
    let items = json!({"op": "add", "path": "/l", "value": vec![0; 300_000]});
    let shifts: Vec<Value> = std::iter::once(items)
        .chain((0..9_000).map(|_| json!({"op": "add", "path": "/l/0", "value": 0})))
        .collect();
    let deep: Vec<Value> =
        (0..5_000).map(|n| json!({"op": "add", "path": "/a".repeat(n + 1), "value": {}})).collect();
    let into_itself = vec![op("move", "/a".to_owned(), "/a/b".to_owned())];
    let whole = vec![op("copy", String::new(), "/a/all".to_owned()); 40];
    let pointer = vec![json!({"op": "test", "path": format!("/{}", "~1".repeat(400_000)), "value": 1})];
    let index = vec![json!({"op": "add", "path": "/metadata/finalizers/99999999999999999999", "value": "x"})];
    let times = scene.amount(3, 1);
    let mut bodies = vec![];
    for (path, patch) in [
        (&thing, doubling),
        (&thing, nested),
        (&map, big),
        (&map, many),
        (&thing, shifts),
        (&thing, deep),
        (&thing, into_itself),
        (&thing, whole),
        (&thing, pointer),
        (&thing, index),
    ] {
        let body = Bytes::from(Value::from(patch).to_string());
        bodies.extend(vec![(Method::PATCH, path.clone(), PATCH, body); times]);
    }
    send_all(scene, By::Tenant, bodies, 4, |code| (400..500).contains(&code)).await
}

async fn nesting(scene: &Scene<'_>) -> Result<String> {
    let path = make_thing(scene, "nested").await?;
    let mut tenant = scene.connect(By::Tenant).await?;
    let levels = format!("{}1{}", "{\"a\":".repeat(100), "}".repeat(100));
    let mut codes = vec![];
    for n in 1..=4 {
        let merge = format!("{}{levels}{}", "{\"a\":".repeat(n * 90), "}".repeat(n * 90));
        let answer = scene.send(&mut tenant, Method::PATCH, &path, MERGE, merge).await?;
        codes.push(answer.code);
        let pointer = "/a".repeat(n * 60);
        let patch = format!("[{{\"op\":\"add\",\"path\":\"{pointer}\",\"value\":{levels}}}]");
        codes.push(scene.send(&mut tenant, Method::PATCH, &path, PATCH, patch).await?.code);
        let apply = format!(
            "{{\"apiVersion\":\"hostile.example/v1\",\"kind\":\"Thing\",\"metadata\":{{\"name\":\"nested\"}},\"b\":{levels}}}"
        );
        let applied = format!("{path}?fieldManager=m{n}&force=true");
        codes.push(scene.send(&mut tenant, Method::PATCH, &applied, APPLY, apply).await?.code);
    }
    ensure!(codes.iter().any(|c| *c >= 400) && codes.iter().all(|c| *c < 500), "{codes:?}");
    let read = scene.send(&mut tenant, Method::GET, &path, JSON, Bytes::new()).await?;
    ensure!(read.code == 200, "reading it afterwards: {}", read.code);
    let all = path.trim_end_matches("/nested");
    let list = scene.send(&mut tenant, Method::GET, all, JSON, Bytes::new()).await?;
    ensure!(
        list.code == 200 && serde_json::from_slice::<Value>(&list.body).is_ok(),
        "listing it: {}",
        list.code
    );
    let deleted = scene.send(&mut tenant, Method::DELETE, &path, JSON, Bytes::new()).await?;
    ensure!(deleted.code == 200, "deleting it: {}", deleted.code);
    Ok(tally(codes.iter().map(u16::to_string)))
}

async fn strategic(scene: &Scene<'_>) -> Result<String> {
    let mut tenant = scene.connect(By::Tenant).await?;
    let ports: Vec<Value> = (1..=2_000).map(|n| json!({"name": format!("p{n}"), "port": n})).collect();
    let service = json!({"metadata": {"name": "s"}, "spec": {"ports": ports}});
    scene.send(&mut tenant, Method::POST, &scene.path("services"), JSON, service.to_string()).await?;
    let path = scene.path("services/s");
    let patches = |n: usize| -> Vec<Value> {
        (0..n).map(|n| json!({"port": n * 7 % 65_535 + 1, "name": format!("q{n}")})).collect()
    };
    let order: Vec<Value> = (0..20_000).rev().map(|n| json!({"port": n + 1})).collect();
    let deletes: Vec<Value> = (0..20_000).map(|n| json!({"$patch": "delete", "port": n + 1})).collect();
    let mut nested = json!({"$patch": "merge"});
    for _ in 0..100 {
        nested = json!({"spec": nested, "$retainKeys": ["spec"]});
    }
    let bodies = [
        json!({"spec": {"ports": patches(10_000)}}),
        json!({"spec": {"$setElementOrder/ports": order, "ports": patches(5_000)}}),
        json!({"spec": {"ports": deletes}}),
        json!({"metadata": {"$deleteFromPrimitiveList/finalizers": vec!["x"; 100_000]}}),
        json!({"metadata": {"$setElementOrder/finalizers": vec!["x"; 100_000], "finalizers": vec!["y"; 10]}}),
        json!({"$patch": "replace", "$retainKeys": vec!["spec"; 100_000]}),
        json!({"$patch": "delete", "spec": {"$patch": ["x"]}}),
        nested,
    ];
    let times = scene.amount(3, 1);
    let bodies = bodies.into_iter().flat_map(|body| {
        vec![(Method::PATCH, path.clone(), STRATEGIC, Bytes::from(body.to_string())); times]
    });
    // Upstream, too, answers 500 to an order that does not fit its items.
    send_all(scene, By::Tenant, bodies.collect(), 4, |code| code <= 500).await
}

async fn managers(scene: &Scene<'_>) -> Result<String> {
    let path = map(scene, "managed", json!({})).await?;
    let count = scene.amount(400, 60);
    let mut bodies = vec![];
    for n in 0..count {
        let merge = json!({"data": {format!("k{n}"): "v"}}).to_string();
        bodies.push((Method::PATCH, format!("{path}?fieldManager=updater-{n}"), MERGE, Bytes::from(merge)));
        let apply = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "managed"},
            "data": {format!("a{n}"): "v"}});
        let apply = Bytes::from(apply.to_string());
        bodies.push((Method::PATCH, format!("{path}?fieldManager=applier-{n}"), APPLY, apply));
    }
    let said = send_all(scene, By::Tenant, bodies, 4, |code| code < 500).await?;
    let mut tenant = scene.connect(By::Tenant).await?;
    let found = scene.send(&mut tenant, Method::GET, &path, JSON, Bytes::new()).await?;
    let object: Value = serde_json::from_slice(&found.body)?;
    let entries = object["metadata"]["managedFields"].as_array().context("managedFields")?;
    let updaters = entries.iter().filter(|e| e["operation"] == "Update").count();
    ensure!(updaters <= 11, "{updaters} entries of updates");
    ensure!(found.body.len() < 1_600_000, "the object has {} bytes", found.body.len());
    Ok(format!("{said}; {} entries, {updaters} of them updates, {} bytes", entries.len(), found.body.len()))
}

async fn growth(scene: &Scene<'_>) -> Result<String> {
    let path = map(scene, "grown", json!({})).await?;
    let thing = make_thing(scene, "grown").await?;
    let mut bodies = vec![];
    for n in 0..19 {
        let body = Bytes::from(json!({"data": {format!("k{n}"): "x".repeat(2_000_000)}}).to_string());
        bodies.push((Method::PATCH, path.clone(), MERGE, body.clone()));
        bodies.push((Method::PATCH, thing.clone(), MERGE, body));
    }
    for n in 0..scene.amount(300, 160) {
        let body = Bytes::from(json!({"data": {format!("s{n}"): "x".repeat(10_000)}}).to_string());
        bodies.push((Method::PATCH, path.clone(), MERGE, body.clone()));
        bodies.push((Method::PATCH, thing.clone(), MERGE, body));
    }
    let said = send_all(scene, By::Tenant, bodies, 2, |code| code < 500).await?;
    let mut tenant = scene.connect(By::Tenant).await?;
    for path in [path, thing] {
        let ask = scene.send(&mut tenant, Method::GET, &path, JSON, Bytes::new());
        let found = tokio::time::timeout(Duration::from_secs(10), ask).await??;
        ensure!(found.body.len() < 1_700_000, "{path} has {} bytes", found.body.len());
    }
    Ok(said)
}
