//! This machine as a node: what the user asked for, with the gaps filled in and checked.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Context, Result};

use crate::cli::Node;
use crate::cluster_facts::ClusterFacts;
use crate::data_dir::Layout;
use crate::up::cidr;
use crate::{flags, preflight};

pub(crate) struct Place {
    pub layout: Layout,
    pub node_name: String,
    pub node_ip: IpAddr,
    pub facts: ClusterFacts,
    pub options: Node,
}

// === impl Place ===

impl Place {
    pub(crate) fn of(options: Node, runs_pods: bool) -> Result<Self> {
        flags::check(&options)?;
        let layout = Layout::of(options.data.data_dir.as_deref())?;
        flags::writable_directory("--data-dir", &layout.data)?;
        let node_ip = match (options.node_ip, preflight::node_ip()) {
            (Some(ip), _) => ip,
            (None, Ok(ip)) => ip,
            // Without pods nobody but this machine needs to reach it.
            (None, Err(_)) if !runs_pods => IpAddr::V4(Ipv4Addr::LOCALHOST),
            (None, Err(error)) => return Err(error),
        };
        let node_name = options.node_name.clone().map_or_else(preflight::host_name, Ok)?;
        let service_cidr = cidr(&options.service_cidr).context("--service-cidr")?;
        if runs_pods {
            preflight::nft()?;
            preflight::cgroups()?;
            let kubelet = SocketAddr::new(options.bind_address, options.kubelet_port);
            preflight::port_is_free("node", "--kubelet-port", kubelet)?;
        }
        let facts = ClusterFacts {
            service_cidr: options.service_cidr.clone(),
            cluster_cidr: options.cluster_cidr.clone(),
            cluster_dns: options.cluster_dns.unwrap_or_else(|| tenth(service_cidr)),
            cluster_domain: options.cluster_domain.clone(),
        };
        Ok(Place { layout, node_name, node_ip, facts, options })
    }
}

/// The tenth address of a range: where upstream's installers put the cluster's DNS.
fn tenth((network, _): (Ipv4Addr, u8)) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(u32::from(network) + 10))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dns_is_the_tenth_address() {
        assert_eq!(tenth(cidr("10.96.0.0/16").unwrap()), IpAddr::from([10, 96, 0, 10]));
    }
}
