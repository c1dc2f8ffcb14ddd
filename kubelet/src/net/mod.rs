//! The pod network: one veth pair per pod, an address of the node's range, routes, masquerade and host ports.
//!
//! Point to point, no bridge: a pod has a /32 address and reaches everything through `169.254.1.1`, which lives on the
//! node's loopback device; the node has one /32 route per pod. Pods of other nodes are reached by routes over
//! those nodes (`nodes`).

mod addresses;
mod links;
mod nft_events;
mod nodes;
mod records;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use nft_events::hostile_notes;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use records::hostile_record;
mod repair;
#[cfg(test)]
mod repair_tests;
mod rules;
mod services;

use std::collections::HashMap;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use sha2::{Digest, Sha256};

pub use coracle_api::Cidr;
pub use nodes::{NetworkState, run_node_routes};
pub use repair::run_repair;
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
    /// The links of connected pods, by name: what is taken away of these is mended.
    wanted: Mutex<HashMap<String, WantedLink>>,
    /// Held by what connects and disconnects pods, and by itself by what mends.
    mending: tokio::sync::RwLock<()>,
    /// One replacement of the host-port rules at a time, so that the last one tells the newest state.
    rules: tokio::sync::Mutex<()>,
}

/// A pod's link that should be there.
struct WantedLink {
    uid: String,
    ip: Ipv4Addr,
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
        let mut wanted = HashMap::new();
        for (uid, record) in records.all()? {
            let name = link_name(&uid);
            // One whose link is gone is connected again, if its namespace is still there.
            if present.contains(&name) || record.netns.as_ref().is_some_and(|netns| netns.exists()) {
                pool.adopt(&uid, record.ip);
                wanted.insert(name, WantedLink { uid, ip: record.ip });
            } else {
                records.remove(&uid)?;
            }
        }
        let inner = Inner {
            config,
            links,
            records,
            pool: Mutex::new(pool),
            wanted: Mutex::new(wanted),
            mending: tokio::sync::RwLock::default(),
            rules: tokio::sync::Mutex::new(()),
        };
        let network = PodNetwork { inner: Arc::new(inner) };
        network.replace_rules().await?;
        // An earlier version did so for pods with host ports alone.
        present.iter().try_for_each(|link| links::route_loopback(link, true))?;
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
        let turn = inner.mending.read().await;
        if let Some(record) = inner.records.get(pod_uid)? {
            return Ok(PodAddress { ip: record.ip });
        }
        let addr = inner.pool.lock().assign(pod_uid).ok_or(NetError::Exhausted(inner.config.pod_cidr))?;
        match self.connect(pod_uid, netns, addr, ports).await {
            Ok(()) => Ok(PodAddress { ip: addr }),
            Err(error) => {
                drop(turn);
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
        self.link(&name, netns, addr).await?;
        inner
            .records
            .put(uid, &PodRecord { ip: addr, ports: ports.to_vec(), netns: Some(netns.to_owned()) })?;
        inner.wanted.lock().insert(name, WantedLink { uid: uid.to_owned(), ip: addr });
        if !ports.is_empty() {
            self.replace_rules().await?;
        }
        Ok(())
    }

    async fn link(&self, name: &str, netns: &Path, addr: Ipv4Addr) -> Result<(), NetError> {
        let Inner { links, config, .. } = &*self.inner;
        // A link without a record is left over from a set-up that was interrupted.
        links.remove(name).await?;
        let (node_ip, mtu) = (config.node_ip, config.mtu);
        links.connect_pod(&PodLink { name, netns, addr, node_ip, mtu }).await?;
        links::route_loopback(name, true)
    }

    /// Makes again what is missing of addresses, routes and links; says how many pods that concerned.
    async fn mend(&self, local: &[Ipv4Addr]) -> Result<usize, NetError> {
        let inner = &self.inner;
        let _alone = inner.mending.write().await;
        let Inner { links, config, .. } = &**inner;
        for address in local.iter().chain([&GATEWAY]) {
            links.add_local_address(*address).await?;
        }
        links.route_to_loopback(config.service_cidr, config.node_ip).await?;
        let (present, routes) = (links.pod_links_up().await?, links.own_routes().await?);
        let missing: Vec<(String, String, Ipv4Addr)> = {
            let wanted = inner.wanted.lock();
            let lacking = wanted
                .iter()
                .filter(|(name, link)| !present.contains(*name) || !routes.contains(&Cidr::new(link.ip, 32)));
            lacking.map(|(name, link)| (name.clone(), link.uid.clone(), link.ip)).collect()
        };
        for (name, uid, ip) in &missing {
            if links.mend_pod(name, *ip, config.node_ip).await? {
                continue;
            }
            let Some(PodRecord { netns: Some(netns), .. }) = inner.records.get(uid)? else { continue };
            // One pod whose namespace is going must not keep the others from their links.
            if let Err(error) = self.link(name, &netns, *ip).await {
                tracing::warn!(uid, ?error, "a pod cannot be connected again");
            }
        }
        Ok(missing.len())
    }

    /// The address of a connected pod.
    pub fn address(&self, pod_uid: &str) -> Result<Option<PodAddress>, NetError> {
        Ok(self.inner.records.get(pod_uid)?.map(|record| PodAddress { ip: record.ip }))
    }

    /// Disconnects a pod and frees its address. An unknown pod is fine.
    pub async fn teardown(&self, pod_uid: &str) -> Result<(), NetError> {
        let inner = &self.inner;
        let turn = inner.mending.read().await;
        let (record, name) = (inner.records.get(pod_uid)?, link_name(pod_uid));
        inner.wanted.lock().remove(&name);
        inner.links.remove(&name).await?;
        inner.records.remove(pod_uid)?;
        inner.pool.lock().release(pod_uid);
        drop(turn);
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
    for route in links.node_routes().await? {
        // Without the rules nothing would guard the node's loopback; a link that is gone needs no guard.
        if let Some(link) = links.name(route.link).await? {
            links::route_loopback(&link, false)?;
        }
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
