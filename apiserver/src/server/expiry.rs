//! Objects that live for a while only (events): each goes when its time is over, unless it was written again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Server;
use crate::store::{Change, Cursor, Expect, Store};

/// One task per storage whose rows say how long its objects live.
pub(super) fn spawn(server: &Arc<Server>, tasks: &TaskTracker) {
    let catalog = server.registry.snapshot();
    let mut seen: Vec<Arc<str>> = vec![];
    for resource in catalog.resources() {
        let Some(ttl) = resource.ttl.filter(|_| !seen.contains(&resource.storage)) else { continue };
        seen.push(resource.storage.clone());
        tasks.spawn(run(server.store.clone(), resource.storage.clone(), ttl, server.stop.clone()));
    }
}

/// Follows the log: what is written now expires in order.
async fn run(store: Store, storage: Arc<str>, ttl: Duration, stop: CancellationToken) {
    let view = store.list(&storage, "");
    let mut due: VecDeque<(Instant, Arc<str>, u64)> =
        view.items.iter().map(|s| (Instant::now() + ttl, s.key.clone(), s.revision)).collect();
    let mut cursor: Cursor = store.watch(&storage, "", view.revision);
    loop {
        let next = due.front().map(|(at, ..)| *at);
        tokio::select! {
            () = stop.cancelled() => return,
            events = cursor.next() => {
                let Ok(events) = events else { return };
                for event in events.into_iter().filter(|e| !e.deleted) {
                    due.push_back((Instant::now() + ttl, event.object.key.clone(), event.revision));
                }
            }
            () = tokio::time::sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {
                let Some((_, key, revision)) = due.pop_front() else { continue };
                let Some(stored) = store.get(&storage, &key).filter(|s| s.revision == revision) else { continue };
                let draft = store.draft(&storage, &stored.object());
                // Whoever wrote meanwhile has given it a new life.
                let _ = store.commit(&storage, key, Expect::Revision(revision), Change::Delete(draft)).await;
            }
        }
    }
}
