//! What pods left behind that were deleted while no agent ran: removed once, after the first list.

use std::{collections::HashSet, fs, path::Path, sync::Arc};

use super::node_context::NodeContext;
use crate::volumes;

/// Removes containers, sandboxes, links, directories and logs of pods that are not in `alive`.
pub(super) async fn sweep(node: Arc<NodeContext>, alive: Vec<String>) {
    let known: HashSet<&str> = alive.iter().map(String::as_str).collect();
    let records = node.runtime.containers().into_iter().map(|r| r.pod_uid);
    let sandboxes = node.runtime.sandboxes().into_iter().map(|s| s.pod_uid);
    let orphans: HashSet<String> = records.chain(sandboxes).filter(|uid| !known.contains(&**uid)).collect();
    for uid in &orphans {
        tracing::info!(uid, "removing a pod that is gone from the API");
        if let Err(error) = node.runtime.remove_sandbox(uid).await {
            tracing::warn!(%error, uid, "orphaned sandbox not removed");
        }
    }
    // A pod that was bound since is set up by its worker, and must not lose its link: only those seen here are judged.
    for uid in &orphans {
        if let Err(error) = node.network().teardown(uid).await {
            tracing::warn!(%error, uid, "orphaned link not removed");
        }
    }
    let (pods, logs) = (node.config.state_dir.join("pods"), node.config.log_dir.clone());
    for uid in names(&pods).filter(|uid| orphans.contains(uid)) {
        if let Err(error) = volumes::clean_up(&pods.join(&uid)) {
            tracing::warn!(%error, uid, "orphaned volumes not removed");
        }
    }
    let orphaned = |name: &String| name.rsplit('_').next().is_some_and(|uid| orphans.contains(uid));
    for name in names(&logs).filter(orphaned) {
        if let Err(error) = fs::remove_dir_all(logs.join(&name)) {
            tracing::warn!(%error, name, "orphaned logs not removed");
        }
    }
}

fn names(dir: &Path) -> impl Iterator<Item = String> {
    fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
}
