//! Well-known names of Kubernetes, spelled once.

pub const NAMESPACE_DEFAULT: &str = "default";
pub const NAMESPACE_SYSTEM: &str = "kube-system";
pub const NAMESPACE_PUBLIC: &str = "kube-public";
pub const NAMESPACE_NODE_LEASE: &str = "kube-node-lease";

pub const LABEL_HOSTNAME: &str = "kubernetes.io/hostname";
pub const LABEL_OS: &str = "kubernetes.io/os";
pub const LABEL_ARCH: &str = "kubernetes.io/arch";
pub const LABEL_METADATA_NAME: &str = "kubernetes.io/metadata.name";
pub const LABEL_SERVICE_NAME: &str = "kubernetes.io/service-name";
pub const LABEL_ENDPOINT_SLICE_MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
pub const LABEL_POD_TEMPLATE_HASH: &str = "pod-template-hash";
pub const LABEL_ZONE: &str = "topology.kubernetes.io/zone";
pub const LABEL_REGION: &str = "topology.kubernetes.io/region";

pub const TAINT_NOT_READY: &str = "node.kubernetes.io/not-ready";
pub const TAINT_UNREACHABLE: &str = "node.kubernetes.io/unreachable";
pub const TAINT_UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

pub const FINALIZER_ORPHAN: &str = "orphan";
pub const FINALIZER_FOREGROUND: &str = "foregroundDeletion";
pub const FINALIZER_KUBERNETES: &str = "kubernetes";

pub const GROUP_MASTERS: &str = "system:masters";
pub const GROUP_NODES: &str = "system:nodes";
pub const GROUP_AUTHENTICATED: &str = "system:authenticated";
pub const GROUP_UNAUTHENTICATED: &str = "system:unauthenticated";
pub const GROUP_SERVICE_ACCOUNTS: &str = "system:serviceaccounts";

pub const USER_ANONYMOUS: &str = "system:anonymous";
pub const USER_APISERVER: &str = "system:apiserver";
pub const USER_SCHEDULER: &str = "system:kube-scheduler";
pub const USER_CONTROLLER_MANAGER: &str = "system:kube-controller-manager";
pub const USER_KUBE_PROXY: &str = "system:kube-proxy";

pub const SCHEDULER_DEFAULT: &str = "default-scheduler";
pub const CLUSTER_DOMAIN: &str = "cluster.local";

/// Kinds (by `apiVersion` and kind) that may not own other objects: they come and go too fast.
pub const NEVER_OWNERS: &[(&str, &str)] = &[("v1", "Event")];
