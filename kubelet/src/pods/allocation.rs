//! What the node has granted to its pods, and which of them wait for more: one ledger, decided without waiting.
//!
//! A pod that is here holds what it was granted, not what its spec wishes. A wish that finds no room is looked at again
//! when a pod goes or another wish changes.

use std::{cmp::Reverse, collections::HashMap, sync::Arc};

use coracle_api::quantity::Quantity;
use coracle_api::resources::{QosClass, ResourceList as Amounts, list_of};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{
    resize::{same_resources, with_resources_of},
    resources::{ResourceList, requests_of},
    view::{spec_of, uid_of},
};
use crate::node::admission::fits;

pub(crate) struct Allocations {
    /// What the node has for pods.
    allocatable: ResourceList,
    grants: Mutex<HashMap<String, Grant>>,
}

/// Why a wish waits: the condition `PodResizePending`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Pending {
    /// `Infeasible`: more than the whole node has; `Deferred`: there may be room later.
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    pub(crate) generation: Option<i64>,
    pub(crate) since: Timestamp,
}

#[derive(Clone)]
pub(crate) struct Grant {
    pub(crate) desired: Arc<Pod>,
    /// The same pod with the resources it has been given.
    pub(crate) allocated: Arc<Pod>,
    pub(crate) pending: Option<Pending>,
    wake: Arc<Notify>,
}

// === impl Allocations ===

impl Allocations {
    pub(crate) fn new(allocatable: ResourceList) -> Self {
        Self { allocatable, grants: Mutex::default() }
    }

    /// A pod comes to the node, with what it has here already. Its wish is settled by the next call of `settle`.
    pub(crate) fn open(&self, desired: &Arc<Pod>, allocated: Arc<Pod>, wake: Arc<Notify>) {
        let grant = Grant { desired: desired.clone(), allocated, pending: None, wake };
        self.grants.lock().insert(uid_of(desired).to_owned(), grant);
    }

    /// The object has changed; if its resources have, everyone's wish is looked at.
    pub(crate) fn update(&self, pod: &Arc<Pod>, now: Timestamp) {
        let mut grants = self.grants.lock();
        let Some(grant) = grants.get_mut(uid_of(pod)) else { return };
        let news = !same_resources(pod, &grant.desired);
        grant.desired = pod.clone();
        grant.allocated = if same_resources(pod, &grant.allocated) {
            pod.clone()
        } else {
            Arc::new(with_resources_of((**pod).clone(), &grant.allocated))
        };
        if news {
            settle(&mut grants, &self.allocatable, now);
        }
    }

    /// The pod holds nothing any more.
    pub(crate) fn close(&self, uid: &str, now: Timestamp) {
        let mut grants = self.grants.lock();
        if grants.remove(uid).is_some() {
            settle(&mut grants, &self.allocatable, now);
        }
    }

    pub(crate) fn settle(&self, now: Timestamp) {
        settle(&mut self.grants.lock(), &self.allocatable, now);
    }

    pub(crate) fn grant(&self, uid: &str) -> Option<Grant> {
        self.grants.lock().get(uid).cloned()
    }

    /// All pods that hold something, as they hold it.
    pub(crate) fn held(&self) -> Vec<Arc<Pod>> {
        self.grants.lock().values().map(|grant| grant.allocated.clone()).collect()
    }
}

/// Looks at every wish in upstream's order, and wakes the pods for which the answer has changed.
fn settle(grants: &mut HashMap<String, Grant>, allocatable: &ResourceList, now: Timestamp) {
    let mut waiting: Vec<String> = Vec::new();
    for (uid, grant) in grants.iter_mut() {
        if !same_resources(&grant.desired, &grant.allocated) {
            waiting.push(uid.clone());
        } else if grant.pending.take().is_some() {
            // The wish was taken back.
            grant.wake.notify_one();
        }
    }
    waiting.sort_by_cached_key(|uid| (turn(&grants[uid]), uid.clone()));
    for uid in waiting {
        let desired = grants[&uid].desired.clone();
        let others = grants.iter().filter(|(other, _)| **other != uid).map(|(_, grant)| &*grant.allocated);
        let answer =
            feasible(&desired, allocatable).map_err(|message| ("Infeasible", message)).and_then(|()| {
                fits(&desired, &others.collect::<Vec<_>>(), Some(allocatable))
                    .map_err(|refused| ("Deferred", refused.message))
            });
        let Some(grant) = grants.get_mut(&uid) else { continue };
        let before = grant.pending.take();
        match answer {
            Ok(()) => grant.allocated = desired,
            Err((reason, message)) => {
                let since = before.as_ref().map_or(now, |old| old.since);
                let generation = desired.metadata.generation;
                grant.pending = Some(Pending { reason, message, generation, since });
                if grant.pending == before {
                    continue;
                }
            }
        }
        grant.wake.notify_one();
    }
}

