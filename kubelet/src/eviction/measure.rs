//! Measuring what the node has left, and what its pods take of it.

use std::{
    collections::BTreeMap,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use k8s_openapi::api::core::v1::Pod;

use super::{
    ranking::{Candidate, ContainerUsage, Disk, Usage},
    state::{Observation, Observations},
    thresholds::Signal,
};
use crate::{
    beneath,
    cri::{ContainerRecord, ContainerState},
    node::pressure::{self, Supply},
    pods::{
        node_context::NodeContext,
        view::{spec_of, uid_of},
    },
};

/// Files and directories that are counted of one place; a pod with more of them is known to have at least so many.
const MOST: u64 = 500_000;

/// What is there for each signal.
pub(super) async fn observe(node: &NodeContext) -> Observations {
    let (state, images) = (node.config.state_dir.clone(), node.config.images_dir.clone());
    let whole = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let of = |s: Supply| Observation { available: whole(s.available), capacity: whole(s.total) };
    let measured = tokio::task::spawn_blocking(move || {
        [
            (Signal::MemoryAvailable, pressure::memory()),
            (Signal::NodefsAvailable, pressure::disk(&state)),
            (Signal::NodefsInodesFree, pressure::inodes(&state)),
            (Signal::ImagefsAvailable, pressure::disk(&images)),
            (Signal::ImagefsInodesFree, pressure::inodes(&images)),
            (Signal::PidAvailable, pressure::processes()),
        ]
    });
    let measured = measured.await.into_iter().flatten();
    // File systems that have no fixed number of inodes say that there are none.
    let known = measured.filter(|(_, supply)| supply.total > 0);
    let mut observed: Observations = known.map(|(signal, supply)| (signal, of(supply))).collect();
    if let Ok(pods) = node.runtime.all_stats().await {
        let capacity = node.capacity.memory;
        let available = capacity - whole(pods.memory_working_set_bytes);
        observed.insert(Signal::AllocatableMemoryAvailable, Observation { available, capacity });
    }
    observed
}

/// Whether images are on another file system than all else.
pub(super) fn separate_images(node: &NodeContext) -> bool {
    let device = |dir: &Path| dir.metadata().map(|m| m.dev()).ok();
    device(&node.config.state_dir) != device(&node.config.images_dir)
}

/// Each pod with what it uses; of the disk only where `disks` asks for it, which takes long.
pub(super) async fn candidates(node: &NodeContext, pods: Vec<Arc<Pod>>, disks: bool) -> Vec<Candidate> {
    let mut candidates = Vec::new();
    for pod in pods {
        let usage = usage(node, &pod, disks).await;
        candidates.push(Candidate { pod, usage });
    }
    candidates
}

async fn usage(node: &NodeContext, pod: &Pod, disks: bool) -> Option<Usage> {
    let whole = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let total = node.runtime.pod_stats(uid_of(pod)).await.ok()?;
    let mut usage = if disks { disk_of(node, pod).await } else { Usage::default() };
    (usage.memory, usage.processes) = (whole(total.memory_working_set_bytes), whole(total.pids));
    for record in newest(node.runtime.containers_of(uid_of(pod))) {
        if !matches!(record.state, ContainerState::Running { .. }) {
            continue;
        }
        let Ok(stats) = node.runtime.stats(&record.id).await else { continue };
        let memory = whole(stats.memory_working_set_bytes);
        match usage.containers.iter_mut().find(|c| c.name == record.name) {
            Some(known) => known.memory = memory,
            None => usage.containers.push(ContainerUsage {
                name: record.name,
                memory,
                ..ContainerUsage::default()
            }),
        }
    }
    Some(usage)
}

/// What the pod takes of the node's disk.
pub(crate) async fn disk_of(node: &NodeContext, pod: &Pod) -> Usage {
    let Ok(places) = node.places(pod) else { return Usage::default() };
    let (dir, logs) = (places.dir(), places.log_dir());
    let layers = newest(node.runtime.containers_of(uid_of(pod)));
    let layers: Vec<_> = layers.map(|r| (r.name, node.runtime.writable_layer(&r.id))).collect();
    let volumes = disk_volumes(pod);
    tokio::task::spawn_blocking(move || walk(&dir, &logs, layers, volumes)).await.unwrap_or_default()
}

/// The newest attempt of each container.
fn newest(records: Vec<ContainerRecord>) -> impl Iterator<Item = ContainerRecord> {
    let mut newest: BTreeMap<String, ContainerRecord> = BTreeMap::new();
    for record in records {
        if newest.get(&record.name).is_none_or(|known| known.attempt < record.attempt) {
            newest.insert(record.name.clone(), record);
        }
    }
    newest.into_values()
}

/// The pod's directories on the node's disk; those in memory have a size of their own.
fn disk_volumes(pod: &Pod) -> Vec<String> {
    let on_disk = |medium: Option<&str>| matches!(medium, None | Some(""));
    let volumes = spec_of(pod).volumes.iter().flatten();
    let volumes = volumes.filter(|v| v.empty_dir.as_ref().is_some_and(|e| on_disk(e.medium.as_deref())));
    volumes.map(|v| v.name.clone()).collect()
}

fn walk(dir: &Path, logs: &Path, layers: Vec<(String, PathBuf)>, volumes: Vec<String>) -> Usage {
    let container = |(name, layer): (String, PathBuf)| ContainerUsage {
        rootfs: disk(&layer),
        logs: disk(&logs.join(&name)),
        memory: 0,
        name,
    };
    let volume = |name: String| {
        let used = disk(&dir.join("volumes/empty-dir").join(&name));
        (name, used)
    };
    let files = ["containers", "etc-hosts", "resolv.conf", "hostname"].map(|name| disk(&dir.join(name)));
    Usage {
        containers: layers.into_iter().map(container).collect(),
        volumes: volumes.into_iter().map(volume).collect(),
        files: files.into_iter().sum(),
        ..Usage::default()
    }
}

/// What is not there takes nothing.
fn disk(path: &Path) -> Disk {
    let found = beneath::usage(path, MOST).unwrap_or_default();
    if found.incomplete {
        tracing::debug!(path = %path.display(), "more files than are counted");
    }
    let whole = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    Disk { bytes: whole(found.bytes), inodes: whole(found.inodes) }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn everything_that_a_pod_may_write_to_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let (pod, logs, layer) =
            (dir.path().join("pod"), dir.path().join("logs"), dir.path().join("c/upper"));
        let mib = |path: PathBuf, n: usize| {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, vec![1; n << 20]).unwrap();
        };
        mib(layer.join("data"), 1);
        mib(logs.join("c/0.log"), 2);
        mib(logs.join("c/0.log.1"), 3);
        mib(pod.join("volumes/empty-dir/cache/file"), 4);
        mib(pod.join("containers/c/0.message"), 5);
        mib(pod.join("etc-hosts"), 6);
        mib(pod.join("volumes/host-path/not-ours"), 7);
        let usage = walk(&pod, &logs, vec![("c".to_owned(), layer)], vec!["cache".to_owned()]);
        let whole = |disk: Disk| disk.bytes >> 20;
        assert_eq!((whole(usage.containers[0].rootfs), whole(usage.containers[0].logs)), (1, 5));
        assert_eq!((whole(usage.volumes["cache"]), whole(usage.files)), (4, 11));
        assert_eq!(whole(usage.ephemeral()), 21);
    }

    #[test]
    fn directories_in_memory_are_no_matter_of_the_disk() {
        let pod: Pod = serde_json::from_value(serde_json::json!({"spec": {"containers": [], "volumes": [
            {"name": "disk", "emptyDir": {}},
            {"name": "also-disk", "emptyDir": {"medium": "", "sizeLimit": "1Gi"}},
            {"name": "memory", "emptyDir": {"medium": "Memory"}},
            {"name": "host", "hostPath": {"path": "/"}},
        ]}}))
        .unwrap();
        assert_eq!(disk_volumes(&pod), ["disk", "also-disk"]);
    }
}
