//! Slices that say the same as Endpoints written by hand, for clients that read only slices.

use coracle_api::names::{LABEL_ENDPOINT_SLICE_MANAGED_BY, LABEL_SERVICE_NAME};
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointSubset, Endpoints, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort};

use super::legacy;
use super::slice::{Group, Shape};
use crate::claims::{controller_ref, name, namespace};

pub(super) const CONTROLLER: &str = "endpointslicemirroring-controller.k8s.io";
const LABEL_SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
const NOT_COPIED: &[&str] =
    &["kubectl.kubernetes.io/last-applied-configuration", "endpoints.kubernetes.io/last-change-trigger-time"];
/// Addresses mirrored of each subset.
const SUBSET_LIMIT: usize = 1000;

/// Only Endpoints of a Service without selector, and none that are made by a controller or used as a lock.
pub(super) fn wanted(endpoints: &Endpoints, service: Option<&Service>) -> bool {
    let skipped = endpoints.metadata.labels.as_ref().and_then(|l| l.get(LABEL_SKIP));
    let lock = endpoints.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(LEADER));
    let by_hand = service.and_then(|s| s.spec.as_ref()).is_some_and(|s| s.selector.is_none());
    by_hand && !lock && skipped.is_none_or(|s| s != "true") && endpoints.metadata.deletion_timestamp.is_none()
}

pub(super) fn shape(endpoints: &Endpoints) -> Shape {
    let mut labels = endpoints.metadata.labels.clone().unwrap_or_default();
    labels.remove(legacy::LABEL_MANAGED_BY);
    labels.insert(LABEL_SERVICE_NAME.to_owned(), name(endpoints).to_owned());
    labels.insert(LABEL_ENDPOINT_SLICE_MANAGED_BY.to_owned(), CONTROLLER.to_owned());
    let mut annotations = endpoints.metadata.annotations.clone().unwrap_or_default();
    annotations.retain(|key, _| !NOT_COPIED.contains(&key.as_str()));
    Shape {
        prefix: format!("{}-", name(endpoints)),
        namespace: namespace(endpoints).to_owned(),
        labels,
        annotations,
        owner: controller_ref(endpoints),
    }
}

pub(super) fn groups(endpoints: &Endpoints) -> Vec<Group> {
    let subsets = endpoints.subsets.iter().flatten();
    let mut groups: Vec<Group> = Vec::new();
    for group in subsets.flat_map(of_subset) {
        match groups.iter_mut().find(|g| g.address_type == group.address_type && g.ports == group.ports) {
            Some(same) => same.endpoints.extend(group.endpoints),
            None => groups.push(group),
        }
    }
    groups
}

fn of_subset(subset: &EndpointSubset) -> Vec<Group> {
    let ready = subset.addresses.iter().flatten().map(|a| (a, true));
    let unready = subset.not_ready_addresses.iter().flatten().map(|a| (a, false));
    let all: Vec<_> = ready.chain(unready).take(SUBSET_LIMIT).collect();
    let ports: Vec<EndpointPort> = subset.ports.iter().flatten().map(port).collect();
    let of_family = |address_type: &'static str| {
        let own = all.iter().filter(|(a, _)| a.ip.contains(':') == (address_type == "IPv6"));
        let endpoints: Vec<_> = own.map(|(address, ready)| endpoint(address, *ready)).collect();
        (!endpoints.is_empty()).then(|| Group { address_type, ports: ports.clone(), endpoints })
    };
    ["IPv4", "IPv6"].into_iter().filter_map(of_family).collect()
}

fn port(port: &k8s_openapi::api::core::v1::EndpointPort) -> EndpointPort {
    EndpointPort {
        name: Some(port.name.clone().unwrap_or_default()),
        port: Some(port.port),
        protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
        app_protocol: port.app_protocol.clone(),
    }
}

fn endpoint(address: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..EndpointConditions::default() }),
        hostname: address.hostname.clone(),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}
