//! What this node does for the cluster's network beside its own pods: Services, DNS, routes to other nodes.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use anyhow::Context as _;
use kube::Client;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::{NetConfig, NetError, NetworkState, add_local_address, run_node_routes};
use crate::dns::{self, DnsConfig};
use crate::proxy::catalog::Catalog;
use crate::proxy::{self, ProxyConfig};

/// Whom this node's services are for.
#[derive(Clone)]
pub struct ServicesConfig {
    /// May list and watch Services, EndpointSlices and Nodes.
    pub client: Client,
    pub node_name: String,
    /// Where pods ask for names; `None` runs no DNS server.
    pub cluster_dns: Option<IpAddr>,
    pub cluster_domain: String,
    /// Where it is told which nodes' pods can be reached.
    pub state: watch::Sender<NetworkState>,
    /// Told when others have changed the rules of services.
    pub damaged: Arc<Notify>,
}

/// Runs the service proxy, the DNS server and the node routes until `shutdown`, or until one of them fails.
pub async fn run_services(
    config: ServicesConfig,
    network: NetConfig,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let catalog = Catalog::new();
    let dns_address = match config.cluster_dns {
        Some(IpAddr::V4(address)) => Some(address),
        Some(IpAddr::V6(address)) => anyhow::bail!("cluster DNS address {address} is not IPv4"),
        None => None,
    };
    let proxy = ProxyConfig {
        node_name: config.node_name.clone(),
        cluster_cidr: network.cluster_cidr,
        service_cidr: network.service_cidr,
        own_addresses: dns_address.into_iter().collect(),
    };
    let names = async {
        let Some(address) = dns_address else {
            shutdown.cancelled().await;
            return Ok(());
        };
        add_local_address(address).await?;
        let upstream = dns::host_servers(IpAddr::V4(address));
        let dns =
            DnsConfig { address: SocketAddr::from((address, 53)), domain: config.cluster_domain, upstream };
        let served = dns::run(dns, catalog.clone(), shutdown.clone()).await;
        served.with_context(|| format!("cannot serve DNS on {address}:53"))
    };
    let follow = async {
        catalog.clone().run(config.client.clone(), shutdown.clone()).await;
        Ok(())
    };
    let (listening, kubelets) = watch::channel(None);
    let failed = |what: &'static str| move |error: NetError| anyhow::Error::new(error).context(what);
    let rules = async {
        proxy::run(proxy, catalog.clone(), kubelets, config.damaged, shutdown.clone())
            .await
            .map_err(failed("service proxy"))
    };
    let routes = async {
        let (client, own_name) = (config.client.clone(), config.node_name.clone());
        let routes = run_node_routes(client, own_name, config.state, listening, shutdown.clone());
        routes.await.map_err(failed("node routes"))
    };
    tokio::try_join!(names, follow, rules, routes)?;
    Ok(())
}
