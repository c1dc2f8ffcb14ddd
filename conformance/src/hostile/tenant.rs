//! Who does nothing wrong: reads, creates and deletes at a steady pace, from a thread and with an account of its own.
//!
//! Its requests are due at fixed times, and their time counts from there: a server that stands still for a second makes
//! all requests of that second late, not one of them.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures::TryStreamExt;
use http::Method;
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::runtime::{WatchStreamExt, watcher};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::arena::{Arena, SHOP};
use crate::pod_starts::percentile;
use crate::wire::{Connection, Endpoint, JSON};

/// Fifty reads and fifty creates a second: what a busy controller does.
pub(super) const PACE: Duration = Duration::from_millis(20);
/// How often a newcomer connects and asks.
const NEWCOMERS: Duration = Duration::from_millis(500);
/// A request without an answer for so long is sent again, on a new connection; its time goes on.
const IMPATIENT: Duration = Duration::from_secs(10);

pub(super) struct Tenant {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<()>>>,
}

#[derive(Default)]
struct Shared {
    samples: Mutex<Samples>,
    /// Requests that have no answer yet, by kind: when they were due.
    waiting: Mutex<[Option<Instant>; 3]>,
    unready: AtomicBool,
    /// Whether it was ever unready since the last `take`.
    left_ready: AtomicBool,
    begun: AtomicU64,
    stop: CancellationToken,
}

/// What the tenant saw in some time.
#[derive(Clone, Debug, Default)]
pub(super) struct Samples {
    times: [Vec<Duration>; 3],
    errors: Vec<String>,
}

/// Reads, creates, and what newcomers do.
#[derive(Clone, Copy)]
enum Kind {
    Get,
    Create,
    Join,
}

/// The times of one kind of requests, in milliseconds.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Spread {
    pub count: usize,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub most_ms: f64,
}

/// What the tenant saw, in figures.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Times {
    pub get: Spread,
    pub create: Spread,
    /// From a new connection to the answer of its first request.
    pub join: Spread,
    /// Requests that had to be sent again, and why the first one.
    pub again: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

// === impl Tenant ===

impl Tenant {
    pub(super) fn begin(arena: &Arena) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let (own, endpoint, client) = (shared.clone(), arena.customer.clone(), arena.kubeconfig.clone());
        let thread = std::thread::Builder::new().name("tenant".to_owned()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async move {
                let client = crate::acceptance::clients::over_tls(&client).await?;
                let stop = own.stop.clone();
                let (deletions, deleted) = mpsc::channel(4096);
                tokio::select! {
                    ended = own.reads(&endpoint) => ended,
                    ended = own.creates(&endpoint, deletions) => ended,
                    ended = own.deletes(&endpoint, deleted) => ended,
                    ended = own.newcomers(&endpoint) => ended,
                    ended = own.watches(client) => ended,
                    () = stop.cancelled() => Ok(()),
                }
            })
        })?;
        Ok(Tenant { shared, thread: Some(thread) })
    }

    /// Waits until requests are answered.
    pub(super) fn warm_up(&self) {
        while self.shared.begun.load(Relaxed) < 50
            && !self.thread.as_ref().is_none_or(JoinHandle::is_finished)
        {
            crate::kubectl::pause(PACE);
        }
    }

    /// What it has seen since the last time; what has waited for long already counts.
    pub(super) fn take(&self) -> Samples {
        self.shared.left_ready.store(self.shared.unready.load(Relaxed), Relaxed);
        let mut samples = lock(&self.shared.samples, std::mem::take);
        for (times, waiting) in samples.times.iter_mut().zip(lock(&self.shared.waiting, |w| *w)) {
            if let Some(due) = waiting
                && due.elapsed() > PACE
            {
                times.push(due.elapsed());
            }
        }
        if self.thread.as_ref().is_none_or(JoinHandle::is_finished) {
            samples.errors.push("the tenant has given up".to_owned());
        }
        samples
    }

    /// Whether the node has been Ready since the last `take`; to be asked before.
    pub(super) fn was_ready(&self) -> bool {
        !self.shared.left_ready.load(Relaxed)
    }
}

impl Drop for Tenant {
    fn drop(&mut self) {
        self.shared.stop.cancel();
        if let Some(thread) = self.thread.take()
            && let Ok(Err(error)) = thread.join()
        {
            println!("the tenant gave up: {error:#}");
        }
    }
}

