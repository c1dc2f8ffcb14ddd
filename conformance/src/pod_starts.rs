//! How long pods take from their creation to Running, as a client with a watch sees it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures::{TryStreamExt, pin_mut};
use k8s_openapi::api::core::v1::Pod;
use kube::api::PostParams;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use serde_json::json;

/// All pods must run within this time.
const PATIENCE: Duration = Duration::from_secs(180);

/// Creates `count` pods, at most `at_once` of them not yet running; the time from create to Running of each.
pub async fn start(
    client: &Client,
    namespace: &str,
    prefix: &str,
    count: usize,
    at_once: usize,
) -> Result<Vec<Duration>> {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let events = watcher(api.clone(), watcher::Config::default()).default_backoff().applied_objects();
    pin_mut!(events);
    let mut begun: BTreeMap<String, Instant> = BTreeMap::new();
    let mut took = vec![];
    let mut waiting = (0..count).map(|n| format!("{prefix}-{n}"));
    let deadline = tokio::time::sleep(PATIENCE);
    pin_mut!(deadline);
    loop {
        while begun.len() < at_once
            && let Some(name) = waiting.next()
        {
            begun.insert(name.clone(), Instant::now());
            api.create(&PostParams::default(), &pod(&name)?).await?;
        }
        if begun.is_empty() {
            return Ok(took);
        }
        let event = tokio::select! {
            event = events.try_next() => event?.context("the watch ended")?,
            () = &mut deadline => bail!("{} pods are not Running", begun.len()),
        };
        let running = event.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Running");
        let name = event.metadata.name.unwrap_or_default();
        if running && let Some(at) = begun.remove(&name) {
            took.push(at.elapsed());
        }
    }
}

/// A pod of one container that does nothing.
pub fn pod(name: &str) -> Result<Pod> {
    Ok(serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [
            {"name": "c", "image": "busybox:1.35", "command": ["sleep", "100000"]}]}
    }))?)
}

/// The time that this share (in hundredths) of all stayed below.
pub fn percentile(times: &mut [Duration], share: usize) -> Duration {
    times.sort_unstable();
    let at = (times.len() * share / 100).min(times.len().saturating_sub(1));
    times.get(at).copied().unwrap_or_default()
}
