//! Endpoints, the form before slices: one object per Service, ready and not ready addresses by port set.

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
    let mut subsets: Vec<EndpointSubset> = Vec::new();
    for pod in pods {
        let leaving = pods::is_terminating(pod) && !unready_too;
        let Some(address) = pod::address(pod, ipv6).filter(|_| !leaving) else { continue };
        let ports = ports(service, pod);
        let has_ports =
            service.spec.as_ref().is_some_and(|s| s.ports.as_ref().is_some_and(|p| !p.is_empty()));
        if has_ports && ports.is_empty() {
            continue;
        }
        let address = EndpointAddress {
            ip: address,
            hostname: pod::hostname(pod, service),
            node_name: pods::node_name(pod).map(str::to_owned),
            target_ref: Some(pod::reference(pod)),
        };
        let ports = (!ports.is_empty()).then_some(ports);
        let at = subsets.iter().position(|s| s.ports == ports).unwrap_or_else(|| {
            subsets.push(EndpointSubset { ports, ..EndpointSubset::default() });
            subsets.len() - 1
        });
        let ready = unready_too || pods::is_ready(pod);
        let list = if ready { &mut subsets[at].addresses } else { &mut subsets[at].not_ready_addresses };
        list.get_or_insert_default().push(address);
    }
    for subset in &mut subsets {
        for list in [&mut subset.addresses, &mut subset.not_ready_addresses].into_iter().flatten() {
            list.sort_by(|a, b| a.ip.cmp(&b.ip));
        }
    }
    subsets.sort_by_cached_key(|s| serde_json::to_string(&s.ports).unwrap_or_default());
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
