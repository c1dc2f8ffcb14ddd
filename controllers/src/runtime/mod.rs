//! What every controller runs on: shared watches fill caches, changes become keys, keys wait in a queue that never
//! holds one twice, and a reconcile of a key is run again with back-off until it succeeds.
//!
//! ```text
//! watch -> Cache<K> -> handler(old, new) -> Queue -> reconcile(key) -> Writer -> API server
//!             ^                                            |
//!             +------ the key rests until the cache has seen its own writes (fence)
//! ```

mod cache;
mod events;
mod key;
mod queue;
mod worker;
mod writer;

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::{FutureExt, future};
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

pub(crate) use cache::{Cache, Kind};
pub(crate) use events::Recorder;
pub(crate) use key::Key;
use queue::Item;
pub(crate) use queue::Queue;
pub(crate) use worker::{Next, Reconcile};
pub(crate) use writer::Writer;

/// The caches in use, by the type they hold. Frozen once the controllers have been set up.
#[derive(Clone, Default)]
pub(crate) struct Caches(Arc<RwLock<HashMap<TypeId, Arc<dyn Any + Send + Sync>>>>);

/// Collects controllers, then runs them.
pub(crate) struct Runtime {
    /// What all controllers share: watches and events.
    client: kube::Client,
    /// That of the controller being set up.
    acting: kube::Client,
    shutdown: CancellationToken,
    caches: Caches,
    events: coracle_client::events::Queue,
    /// The watches and the workers, started together by `run`.
    tasks: Vec<BoxFuture<'static, ()>>,
    needed: Needed,
}

/// The caches that the controller being set up has asked for: all that it runs waits until these are filled, whatever came
/// first. They are complete when the runtime runs.
#[derive(Clone, Default)]
struct Needed(Arc<Mutex<Vec<Filled>>>);

/// Ends when a cache is filled.
type Filled = future::Shared<BoxFuture<'static, ()>>;

// === impl Needed ===

impl Needed {
    async fn filled(self) {
        let all = self.0.lock().clone();
        future::join_all(all).await;
    }
}

// === impl Caches ===

impl Caches {
    pub(crate) fn get<K: Kind>(&self) -> Option<Arc<Cache<K>>> {
        let cache = self.0.read().get(&TypeId::of::<K>()).cloned()?;
        Some(cache.downcast().expect("stored under its own type"))
    }
}

// === impl Runtime ===

impl Runtime {
    pub(crate) fn new(client: kube::Client, shutdown: CancellationToken) -> Self {
        let (events, mut delivery) = coracle_client::events::queue(client.clone());
        let over = shutdown.clone();
        let deliver = async move {
            over.run_until_cancelled(delivery.run()).await;
        };
        Runtime {
            acting: client.clone(),
            client,
            shutdown,
            caches: Caches::default(),
            events,
            tasks: vec![deliver.boxed()],
            needed: Needed::default(),
        }
    }

    /// The next controller is set up: what is added from now on is its own, and acts through this client.
    pub(crate) fn begin(&mut self, client: kube::Client) {
        (self.acting, self.needed) = (client, Needed::default());
    }

    pub(crate) fn client(&self) -> kube::Client {
        self.acting.clone()
    }

    /// The shared cache of a kind; its watch is made on the first call.
    pub(crate) fn cache<K: Kind>(&mut self) -> Arc<Cache<K>> {
        self.cache_selected("")
    }

    /// The same of a part of a kind, named by a field selector: all that use the kind must want the same part.
    pub(crate) fn cache_selected<K: Kind>(&mut self, fields: &'static str) -> Arc<Cache<K>> {
        let cache = self.caches.get::<K>().unwrap_or_else(|| {
            let cache = Arc::new(Cache::<K>::default());
            self.caches.0.write().insert(TypeId::of::<K>(), cache.clone());
            let follow = cache.clone().follow(self.client.clone(), fields, self.shutdown.clone());
            self.tasks.push(follow.boxed());
            cache
        });
        let waiting = cache.clone();
        self.needed.0.lock().push(async move { waiting.synced().await }.boxed().shared());
        cache
    }

