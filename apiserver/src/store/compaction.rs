//! Compaction: history that nobody may ask for any more leaves the log, a little at a time.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{BackendError, Inner, Store};

/// How often the log is looked at, and how many revisions one transaction looks through: a write never waits long.
const EVERY: Duration = Duration::from_secs(60);
const SPAN: u64 = 2_000;

pub(super) async fn run(inner: Weak<Inner>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = stop.cancelled() => return,
        }
        let Some(inner) = inner.upgrade() else { return };
        if let Err(e) = by_age(&inner).await {
            tracing::warn!(error = %e, "the log was not compacted");
        }
    }
}

async fn by_age(inner: &Arc<Inner>) -> Result<(), BackendError> {
    let age = i64::try_from(inner.history.age.as_secs()).unwrap_or(i64::MAX);
    let old = inner.backend.revision_before(jiff::Timestamp::now().as_second().saturating_sub(age)).await?;
    let many = inner.head.load(Ordering::Acquire).saturating_sub(inner.history.revisions);
    Store(inner.clone()).compact(old.max(many)).await
}

// === impl Store ===

impl Store {
    /// Forgets history up to a revision (at most the newest). Lists and watches of before are refused from now on.
    pub async fn compact(&self, upto: u64) -> Result<(), BackendError> {
        let inner = &self.0;
        let from = self.compacted();
        let upto = upto.min(self.revision());
        if upto <= from {
            return Ok(());
        }
        inner.backend.set_compacted(upto).await?;
        inner.compacted.store(upto, Ordering::Release);
        let mut at = 0;
        while at < upto && !inner.stop.is_cancelled() {
            at = inner.backend.compact(at, upto, SPAN).await?;
        }
        Ok(())
    }
}
