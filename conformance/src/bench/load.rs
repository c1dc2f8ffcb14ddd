//! Many clients doing the same thing: how often, how fast, and at what cost for the server.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::Server;
use crate::pod_starts::percentile;
use crate::process::own_cpu_seconds;
use crate::wire::Connection;

/// What a run of equal operations gave.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Measure {
    pub operation: String,
    pub clients: usize,
    pub operations: usize,
    pub per_second: f64,
    /// Milliseconds.
    pub p50_ms: f64,
    pub p99_ms: f64,
    /// Milliseconds of server CPU for one operation.
    pub cpu_ms: f64,
    /// Milliseconds of the clients' own CPU for one operation.
    pub client_cpu_ms: f64,
    /// Bytes of one answer, where that matters.
    pub bytes: usize,
}

/// HTTP/2 connections the clients share: as many as clients up to this.
const CONNECTIONS: usize = 8;

/// Runs `count` operations, numbered from 0, by `clients` at a time. An operation gives the bytes of its answer.
pub(super) async fn run<F, Fut>(
    name: &str,
    server: &Server,
    clients: usize,
    count: usize,
    operation: F,
) -> Result<Measure>
where
    F: Fn(Connection, usize) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<usize>> + Send,
{
    let mut connections = vec![];
    for _ in 0..clients.min(CONNECTIONS) {
        connections.push(server.endpoint.connect().await?);
    }
    let (operation, next) = (Arc::new(operation), Arc::new(AtomicUsize::new(0)));
    let (cpu, client, begun) = (server.processes.cpu_seconds(), own_cpu_seconds(), Instant::now());
    let mut tasks = tokio::task::JoinSet::new();
    for client in 0..clients {
        let (operation, next) = (operation.clone(), next.clone());
        let connection = connections[client % connections.len()].clone();
        tasks.spawn(async move {
            let mut times = Vec::with_capacity(count / clients + 1);
            let mut bytes = 0;
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= count {
                    return anyhow::Ok((times, bytes));
                }
                let at = Instant::now();
                bytes = operation(connection.clone(), n).await?;
                times.push(at.elapsed());
            }
        });
    }
    let (mut times, mut bytes) = (Vec::with_capacity(count), 0);
    while let Some(done) = tasks.join_next().await {
        let (some, size) = done??;
        times.extend(some);
        bytes = bytes.max(size);
    }
    let seconds = begun.elapsed().as_secs_f64();
    Ok(Measure {
        operation: name.to_owned(),
        clients,
        operations: count,
        per_second: count as f64 / seconds,
        p50_ms: percentile(&mut times, 50).as_secs_f64() * 1000.0,
        p99_ms: percentile(&mut times, 99).as_secs_f64() * 1000.0,
        cpu_ms: (server.processes.cpu_seconds() - cpu) * 1000.0 / count as f64,
        client_cpu_ms: (own_cpu_seconds() - client) * 1000.0 / count as f64,
        bytes,
    })
}
