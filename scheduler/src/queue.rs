//! Which pod is next: ready ones by priority and age, failed ones after a back-off, parked ones when something changed.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::pod::{Key, PodInfo};

const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LONGEST_BACKOFF: Duration = Duration::from_secs(10);
/// A parked pod is tried again after this even if nothing seemed to help it.
const LONGEST_PARKED: Duration = Duration::from_secs(300);

#[derive(Debug)]
struct Entry {
    pod: Arc<PodInfo>,
    attempts: u32,
    place: Place,
    /// Something changed while the pod was being tried: it must not be parked.
    moved: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Ready,
    Trying,
    /// Waits for a change; after the first instant, is not in back-off any more.
    Parked {
        backoff: Instant,
        until: Instant,
    },
    Backoff {
        until: Instant,
    },
    /// Has scheduling gates.
    Gated,
}

/// Greater priority first, then older, then by arrival.
type Rank = (std::cmp::Reverse<i32>, Option<k8s_openapi::jiff::Timestamp>, Key);

#[derive(Debug, Default)]
pub(crate) struct Queue {
    entries: HashMap<Key, Entry>,
    ready: BTreeSet<Rank>,
    timers: BTreeSet<(Instant, Key)>,
}

// === impl Queue ===

impl Queue {
    /// A pending pod is new or has changed. A change of the pod itself ends its parking.
    pub(crate) fn offer(&mut self, pod: Arc<PodInfo>, now: Instant) {
        let key = pod.key.clone();
        let (attempts, place) = self.take(&key).map_or((0, Place::Ready), |e| (e.attempts, e.place));
        let place = match place {
            _ if !pod.gates.is_empty() => Place::Gated,
            Place::Parked { backoff, .. } if backoff > now => Place::Backoff { until: backoff },
            Place::Gated | Place::Parked { .. } => Place::Ready,
            Place::Ready | Place::Trying | Place::Backoff { .. } => place,
        };
        self.put(Entry { pod, attempts, place, moved: true });
    }

    /// Replaces what is known of a pod that waits, without waking it: our own status updates come back as events.
    pub(crate) fn refresh(&mut self, pod: Arc<PodInfo>) {
        if let Some(mut entry) = self.take(&pod.key) {
            entry.pod = pod;
            self.put(entry);
        }
    }

    pub(crate) fn get(&self, key: &Key) -> Option<&Arc<PodInfo>> {
        self.entries.get(key).map(|e| &e.pod)
    }

    pub(crate) fn remove(&mut self, key: &Key) -> bool {
        self.take(key).is_some()
    }

    pub(crate) fn is_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    pub(crate) fn pop(&mut self) -> Option<Arc<PodInfo>> {
        let (.., key) = self.ready.first()?.clone();
        let mut entry = self.take(&key)?;
        entry.attempts += 1;
        (entry.place, entry.moved) = (Place::Trying, false);
        let pod = entry.pod.clone();
        self.put(entry);
        Some(pod)
    }

    /// The pod that was popped did not fit (`parked`), or met an error that may go away by itself.
    pub(crate) fn failed(&mut self, key: &Key, parked: bool, now: Instant) {
        let Some(mut entry) = self.take(key) else { return };
        let backoff = now + backoff_after(entry.attempts);
        entry.place = match parked && !entry.moved {
            true => Place::Parked { backoff, until: now + LONGEST_PARKED },
            false => Place::Backoff { until: backoff },
        };
        self.put(entry);
    }

    /// Something changed that may help: parked pods for which `helps` go on.
    pub(crate) fn wake(&mut self, now: Instant, helps: impl Fn(&PodInfo) -> bool) {
        let parked = |e: &Entry| matches!(e.place, Place::Parked { .. } | Place::Trying) && helps(&e.pod);
        let keys: Vec<Key> = self.entries.iter().filter(|(_, e)| parked(e)).map(|(k, _)| k.clone()).collect();
        for mut entry in keys.iter().filter_map(|key| self.take(key)).collect::<Vec<_>>() {
            entry.moved = true;
            if let Place::Parked { backoff, .. } = entry.place {
                entry.place = if backoff > now { Place::Backoff { until: backoff } } else { Place::Ready };
            }
            self.put(entry);
        }
    }

    /// When `tick` has something to do.
    pub(crate) fn next_timer(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    pub(crate) fn tick(&mut self, now: Instant) {
        while let Some((_, key)) = self.timers.first().filter(|(at, _)| *at <= now).cloned() {
            if let Some(mut entry) = self.take(&key) {
                entry.place = Place::Ready;
                self.put(entry);
            }
        }
    }

    fn put(&mut self, entry: Entry) {
        let key = entry.pod.key.clone();
        match entry.place {
            Place::Ready => drop(self.ready.insert(rank(&entry.pod))),
            Place::Parked { until, .. } | Place::Backoff { until } => {
                self.timers.insert((until, key.clone()));
            }
            Place::Trying | Place::Gated => {}
        }
        self.entries.insert(key, entry);
    }

    fn take(&mut self, key: &Key) -> Option<Entry> {
        let entry = self.entries.remove(key)?;
        match entry.place {
            Place::Ready => drop(self.ready.remove(&rank(&entry.pod))),
            Place::Parked { until, .. } | Place::Backoff { until } => {
                self.timers.remove(&(until, key.clone()));
            }
            Place::Trying | Place::Gated => {}
        }
        Some(entry)
    }
}

fn rank(pod: &PodInfo) -> Rank {
    (std::cmp::Reverse(pod.priority), pod.created, pod.key.clone())
}

fn backoff_after(attempts: u32) -> Duration {
    let doublings = attempts.saturating_sub(1).min(8);
    (FIRST_BACKOFF * 2_u32.pow(doublings)).min(LONGEST_BACKOFF)
}
