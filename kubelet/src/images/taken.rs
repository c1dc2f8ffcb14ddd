//! What images take of the disk. A layer does not change, so it is measured once; of layers that images share there is one.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::Mutex;

use super::digest::Digest;
use super::store::Store;
use crate::beneath::{self, Usage};

/// Files and directories that are counted of one layer.
const MOST: u64 = 2_000_000;

/// What each layer takes.
#[derive(Debug, Default)]
pub(super) struct Taken(Mutex<HashMap<Digest, Usage>>);

// === impl Taken ===

impl Taken {
    /// What all images take together; `None` while somebody else has it measured. Whoever asks first has layers that are new
    /// measured.
    pub(super) async fn all(&self, store: Arc<Store>) -> Option<Usage> {
        let mut known = self.0.try_lock().ok()?;
        let layers = store.layers();
        known.retain(|layer, _| layers.contains(layer));
        let new: Vec<Digest> = layers.into_iter().filter(|layer| !known.contains_key(layer)).collect();
        let measure = move || {
            let usage = |layer: &Digest| beneath::usage(&store.layer_dir(layer), MOST).ok();
            new.into_iter().filter_map(|layer| Some((layer, usage(&layer)?))).collect::<Vec<_>>()
        };
        known.extend(tokio::task::spawn_blocking(measure).await.unwrap_or_default());
        let mut all = Usage::default();
        for usage in known.values() {
            all.bytes = all.bytes.saturating_add(usage.bytes);
            all.inodes = all.inodes.saturating_add(usage.inodes);
            all.incomplete |= usage.incomplete;
        }
        Some(all)
    }
}
