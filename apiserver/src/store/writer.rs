//! The one writer: takes what is queued, decides each write, commits all of them as one transaction, publishes them.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::backend::{BackendError, Record};
use super::world::{Shelf, Stored};
use super::{Change, CommitError, Expect, Holding, Inner, Placed, Queued};

/// Writes in one transaction at most.
pub(super) const BATCH: usize = 128;
/// How soon a log that does not answer is asked again.
const RETRY: Duration = Duration::from_secs(1);

/// Resource and key.
type Place = (Arc<str>, Arc<str>);
type Reply = oneshot::Sender<Result<Arc<Stored>, CommitError>>;

/// A write that is going to happen.
struct Decided {
    shelf: Arc<Shelf>,
    stored: Arc<Stored>,
    deleted: bool,
    /// Who is told, and what is kept; `None` for a write that goes with another.
    told: Option<(Reply, Holding)>,
}

/// Runs until the store is closed and the queue is empty.
pub(super) async fn run(inner: Weak<Inner>, mut queue: mpsc::Receiver<Queued>, stop: CancellationToken) {
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

async fn commit(inner: &Inner, batch: impl Iterator<Item = Queued>) {
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
    if let Err(e) = inner.backend.append(&records).await
        && !settle(inner, &e, records.last().map_or(0, |r| r.revision)).await
    {
        let why: Arc<str> = e.to_string().into();
        for (reply, _) in decided.into_iter().filter_map(|d| d.told) {
            let _ = reply.send(Err(CommitError::Failed(why.clone())));
        }
        return;
    }
    publish(inner, &decided);
    for Decided { stored, told, .. } in decided {
        let Some((reply, hold)) = told else { continue };
        if let Some(hold) = hold {
            hold.keep();
        }
        // Whoever asked may be gone: it has happened all the same.
        let _ = reply.send(Ok(stored));
    }
}

/// Whether a batch that seemed to fail is in the log after all. Nothing else is written until the log has said so: its
/// revisions must neither be lost nor be given again.
async fn settle(inner: &Inner, failure: &BackendError, last: u64) -> bool {
    tracing::error!(error = %failure, "a commit failed; asking the log what it has");
    loop {
        match inner.backend.newest().await {
            Ok(newest) => return newest >= last,
            Err(e) => tracing::error!(error = %e, "the log does not answer"),
        }
        tokio::select! {
            () = tokio::time::sleep(RETRY) => {}
            () = inner.stop.cancelled() => return false,
        }
    }
}

/// Checks each write, and those that go with it, against the world and the writes before it in the batch; answers those that
/// cannot happen.
fn decide(head: u64, batch: impl Iterator<Item = Queued>) -> Vec<Decided> {
    let mut decided: Vec<Decided> = vec![];
    // What earlier writes of this batch leave under a key.
    let mut ahead: HashMap<Place, Option<Arc<Stored>>> = HashMap::new();
    let mut revision = head;
    for Queued { write, with, hold, reply } in batch {
        let conflict = |w: &Placed| {
            let current = ahead.get(&w.place()).cloned().unwrap_or_else(|| w.shelf.get(&w.key));
            let found = current.as_ref().map_or(Expect::Absent, |s| Expect::Revision(s.revision));
            (found != w.expect).then_some(current)
        };
        if let Some(current) = conflict(&write) {
            let _ = reply.send(Err(CommitError::Conflict(current)));
            continue;
        }
        if with.iter().any(|w| conflict(w).is_some()) {
            let _ = reply.send(Err(CommitError::Stale));
            continue;
        }
        let told = Some((reply, hold));
        for (w, told) in with.into_iter().map(|w| (w, None)).chain([(write, told)]) {
            revision += 1;
            let place = w.place();
            let (draft, deleted) = match w.change {
                Change::Put(draft) => (draft, false),
                Change::Delete(draft) => (draft, true),
            };
            let value = draft.encode(revision);
            let stored = Stored::new(revision, w.key, value, draft.into_index());
            ahead.insert(place, (!deleted).then(|| stored.clone()));
            decided.push(Decided { shelf: w.shelf, stored, deleted, told });
        }
    }
    decided
}

// === impl Placed ===

impl Placed {
    fn place(&self) -> Place {
        (self.shelf.name.clone(), self.key.clone())
    }
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU8;

    use async_trait::async_trait;
    use coracle_api::Object;
    use futures::FutureExt;
    use parking_lot::Mutex;
    use serde_json::json;

    use super::super::backend::{Backend, Head, Result, Step};
    use super::super::{History, Hold, Options, Store, Write, sqlite::Sqlite};
    use super::*;

    const SOUND: u8 = 0;
    const LOSES: u8 = 1;
    const KEEPS: u8 = 2;

    /// A database whose commits fail, before or after they have happened.
    struct Faulty {
        inner: Sqlite,
        fault: AtomicU8,
    }

    #[async_trait]
    impl Backend for Faulty {
        async fn load(&self, each: &mut (dyn FnMut(Record) + Send)) -> Result<Head> {
            self.inner.load(each).await
        }
        async fn append(&self, records: &[Record]) -> Result<()> {
            let fault = self.fault.swap(SOUND, Ordering::SeqCst);
            if fault != LOSES {
                self.inner.append(records).await?;
            }
            if fault == SOUND { Ok(()) } else { Err(BackendError::NotText(0)) }
        }
        async fn newest(&self) -> Result<u64> {
            self.inner.newest().await
        }
        async fn steps(
            &self,
            resource: &str,
            after: u64,
            upto: u64,
            limit: usize,
            bytes: usize,
        ) -> Result<Vec<Step>> {
            self.inner.steps(resource, after, upto, limit, bytes).await
        }
        async fn at(
            &self,
            resource: &str,
            prefix: &str,
            start: &str,
            at: u64,
            limit: usize,
        ) -> Result<Vec<Record>> {
            self.inner.at(resource, prefix, start, at, limit).await
        }
        async fn revision_before(&self, at: i64) -> Result<u64> {
            self.inner.revision_before(at).await
        }
        async fn set_compacted(&self, revision: u64) -> Result<()> {
            self.inner.set_compacted(revision).await
        }
        async fn compact(&self, from: u64, upto: u64, span: u64) -> Result<u64> {
            self.inner.compact(from, upto, span).await
        }
        async fn close(&self) {
            self.inner.close().await;
        }
    }

    #[tokio::test]
    async fn a_commit_that_fails_ambiguously_is_what_the_log_says() {
        let backend =
            Arc::new(Faulty { inner: Sqlite::open(None).await.unwrap(), fault: AtomicU8::new(SOUND) });
        let options = Options { dir: None, history: History::default(), fields: HashMap::new() };
        let store = Store::with_backend(backend.clone(), options, None).await.unwrap();
        let resource: Arc<str> = "/configmaps".into();
        let put = |key: &'static str| {
            let draft = store.draft(&resource, &Object(json!({"metadata": {"name": key}})));
            store.commit(&resource, key, Expect::Absent, Change::Put(draft))
        };
        assert_eq!(put("a").await.unwrap().revision, 1);
        backend.fault.store(LOSES, Ordering::SeqCst);
        assert!(matches!(put("b").await, Err(CommitError::Failed(_))));
        backend.fault.store(KEEPS, Ordering::SeqCst);
        assert_eq!(put("c").await.unwrap().revision, 2, "the log has it, so it is acknowledged");
        assert_eq!(put("b").await.unwrap().revision, 3, "and the next write goes on from there");
        let keys: Vec<_> =
            store.list(&resource, "").items.iter().map(|s| (s.revision, s.key.to_string())).collect();
        assert_eq!(keys, [(1, "a".to_owned()), (3, "b".to_owned()), (2, "c".to_owned())]);
    }

    /// Tells whether it was kept, and that it is gone.
    struct Told(Arc<Mutex<Vec<&'static str>>>);

    impl Hold for Told {
        fn keep(&self) {
            self.0.lock().push("kept");
        }
    }

    impl Drop for Told {
        fn drop(&mut self) {
            self.0.lock().push("dropped");
        }
    }

    #[tokio::test]
    async fn a_write_and_what_goes_with_it_happen_or_do_not_whoever_waits_for_them() {
        let backend =
            Arc::new(Faulty { inner: Sqlite::open(None).await.unwrap(), fault: AtomicU8::new(SOUND) });
        let options = Options { dir: None, history: History::default(), fields: HashMap::new() };
        let store = Store::with_backend(backend.clone(), options, None).await.unwrap();
        let (maps, books): (Arc<str>, Arc<str>) = ("/configmaps".into(), "/books".into());
        let write = |resource: &Arc<str>, key: &str, expect| {
            let draft = store.draft(resource, &Object(json!({"metadata": {"name": key}})));
            Write { resource: resource.clone(), key: key.into(), expect, change: Change::Put(draft) }
        };
        let told = Arc::new(Mutex::new(vec![]));
        let commit = |key: &str, book| {
            let hold: Arc<dyn Hold> = Arc::new(Told(told.clone()));
            store.commit_with(write(&maps, key, Expect::Absent), vec![write(&books, "b", book)], Some(hold))
        };
        let seen = || {
            let mut seen = std::mem::take(&mut *told.lock());
            seen.sort_unstable();
            seen
        };
        let all = || (store.count("/configmaps"), store.count("/books"), store.revision());

        assert_eq!(commit("a", Expect::Absent).await.unwrap().revision, 2, "what goes with it comes first");
        assert_eq!((seen(), all()), (vec!["dropped", "kept"], (1, 1, 2)));
        assert!(matches!(commit("a", Expect::Revision(1)).await, Err(CommitError::Conflict(Some(_)))));
        assert!(matches!(commit("c", Expect::Revision(7)).await, Err(CommitError::Stale)));
        backend.fault.store(LOSES, Ordering::SeqCst);
        assert!(matches!(commit("c", Expect::Revision(1)).await, Err(CommitError::Failed(_))));
        assert_eq!((seen(), all()), (vec!["dropped"; 3], (1, 1, 2)), "nothing of them is there");
        // Nobody waits for the first one any more: the second is decided after it.
        assert!(commit("c", Expect::Revision(1)).now_or_never().is_none());
        assert!(matches!(commit("c", Expect::Revision(1)).await, Err(CommitError::Conflict(Some(_)))));
        // Writes happen in their order: once this one has, those have.
        let other: Arc<str> = "/others".into();
        store.commit_with(write(&other, "x", Expect::Absent), vec![], None).await.unwrap();
        assert_eq!((seen(), all()), (vec!["dropped", "dropped", "kept"], (2, 1, 5)));
        // Never polled, never queued.
        drop(commit("d", Expect::Revision(3)));
        assert_eq!((seen(), all()), (vec!["dropped"], (2, 1, 5)));
        store.close().await;
        assert!(matches!(commit("d", Expect::Revision(3)).await, Err(CommitError::Closed)));
        assert_eq!(seen(), ["dropped"]);
    }
}
