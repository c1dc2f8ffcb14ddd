//! The priorities that are the system's own.

/// A class of pods that every cluster has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SystemClass {
    pub name: &'static str,
    pub value: i32,
    pub description: &'static str,
}

pub const NODE_CRITICAL: SystemClass = SystemClass {
    name: "system-node-critical",
    value: CRITICAL + 1000,
    description: "Used for system critical pods that must not be moved from their current node.",
};

pub const CLUSTER_CRITICAL: SystemClass = SystemClass {
    name: "system-cluster-critical",
    value: CRITICAL,
    description: "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
};

pub const SYSTEM_CLASSES: [SystemClass; 2] = [NODE_CRITICAL, CLUSTER_CRITICAL];

/// Users' priorities end here; above are the system's.
pub const HIGHEST_OF_USERS: i32 = 1_000_000_000;

/// Upstream's `SystemCriticalPriority`.
const CRITICAL: i32 = 2 * HIGHEST_OF_USERS;

/// Whether a pod of this priority is one that the cluster cannot do without.
pub fn is_critical(priority: Option<i32>) -> bool {
    priority.is_some_and(|priority| priority >= CRITICAL)
}