/// Whether the node could give it, were no other pod there.
fn feasible(pod: &Pod, allocatable: &ResourceList) -> Result<(), String> {
    let (wanted, capacity) = (requests_of(pod), list_of(Some(allocatable)));
    for name in ["cpu", "memory"] {
        let shown = |a: Quantity| if name == "cpu" { a.milli_value() } else { a.value() };
        let of = |list: &Amounts| list.get(name).copied().unwrap_or_default();
        let (wanted, capacity) = (of(&wanted), of(&capacity));
        if wanted > capacity {
            let (wanted, capacity) = (shown(wanted), shown(capacity));
            return Err(format!(
                "Node didn't have enough capacity: {name}, requested: {wanted}, capacity: {capacity}"
            ));
        }
    }
    Ok(())
}

/// Who asks for no more comes first; then by priority, by class, and by how long they have waited.
fn turn(grant: &Grant) -> (bool, Reverse<i32>, bool, bool, Option<Timestamp>) {
    let (desired, allocated) = (requests_of(&grant.desired), requests_of(&grant.allocated));
    let more = ["cpu", "memory"].iter().any(|name| desired.get(*name) > allocated.get(*name));
    let since = grant.pending.as_ref().map(|pending| pending.since);
    let priority = Reverse(spec_of(&grant.desired).priority.unwrap_or(0));
    (more, priority, QosClass::of_pod(&grant.desired) != QosClass::Guaranteed, since.is_none(), since)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(uid: &str, cpu: &str, priority: i32) -> Arc<Pod> {
        let resources = json!({"requests": {"cpu": cpu}});
        let spec = json!({"priority": priority, "containers": [{"name": "c", "resources": resources}]});
        let meta = json!({"name": uid, "uid": uid, "generation": 2});
        Arc::new(serde_json::from_value(json!({"metadata": meta, "spec": spec})).unwrap())
    }

    /// The cpu each pod holds, with a `?` where it waits for more.
    fn held(ledger: &Allocations) -> String {
        let grants = ledger.grants.lock();
        let mut lines: Vec<String> = grants
            .iter()
            .map(|(uid, grant)| {
                let cpu = requests_of(&grant.allocated)["cpu"].milli_value();
                format!("{uid}={cpu}{}", if grant.pending.is_some() { "?" } else { "" })
            })
            .collect();
        lines.sort();
        lines.join(" ")
    }

    #[test]
    fn wishes_wait_for_room_in_turn() {
        let list = json!({"cpu": "4", "memory": "1Gi", "pods": "10"});
        let ledger = Allocations::new(serde_json::from_value(list).unwrap());
        let now = Timestamp::UNIX_EPOCH;
        for (uid, priority) in [("a", 0), ("b", 0), ("c", 0), ("d", 5)] {
            let new = pod(uid, "1", priority);
            ledger.open(&new, new.clone(), Arc::default());
        }
        let steps = [
            (Some(("b", "2", 0)), "a=1000 b=1000? c=1000 d=1000", "no room"),
            (Some(("c", "1400m", 0)), "a=1000 b=1000? c=1000? d=1000", "no room either"),
            (Some(("d", "1600m", 5)), "a=1000 b=1000? c=1000? d=1000?", "important, but the last to ask"),
            (Some(("a", "700m", 0)), "a=700 b=1000? c=1000? d=1000?", "less is always granted"),
            (None, "b=1000? c=1400 d=1600", "the room of a goes to d first, then to whom it is enough for"),
            (Some(("b", "900m", 0)), "b=900 c=1400 d=1600", "a smaller wish"),
            (Some(("b", "9", 0)), "b=900? c=1400 d=1600", "more than the node has"),
            (Some(("b", "900m", 0)), "b=900 c=1400 d=1600", "taken back"),
        ];
        for (wish, want, why) in steps {
            match wish {
                Some((uid, cpu, priority)) => ledger.update(&pod(uid, cpu, priority), now),
                None => ledger.close("a", now),
            }
            assert_eq!(held(&ledger), want, "{why}");
        }
        ledger.update(&pod("b", "9", 0), now);
        let pending = ledger.grant("b").unwrap().pending.unwrap();
        let message = "Node didn't have enough capacity: cpu, requested: 9000, capacity: 4000";
        assert_eq!((pending.reason, pending.message.as_str()), ("Infeasible", message));
        assert_eq!(pending.generation, Some(2));
        ledger.update(&pod("b", "3", 0), now);
        let pending = ledger.grant("b").unwrap().pending.unwrap();
        let message = "Node didn't have enough resource: cpu, requested: 3000, used: 3000, capacity: 4000";
        assert_eq!((pending.reason, pending.message.as_str()), ("Deferred", message));
    }
}
