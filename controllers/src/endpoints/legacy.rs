//! Endpoints, the form before slices: one object per Service, ready and not ready addresses by port set.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::slice::LABEL_HEADLESS;
use super::{is_headless, pod, publishes_not_ready};
use crate::pods;

pub(super) const LABEL_MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const CONTROLLER: &str = "endpoint-controller";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
const CAPACITY: usize = 1000;

pub(super) fn is_ours(endpoints: &Endpoints) -> bool {
    let manager = endpoints.metadata.labels.as_ref().and_then(|l| l.get(LABEL_MANAGED_BY));
    manager.is_some_and(|m| m == CONTROLLER)
}

pub(super) fn same(existing: &Endpoints, desired: &Endpoints) -> bool {
    let none_is_empty = |e: &Endpoints| e.subsets.clone().unwrap_or_default();
    none_is_empty(existing) == none_is_empty(desired)
        && existing.metadata.labels == desired.metadata.labels
        && existing.metadata.annotations.clone().unwrap_or_default()
            == desired.metadata.annotations.clone().unwrap_or_default()
}

pub(super) fn desired(service: &Service, pods: &[Arc<Pod>], existing: Option<&Endpoints>) -> Endpoints {
    let mut subsets = subsets(service, pods);
    let truncated = truncate(&mut subsets);
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.insert(LABEL_MANAGED_BY.to_owned(), CONTROLLER.to_owned());
    labels.remove(LABEL_HEADLESS);
    if is_headless(service) {
        labels.insert(LABEL_HEADLESS.to_owned(), String::new());
    }
    let mut metadata = existing.map_or_else(
        || ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.metadata.namespace.clone(),
            ..ObjectMeta::default()
        },
        |e| e.metadata.clone(),
    );
    let annotations = metadata.annotations.get_or_insert_default();
    if truncated {
        annotations.insert(OVER_CAPACITY.to_owned(), "truncated".to_owned());
    } else {
        annotations.remove(OVER_CAPACITY);
    }
    metadata.labels = Some(labels);
    Endpoints { metadata, subsets: Some(subsets) }
}

fn subsets(service: &Service, pods: &[Arc<Pod>]) -> Vec<EndpointSubset> {
    let ipv6 =
        service.spec.as_ref().and_then(|s| s.ip_families.as_ref()?.first()).is_some_and(|f| f == "IPv6");
    let unready_too = publishes_not_ready(service);
    let has_ports = service.spec.as_ref().is_some_and(|s| s.ports.as_ref().is_some_and(|p| !p.is_empty()));
    let mut offers: Vec<Offer> = Vec::new();
    for pod in pods {
        let leaving = pods::is_terminating(pod) && !unready_too;
        let Some(address) = pod::address(pod, ipv6).filter(|_| !leaving) else { continue };
        let address = EndpointAddress {
            ip: address,
            hostname: pod::hostname(pod, service),
            node_name: pods::node_name(pod).map(str::to_owned),
            target_ref: Some(pod::reference(pod)),
        };
        let ready = unready_too || pods::is_ready(pod);
        let ports = ports(service, pod);
        if has_ports {
            offers.extend(ports.into_iter().map(|port| Offer {
                port: Some(port),
                address: address.clone(),
                ready,
            }));
        } else {
            offers.push(Offer { port: None, address, ready });
        }
    }
    packed(offers)
}

/// One port at one address; without a port for a Service that names none.
struct Offer {
    port: Option<EndpointPort>,
    address: EndpointAddress,
    ready: bool,
}

