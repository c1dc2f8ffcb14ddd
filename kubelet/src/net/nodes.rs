//! Routes to the pods of the other nodes, kept equal to the cluster's Node objects.

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Node;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::links::{Links, NodeRoute};
use super::{Cidr, NetError};

/// Follows the Node objects until `shutdown`. `own_name` is this node, whose pods have routes of their own.
pub async fn run_node_routes(
    client: Client,
    own_name: String,
    shutdown: CancellationToken,
) -> Result<(), NetError> {
    let links = Links::host()?;
    let mut have: HashSet<NodeRoute> = links.node_routes().await?.into_iter().collect();
    let mut nodes = HashMap::new();
    let events = watcher(Api::<Node>::all(client), watcher::Config::default()).default_backoff();
    let mut events = events.take_until(shutdown.cancelled_owned()).boxed();
    let mut relisting = false;
    loop {
        match events.try_next().await {
            Ok(Some(watcher::Event::Init)) => {
                nodes.clear();
                relisting = true;
            }
            Ok(Some(watcher::Event::InitDone)) => relisting = false,
            Ok(Some(watcher::Event::Apply(node) | watcher::Event::InitApply(node))) => {
                let name = node.metadata.name.clone().unwrap_or_default();
                let routes = if name == own_name { Vec::new() } else { routes_to(&node) };
                nodes.insert(name, routes);
            }
            Ok(Some(watcher::Event::Delete(node))) => {
                nodes.remove(node.metadata.name.as_deref().unwrap_or_default());
            }
            Ok(None) => return Ok(()),
            Err(error) => {
                warn!(%error, "watch of nodes failed; it is resumed");
                continue;
            }
        }
        if !relisting {
            let want: HashSet<NodeRoute> = nodes.values().flatten().copied().collect();
            reconcile(&links, &mut have, &want).await;
        }
    }
}

/// One bad route must not keep the others from being made.
async fn reconcile(links: &Links, have: &mut HashSet<NodeRoute>, want: &HashSet<NodeRoute>) {
    for route in have.difference(want).copied().collect::<Vec<_>>() {
        match links.remove_node_route(route).await {
            Ok(()) => drop(have.remove(&route)),
            Err(error) => warn!(?route, ?error, "cannot remove a route to a node"),
        }
    }
    for route in want.difference(&have.clone()) {
        match links.add_node_route(*route).await {
            Ok(()) => drop(have.insert(*route)),
            Err(error) => warn!(?route, ?error, "cannot add a route to a node"),
        }
    }
}

/// One route for each IPv4 pod range of a node, over its internal address.
fn routes_to(node: &Node) -> Vec<NodeRoute> {
    let addresses = node.status.iter().flat_map(|s| s.addresses.iter().flatten());
    let internal =
        addresses.filter(|a| a.type_ == "InternalIP").find_map(|a| a.address.parse::<Ipv4Addr>().ok());
    let Some((address, spec)) = internal.zip(node.spec.as_ref()) else { return Vec::new() };
    let many = spec.pod_cidrs.iter().flatten();
    let ranges: HashSet<Cidr> = many.chain(&spec.pod_cidr).filter_map(|c| c.parse().ok()).collect();
    ranges.into_iter().map(|pods| NodeRoute { pods, node: address }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_reached_by_its_internal_ipv4_address() {
        let node: Node = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "b"},
            "spec": {"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24", "fd00::/64"]},
            "status": {"addresses": [
                {"type": "Hostname", "address": "b"}, {"type": "InternalIP", "address": "fd01::2"},
                {"type": "InternalIP", "address": "192.0.2.2"}]}
        }))
        .unwrap();
        let pods = "10.244.1.0/24".parse().unwrap();
        assert_eq!(routes_to(&node), [NodeRoute { pods, node: [192, 0, 2, 2].into() }]);
        assert_eq!(routes_to(&Node::default()), []);
    }
}
