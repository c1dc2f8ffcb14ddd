//! Whole control planes without a node: how soon they are ready, and what they cost while nothing happens.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::Bytes;
use http::Method;
use serde::{Deserialize, Serialize};

use super::Run;
use crate::cluster::Cluster;
use crate::kubectl::pause;
use crate::process::Processes;
use crate::upstream::{Upstream, free_port};
use crate::wire::{Endpoint, JSON};

/// A span of time in which nobody asked for anything.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Idle {
    /// Milliseconds of CPU in one second.
    pub cpu_ms_per_second: f64,
    pub rss_bytes: u64,
}

/// What a start leaves to do is done after this time.
const SETTLE: Duration = Duration::from_secs(8);

/// Both at once: each gets the same quiet minute.
pub(super) fn measure(
    runtime: &tokio::runtime::Runtime,
    program: &Path,
    scratch: &Path,
    run: &mut Run,
) -> Result<()> {
    let port = free_port()?.to_string();
    let flags = ["--no-node", "--bind-address", "127.0.0.1", "--port", &port];
    let mut cluster = Cluster::new(program, &scratch.join("whole"), &flags);
    cluster.up()?;
    runtime.block_on(ready(&cluster.kubeconfig()))?;
    run.coracle.ready = Some(cluster.begun.elapsed().as_secs_f64());
    let mut all = vec![(&mut run.coracle, Processes::of([u32::try_from(cluster.pid()?.as_raw())?]))];

    let begun = Instant::now();
    let mut upstream = None;
    if let Some(figures) = &mut run.upstream {
        let mut started = Upstream::start(&scratch.join("upstream-whole"))?;
        figures.ready = Some(begun.elapsed().as_secs_f64());
        started.controllers()?;
        started.scheduler()?;
        all.push((figures, Processes::of(started.pids().into_iter().map(|(_, pid)| pid))));
        upstream = Some(started);
    }
    pause(SETTLE);
    let span = Duration::from_secs(run.amounts.idle);
    let before: Vec<f64> = all.iter().map(|(_, processes)| processes.cpu_seconds()).collect();
    pause(span);
    for ((figures, processes), before) in all.iter_mut().zip(before) {
        figures.idle = Some(Idle::since(processes, before, span));
    }
    println!("idle done");
    drop(upstream);
    cluster.purge()
}

pub(super) async fn ready(kubeconfig: &Path) -> Result<()> {
    Endpoint::of(kubeconfig)?
        .connect()
        .await?
        .call(Method::GET, "/readyz", JSON, Bytes::new())
        .await
        .map(drop)
}

// === impl Idle ===

impl Idle {
    pub(super) fn since(processes: &Processes, cpu_before: f64, span: Duration) -> Self {
        Idle {
            cpu_ms_per_second: (processes.cpu_seconds() - cpu_before) * 1000.0 / span.as_secs_f64(),
            rss_bytes: processes.rss_bytes(),
        }
    }
}