fn lock<T, U>(mutex: &Mutex<T>, look: impl FnOnce(&mut T) -> U) -> U {
    look(&mut mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
}

// === impl Shared ===

impl Shared {
    /// A request until it is answered well; its time counts from when it was due.
    async fn timed(
        &self,
        kind: Kind,
        due: Instant,
        connection: &mut Option<Connection>,
        endpoint: &Endpoint,
        request: (Method, &str, Bytes),
    ) -> Result<()> {
        lock(&self.waiting, |w| w[kind as usize] = Some(due));
        let (method, path, body) = request;
        let mut tries = 0;
        loop {
            let asked = async {
                let c = match connection {
                    Some(c) => c,
                    None => connection.insert(endpoint.connect().await?),
                };
                let answer = c.exchange(method.clone(), path, &headers(), body.clone()).await?;
                // A create that was sent again may have been done the first time.
                let done = answer.code < 300 || (tries > 0 && answer.code == 409);
                ensure!(done, "{method} {path}: {}", answer.code);
                Ok(())
            };
            let error = match tokio::time::timeout(IMPATIENT, asked).await {
                Ok(Ok(())) => break,
                Ok(Err(error)) => format!("{error:#}"),
                Err(_) => format!("{method} {path}: no answer in {IMPATIENT:?}"),
            };
            lock(&self.samples, |s| s.errors.push(error));
            *connection = None;
            tries += 1;
            tokio::time::sleep(PACE).await;
        }
        lock(&self.waiting, |w| w[kind as usize] = None);
        lock(&self.samples, |s| s.times[kind as usize].push(due.elapsed()));
        self.begun.fetch_add(1, Relaxed);
        Ok(())
    }

    async fn reads(&self, endpoint: &Endpoint) -> Result<()> {
        let path = format!("/api/v1/namespaces/{SHOP}/configmaps/page");
        let (mut connection, mut pace) = (None, every(PACE));
        loop {
            let due = pace.tick().await.into_std();
            self.timed(Kind::Get, due, &mut connection, endpoint, (Method::GET, &path, Bytes::new())).await?;
        }
    }

    async fn creates(&self, endpoint: &Endpoint, deletions: mpsc::Sender<String>) -> Result<()> {
        let path = format!("/api/v1/namespaces/{SHOP}/configmaps");
        let (mut connection, mut pace) = (None, every(PACE));
        for n in 0_u64.. {
            let due = pace.tick().await.into_std();
            let name = format!("order-{}-{n}", jiff::Timestamp::now().as_millisecond());
            let object = serde_json::json!({"metadata": {"name": name}, "data": {"n": n.to_string()}});
            let request = (Method::POST, path.as_str(), Bytes::from(object.to_string()));
            self.timed(Kind::Create, due, &mut connection, endpoint, request).await?;
            // What cannot be remembered stays, and goes with the namespace.
            let _ = deletions.try_send(name);
        }
        Ok(())
    }

    async fn deletes(&self, endpoint: &Endpoint, mut deleted: mpsc::Receiver<String>) -> Result<()> {
        let mut connection: Option<Connection> = None;
        while let Some(name) = deleted.recv().await {
            let path = format!("/api/v1/namespaces/{SHOP}/configmaps/{name}");
            let deleted = async {
                let c = match &mut connection {
                    Some(c) => c,
                    None => connection.insert(endpoint.connect().await?),
                };
                c.exchange(Method::DELETE, &path, &headers(), Bytes::new()).await
            };
            if !matches!(tokio::time::timeout(IMPATIENT, deleted).await, Ok(Ok(_))) {
                connection = None;
            }
        }
        Ok(())
    }

    async fn newcomers(&self, endpoint: &Endpoint) -> Result<()> {
        let mut pace = every(NEWCOMERS);
        loop {
            let due = pace.tick().await.into_std();
            let mut connection = None;
            let request = (Method::GET, "/api/v1/namespaces/shop/configmaps/page", Bytes::new());
            self.timed(Kind::Join, due, &mut connection, endpoint, request).await?;
        }
    }

    /// Sees every change of the nodes.
    async fn watches(&self, client: kube::Client) -> Result<()> {
        let nodes: Api<Node> = Api::all(client);
        let events = watcher(nodes, watcher::Config::default().fields("metadata.name=n1"));
        let mut events = std::pin::pin!(events.default_backoff().touched_objects());
        loop {
            // Errors of the watch are followed by the next list, which tells how the node is.
            let Ok(event) = events.try_next().await else { continue };
            let node = event.context("the watch of nodes ended")?;
            let conditions = node.status.and_then(|s| s.conditions).unwrap_or_default();
            let unready = !conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True");
            self.unready.store(unready, Relaxed);
            self.left_ready.fetch_or(unready, Relaxed);
        }
    }
}

fn headers() -> [(String, String); 2] {
    [("accept", JSON), ("content-type", JSON)].map(|(n, v)| (n.to_owned(), v.to_owned()))
}

fn every(pace: Duration) -> tokio::time::Interval {
    let mut interval = interval(pace);
    interval.set_missed_tick_behavior(MissedTickBehavior::Burst);
    interval
}

// === impl Samples ===

impl Samples {
    pub(super) fn times(mut self) -> Times {
        let [get, create, join] = &mut self.times;
        Times {
            get: Spread::of(get),
            create: Spread::of(create),
            join: Spread::of(join),
            again: self.errors.len(),
            why: self.errors.first().map(|e| e.chars().take(300).collect()),
        }
    }
}

// === impl Spread ===

impl Spread {
    pub(super) fn of(times: &mut [Duration]) -> Self {
        let ms = |share, times: &mut [Duration]| percentile(times, share).as_secs_f64() * 1000.0;
        Spread { count: times.len(), p50_ms: ms(50, times), p99_ms: ms(99, times), most_ms: ms(100, times) }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1}/{:.1} ms", self.p50_ms, self.p99_ms)
    }
}
