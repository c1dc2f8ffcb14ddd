//! The pod network: one veth pair per pod, an address of the node's range, routes, masquerade and host ports.
//!
//! Point to point, no bridge: a pod has a /32 address and reaches everything through `169.254.1.1`, which lives on the
//! node's loopback device; the node has one /32 route per pod. Pods of other nodes are reached by routes over
//! those nodes (`nodes`).

mod addresses;
mod links;
mod nodes;
mod records;
mod rules;
mod services;

use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use sha2::{Digest, Sha256};

pub use coracle_api::Cidr;
pub use nodes::{NetworkState, run_node_routes};
pub use rules::{HostPort, Protocol, apply as apply_rules};
pub use services::{ServicesConfig, run_services};

use addresses::AddressPool;
use links::{LINK_PREFIX, Links, PodLink};
use records::{PodRecord, Records};

/// What every pod has as its gateway.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

#[derive(Clone, Debug)]
pub struct NetConfig {
    /// The addresses of this node's pods.
    pub pod_cidr: Cidr,
    /// The addresses of Services.
    pub service_cidr: Cidr,
    /// The addresses of all pods of the cluster: traffic to others leaves with the node's address.
    pub cluster_cidr: Cidr,
    pub node_ip: Ipv4Addr,
    pub mtu: u32,
    /// Holds one small file per pod; best on a tmpfs, since links do not survive a reboot either.
    pub state_dir: PathBuf,
}

/// What a pod got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodAddress {
    pub ip: Ipv4Addr,
}

