//! What all pods of the node share.

use std::{net::IpAddr, path::PathBuf, sync::OnceLock};

use k8s_openapi::api::core::v1::{Pod, Service};
use kube::runtime::reflector::Store;
use tokio::sync::watch;

use super::{
    allocation::Allocations,
    recorder::Recorder,
    roster::Roster,
    sources::Sources,
    view::{name_of, namespace_of, uid_of},
};
use crate::{
    Config,
    eviction::Shortages,
    images::Images,
    net::{NetworkState, PodNetwork},
    node::Capacity,
    runtime::Runtime,
};

pub(crate) struct NodeContext {
    pub(crate) config: Config,
    pub(crate) runtime: Runtime,
    pub(crate) images: Images,
    /// Open as soon as the node has its range of addresses; pods are begun afterwards.
    pub(crate) network: OnceLock<PodNetwork>,
    /// What the Node's status tells of the network.
    pub(crate) network_state: watch::Receiver<NetworkState>,
    pub(crate) sources: Sources,
    pub(crate) services: Store<Service>,
    pub(crate) recorder: Recorder,
    pub(crate) capacity: Capacity,
    pub(crate) allocations: Allocations,
    pub(crate) roster: Roster,
    /// What the node is short of.
    pub(crate) shortages: watch::Receiver<Shortages>,
}

impl NodeContext {
    pub(crate) fn network(&self) -> &PodNetwork {
        self.network.get().expect("pods are begun after the network was opened")
    }

    pub(crate) fn pod_dir(&self, pod: &Pod) -> PathBuf {
        self.config.state_dir.join("pods").join(uid_of(pod))
    }

    pub(crate) fn pod_log_dir(&self, pod: &Pod) -> PathBuf {
        self.config.log_dir.join(format!("{}_{}_{}", namespace_of(pod), name_of(pod), uid_of(pod)))
    }

    pub(crate) fn message_file(&self, pod: &Pod, container: &str, attempt: u32) -> PathBuf {
        self.pod_dir(pod).join("containers").join(container).join(format!("{attempt}.message"))
    }

    pub(crate) fn host_ips(&self) -> Vec<IpAddr> {
        vec![self.config.node_ip]
    }
}
