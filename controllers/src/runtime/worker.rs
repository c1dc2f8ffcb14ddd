//! Takes keys from a queue and reconciles them, several at a time, one run per key.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use coracle_api::panics;
use coracle_client::errors::{is_conflict, is_not_found};
use futures::FutureExt;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::queue::Item;
use super::{Caches, Key, Queue, Writer};

/// What a reconcile that succeeded asks for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Next {
    Done,
    /// Run again after this time, though nothing may have changed.
    After(Duration),
}

/// Brings what one key names to its desired state. Safe to run at any moment, any number of times.
pub(crate) trait Reconcile<T = Key>: Send + Sync + 'static {
    fn reconcile(&self, key: &T, api: &Writer) -> impl Future<Output = anyhow::Result<Next>> + Send;
}

pub(super) struct Worker<T = Key> {
    pub(super) name: &'static str,
    pub(super) queue: Queue<T>,
    pub(super) concurrency: usize,
    pub(super) client: kube::Client,
    pub(super) caches: Caches,
}

/// A reconciler's fault.
#[derive(Debug, thiserror::Error)]
#[error("a reconciler panicked: {0}")]
struct Panicked(String);

// === impl Next ===

impl From<Option<Duration>> for Next {
    fn from(delay: Option<Duration>) -> Self {
        delay.map_or(Next::Done, Next::After)
    }
}

// === impl Worker ===

impl<T: Item> Worker<T> {
    pub(super) async fn run<R: Reconcile<T>>(self, reconciler: Arc<R>, shutdown: CancellationToken) {
        let slots = Arc::new(Semaphore::new(self.concurrency));
        let worker = Arc::new(self);
        let mut running = JoinSet::new();
        loop {
            let key = tokio::select! {
                () = shutdown.cancelled() => break,
                Some(_) = running.join_next(), if !running.is_empty() => continue,
                key = worker.queue.next() => key,
            };
            let slot = tokio::select! {
                () = shutdown.cancelled() => break,
                slot = slots.clone().acquire_owned() => slot.expect("the semaphore is never closed"),
            };
            let (worker, reconciler) = (worker.clone(), reconciler.clone());
            running.spawn(async move {
                let api = Writer::new(worker.client.clone(), worker.caches.clone());
                let run = AssertUnwindSafe(reconciler.reconcile(&key, &api)).catch_unwind();
                // One that panics is tried again like one that fails; its key must not stay taken.
                let result = run
                    .await
                    .unwrap_or_else(|panic| Err(Panicked(panics::count(worker.name, &*panic)).into()));
                drop(slot);
                // The fence: until the caches show what we wrote, another run would decide on old facts.
                api.settled().await;
                worker.finish(key, result);
            });
        }
        running.shutdown().await;
    }

    fn finish(&self, key: T, result: anyhow::Result<Next>) {
        match result {
            Ok(next) => {
                self.queue.done(&key);
                if let Next::After(delay) = next {
                    self.queue.add_after(key, delay);
                }
            }
            Err(error) => {
                let delay = self.queue.retry(&key, rand::random());
                // The cache was behind: the next run sees the object as it is, or that it is gone.
                let outdated = |e: &kube::Error| is_conflict(e) || is_not_found(e);
                if error.is::<Panicked>() {
                    tracing::error!(controller = self.name, %key, ?delay, "{error}");
                } else if error.downcast_ref::<kube::Error>().is_some_and(outdated) {
                    tracing::debug!(controller = self.name, %key, ?delay, "outdated, trying again");
                } else {
                    tracing::warn!(controller = self.name, %key, ?delay, error = format!("{error:#}"), "reconcile");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Panics for its first key's first runs, then tells that it is done.
    struct Faulty {
        runs: AtomicUsize,
        done: CancellationToken,
    }

    impl Reconcile for Faulty {
        async fn reconcile(&self, _: &Key, _: &Writer) -> anyhow::Result<Next> {
            let run = self.runs.fetch_add(1, Ordering::Relaxed);
            assert!(run >= 2, "run {run}");
            self.done.cancel();
            Ok(Next::Done)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_reconciler_that_panics_is_tried_again() {
        let silent = tower::service_fn(|_: http::Request<kube::client::Body>| async {
            Ok::<_, Infallible>(http::Response::new(kube::client::Body::empty()))
        });
        let queue = Queue::default();
        let worker = Worker {
            name: "faulty",
            queue: queue.clone(),
            concurrency: 1,
            client: kube::Client::new(silent, "default"),
            caches: Caches::default(),
        };
        let (stop, done) = (CancellationToken::new(), CancellationToken::new());
        let faulty = Arc::new(Faulty { runs: AtomicUsize::new(0), done: done.clone() });
        let running = tokio::spawn(worker.run(faulty.clone(), stop.clone()));
        queue.add(Key::new("ns", "a"));
        tokio::time::timeout(Duration::from_secs(60), done.cancelled()).await.expect("the key comes back");
        assert_eq!(faulty.runs.load(Ordering::Relaxed), 3);
        stop.cancel();
        running.await.unwrap();
    }
}
