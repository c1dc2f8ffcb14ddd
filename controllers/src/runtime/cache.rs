//! All objects of one kind as the last watch event left them, shared by every controller that reads the kind.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Debug;
use std::sync::Arc;

use coracle_api::owner::controller_of;
use futures::{StreamExt, pin_mut};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch_objects};
use kube::{Api, Resource};
use parking_lot::RwLock;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Key, Queue};

/// A typed kind: whatever k8s-openapi generates for a top-level object.
pub(crate) trait Kind:
    Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned + Send + Sync + 'static
{
}

impl<K> Kind for K where
    K: Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned + Send + Sync + 'static
{
}

/// Called for each change with the state before and after; neither blocks nor awaits.
type Handler<K> = Box<dyn Fn(Option<&Arc<K>>, Option<&Arc<K>>) + Send + Sync>;

pub(crate) struct Cache<K> {
    state: RwLock<State<K>>,
    handlers: RwLock<Vec<Handler<K>>>,
    progress: watch::Sender<Progress>,
}

struct State<K> {
    objects: BTreeMap<Key, Arc<K>>,
    /// By the uid of the controlling owner; what has none stands under its namespace.
    by_owner: HashMap<Owner, BTreeSet<Key>>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
enum Owner {
    Controller(String),
    None { namespace: String },
}

/// How far the watch has come.
#[derive(Clone, Copy, Default)]
struct Progress {
    revision: u64,
    synced: bool,
}

// === impl Cache ===

impl<K> Default for Cache<K> {
    fn default() -> Self {
        Cache {
            state: RwLock::new(State { objects: BTreeMap::new(), by_owner: HashMap::new() }),
            handlers: RwLock::new(Vec::new()),
            progress: watch::Sender::new(Progress::default()),
        }
    }
}

impl<K: Kind> Cache<K> {
    /// Registers a handler. To be called before the runtime runs, so that it sees every object.
    pub(crate) fn on_change(
        &self,
        handler: impl Fn(Option<&Arc<K>>, Option<&Arc<K>>) + Send + Sync + 'static,
    ) {
        self.handlers.write().push(Box::new(handler));
    }

    /// Queues each object that appears, changes or goes.
    pub(crate) fn queue_each(&self, queue: &Queue) {
        let queue = queue.clone();
        self.on_change(move |old, new| {
            if let Some(object) = new.or(old) {
                queue.add(Key::of(&**object));
            }
        });
    }

    pub(crate) fn get(&self, key: &Key) -> Option<Arc<K>> {
        self.state.read().objects.get(key).cloned()
    }

    pub(crate) fn list(&self) -> Vec<Arc<K>> {
        self.state.read().objects.values().cloned().collect()
    }

    pub(crate) fn in_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        let state = self.state.read();
        let from = Key::new(namespace, "");
        let range = state.objects.range(from..).take_while(|(key, _)| key.namespace == namespace);
        range.map(|(_, object)| object.clone()).collect()
    }

    /// The objects whose controlling owner has this uid.
    pub(crate) fn controlled_by(&self, uid: &str) -> Vec<Arc<K>> {
        self.state.read().owned(&Owner::Controller(uid.to_owned()))
    }

    /// The objects of a namespace that no controller owns.
    pub(crate) fn orphans(&self, namespace: &str) -> Vec<Arc<K>> {
        self.state.read().owned(&Owner::None { namespace: namespace.to_owned() })
    }

    pub(crate) async fn synced(&self) {
        self.wait(|progress| progress.synced).await;
    }

    /// Returns once the cache holds the given revision or one after it.
    pub(crate) async fn reaches(&self, revision: u64) {
        self.wait(|progress| progress.revision >= revision).await;
    }

    /// Returns once the object is gone, replaced, or marked as being deleted.
    pub(crate) async fn forgets(&self, key: &Key, uid: &str) {
        self.wait(|_| {
            self.get(key)
                .is_none_or(|o| o.meta().uid.as_deref() != Some(uid) || o.meta().deletion_timestamp.is_some())
        })
        .await;
    }

    async fn wait(&self, done: impl FnMut(&Progress) -> bool) {
        // The sender lives in `self`, so the channel cannot be closed while we wait.
        let _ = self.progress.subscribe().wait_for(done).await;
    }

    /// Follows the API server until shutdown; reconnects and lists again by itself.
    pub(super) async fn follow(
        self: Arc<Self>,
        client: kube::Client,
        fields: &'static str,
        shutdown: CancellationToken,
    ) {
        let mut config = watcher::Config::default();
        if !fields.is_empty() {
            config = config.fields(fields);
        }
        let stream = watch_objects(Api::<K>::all(client), config).default_backoff();
        pin_mut!(stream);
        let mut listing = BTreeMap::new();
        loop {
            let event = tokio::select! {
                () = shutdown.cancelled() => return,
                event = stream.next() => event,
            };
            match event {
                Some(Ok(Event::Init)) => listing = BTreeMap::new(),
                Some(Ok(Event::InitApply(object))) => {
                    listing.insert(Key::of(&object), object);
                }
                Some(Ok(Event::InitDone)) => self.replace(std::mem::take(&mut listing)),
                Some(Ok(Event::Apply(object))) => self.apply(object),
                Some(Ok(Event::Delete(object))) => self.delete(&object),
                Some(Err(error)) => {
                    tracing::warn!(kind = %K::kind(&()), error = &error as &dyn std::error::Error, "watch");
                }
                None => return,
            }
        }
    }

