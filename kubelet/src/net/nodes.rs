//! Routes to the pods of the other nodes, kept equal to the cluster's Node objects and to this node's links.
//!
//! A route leads straight to the other node, so both must be on one network. Where they are not there is no route, and
//! the Node's conditions say so.

use std::collections::{BTreeMap, HashSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::links::{Links, NodeRoute, route_loopback};
use super::{Cidr, NetError};
use crate::proxy::Guarded;

/// How long the kernel is left alone after it could not tell or take routes.
const RETRY: Duration = Duration::from_secs(5);

/// What the Node's conditions tell of the network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkState {
    /// Pods can be connected.
    pub open: bool,
    /// The nodes whose pods cannot be reached from here, with the reason.
    pub unreachable: Vec<String>,
    /// One of them was in the cluster before this node, so that it is this node that is in the wrong place.
    pub misplaced: bool,
}

/// What a Node object says about the way to its pods.
#[derive(Clone, Debug, PartialEq)]
struct Peer {
    created: Option<Time>,
    address: Option<Ipv4Addr>,
    pods: Vec<Cidr>,
    /// Where its kubelet listens.
    kubelet: Guarded,
}

/// Follows the Node objects and the node's links until `shutdown`. `own_name` is this node, whose pods have routes of
/// their own; `kubelets` is told where all of them listen.
pub async fn run_node_routes(
    client: Client,
    own_name: String,
    state: watch::Sender<NetworkState>,
    kubelets: watch::Sender<Option<Guarded>>,
    shutdown: CancellationToken,
) -> Result<(), NetError> {
    let (links, mut changes) = (Links::host()?, Links::changes()?);
    let mut nodes = BTreeMap::new();
    let events = watcher(Api::<Node>::all(client), watcher::Config::default()).default_backoff();
    let mut events = events.take_until(shutdown.cancelled_owned()).boxed();
    let (mut relisting, mut failed) = (true, false);
    loop {
        let news = tokio::select! {
            event = events.try_next() => match event {
                Ok(Some(event)) => note(&mut nodes, &mut relisting, event),
                Ok(None) => return Ok(()),
                Err(error) => {
                    warn!(%error, "watch of nodes failed; it is resumed");
                    false
                }
            },
            Some(()) = changes.next() => true,
            () = tokio::time::sleep(RETRY), if failed => true,
        };
        if !news || relisting {
            continue;
        }
        let listening = Some(nodes.values().flat_map(|peer| &peer.kubelet).copied().collect());
        kubelets.send_if_modified(|told| {
            let news = *told != listening;
            *told = listening;
            news
        });
        let missing = match reconcile(&links, &nodes, &own_name).await {
            Ok(missing) => missing,
            Err(error) => {
                warn!(?error, "cannot make the routes to other nodes; they are tried again");
                failed = true;
                continue;
            }
        };
        failed = false;
        let unreachable: Vec<String> = missing.iter().map(|name| why_not(name, &nodes[name])).collect();
        let misplaced = missing.iter().any(|name| is_older(&nodes, name, &own_name));
        state.send_if_modified(|state| {
            if state.unreachable != unreachable {
                unreachable.iter().for_each(|why| warn!("{why}"));
            }
            let new = NetworkState { unreachable, misplaced, ..*state };
            std::mem::replace(state, new.clone()) != new
        });
    }
}

/// Takes an event in; tells whether anything here may change by it.
fn note(nodes: &mut BTreeMap<String, Peer>, relisting: &mut bool, event: watcher::Event<Node>) -> bool {
    match event {
        watcher::Event::Init => {
            nodes.clear();
            *relisting = true;
            false
        }
        watcher::Event::InitDone => {
            *relisting = false;
            true
        }
        watcher::Event::Apply(node) | watcher::Event::InitApply(node) => {
            let peer = peer(&node);
            nodes.insert(node.metadata.name.unwrap_or_default(), peer.clone()) != Some(peer)
        }
        watcher::Event::Delete(node) => {
            nodes.remove(node.metadata.name.as_deref().unwrap_or_default()).is_some()
        }
    }
}

