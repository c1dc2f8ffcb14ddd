//! Unused images go: when the disk is fuller than upstream's threshold, when they are too old, and when the disk is short.

use std::{collections::HashSet, sync::Arc, time::Duration};

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::pressure;
use crate::{
    images::Wanted,
    pods::{node_context::NodeContext, recorder::node_reference},
    sys::mounts,
};

/// Upstream's period of collections. A disk that is short does not wait for it: eviction reclaims at once.
const PERIOD: Duration = Duration::from_secs(300);

/// Collects now and then until `shutdown`.
pub(crate) async fn run(node: Arc<NodeContext>, shutdown: CancellationToken) {
    let began = std::time::Instant::now();
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failed = false;
    while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
        let result = collect(&node, began).await;
        if let Err(error) = &result {
            tracing::warn!(error, "image garbage collection failed");
            if failed {
                tell(&node, "ImageGCFailed", error);
            }
        }
        failed = result.is_err();
    }
}

async fn collect(node: &NodeContext, began: std::time::Instant) -> Result<(), String> {
    let policy = &node.config.image_gc;
    let in_use = in_use(node).await?;
    let go = async |wanted: Wanted| {
        node.images.collect_garbage(&in_use, wanted, policy).await.map_err(|error| error.to_string())
    };
    // Before, nothing is known of when images were used.
    if policy.maximum_age.is_some_and(|age| began.elapsed() > age) {
        go(Wanted::Old).await?;
    }
    let disk = pressure::disk(&node.config.images_dir);
    if disk.total == 0 {
        let message = "invalid capacity 0 on image filesystem";
        tell(node, "InvalidDiskCapacity", message);
        return Err(message.to_owned());
    }
    let Some(bytes) = policy.bytes_to_free(disk.total, disk.available) else {
        node.images.note_use(&in_use);
        return Ok(());
    };
    let freed = go(Wanted::Bytes(bytes)).await?.bytes;
    if freed < bytes {
        let used = 100 - disk.available.saturating_mul(100) / disk.total;
        let message = format!(
            "Insufficient free disk space on the node's image filesystem ({used}% of {} bytes used). Failed to free \
             sufficient space by deleting unused images (freed {freed} bytes). Investigate disk usage, as it could be \
             used by active images, logs, volumes, or other data.",
            disk.total
        );
        tell(node, "FreeDiskSpaceFailed", &message);
        return Err(message);
    }
    Ok(())
}

/// Removes unused images until `bytes` have gone, the longest unused first; for a disk that is short, `u64::MAX`. Returns
/// how many bytes went.
pub(crate) async fn reclaim(node: &NodeContext, bytes: u64) -> Result<u64, String> {
    let in_use = in_use(node).await?;
    let collected = node.images.collect_garbage(&in_use, Wanted::Bytes(bytes), &node.config.image_gc).await;
    collected.map(|collected| collected.bytes).map_err(|error| error.to_string())
}

/// The ids of images that containers, also ended ones, or volumes have.
async fn in_use(node: &NodeContext) -> Result<HashSet<String>, String> {
    let sources = tokio::task::spawn_blocking(mounts::overlay_sources).await;
    let mounted = sources.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
    let containers = node.runtime.containers().into_iter().map(|container| container.image_id);
    Ok(containers.chain(mounted).collect())
}

fn tell(node: &NodeContext, reason: &str, message: &str) {
    node.recorder.warning(node_reference(&node.config.node_name), reason, message);
}