    fn replace(&self, listing: BTreeMap<Key, K>) {
        let gone: Vec<Key> =
            self.state.read().objects.keys().filter(|k| !listing.contains_key(k)).cloned().collect();
        for key in gone {
            self.remove(&key);
        }
        for object in listing.into_values() {
            self.apply(object);
        }
        self.progress.send_modify(|progress| progress.synced = true);
    }

    pub(super) fn apply(&self, mut object: K) {
        object.meta_mut().managed_fields = None;
        let key = Key::of(&object);
        let revision = revision(&object);
        let new = Arc::new(object);
        let old = self.state.write().insert(key, new.clone());
        for handler in self.handlers.read().iter() {
            handler(old.as_ref(), Some(&new));
        }
        self.advance(revision);
    }

    fn delete(&self, object: &K) {
        self.remove(&Key::of(object));
        self.advance(revision(object));
    }

    fn remove(&self, key: &Key) {
        let Some(old) = self.state.write().remove(key) else { return };
        for handler in self.handlers.read().iter() {
            handler(Some(&old), None);
        }
    }

    fn advance(&self, revision: u64) {
        self.progress.send_modify(|progress| progress.revision = progress.revision.max(revision));
    }
}

// === impl State ===

impl<K: Kind> State<K> {
    fn insert(&mut self, key: Key, object: Arc<K>) -> Option<Arc<K>> {
        let owner = Owner::of(&*object);
        let old = self.objects.insert(key.clone(), object);
        if let Some(before) = old.as_deref().map(Owner::of).filter(|before| *before != owner) {
            self.unlink(&before, &key);
        }
        self.by_owner.entry(owner).or_default().insert(key);
        old
    }

    fn remove(&mut self, key: &Key) -> Option<Arc<K>> {
        let old = self.objects.remove(key)?;
        self.unlink(&Owner::of(&*old), key);
        Some(old)
    }

    fn unlink(&mut self, owner: &Owner, key: &Key) {
        if let Some(keys) = self.by_owner.get_mut(owner) {
            keys.remove(key);
            if keys.is_empty() {
                self.by_owner.remove(owner);
            }
        }
    }

    fn owned(&self, owner: &Owner) -> Vec<Arc<K>> {
        let keys = self.by_owner.get(owner).into_iter().flatten();
        keys.filter_map(|key| self.objects.get(key).cloned()).collect()
    }
}

// === impl Owner ===

impl Owner {
    fn of<K: Resource>(object: &K) -> Self {
        let meta = object.meta();
        match controller_of(meta) {
            Some(reference) => Owner::Controller(reference.uid.clone()),
            None => Owner::None { namespace: meta.namespace.clone().unwrap_or_default() },
        }
    }
}

/// Revisions are ordered integers in every store Kubernetes runs on.
pub(super) fn revision<K: Resource>(object: &K) -> u64 {
    object.meta().resource_version.as_deref().and_then(|r| r.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    use super::*;

    fn pod(namespace: &str, name: &str, revision: u64, owner: Option<&str>) -> Pod {
        let owners: Vec<_> = owner
            .iter()
            .map(|uid| json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": uid, "controller": true}))
            .collect();
        serde_json::from_value(json!({"metadata": {
            "namespace": namespace, "name": name, "uid": format!("uid-{name}"),
            "resourceVersion": revision.to_string(), "ownerReferences": owners,
        }}))
        .unwrap()
    }

    fn names(pods: &[Arc<Pod>]) -> Vec<&str> {
        pods.iter().filter_map(|p| p.metadata.name.as_deref()).collect()
    }

    #[tokio::test]
    async fn indexes_follow_adoption_release_and_deletion() {
        let cache = Cache::<Pod>::default();
        let seen = Arc::new(AtomicUsize::new(0));
        let count = seen.clone();
        cache.on_change(move |_, _| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        cache.apply(pod("a", "one", 1, None));
        cache.apply(pod("a", "two", 2, Some("u")));
        cache.apply(pod("b", "three", 3, None));
        assert_eq!(names(&cache.orphans("a")), ["one"]);
        assert_eq!(names(&cache.in_namespace("a")), ["one", "two"]);
        cache.apply(pod("a", "one", 4, Some("u")));
        assert_eq!(names(&cache.controlled_by("u")), ["one", "two"]);
        assert!(cache.orphans("a").is_empty());
        cache.replace([pod("a", "two", 5, Some("u"))].map(|p| (Key::of(&p), p)).into());
        assert_eq!(names(&cache.controlled_by("u")), ["two"]);
        assert_eq!(names(&cache.list()), ["two"]);
        cache.synced().await;
        cache.reaches(5).await;
        cache.forgets(&Key::new("a", "one"), "uid-one").await;
        assert_eq!(
            seen.load(Ordering::Relaxed),
            7,
            "one call per change, deletions found by a new list included"
        );
    }
}
