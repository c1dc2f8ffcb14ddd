//! What all pods of the node share.

use std::{io, net::IpAddr, sync::OnceLock};

use k8s_openapi::api::core::v1::{Pod, Service};
use kube::runtime::reflector::Store;
use tokio::sync::watch;

use super::{
    allocation::Allocations, enforceable::Abilities, places::Places, recorder::Recorder, roster::Roster,
    sources::Sources,
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
    pub(crate) abilities: Abilities,
    pub(crate) allocations: Allocations,
    pub(crate) roster: Roster,
    /// What the node is short of.
    pub(crate) shortages: watch::Receiver<Shortages>,
    /// Whether the machine is about to end.
    pub(crate) ending: watch::Receiver<bool>,
}

impl NodeContext {
    pub(crate) fn network(&self) -> &PodNetwork {
        self.network.get().expect("pods are begun after the network was opened")
    }

    /// Where the pod's files are; an error when its names cannot be parts of a path.
    pub(crate) fn places(&self, pod: &Pod) -> io::Result<Places> {
        Places::of(&self.config.state_dir, &self.config.log_dir, pod)
    }

    pub(crate) fn host_ips(&self) -> Vec<IpAddr> {
        vec![self.config.node_ip]
    }
}