    pub(crate) fn recorder(&self, component: &'static str) -> Recorder {
        Recorder::new(component, self.events.clone())
    }

    /// Runs a reconciler over the keys of a queue, at most `concurrency` at a time, once the controller's caches are
    /// filled.
    pub(crate) fn work<T: Item, R: Reconcile<T>>(
        &mut self,
        name: &'static str,
        queue: Queue<T>,
        concurrency: usize,
        reconciler: R,
    ) {
        let needed = self.needed.clone();
        let worker = worker::Worker {
            name,
            queue,
            concurrency,
            client: self.acting.clone(),
            caches: self.caches.clone(),
        };
        let shutdown = self.shutdown.clone();
        let run = async move {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = needed.filled() => {}
            }
            worker.run(Arc::new(reconciler), shutdown).await;
        };
        self.tasks.push(run.boxed());
    }

    /// Runs a loop that is no reconciler of keys, under the same rule as `work`.
    pub(crate) fn task(&mut self, run: impl Future<Output = ()> + Send + 'static) {
        let needed = self.needed.clone();
        let shutdown = self.shutdown.clone();
        let run = async move {
            let all = async {
                needed.filled().await;
                run.await;
            };
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = all => {}
            }
        };
        self.tasks.push(run.boxed());
    }

    /// Acts on each value that takes the place of another.
    pub(crate) fn on_another<T: Send + Sync + 'static>(
        &mut self,
        mut value: watch::Receiver<T>,
        act: impl Fn() + Send + 'static,
    ) {
        self.task(async move {
            while value.changed().await.is_ok() {
                act();
            }
        });
    }

    /// Runs everything until shutdown; returns when every task has ended. What panics takes all with it: a cache that is
    /// not followed any more would let the others decide on old facts.
    pub(crate) async fn run(self) {
        let mut running = JoinSet::new();
        for task in self.tasks {
            running.spawn(task);
        }
        while let Some(ended) = running.join_next().await {
            if let Err(Ok(panic)) = ended.map_err(JoinError::try_into_panic) {
                running.shutdown().await;
                std::panic::resume_unwind(panic);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use k8s_openapi::api::core::v1::{Node, Pod};

    use super::*;

    struct Seen(Arc<AtomicBool>);

    impl Reconcile for Seen {
        async fn reconcile(&self, _: &Key, _: &Writer) -> anyhow::Result<Next> {
            self.0.store(true, Ordering::Relaxed);
            Ok(Next::Done)
        }
    }

    /// Pods never come, and what is set up beside their cache waits, whatever is called first; Nodes are as little there,
    /// but nobody has asked for them.
    #[tokio::test(start_paused = true)]
    async fn all_of_a_controller_waits_for_all_of_its_caches() {
        let silent = tower::service_fn(|_: http::Request<kube::client::Body>| {
            std::future::pending::<Result<http::Response<kube::client::Body>, Infallible>>()
        });
        let client = kube::Client::new(silent, "default");
        let mut runtime = Runtime::new(client.clone(), CancellationToken::new());
        let work = |runtime: &mut Runtime, ask: fn(&mut Runtime)| {
            let (queue, seen) = (Queue::default(), Arc::new(AtomicBool::new(false)));
            queue.add(Key::new("ns", "a"));
            runtime.begin(client.clone());
            runtime.work("first", queue, 1, Seen(seen.clone()));
            ask(runtime);
            seen
        };
        let waits = work(&mut runtime, |runtime| drop(runtime.cache::<Pod>()));
        let goes_on = work(&mut runtime, |_| {});
        let waits_too = work(&mut runtime, |runtime| {
            runtime.cache::<Node>();
            runtime.task(std::future::pending());
        });
        assert!(tokio::time::timeout(Duration::from_secs(60), runtime.run()).await.is_err());
        let seen = [waits, goes_on, waits_too].map(|seen| seen.load(Ordering::Relaxed));
        assert_eq!(seen, [false, true, false]);
    }
}
