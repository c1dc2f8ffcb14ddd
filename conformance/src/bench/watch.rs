//! One change, many watchers.

use std::time::Instant;

use anyhow::Result;
use bytes::Bytes;
use http::Method;
use http_body_util::BodyExt;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::Server;
use super::requests::{CONFIGMAPS, configmap};
use crate::process::own_cpu_seconds;
use crate::wire::JSON;

/// How fast events reach all watchers, and what each costs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FanOut {
    pub watchers: usize,
    pub events_per_second: f64,
    /// Microseconds of server CPU for one event to one watcher.
    pub cpu_us: f64,
    /// The same of the watchers' own CPU.
    pub client_cpu_us: f64,
}

const CHANGES: usize = 200;
/// Streams on one connection.
const STREAMS: usize = 100;

pub(super) async fn fan_out(server: &mut Server, watchers: usize) -> Result<()> {
    let endpoint = server.endpoint.clone();
    server.figures.memory.before_watchers = server.processes.rss_bytes();
    let (seen, mut all_seen) = mpsc::channel::<()>(watchers);
    let mut tasks = tokio::task::JoinSet::new();
    let mut connection = endpoint.connect().await?;
    for n in 0..watchers {
        if n % STREAMS == 0 {
            connection = endpoint.connect().await?;
        }
        let mut stream =
            connection.stream(&format!("{CONFIGMAPS}?watch=true&labelSelector=app%3Dbench")).await?;
        let seen = seen.clone();
        tasks.spawn(async move {
            let mut lines = 0;
            while let Some(Ok(frame)) = stream.frame().await {
                lines += frame.data_ref().map_or(0, |d| d.iter().filter(|b| **b == b'\n').count());
                if lines >= CHANGES {
                    let _ = seen.send(()).await;
                    return;
                }
            }
        });
    }
    drop(seen);
    server.figures.memory.with_watchers = server.processes.rss_bytes();
    let (cpu, client, begun) = (server.processes.cpu_seconds(), own_cpu_seconds(), Instant::now());
    let mut writer = endpoint.connect().await?;
    for n in 0..CHANGES {
        writer.call(Method::POST, CONFIGMAPS, JSON, configmap(&format!("w-{n}"), n)).await?;
    }
    let mut finished = 0;
    while all_seen.recv().await.is_some() {
        finished += 1;
    }
    anyhow::ensure!(finished == watchers, "{} of {watchers} watchers saw all changes", finished);
    let events = (CHANGES * watchers) as f64;
    server.figures.watch = Some(FanOut {
        watchers,
        events_per_second: events / begun.elapsed().as_secs_f64(),
        cpu_us: (server.processes.cpu_seconds() - cpu) * 1e6 / events,
        client_cpu_us: (own_cpu_seconds() - client) * 1e6 / events,
    });
    for n in 0..CHANGES {
        writer.call(Method::DELETE, &format!("{CONFIGMAPS}/w-{n}"), JSON, Bytes::new()).await?;
    }
    Ok(())
}
