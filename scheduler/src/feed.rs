//! One watch per kind, merged into one bounded stream of changes, so that the loop has a single owner of its state.

use std::collections::HashMap;
use std::fmt::Debug;

use futures::{StreamExt, TryStreamExt};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Resource};
use tokio::sync::mpsc::Sender;
use tracing::warn;

use crate::pod::Key;

/// A change of one object.
pub(crate) enum Change<K> {
    Set(Box<K>),
    Gone(Key),
    /// The first list is complete.
    Synced,
}

/// Follows a kind until the receiver is gone. Objects that vanished while the watch was broken are reported gone.
pub(crate) async fn follow<K, T>(
    api: Api<K>,
    config: watcher::Config,
    into: Sender<T>,
    wrap: impl Fn(Change<K>) -> T,
) where
    K: Resource<DynamicType = ()> + Clone + Debug + serde::de::DeserializeOwned + Send + 'static,
{
    let mut events = watcher(api, config).default_backoff().boxed();
    // Keys with the round of listing that saw them last.
    let (mut known, mut round, mut synced): (HashMap<Key, u64>, u64, bool) = (HashMap::new(), 0, false);
    loop {
        let mut out = Vec::new();
        match events.try_next().await {
            Ok(Some(watcher::Event::Init)) => round += 1,
            Ok(Some(watcher::Event::Apply(object) | watcher::Event::InitApply(object))) => {
                known.insert(key_of(&object), round);
                out.push(Change::Set(Box::new(object)));
            }
            Ok(Some(watcher::Event::Delete(object))) => {
                known.remove(&key_of(&object));
                out.push(Change::Gone(key_of(&object)));
            }
            Ok(Some(watcher::Event::InitDone)) => {
                let stale: Vec<Key> =
                    known.iter().filter(|(_, r)| **r < round).map(|(k, _)| k.clone()).collect();
                known.retain(|_, r| *r >= round);
                out.extend(stale.into_iter().map(Change::Gone));
                if !synced {
                    synced = true;
                    out.push(Change::Synced);
                }
            }
            Ok(None) => return,
            Err(error) => warn!(%error, kind = %K::kind(&()), "watch failed; it is resumed"),
        }
        for change in out {
            if into.send(wrap(change)).await.is_err() {
                return;
            }
        }
    }
}

pub(crate) fn key_of<K: Resource>(object: &K) -> Key {
    let meta = object.meta();
    (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}
