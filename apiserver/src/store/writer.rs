//! The one writer: takes what is queued, decides each write, commits all of them as one transaction, publishes them.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::backend::Record;
use super::world::{Shelf, Stored};
use super::{Change, CommitError, Expect, Inner, Write};

/// Writes in one transaction at most.
const BATCH: usize = 128;

type Reply = oneshot::Sender<Result<Arc<Stored>, CommitError>>;

/// A write that is going to happen.
struct Decided {
    shelf: Arc<Shelf>,
    stored: Arc<Stored>,
    deleted: bool,
    reply: Reply,
}

/// Runs until the store is closed and the queue is empty.
pub(super) async fn run(inner: Weak<Inner>, mut queue: mpsc::Receiver<Write>, stop: CancellationToken) {
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        let taken = tokio::select! {
            biased;
            taken = queue.recv_many(&mut batch, BATCH) => taken,
            () = stop.cancelled() => {
                queue.close();
                queue.recv_many(&mut batch, BATCH).await
            }
        };
        let Some(inner) = inner.upgrade().filter(|_| taken > 0) else { return };
        commit(&inner, batch.drain(..)).await;
    }
}

async fn commit(inner: &Inner, batch: impl Iterator<Item = Write>) {
    let decided = decide(inner.head.load(Ordering::Acquire), batch);
    if decided.is_empty() {
        return;
    }
    let at = jiff::Timestamp::now().as_second();
    let records: Vec<Record> = decided
        .iter()
        .map(|d| Record {
            revision: d.stored.revision,
            resource: d.shelf.name.clone(),
            key: d.stored.key.clone(),
            deleted: d.deleted,
            value: d.stored.value.clone(),
            at,
        })
        .collect();
    if let Err(e) = inner.backend.append(&records).await {
        let why: Arc<str> = e.to_string().into();
        tracing::error!(error = %why, writes = decided.len(), "writes are lost: the log took none of them");
        for d in decided {
            let _ = d.reply.send(Err(CommitError::Failed(why.clone())));
        }
        return;
    }
    publish(inner, &decided);
    for d in decided {
        let _ = d.reply.send(Ok(d.stored));
    }
}

/// Checks each write against the world and the writes before it in the batch; answers those that cannot happen.
fn decide(head: u64, batch: impl Iterator<Item = Write>) -> Vec<Decided> {
    let mut decided: Vec<Decided> = vec![];
    // What earlier writes of this batch leave under a key.
    let mut ahead: HashMap<(Arc<str>, Arc<str>), Option<Arc<Stored>>> = HashMap::new();
    let mut revision = head;
    for write in batch {
        let place = (write.shelf.name.clone(), write.key.clone());
        let current = ahead.get(&place).cloned().unwrap_or_else(|| write.shelf.get(&write.key));
        let found = current.as_ref().map_or(Expect::Absent, |s| Expect::Revision(s.revision));
        if found != write.expect {
            let _ = write.reply.send(Err(CommitError::Conflict(current)));
            continue;
        }
        revision += 1;
        let (draft, deleted) = match write.change {
            Change::Put(draft) => (draft, false),
            Change::Delete(draft) => (draft, true),
        };
        let value = draft.encode(revision);
        let stored = Arc::new(Stored { revision, key: write.key, value, index: draft.into_index() });
        ahead.insert(place, (!deleted).then(|| stored.clone()));
        decided.push(Decided { shelf: write.shelf, stored, deleted, reply: write.reply });
    }
    decided
}

/// Shelf by shelf, then the head: who reads the head first finds everything up to it on the shelves.
fn publish(inner: &Inner, decided: &[Decided]) {
    let mut shelves: Vec<&Arc<Shelf>> = vec![];
    for d in decided {
        if !shelves.iter().any(|s| Arc::ptr_eq(s, &d.shelf)) {
            shelves.push(&d.shelf);
        }
    }
    for shelf in shelves {
        let mine = decided.iter().filter(|d| Arc::ptr_eq(&d.shelf, shelf));
        shelf.publish(mine.map(|d| (d.stored.clone(), d.deleted)));
    }
    if let Some(last) = decided.last() {
        inner.head.store(last.stored.revision, Ordering::Release);
    }
}
