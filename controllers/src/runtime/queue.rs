//! The work queue: holds a key at most once, never hands it out twice at the same time, and never loses one that
//! was added while it was being worked on.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fmt::Display;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Key;

/// Upstream's per-item back-off: 5 ms doubled per failure, at most 1000 s.
const BACKOFF_BASE: Duration = Duration::from_millis(5);
const BACKOFF_MAX: Duration = Duration::from_secs(1000);

/// What a queue can hold: the name of something to be worked on.
pub(crate) trait Item: Clone + Eq + Hash + Display + Send + Sync + 'static {}

impl<T: Clone + Eq + Hash + Display + Send + Sync + 'static> Item for T {}

/// Bounded by the number of keys there are: each stands in it once.
pub(crate) struct Queue<T = Key>(Arc<Shared<T>>);

struct Shared<T> {
    state: Mutex<State<T>>,
    changed: Notify,
}

struct State<T> {
    ready: VecDeque<T>,
    /// What stands in `ready`.
    queued: HashSet<T>,
    running: HashSet<T>,
    /// Added while running: goes to `ready` when the run ends.
    again: HashSet<T>,
    delayed: BTreeMap<(Instant, u64), T>,
    due: HashMap<T, (Instant, u64)>,
    sequence: u64,
    failures: HashMap<T, u32>,
}

// === impl Queue ===

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Self {
        Queue(self.0.clone())
    }
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        let state = State {
            ready: VecDeque::new(),
            queued: HashSet::new(),
            running: HashSet::new(),
            again: HashSet::new(),
            delayed: BTreeMap::new(),
            due: HashMap::new(),
            sequence: 0,
            failures: HashMap::new(),
        };
        Queue(Arc::new(Shared { state: Mutex::new(state), changed: Notify::new() }))
    }
}

impl<T: Item> Queue<T> {
    pub(crate) fn add(&self, key: T) {
        self.0.state.lock().add(key);
        self.0.changed.notify_one();
    }

    pub(crate) fn add_after(&self, key: T, delay: Duration) {
        self.0.state.lock().add_at(key, Instant::now() + delay);
        self.0.changed.notify_one();
    }

    /// The next key that is ready; it counts as running until `done`.
    pub(super) async fn next(&self) -> T {
        loop {
            let due = {
                let mut state = self.0.state.lock();
                state.release_due(Instant::now());
                if let Some(key) = state.take() {
                    return key;
                }
                state.delayed.keys().next().map(|(due, _)| *due)
            };
            match due {
                Some(due) => tokio::select! {
                    () = tokio::time::sleep_until(due) => {}
                    () = self.0.changed.notified() => {}
                },
                None => self.0.changed.notified().await,
            }
        }
    }

    /// Ends a run that succeeded.
    pub(super) fn done(&self, key: &T) {
        let mut state = self.0.state.lock();
        state.failures.remove(key);
        state.finish(key);
        drop(state);
        self.0.changed.notify_one();
    }

    /// Ends a run that failed; the key comes back after its back-off. `jitter` is in [0, 1).
    pub(super) fn retry(&self, key: &T, jitter: f64) -> Duration {
        let mut state = self.0.state.lock();
        let failures = state.failures.entry(key.clone()).or_default();
        let delay = backoff(*failures, jitter);
        *failures += 1;
        state.finish(key);
        state.add_at(key.clone(), Instant::now() + delay);
        drop(state);
        self.0.changed.notify_one();
        delay
    }
}

/// The delay before the next try of a key that has failed `failures` times before, with up to a tenth of jitter.
fn backoff(failures: u32, jitter: f64) -> Duration {
    let delay = BACKOFF_BASE.saturating_mul(1 << failures.min(18)).min(BACKOFF_MAX);
    delay.mul_f64(1.0 + jitter / 10.0)
}

// === impl State ===

impl<T: Item> State<T> {
    fn add(&mut self, key: T) {
        if self.running.contains(&key) {
            self.again.insert(key);
        } else if self.queued.insert(key.clone()) {
            self.ready.push_back(key);
        }
    }

    /// The earlier of two times for one key wins.
    fn add_at(&mut self, key: T, at: Instant) {
        if let Some(due) = self.due.get(&key) {
            if due.0 <= at {
                return;
            }
            self.delayed.remove(due);
        }
        self.sequence += 1;
        self.delayed.insert((at, self.sequence), key.clone());
        self.due.insert(key, (at, self.sequence));
    }

    fn release_due(&mut self, now: Instant) {
        while let Some(entry) = self.delayed.first_entry() {
            if entry.key().0 > now {
                return;
            }
            let key = entry.remove();
            self.due.remove(&key);
            self.add(key);
        }
    }

    fn take(&mut self) -> Option<T> {
        let key = self.ready.pop_front()?;
        self.queued.remove(&key);
        self.running.insert(key.clone());
        Some(key)
    }

    fn finish(&mut self, key: &T) {
        self.running.remove(key);
        if self.again.remove(key) {
            self.add(key.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key::cluster(name)
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_is_held_once_and_not_lost_while_it_runs() {
        let queue = Queue::<Key>::default();
        queue.add(key("a"));
        queue.add(key("a"));
        queue.add(key("b"));
        assert_eq!(queue.next().await, key("a"));
        queue.add(key("a"));
        assert_eq!(queue.next().await, key("b"));
        assert!(tokio::time::timeout(Duration::from_secs(1), queue.next()).await.is_err(), "a is running");
        queue.done(&key("a"));
        assert_eq!(queue.next().await, key("a"));
    }

    #[tokio::test(start_paused = true)]
    async fn delays_keep_the_earliest_time_and_failures_back_off() {
        let queue = Queue::<Key>::default();
        let start = Instant::now();
        queue.add_after(key("a"), Duration::from_secs(60));
        queue.add_after(key("a"), Duration::from_secs(5));
        queue.add_after(key("a"), Duration::from_secs(30));
        assert_eq!(queue.next().await, key("a"));
        assert_eq!(start.elapsed().as_secs(), 5);
        let delays: Vec<_> = (0..3)
            .map(|_| {
                let delay = queue.retry(&key("a"), 0.0);
                queue.0.state.lock().running.insert(key("a"));
                delay.as_millis()
            })
            .collect();
        assert_eq!(delays, [5, 10, 20]);
        assert_eq!(backoff(40, 0.0), BACKOFF_MAX);
    }
}
