//! How fast pods start: sixty at once, and one after the other.

use std::time::{Duration, Instant};

use anyhow::Result;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::DeleteParams;

use super::World;
use crate::pod_starts::{percentile, start};

pub(super) fn sixty(world: &mut World) -> Result<()> {
    let k = world.kubectl();
    k.ok("create namespace dense")?;
    k.until(10, "-n dense get serviceaccount default -o name", |o| !o.is_empty())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let client = runtime.block_on(super::clients::over_tls(&k.kubeconfig))?;

    let begun = Instant::now();
    let mut together = runtime.block_on(start(&client, "dense", "batch", 60, 60))?;
    let all = begun.elapsed();
    runtime.block_on(
        Api::<Pod>::namespaced(client.clone(), "dense")
            .delete_collection(&DeleteParams::default().grace_period(1), &Default::default()),
    )?;
    k.until(120, "-n dense get pods -o name", str::is_empty)?;
    let mut alone = runtime.block_on(start(&client, "dense", "single", 15, 1))?;
    println!(
        "        sixty at once: {:.1} pods/s, {}; one at a time: {}",
        60.0 / all.as_secs_f64(),
        figures(&mut together),
        figures(&mut alone)
    );
    k.ok("delete namespace dense --timeout=120s").map(drop)
}

fn figures(times: &mut [Duration]) -> String {
    format!(
        "create -> Running median {:.3} s, 99th percentile {:.3} s",
        percentile(times, 50).as_secs_f64(),
        percentile(times, 99).as_secs_f64()
    )
}