#[derive(Debug, thiserror::Error)]
pub enum NetError {
    #[error("no free address left in the node's pod range {0}")]
    Exhausted(Cidr),
    #[error("network namespace {path}: {source}")]
    Namespace { path: PathBuf, source: io::Error },
    #[error("cannot {action}")]
    Netlink { action: &'static str, source: rtnetlink::Error },
    #[error("the pod's link vanished while it was set up")]
    LinkGone,
    #[error("cannot run nft (package nftables)")]
    NftMissing(#[source] io::Error),
    #[error("nft refused the rules: {0}")]
    Nft(String),
    #[error("cannot set {key}")]
    Sysctl { key: String, source: io::Error },
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// The pod network of this node. A cheap handle.
#[derive(Clone)]
pub struct PodNetwork {
    inner: Arc<Inner>,
}

struct Inner {
    config: NetConfig,
    links: Links,
    records: Records,
    pool: Mutex<AddressPool>,
    /// One replacement of the host-port rules at a time, so that the last one tells the newest state.
    rules: tokio::sync::Mutex<()>,
}

// === impl PodNetwork ===

impl PodNetwork {
    /// Prepares the node, and takes over the pods of an earlier run.
    pub async fn open(config: NetConfig) -> Result<PodNetwork, NetError> {
        sysctl("net/ipv4/ip_forward", "1")?;
        let links = Links::host()?;
        links.add_local_address(GATEWAY).await?;
        links.route_to_loopback(config.service_cidr, config.node_ip).await?;
        let records = Records::open(config.state_dir.join("pods"))?;
        let mut pool = AddressPool::new(config.pod_cidr);
        let present = links.pod_links().await?;
        for (uid, record) in records.all()? {
            if present.contains(&link_name(&uid)) {
                pool.adopt(&uid, record.ip);
            } else {
                records.remove(&uid)?;
            }
        }
        let inner =
            Inner { config, links, records, pool: Mutex::new(pool), rules: tokio::sync::Mutex::new(()) };
        let network = PodNetwork { inner: Arc::new(inner) };
        network.replace_rules().await?;
        Ok(network)
    }

    /// Connects a pod. Repeating it for a connected pod changes nothing and gives the same address.
    pub async fn setup(
        &self,
        pod_uid: &str,
        netns: &Path,
        ports: &[HostPort],
    ) -> Result<PodAddress, NetError> {
        let inner = &self.inner;
        if let Some(record) = inner.records.get(pod_uid)? {
            return Ok(PodAddress { ip: record.ip });
        }
        let addr = inner.pool.lock().assign(pod_uid).ok_or(NetError::Exhausted(inner.config.pod_cidr))?;
        match self.connect(pod_uid, netns, addr, ports).await {
            Ok(()) => Ok(PodAddress { ip: addr }),
            Err(error) => {
                self.teardown(pod_uid).await?;
                Err(error)
            }
        }
    }

    async fn connect(
        &self,
        uid: &str,
        netns: &Path,
        addr: Ipv4Addr,
        ports: &[HostPort],
    ) -> Result<(), NetError> {
        let (inner, name) = (&self.inner, link_name(uid));
        // A link without a record is left over from a set-up that was interrupted.
        inner.links.remove(&name).await?;
        let (node_ip, mtu) = (inner.config.node_ip, inner.config.mtu);
        inner.links.connect_pod(&PodLink { name: &name, netns, addr, node_ip, mtu }).await?;
        if !ports.is_empty() {
            // Lets programs of the node use a host port by 127.0.0.1; the input chain guards loopback on this link.
            sysctl(&format!("net/ipv4/conf/{name}/route_localnet"), "1")?;
        }
        inner.records.put(uid, &PodRecord { ip: addr, ports: ports.to_vec() })?;
        if !ports.is_empty() {
            self.replace_rules().await?;
        }
        Ok(())
    }

    /// The address of a connected pod.
    pub fn address(&self, pod_uid: &str) -> Result<Option<PodAddress>, NetError> {
        Ok(self.inner.records.get(pod_uid)?.map(|record| PodAddress { ip: record.ip }))
    }

    /// Disconnects a pod and frees its address. An unknown pod is fine.
    pub async fn teardown(&self, pod_uid: &str) -> Result<(), NetError> {
        let inner = &self.inner;
        let record = inner.records.get(pod_uid)?;
        inner.links.remove(&link_name(pod_uid)).await?;
        inner.records.remove(pod_uid)?;
        inner.pool.lock().release(pod_uid);
        match record {
            Some(record) if !record.ports.is_empty() => self.replace_rules().await,
            Some(_) | None => Ok(()),
        }
    }

    /// Disconnects every pod that is not in `alive`: what a crash between two steps left behind.
    pub async fn retain(&self, alive: &[String]) -> Result<(), NetError> {
        for (uid, _) in self.inner.records.all()? {
            if !alive.contains(&uid) {
                self.teardown(&uid).await?;
            }
        }
        let expected: Vec<_> = alive.iter().map(|uid| link_name(uid)).collect();
        for link in self.inner.links.pod_links().await? {
            if !expected.contains(&link) {
                self.inner.links.remove(&link).await?;
            }
        }
        Ok(())
    }

    async fn replace_rules(&self) -> Result<(), NetError> {
        let _turn = self.inner.rules.lock().await;
        let pods = self.inner.records.all()?;
        let ports = pods.iter().flat_map(|(_, pod)| pod.ports.iter().map(|port| (pod.ip, port)));
        let text = rules::render(&self.inner.config, ports).expect("writing to a String does not fail");
        rules::apply(&text).await
    }

    pub fn config(&self) -> &NetConfig {
        &self.inner.config
    }
}

/// Makes an address local to this node (for the cluster's DNS server), on the loopback device.
pub async fn add_local_address(addr: Ipv4Addr) -> Result<(), NetError> {
    Links::host()?.add_local_address(addr).await
}

/// Removes links, routes, addresses and tables of the pod network and the service proxy, whoever made them.
pub async fn purge(local_addresses: &[Ipv4Addr]) -> Result<(), NetError> {
    let links = Links::host()?;
    for name in links.pod_links().await? {
        links.remove(&name).await?;
    }
    links.remove_our_routes().await?;
    for addr in local_addresses.iter().chain([&GATEWAY]) {
        links.remove_local_address(*addr).await?;
    }
    let tables = [rules::TABLE, crate::proxy::TABLE];
    rules::apply(&tables.map(|t| format!("add table ip {t}\ndelete table ip {t}\n")).concat()).await
}

impl NetError {
    fn netlink(action: &'static str) -> impl FnOnce(rtnetlink::Error) -> NetError {
        move |source| NetError::Netlink { action, source }
    }
}

fn link_name(pod_uid: &str) -> String {
    // 15 bytes is all the kernel allows.
    format!("{LINK_PREFIX}{}", &hex::encode(Sha256::digest(pod_uid))[..11])
}

fn sysctl(key: &str, value: &str) -> Result<(), NetError> {
    let path = Path::new("/proc/sys").join(key);
    // A read-only /proc/sys with the right value is good enough.
    if std::fs::read_to_string(&path).is_ok_and(|now| now.trim() == value) {
        return Ok(());
    }
    std::fs::write(&path, value).map_err(|source| NetError::Sysctl { key: key.replace('/', "."), source })
}
