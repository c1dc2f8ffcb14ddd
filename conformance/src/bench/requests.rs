//! Creates, reads, updates and deletes of small objects, and lists of many pods.

use anyhow::{Result, ensure};
use bytes::Bytes;
use http::Method;

use super::{Amounts, NAMESPACE, Server, load};
use crate::wire::{Connection, JSON, PROTOBUF, TABLE};

pub(super) const CONFIGMAPS: &str = "/api/v1/namespaces/bench/configmaps";
const PODS: &str = "/api/v1/namespaces/bench/pods";

/// Objects written before anything is measured: programs that compile or grow as they run shall have done so.
const WARM_UP: usize = 300;

/// A ConfigMap of about a kilobyte.
pub(super) fn configmap(name: &str, value: usize) -> Bytes {
    let fill = "x".repeat(800);
    Bytes::from(format!(
        r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}","labels":{{"app":"bench"}}}},"data":{{"n":"{value}","fill":"{fill}"}}}}"#
    ))
}

/// A pod like those of a Deployment: about 3 KB as stored. Every tenth has `tier: a`.
fn pod(n: usize) -> Bytes {
    let tier = if n.is_multiple_of(10) { "a" } else { "b" };
    Bytes::from(format!(
        r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"p-{n}","labels":{{"app":"bench","tier":"{tier}"}},"annotations":{{"note":"{}"}}}},
"spec":{{"schedulerName":"none","containers":[{{"name":"main","image":"registry.example.com/bench:1","ports":[{{"containerPort":8080}}],
"env":[{{"name":"A","value":"1"}},{{"name":"POD","valueFrom":{{"fieldRef":{{"fieldPath":"metadata.name"}}}}}}],
"resources":{{"requests":{{"cpu":"10m","memory":"16Mi"}},"limits":{{"memory":"64Mi"}}}},
"livenessProbe":{{"httpGet":{{"path":"/","port":8080}}}},"readinessProbe":{{"httpGet":{{"path":"/","port":8080}}}}}}]}}}}"#,
        "x".repeat(600)
    ))
}

/// The namespace with its service account, and a warm server.
pub(super) async fn prepare(server: &Server) -> Result<()> {
    let mut admin = server.endpoint.connect().await?;
    let namespace =
        format!(r#"{{"apiVersion":"v1","kind":"Namespace","metadata":{{"name":"{NAMESPACE}"}}}}"#);
    admin.call(Method::POST, "/api/v1/namespaces", JSON, namespace.into()).await?;
    let account = r#"{"apiVersion":"v1","kind":"ServiceAccount","metadata":{"name":"default"}}"#;
    let accounts = format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts");
    // Where controllers run, one may have made it already.
    let _ = admin.call(Method::POST, &accounts, JSON, Bytes::from_static(account.as_bytes())).await;
    crud(server, 8, WARM_UP).await.map(drop)
}

/// Takes away what the steps have made.
pub(super) async fn clear(server: &Server) -> Result<()> {
    let mut admin = server.endpoint.connect().await?;
    let namespace = format!("/api/v1/namespaces/{NAMESPACE}");
    for path in [PODS, CONFIGMAPS, &namespace] {
        admin.call(Method::DELETE, &format!("{path}?gracePeriodSeconds=0"), JSON, Bytes::new()).await?;
    }
    Ok(())
}

pub(super) async fn writes_and_reads(server: &mut Server, clients: usize) -> Result<()> {
    let measures = crud(server, clients, (clients * 100).clamp(1_000, 8_000)).await?;
    server.figures.measures.extend(measures);
    Ok(())
}

async fn crud(server: &Server, clients: usize, count: usize) -> Result<Vec<load::Measure>> {
    let create = load::run("create", server, clients, count, |mut c, n| async move {
        Ok(c.call(Method::POST, CONFIGMAPS, JSON, configmap(&format!("c-{n}"), 0)).await?.len())
    });
    let create = create.await?;
    // Reads are quick: more of them make as long a measurement.
    let get = load::run("get", server, clients, count * 3, move |mut c, n| async move {
        Ok(c.call(Method::GET, &format!("{CONFIGMAPS}/c-{}", n % count), JSON, Bytes::new()).await?.len())
    });
    let get = get.await?;
    let update = load::run("update", server, clients, count, |mut c, n| async move {
        let name = format!("c-{n}");
        Ok(c.call(Method::PUT, &format!("{CONFIGMAPS}/{name}"), JSON, configmap(&name, 1)).await?.len())
    });
    let update = update.await?;
    let delete = load::run("delete", server, clients, count, |mut c, n| async move {
        Ok(c.call(Method::DELETE, &format!("{CONFIGMAPS}/c-{n}"), JSON, Bytes::new()).await?.len())
    });
    Ok(vec![create, get, update, delete.await?])
}

pub(super) async fn lists(server: &mut Server, amounts: &Amounts) -> Result<()> {
    server.figures.memory.before_objects = server.processes.rss_bytes();
    let fill = load::run("create pods", server, 64, amounts.objects, |mut c, n| async move {
        Ok(c.call(Method::POST, PODS, JSON, pod(n)).await?.len())
    });
    let fill = fill.await?;
    server.figures.measures.push(fill);
    server.figures.memory.with_objects = server.processes.rss_bytes();
    let kinds: [(&'static str, String, &'static str); 6] = [
        ("list", PODS.to_owned(), JSON),
        ("list protobuf", PODS.to_owned(), PROTOBUF),
        ("list table", PODS.to_owned(), TABLE),
        ("list limit=500", format!("{PODS}?limit=500"), JSON),
        ("list by label (a tenth)", format!("{PODS}?labelSelector=tier%3Da"), JSON),
        ("list by field (one)", format!("{PODS}?fieldSelector=metadata.name%3Dp-7"), JSON),
    ];
    for (name, path, accept) in kinds {
        // What is short is done more often: CPU is counted in hundredths of a second.
        let count = match () {
            () if name.contains("one") => amounts.lists * 100,
            () if name.contains("500") || name.contains("label") => amounts.lists * 10,
            () => amounts.lists,
        };
        let list = move |mut c: Connection, _| {
            let path = path.clone();
            async move { c.drain(&path, accept).await }
        };
        if count == amounts.lists {
            // A server may keep what it has encoded: what that costs is to be seen, and not in the others.
            let first = load::run(&format!("first {name}"), server, 1, 1, list.clone()).await?;
            server.figures.measures.push(first);
        }
        let measured = load::run(name, server, 1, count, list).await?;
        ensure!(measured.bytes > 0, "{name} gave nothing");
        server.figures.measures.push(measured);
    }
    Ok(())
}
