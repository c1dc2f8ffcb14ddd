//! Watching: a position in the log of one resource. It can lag, but it cannot lose an event without being told.

use std::sync::Arc;

use tokio::sync::watch;

use super::world::{Shelf, Stored};
use super::{BackendError, Store};

/// Events handed out at once, and the bytes of their objects from which on no further one is: a watcher that does not read
/// holds them.
const BATCH: usize = 128;
const BATCH_BYTES: usize = 256 << 10;

/// One change of one object.
#[derive(Clone, Debug)]
pub struct Event {
    pub revision: u64,
    pub deleted: bool,
    /// The new state; of a deleted object its last, with the revision of its deletion.
    pub object: Arc<Stored>,
    /// The state before; `None` where there was none.
    pub previous: Option<Arc<Stored>>,
}

// === impl Event ===

impl Event {
    /// What it holds: the object, and the one before.
    pub(super) fn bytes(&self) -> usize {
        self.object.value.len() + self.previous.as_ref().map_or(0, |previous| previous.value.len())
    }
}

/// Why a cursor cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Expired {
    /// History up to this revision is gone, and the cursor stands before it.
    #[error("history is gone up to revision {compacted}")]
    Compacted { compacted: u64 },
    #[error("the log cannot be read")]
    Backend(#[from] BackendError),
    #[error("the store is closed")]
    Closed,
}

/// A watcher's position.
pub struct Cursor {
    store: Store,
    shelf: Arc<Shelf>,
    prefix: Box<str>,
    position: u64,
    wake: watch::Receiver<u64>,
}

// === impl Cursor ===

impl Cursor {
    pub(super) fn new(store: Store, shelf: Arc<Shelf>, prefix: Box<str>, position: u64) -> Self {
        Cursor { wake: shelf.subscribe(), store, shelf, prefix, position }
    }

    /// Everything up to this revision has been handed out.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Waits for the next events, in order; never empty.
    pub async fn next(&mut self) -> Result<Vec<Event>, Expired> {
        loop {
            let events = self.poll().await?;
            if !events.is_empty() {
                return Ok(events);
            }
            // A store that closes wakes its cursors after it has said so.
            if !self.store.is_open() {
                return Err(Expired::Closed);
            }
            self.wake.changed().await.map_err(|_| Expired::Closed)?;
        }
    }

    /// The next events that are there already, maybe none. Moves the position up to the store's head then.
    pub async fn poll(&mut self) -> Result<Vec<Event>, Expired> {
        loop {
            self.wake.mark_unchanged();
            let head = self.store.revision();
            let events = match self.shelf.events(self.position, &self.prefix, BATCH, BATCH_BYTES) {
                Ok(events) => events,
                Err(floor) => {
                    let events = self.catch_up(floor).await?;
                    if events.is_empty() {
                        continue;
                    }
                    return Ok(events);
                }
            };
            match events.last() {
                Some(last) => self.position = last.revision,
                None => self.position = self.position.max(head),
            }
            return Ok(events);
        }
    }

    /// Behind the ring: reads the log up to the ring's floor, page by page.
    async fn catch_up(&mut self, floor: u64) -> Result<Vec<Event>, Expired> {
        let backend = &self.store.0.backend;
        let steps = backend.steps(&self.shelf.name, self.position, floor, BATCH, BATCH_BYTES).await?;
        // Checked after the read: a compaction meanwhile would have made holes.
        let compacted = self.store.compacted();
        if self.position < compacted {
            return Err(Expired::Compacted { compacted });
        }
        self.position = steps.last().map_or(floor, |last| last.record.revision);
        let events = steps.into_iter().filter(|s| s.record.key.starts_with(&*self.prefix)).map(|step| {
            let key = step.record.key;
            let previous =
                step.previous.map(|(revision, value)| self.shelf.revive(revision, key.clone(), value));
            let object = self.shelf.revive(step.record.revision, key, step.record.value);
            Event { revision: object.revision, deleted: step.record.deleted, object, previous }
        });
        Ok(events.collect())
    }
}
