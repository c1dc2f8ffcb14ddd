//! Whom eviction takes first. Pure.

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc};

use coracle_api::quantity::Quantity;
use k8s_openapi::api::core::v1::Pod;

use super::thresholds::{Resource, Signal};
use crate::pods::{resources::requests_of, view::spec_of};

/// What something takes of a file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Disk {
    pub(crate) bytes: i64,
    pub(crate) inodes: i64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ContainerUsage {
    pub(crate) name: String,
    /// Working set, bytes.
    pub(crate) memory: i64,
    /// The writable layer.
    pub(crate) rootfs: Disk,
    pub(crate) logs: Disk,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Working set of all containers, bytes.
    pub(crate) memory: i64,
    pub(crate) processes: i64,
    pub(crate) containers: Vec<ContainerUsage>,
    /// Directories of the pod on the node's disk, by volume.
    pub(crate) volumes: BTreeMap<String, Disk>,
    /// Files that the kubelet gives to containers: hosts, termination messages.
    pub(crate) files: Disk,
}

#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    pub(crate) pod: Arc<Pod>,
    /// `None`: nothing could be measured; such pods go first.
    pub(crate) usage: Option<Usage>,
}

// === impl Disk ===

impl std::ops::Add for Disk {
    type Output = Disk;

    fn add(self, other: Disk) -> Disk {
        Disk { bytes: self.bytes + other.bytes, inodes: self.inodes + other.inodes }
    }
}

impl std::iter::Sum for Disk {
    fn sum<I: Iterator<Item = Disk>>(all: I) -> Disk {
        all.fold(Disk::default(), std::ops::Add::add)
    }
}

// === impl Usage ===

impl Usage {
    /// All that counts against limits of ephemeral storage.
    pub(crate) fn ephemeral(&self) -> Disk {
        let containers = self.containers.iter().map(|c| c.rootfs + c.logs);
        containers.chain(self.volumes.values().copied()).sum::<Disk>() + self.files
    }
}

pub(crate) fn priority(pod: &Pod) -> i32 {
    spec_of(pod).priority.unwrap_or(0)
}

/// Puts those to evict first at the front: above their requests, then by priority, then by use above requests. Images on a
/// disk of their own have nothing of the pods' on it.
pub(crate) fn rank(signal: Signal, separate_images: bool, candidates: &mut [Candidate]) {
    let of_images = matches!(signal, Signal::ImagefsAvailable | Signal::ImagefsInodesFree);
    let resource = signal.resource();
    let used = |usage: &Usage| match resource {
        Resource::Memory => usage.memory,
        Resource::Pids => usage.processes,
        Resource::EphemeralStorage | Resource::Inodes if of_images && separate_images => 0,
        Resource::EphemeralStorage => usage.ephemeral().bytes,
        Resource::Inodes => usage.ephemeral().inodes,
    };
    // Upstream takes the request of storage off the count of inodes, too.
    let (exceeded, above) = match resource {
        Resource::Memory => ("memory", "memory"),
        Resource::EphemeralStorage => ("ephemeral-storage", "ephemeral-storage"),
        Resource::Inodes => ("inodes", "ephemeral-storage"),
        Resource::Pids => ("", ""),
    };
    let request = |pod: &Pod, name: &str| requests_of(pod).get(name).map_or(0, Quantity::value);
    candidates.sort_by_cached_key(|c| {
        let Some(usage) = &c.usage else { return (false, false, i32::MIN, Reverse(i64::MAX)) };
        let used = used(usage);
        let within = resource != Resource::Pids && used <= request(&c.pod, exceeded);
        (true, within, priority(&c.pod), Reverse(used - request(&c.pod, above)))
    });
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Name, priority, request, use.
    fn candidate(
        name: &str,
        priority: i32,
        resource: &str,
        request: &str,
        usage: Option<Usage>,
    ) -> Candidate {
        let pod = json!({"metadata": {"name": name, "uid": name}, "spec": {"priority": priority,
            "containers": [{"name": "c", "resources": {"requests": {resource: request}}}]}});
        Candidate { pod: Arc::new(serde_json::from_value(pod).unwrap()), usage }
    }

    fn order(signal: Signal, separate: bool, mut candidates: Vec<Candidate>) -> String {
        rank(signal, separate, &mut candidates);
        candidates.iter().map(|c| c.pod.metadata.name.clone().unwrap()).collect::<Vec<_>>().join(" ")
    }

    fn memory(mib: i64) -> Option<Usage> {
        Some(Usage { memory: mib << 20, ..Usage::default() })
    }

    fn disk(layer: i64, logs: i64, volume: i64) -> Option<Usage> {
        let of = |mib: i64| Disk { bytes: mib << 20, inodes: mib };
        Some(Usage {
            containers: vec![ContainerUsage {
                rootfs: of(layer),
                logs: of(logs),
                ..ContainerUsage::default()
            }],
            volumes: BTreeMap::from([("v".to_owned(), of(volume))]),
            ..Usage::default()
        })
    }

    #[test]
    fn memory_is_taken_from_those_above_their_requests_then_by_priority_then_by_use() {
        let m = |name, priority, request, used| candidate(name, priority, "memory", request, memory(used));
        let pods = vec![
            m("within-large", 0, "900Mi", 800),
            m("within-low-priority", -10, "100Mi", 90),
            m("above-important", 1000, "100Mi", 900),
            m("above-little", 0, "100Mi", 150),
            m("above-much", 0, "100Mi", 400),
            m("best-effort", 0, "0", 250),
            candidate("unknown", 2000, "memory", "1Gi", None),
        ];
        let want =
            "unknown above-much best-effort above-little above-important within-low-priority within-large";
        assert_eq!(order(Signal::MemoryAvailable, false, pods.clone()), want);
        assert_eq!(order(Signal::AllocatableMemoryAvailable, false, pods), want);
    }

    #[test]
    fn disk_counts_layers_logs_and_volumes() {
        let d =
            |name, priority, request, usage| candidate(name, priority, "ephemeral-storage", request, usage);
        let pods = vec![
            d("within", 0, "900Mi", disk(100, 100, 100)),
            d("logs", 0, "0", disk(0, 200, 0)),
            d("layer", 0, "0", disk(300, 0, 0)),
            d("volume", 0, "100Mi", disk(0, 0, 350)),
            d("important", 1, "0", disk(900, 0, 0)),
        ];
        let want = "layer volume logs important within";
        assert_eq!(order(Signal::NodefsAvailable, false, pods.clone()), want);
        assert_eq!(order(Signal::ImagefsAvailable, false, pods.clone()), want);
        // Nobody is above its request of inodes, which nobody can make; the storage asked for is taken off.
        let inodes = order(Signal::NodefsInodesFree, false, pods);
        assert_eq!(inodes, "layer logs volume within important");
    }

    #[test]
    fn processes_are_taken_by_priority_and_number() {
        let p = |name, priority, processes| {
            candidate(name, priority, "memory", "0", Some(Usage { processes, ..Usage::default() }))
        };
        let pods = vec![p("few", 0, 2), p("many", 0, 900), p("important", 5, 5000), p("cheap", -1, 1)];
        assert_eq!(order(Signal::PidAvailable, false, pods), "cheap many few important");
    }
}