/// Ports that the very same addresses offer stand together, as upstream groups them: first the addresses of each port,
/// then the ports of each set of addresses.
fn packed(offers: Vec<Offer>) -> Vec<EndpointSubset> {
    type Place = (String, String);
    type Addresses = BTreeMap<Place, (bool, EndpointAddress)>;
    let text = |port: &Option<EndpointPort>| serde_json::to_string(port).unwrap_or_default();
    let mut by_port: BTreeMap<String, (Option<EndpointPort>, Addresses)> = BTreeMap::new();
    for Offer { port, address, ready } in offers {
        let uid = address.target_ref.as_ref().and_then(|r| r.uid.clone()).unwrap_or_default();
        let (_, addresses) = by_port.entry(text(&port)).or_insert_with(|| (port, Addresses::new()));
        let place = addresses.entry((address.ip.clone(), uid)).or_insert((ready, address));
        // Of one address that is both, not ready counts.
        place.0 &= ready;
    }
    type Subset = (Vec<EndpointPort>, Addresses);
    let mut by_addresses: BTreeMap<Vec<(Place, bool)>, Subset> = BTreeMap::new();
    let mut by_port: Vec<_> = by_port.into_values().collect();
    by_port.sort_by_key(|(port, _)| port.as_ref().map(|port| port.port));
    for (port, addresses) in by_port {
        let set = addresses.iter().map(|(place, (ready, _))| (place.clone(), *ready)).collect();
        by_addresses.entry(set).or_insert_with(|| (Vec::new(), addresses)).0.extend(port);
    }
    let subset = |(ports, addresses): (Vec<EndpointPort>, Addresses)| {
        let (ready, unready): (Vec<_>, Vec<_>) = addresses.into_values().partition(|(ready, _)| *ready);
        let list = |all: Vec<(bool, EndpointAddress)>| {
            (!all.is_empty()).then(|| all.into_iter().map(|(_, address)| address).collect())
        };
        EndpointSubset {
            addresses: list(ready),
            not_ready_addresses: list(unready),
            ports: (!ports.is_empty()).then_some(ports),
        }
    };
    let mut subsets: Vec<_> = by_addresses.into_values().map(subset).collect();
    let key = |s: &EndpointSubset| -> Vec<(i32, Option<String>)> {
        s.ports.iter().flatten().map(|port| (port.port, port.name.clone())).collect()
    };
    subsets.sort_by_cached_key(key);
    subsets
}

fn ports(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    let ports = service.spec.iter().flat_map(|s| s.ports.iter().flatten());
    let resolved = ports.filter_map(|port| {
        Some(EndpointPort {
            name: port.name.clone().filter(|n| !n.is_empty()),
            port: pod::port(pod, port)?,
            protocol: Some(pod::protocol(port.protocol.as_deref()).to_owned()),
            app_protocol: port.app_protocol.clone(),
        })
    });
    resolved.collect()
}

/// Keeps a thousand addresses, ready ones first; returns whether there were more.
fn truncate(subsets: &mut [EndpointSubset]) -> bool {
    let mut room = CAPACITY;
    let mut over = false;
    let mut cut = |list: &mut Option<Vec<EndpointAddress>>| {
        if let Some(list) = list {
            over |= list.len() > room;
            list.truncate(room);
            room -= list.len();
        }
    };
    subsets.iter_mut().for_each(|s| cut(&mut s.addresses));
    subsets.iter_mut().for_each(|s| cut(&mut s.not_ready_addresses));
    over
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Subsets in short: the ports, the ready addresses, the others.
    fn short(offers: &[(&str, &str, bool)]) -> Vec<String> {
        let offer = |(port, ip, ready): &(&str, &str, bool)| Offer {
            port: port.parse().ok().map(|port| EndpointPort { port, ..EndpointPort::default() }),
            address: EndpointAddress { ip: (*ip).to_owned(), ..EndpointAddress::default() },
            ready: *ready,
        };
        let list = |all: &Option<Vec<EndpointAddress>>| {
            all.iter().flatten().map(|a| a.ip.clone()).collect::<Vec<_>>().join(",")
        };
        let ports = |s: &EndpointSubset| {
            s.ports.iter().flatten().map(|p| p.port.to_string()).collect::<Vec<_>>().join(",")
        };
        let subsets = packed(offers.iter().map(offer).collect());
        subsets
            .iter()
            .map(|s| format!("{}:{}|{}", ports(s), list(&s.addresses), list(&s.not_ready_addresses)))
            .collect()
    }

    #[test]
    fn ports_of_the_same_addresses_stand_together() {
        let cases: [(&[(&str, &str, bool)], &[&str]); 6] = [
            (&[("80", "b", true), ("80", "a", true), ("90", "a", true), ("90", "b", true)], &["80,90:a,b|"]),
            (&[("80", "a", true), ("80", "b", false), ("90", "a", true), ("90", "b", false)], &["80,90:a|b"]),
            // A named port that two pods have under different numbers, beside one that both share.
            (
                &[("80", "a", true), ("80", "b", true), ("8080", "a", true), ("9090", "b", true)],
                &["80:a,b|", "8080:a|", "9090:b|"],
            ),
            (&[("80", "a", true), ("90", "a", false)], &["80:a|", "90:|a"]),
            (&[("80", "a", true), ("80", "a", false)], &["80:|a"]),
            (&[("", "a", true), ("", "b", false)], &[":a|b"]),
        ];
        for (offers, expected) in cases {
            assert_eq!(short(offers), expected, "{offers:?}");
        }
    }
}
