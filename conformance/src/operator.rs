//! What an operator written with kube-rs does all day: typed create, list, watch, patch; a reflector; a Controller.
//!
//! It is given a client and cannot tell how that reaches the server.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::controller::Action;
use kube::runtime::{Controller, WatchStreamExt, reflector, watcher};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

/// Fifteen seconds are generous for what takes milliseconds.
async fn soon<T>(what: &str, future: impl Future<Output = T>) -> Result<T> {
    tokio::time::timeout(Duration::from_secs(15), future).await.with_context(|| format!("waiting for {what}"))
}

/// What an operator does all day.
pub async fn program(client: Client) -> Result<()> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    let mine = ListParams::default().labels("made-by=program");

    let (reader, writer) = reflector::store();
    let config = watcher::Config::default().labels("made-by=program");
    let stream = watcher(api.clone(), config.clone()).reflect(writer).applied_objects();
    let reflecting = tokio::spawn(stream.for_each(|_| std::future::ready(())));
    soon("the reflector", reader.wait_until_ready()).await??;

    let map: ConfigMap = serde_json::from_value(
        json!({"metadata": {"name": "one", "labels": {"made-by": "program"}}, "data": {"a": "1"}}),
    )?;
    let created = api.create(&PostParams::default(), &map).await?;
    ensure!(created.uid().is_some() && created.resource_version().is_some());
    ensure!(api.list(&mine).await?.items.len() == 1);
    let patched =
        api.patch("one", &PatchParams::default(), &Patch::Merge(json!({"data": {"b": "2"}}))).await?;
    ensure!(patched.data.as_ref().is_some_and(|d| d.len() == 2));
    let patched = api
        .patch(
            "one",
            &PatchParams::default(),
            &Patch::Strategic(json!({"metadata": {"annotations": {"c": "3"}}})),
        )
        .await?;
    ensure!(patched.annotations()["c"] == "3");
    let conflict = api.replace("one", &PostParams::default(), &created).await;
    ensure!(matches!(conflict, Err(kube::Error::Api(e)) if e.code == 409), "a stale replace is a conflict");
    ensure!(api.get_opt("none").await?.is_none());

    let (seen, mut events) = tokio::sync::mpsc::channel(16);
    let controller = Controller::new(api.clone(), config).run(
        |map, seen| async move {
            let _ = seen.send(map.name_any()).await;
            Ok::<_, std::io::Error>(Action::await_change())
        },
        |_, _, _| Action::requeue(Duration::from_secs(1)),
        Arc::new(seen),
    );
    let controlling = tokio::spawn(controller.for_each(|_| std::future::ready(())));
    ensure!(soon("the controller", events.recv()).await?.as_deref() == Some("one"));

    let streaming =
        watcher(api.clone(), watcher::Config::default().labels("made-by=program").streaming_lists());
    futures::pin_mut!(streaming);
    ensure!(matches!(soon("a streaming list", streaming.next()).await?, Some(Ok(watcher::Event::Init))));

    api.delete("one", &DeleteParams::default()).await?;
    soon("the deletion in the reflector", async {
        while !reader.is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await?;
    reflecting.abort();
    controlling.abort();
    Ok(())
}
