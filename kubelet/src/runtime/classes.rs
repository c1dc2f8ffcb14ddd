//! The groups above the pods': what all pods may have together, and what the classes have of the processors.

use std::collections::HashSet;
use std::io;

use coracle_api::resources::QosClass;

use super::{Runtime, RuntimeConfig, blocking, cgroups, io_error, limits};
use crate::cri::{ContainerState, Resources, RuntimeError};

/// The least there is: BestEffort pods get what others leave.
const LEAST_SHARES: u64 = 2;

/// Makes the groups of the classes and of the shims. An error says why pods cannot be held to limits here.
pub(super) fn prepare(config: &RuntimeConfig) -> io::Result<()> {
    cgroups::prepare_root()?;
    let root = &config.cgroup_root;
    let least = Resources { cpu_shares: Some(LEAST_SHARES), ..Resources::default() };
    cgroups::create(&format!("{root}/besteffort"), &least)?;
    // This one has what its pods asked for, some of whom may be there already.
    cgroups::create(&format!("{root}/burstable"), &Resources::default())?;
    cgroups::create_shims(root)
}

impl Runtime {
    /// Why no pod can run on this machine, in words for the Node's status.
    pub fn trouble(&self) -> Option<&str> {
        self.0.unlimited.as_deref()
    }

    /// Why AppArmor profiles cannot be enforced on this machine.
    pub fn no_apparmor(&self) -> Option<&str> {
        self.0.no_apparmor.as_deref()
    }

    /// Holds all pods together to what the node has for them.
    pub async fn limit_pods(&self, all: &Resources) -> Result<(), RuntimeError> {
        let (root, all) = (self.0.config.cgroup_root.clone(), all.clone());
        blocking(move || limits::apply(&root, &all)).await.map_err(io_error("limit all pods together"))
    }

    /// Lets all pods together have `bytes` of memory before their allocations wait. Version 1 cannot: nothing is done there.
    pub async fn slow_pods_above(&self, bytes: i64) -> Result<(), RuntimeError> {
        let root = self.0.config.cgroup_root.clone();
        let set = move || if cgroups::unified() { limits::slow_above(&root, bytes) } else { Ok(()) };
        blocking(set).await.map_err(io_error("slow pods down"))
    }

    /// Gives the Burstable pods together what they asked for one by one, as upstream does. Guaranteed ones stand beside
    /// the class, each with its own.
    pub(super) fn weigh_classes(&self) {
        let shares = {
            let containers = self.0.containers.lock();
            let live = containers.values().filter(|entry| {
                !matches!(*entry.state.borrow(), ContainerState::Exited { .. } | ContainerState::Unknown)
            });
            let live: HashSet<&str> = live.map(|entry| entry.record.pod_uid.as_str()).collect();
            let known: HashSet<&str> =
                containers.values().map(|entry| entry.record.pod_uid.as_str()).collect();
            let sandboxes = self.0.sandboxes.lock();
            // A pod without any container yet is about to have one.
            let counts = |uid: &str| live.contains(uid) || !known.contains(uid);
            let burstable =
                sandboxes.values().filter(|s| s.qos == Some(QosClass::Burstable) && counts(&s.pod_uid));
            burstable.map(|s| s.cpu_shares).sum::<u64>().max(LEAST_SHARES)
        };
        let mut weighed = self.0.weighed.lock();
        if *weighed == shares || self.0.unlimited.is_some() {
            return;
        }
        let group = format!("{}/burstable", self.0.config.cgroup_root);
        let all = Resources { cpu_shares: Some(shares), ..Resources::default() };
        match limits::apply(&group, &all) {
            Ok(()) => *weighed = shares,
            Err(error) => tracing::warn!(%error, "the class of Burstable pods keeps its weight"),
        }
    }
}
