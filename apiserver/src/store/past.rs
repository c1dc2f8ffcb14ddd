//! Lists of the past: what was there at a revision, read from the log.

use std::sync::Arc;

use super::{Expired, Store, Stored};

/// One page of an old list.
pub struct Page {
    pub items: Vec<Arc<Stored>>,
    /// Whether there is more after the last item.
    pub more: bool,
}

// === impl Store ===

impl Store {
    /// What lived under a prefix at a revision, past the key `start`; at most `limit` objects.
    pub async fn list_at(
        &self,
        resource: &Arc<str>,
        prefix: &str,
        start: &str,
        revision: u64,
        limit: usize,
    ) -> Result<Page, Expired> {
        let records = self.0.backend.at(resource, prefix, start, revision, limit.saturating_add(1)).await?;
        let compacted = self.compacted();
        if revision < compacted {
            return Err(Expired::Compacted { compacted });
        }
        let shelf = self.shelf(resource);
        let more = records.len() > limit;
        let items = records.into_iter().take(limit).map(|r| shelf.revive(r.revision, r.key, r.value));
        Ok(Page { items: items.collect(), more })
    }
}
