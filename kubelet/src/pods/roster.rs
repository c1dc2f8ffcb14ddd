//! The pods that have a worker on this node, and the orders that the node has for them.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

/// The node takes itself back from a pod, whatever the pod's spec says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Eviction {
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    /// Seconds the pod has to end.
    pub(crate) grace: i64,
    /// Told as a disruption: the node's doing, not the pod's.
    pub(crate) disruption: bool,
}

struct Entry {
    order: Option<Eviction>,
    wake: Arc<Notify>,
    ended: watch::Sender<bool>,
}

#[derive(Default)]
pub(crate) struct Roster(Mutex<HashMap<String, Entry>>);

// === impl Roster ===

impl Roster {
    /// A pod comes to the node. From now on nothing of it is taken for a leftover.
    pub(crate) fn enter(&self, uid: &str, wake: Arc<Notify>) {
        let entry = Entry { order: None, wake, ended: watch::channel(false).0 };
        self.0.lock().insert(uid.to_owned(), entry);
    }

    /// Nothing of the pod is left.
    pub(crate) fn leave(&self, uid: &str) {
        self.0.lock().remove(uid);
    }

    pub(crate) fn contains(&self, uid: &str) -> bool {
        self.0.lock().contains_key(uid)
    }

    /// Tells the pod to end. False when it is not here, or has been told already.
    pub(crate) fn evict(&self, uid: &str, order: Eviction) -> bool {
        let mut entries = self.0.lock();
        let Some(entry) = entries.get_mut(uid).filter(|entry| entry.order.is_none()) else { return false };
        entry.order = Some(order);
        entry.wake.notify_one();
        true
    }

    /// What the pod has been told.
    pub(crate) fn order(&self, uid: &str) -> Option<Eviction> {
        self.0.lock().get(uid)?.order.clone()
    }

    /// The pod's containers and volumes are gone.
    pub(crate) fn tell_ended(&self, uid: &str) {
        if let Some(entry) = self.0.lock().get(uid) {
            entry.ended.send_replace(true);
        }
    }

    /// Waits until the pod's containers and volumes are gone.
    pub(crate) async fn ended(&self, uid: &str) {
        let ended = self.0.lock().get(uid).map(|entry| entry.ended.subscribe());
        if let Some(mut ended) = ended {
            // An error means that the pod has left.
            let _ = ended.wait_for(|ended| *ended).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_pod_is_told_once_and_waited_for() {
        let (roster, wake) = (Roster::default(), Arc::new(Notify::new()));
        let order = Eviction { reason: "Evicted", message: "low".into(), grace: 1, disruption: true };
        assert!(!roster.evict("u", order.clone()), "it is not here");
        roster.enter("u", wake.clone());
        assert!(roster.contains("u") && roster.order("u").is_none());
        assert!(roster.evict("u", order.clone()));
        wake.notified().await;
        assert!(!roster.evict("u", order.clone()), "once is enough");
        assert_eq!(roster.order("u"), Some(order));
        let waiting = roster.ended("u");
        tokio::pin!(waiting);
        assert!(futures::poll!(&mut waiting).is_pending());
        roster.tell_ended("u");
        waiting.await;
        roster.leave("u");
        roster.ended("u").await;
        assert!(!roster.contains("u"));
    }
}