/// Makes and removes routes; answers the nodes to which there is no way. One bad route must not keep the others from
/// being made.
async fn reconcile(
    links: &Links,
    nodes: &BTreeMap<String, Peer>,
    own_name: &str,
) -> Result<Vec<String>, NetError> {
    let have: HashSet<NodeRoute> = links.node_routes().await?.into_iter().collect();
    let (mut want, mut missing) = (HashSet::new(), Vec::new());
    for (name, peer) in nodes.iter().filter(|(name, peer)| *name != own_name && !peer.pods.is_empty()) {
        // Without an address no kubelet has been there yet.
        let Some(node) = peer.address else { continue };
        match links.direct_link(node).await? {
            Some(link) => want.extend(peer.pods.iter().map(|pods| NodeRoute { pods: *pods, node, link })),
            None => missing.push(name.clone()),
        }
    }
    for link in want.iter().map(|route| route.link).collect::<HashSet<_>>() {
        let done = links.name(link).await?.map_or(Ok(()), |name| route_loopback(&name, true));
        if let Err(error) = done {
            warn!(?error, "node ports of pods on other nodes cannot be used by way of 127.0.0.1");
        }
    }
    for route in want.difference(&have) {
        if let Err(error) = links.add_node_route(*route).await {
            warn!(?route, ?error, "cannot add a route to a node");
        }
    }
    for route in have.difference(&want) {
        if let Err(error) = links.remove_node_route(*route).await {
            warn!(?route, ?error, "cannot remove a route to a node");
        }
    }
    Ok(missing)
}

fn why_not(name: &str, peer: &Peer) -> String {
    let address = peer.address.map(|a| a.to_string()).unwrap_or_default();
    format!("the pods of node {name} cannot be reached: {address} is on no network of this node's own links")
}

fn is_older(nodes: &BTreeMap<String, Peer>, name: &str, own_name: &str) -> bool {
    let age = |name: &str| (nodes.get(name).and_then(|n| n.created.clone()), name.to_owned());
    age(name) < age(own_name)
}

fn peer(node: &Node) -> Peer {
    let status = node.status.as_ref();
    let addresses = || status.into_iter().flat_map(|s| s.addresses.iter().flatten());
    let internal = addresses().filter(|a| a.type_ == "InternalIP");
    let port = status.and_then(|s| s.daemon_endpoints.as_ref()?.kubelet_endpoint.as_ref());
    let port = port.and_then(|endpoint| u16::try_from(endpoint.port).ok()).filter(|port| *port > 0);
    let all = addresses().filter_map(|a| a.address.parse().ok());
    let ranges = node.spec.iter().flat_map(|s| s.pod_cidrs.iter().flatten().chain(&s.pod_cidr));
    let mut pods: Vec<Cidr> = ranges.filter_map(|c| c.parse().ok()).collect();
    pods.sort();
    pods.dedup();
    Peer {
        created: node.metadata.creation_timestamp.clone(),
        address: internal.filter_map(|a| a.address.parse().ok()).next(),
        pods,
        kubelet: all.filter_map(|address| Some((address, port?))).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, created: &str) -> Node {
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": name, "creationTimestamp": created},
            "spec": {"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24", "fd00::/64"]},
            "status": {"addresses": [
                {"type": "Hostname", "address": "b"}, {"type": "InternalIP", "address": "fd01::2"},
                {"type": "InternalIP", "address": "192.0.2.2"}, {"type": "ExternalIP", "address": "198.51.100.2"}],
                "daemonEndpoints": {"kubeletEndpoint": {"Port": 10260}}}
        }))
        .unwrap()
    }

    #[test]
    fn a_node_is_reached_by_its_internal_ipv4_address_and_its_kubelet_by_all() {
        let found = peer(&node("b", "2026-01-01T00:00:00Z"));
        assert_eq!(found.address, Some([192, 0, 2, 2].into()));
        assert_eq!(found.pods, ["10.244.1.0/24".parse().unwrap()]);
        let listening = [([192, 0, 2, 2].into(), 10260), ([198, 51, 100, 2].into(), 10260)];
        assert_eq!(found.kubelet, Guarded::from(listening));
        assert_eq!(peer(&Node::default()).pods, []);
    }

    #[test]
    fn only_what_changes_routes_is_news_and_the_newcomer_is_misplaced() {
        let (mut nodes, mut relisting) = (BTreeMap::new(), false);
        let old = node("b", "2026-01-01T00:00:00Z");
        assert!(note(&mut nodes, &mut relisting, watcher::Event::Apply(old.clone())));
        assert!(!note(&mut nodes, &mut relisting, watcher::Event::Apply(old)), "a heartbeat is no news");
        let new = node("a", "2026-01-02T00:00:00Z");
        assert!(note(&mut nodes, &mut relisting, watcher::Event::Apply(new.clone())));
        assert!(is_older(&nodes, "b", "a") && !is_older(&nodes, "a", "b"));
        assert!(note(&mut nodes, &mut relisting, watcher::Event::Delete(new)));
    }
}
