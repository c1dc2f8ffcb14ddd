//! How fast pods start: sixty at once, and one after the other.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::{TryStreamExt, pin_mut};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use serde_json::json;

use super::World;

pub(super) fn sixty(world: &mut World) -> Result<()> {
    let k = world.kubectl();
    k.ok("create namespace dense")?;
    k.until(10, "-n dense get serviceaccount default -o name", |o| !o.is_empty())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let client = runtime.block_on(super::clients::over_tls(&k.kubeconfig))?;

    let begun = Instant::now();
    let mut together = runtime.block_on(start(&client, &names("batch", 60), 60))?;
    let all = begun.elapsed();
    runtime.block_on(
        Api::<Pod>::namespaced(client.clone(), "dense")
            .delete_collection(&DeleteParams::default().grace_period(1), &Default::default()),
    )?;
    k.until(120, "-n dense get pods -o name", str::is_empty)?;
    let mut alone = runtime.block_on(start(&client, &names("single", 15), 1))?;
    println!(
        "        sixty at once: {:.1} pods/s, {}; one at a time: {}",
        60.0 / all.as_secs_f64(),
        figures(&mut together),
        figures(&mut alone)
    );
    k.ok("delete namespace dense --timeout=120s").map(drop)
}

fn names(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{prefix}-{n}")).collect()
}

fn figures(times: &mut [Duration]) -> String {
    times.sort();
    let at = |share: usize| times[(times.len() * share / 100).min(times.len() - 1)];
    format!(
        "create -> Running median {:.3} s, 99th percentile {:.3} s",
        at(50).as_secs_f64(),
        at(99).as_secs_f64()
    )
}

/// Creates pods, at most `at_once` not yet running; the time from create to Running, as a watch tells it, of each.
async fn start(client: &Client, names: &[String], at_once: usize) -> Result<Vec<Duration>> {
    let api: Api<Pod> = Api::namespaced(client.clone(), "dense");
    let events = watcher(api.clone(), watcher::Config::default()).default_backoff().applied_objects();
    pin_mut!(events);
    let mut begun: BTreeMap<String, Instant> = BTreeMap::new();
    let mut took = vec![];
    let mut waiting = names.iter();
    let deadline = tokio::time::sleep(Duration::from_secs(180));
    pin_mut!(deadline);
    loop {
        while begun.len() < at_once
            && let Some(name) = waiting.next()
        {
            begun.insert(name.clone(), Instant::now());
            api.create(&PostParams::default(), &pod(name)?).await?;
        }
        if begun.is_empty() {
            return Ok(took);
        }
        let event = tokio::select! {
            event = events.try_next() => event?.context("the watch ended")?,
            () = &mut deadline => anyhow::bail!("{} pods are not Running", begun.len()),
        };
        let running = event.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Running");
        let name = event.metadata.name.unwrap_or_default();
        if running && let Some(at) = begun.remove(&name) {
            took.push(at.elapsed());
        }
        ensure!(took.len() <= names.len());
    }
}

fn pod(name: &str) -> Result<Pod> {
    Ok(serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [
            {"name": "c", "image": "busybox:1.35", "command": ["sleep", "100000"]}]}
    }))?)
}
