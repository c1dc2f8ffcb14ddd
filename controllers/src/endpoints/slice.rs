//! EndpointSlices: endpoints grouped by address family and ports, at most a hundred in a slice, and as few slices
//! rewritten as possible.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use coracle_api::names::{LABEL_ENDPOINT_SLICE_MANAGED_BY, LABEL_SERVICE_NAME};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::{is_headless, pod, publishes_not_ready};
use crate::claims::{controller_ref, name, namespace};
use crate::pods;

pub(super) const CONTROLLER: &str = "endpointslice-controller.k8s.io";
pub(super) const LABEL_HEADLESS: &str = "service.kubernetes.io/headless";
const SLICE_SIZE: usize = 100;

#[derive(Debug)]
pub(super) enum Write {
    Create(Box<EndpointSlice>),
    Replace(Box<EndpointSlice>),
    Delete(Arc<EndpointSlice>),
}

/// Endpoints that share family and ports.
#[derive(Debug, Clone)]
pub(super) struct Group {
    pub(super) address_type: &'static str,
    pub(super) ports: Vec<EndpointPort>,
    pub(super) endpoints: Vec<Endpoint>,
}

/// What all slices of one source have in common.
pub(super) struct Shape {
    pub(super) prefix: String,
    pub(super) namespace: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) owner: OwnerReference,
}

pub(super) fn manager(slice: &EndpointSlice) -> Option<&str> {
    slice.metadata.labels.as_ref()?.get(LABEL_ENDPOINT_SLICE_MANAGED_BY).map(String::as_str)
}

// === from pods ===

impl Shape {
    pub(super) fn of_service(service: &Service) -> Self {
        let mut labels = service.metadata.labels.clone().unwrap_or_default();
        labels.remove(LABEL_HEADLESS);
        if is_headless(service) {
            labels.insert(LABEL_HEADLESS.to_owned(), String::new());
        }
        labels.insert(LABEL_SERVICE_NAME.to_owned(), name(service).to_owned());
        labels.insert(LABEL_ENDPOINT_SLICE_MANAGED_BY.to_owned(), CONTROLLER.to_owned());
        Shape {
            prefix: format!("{}-", name(service)),
            namespace: namespace(service).to_owned(),
            labels,
            annotations: BTreeMap::new(),
            owner: controller_ref(service),
        }
    }
}

/// The groups a Service should have; a family without endpoints has one empty group.
pub(super) fn of_pods(
    service: &Service,
    pods: &[Arc<Pod>],
    zone: impl Fn(&str) -> Option<String>,
) -> Vec<Group> {
    let families = service.spec.as_ref().and_then(|s| s.ip_families.clone()).unwrap_or_default();
    let families = if families.is_empty() { vec!["IPv4".to_owned()] } else { families };
    let mut groups: Vec<Group> = Vec::new();
    for family in families {
        let ipv6 = family == "IPv6";
        let address_type = if ipv6 { "IPv6" } else { "IPv4" };
        let before = groups.len();
        for pod in pods {
            let Some(address) = pod::address(pod, ipv6) else { continue };
            let ports = ports(service, pod);
            let endpoint = endpoint(service, pod, address, &zone);
            match groups[before..].iter_mut().find(|g| g.ports == ports) {
                Some(group) => group.endpoints.push(endpoint),
                None => groups.push(Group { address_type, ports, endpoints: vec![endpoint] }),
            }
        }
        if groups.len() == before {
            groups.push(Group { address_type, ports: Vec::new(), endpoints: Vec::new() });
        }
    }
    groups
}

fn ports(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    let ports = service.spec.iter().flat_map(|s| s.ports.iter().flatten());
    let resolved = ports.filter_map(|port| {
        Some(EndpointPort {
            name: Some(port.name.clone().unwrap_or_default()),
            port: Some(pod::port(pod, port)?),
            protocol: Some(pod::protocol(port.protocol.as_deref()).to_owned()),
            app_protocol: port.app_protocol.clone(),
        })
    });
    resolved.collect()
}

fn endpoint(
    service: &Service,
    pod: &Pod,
    address: String,
    zone: impl Fn(&str) -> Option<String>,
) -> Endpoint {
    let (serving, terminating) = (pods::is_ready(pod), pods::is_terminating(pod));
    let ready = publishes_not_ready(service) || (serving && !terminating);
    let node_name = pods::node_name(pod).map(str::to_owned);
    Endpoint {
        addresses: vec![address],
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: pod::hostname(pod, service),
        zone: node_name.as_deref().and_then(zone),
        node_name,
        target_ref: Some(pod::reference(pod)),
        ..Endpoint::default()
    }
}

// === placing endpoints into slices ===

/// The writes that bring the existing slices to hold exactly the groups.
pub(super) fn plan(existing: &[Arc<EndpointSlice>], groups: Vec<Group>, shape: &Shape) -> Vec<Write> {
    let mut writes = Vec::new();
    let mut unused: Vec<&Arc<EndpointSlice>> = existing.iter().collect();
    for group in groups {
        let (mine, rest) = unused
            .into_iter()
            .partition(|slice| slice.address_type == group.address_type && ports_of(slice) == group.ports);
        unused = rest;
        place(mine, group, shape, &mut writes);
    }
    writes.extend(unused.into_iter().map(|slice| Write::Delete(slice.clone())));
    writes
}

fn ports_of(slice: &EndpointSlice) -> &[EndpointPort] {
    slice.ports.as_deref().unwrap_or_default()
}

/// What makes two endpoints the same one.
fn identity(endpoint: &Endpoint) -> (Vec<String>, Option<String>) {
    (endpoint.addresses.clone(), endpoint.target_ref.as_ref().and_then(|r| r.uid.clone()))
}

fn place(mine: Vec<&Arc<EndpointSlice>>, group: Group, shape: &Shape, writes: &mut Vec<Write>) {
    let Group { address_type, ports, endpoints } = group;
    let mut order: HashMap<_, usize> = HashMap::new();
    let mut wanted: Vec<Option<Endpoint>> = Vec::new();
    for endpoint in endpoints {
        order.entry(identity(&endpoint)).or_insert_with(|| {
            wanted.push(Some(endpoint));
            wanted.len() - 1
        });
    }
    let mut filled: Vec<Vec<Endpoint>> = Vec::new();
    for slice in &mine {
        let held = slice.endpoints.iter().flatten();
        let kept = held.filter_map(|e| wanted[*order.get(&identity(e))?].take());
        filled.push(kept.collect());
    }
    let mut left: Vec<Endpoint> = wanted.into_iter().flatten().collect();
    for slot in &mut filled {
        let room = SLICE_SIZE.saturating_sub(slot.len()).min(left.len());
        slot.extend(left.drain(..room));
    }
    let mut holds_any = false;
    let spare = filled.iter().all(Vec::is_empty) && left.is_empty();
    for (slice, endpoints) in mine.into_iter().zip(filled) {
        // One slice stays, empty, so that clients see the Service has no endpoints.
        if endpoints.is_empty() && (holds_any || !spare) {
            writes.push(Write::Delete(slice.clone()));
            continue;
        }
        holds_any = true;
        let changed = fill(slice, endpoints, shape);
        if changed != **slice {
            writes.push(Write::Replace(Box::new(changed)));
        }
    }
    let mut rest = left.into_iter().peekable();
    while rest.peek().is_some() || !holds_any {
        holds_any = true;
        let endpoints = rest.by_ref().take(SLICE_SIZE).collect();
        writes.push(Write::Create(Box::new(new(address_type, &ports, endpoints, shape))));
    }
}

fn fill(slice: &EndpointSlice, endpoints: Vec<Endpoint>, shape: &Shape) -> EndpointSlice {
    let mut changed = slice.clone();
    if changed.endpoints.as_deref().unwrap_or_default() != endpoints {
        changed.endpoints = Some(endpoints);
    }
    if changed.metadata.labels.as_ref() != Some(&shape.labels) {
        changed.metadata.labels = Some(shape.labels.clone());
    }
    if changed.metadata.annotations.clone().unwrap_or_default() != shape.annotations {
        changed.metadata.annotations = Some(shape.annotations.clone());
    }
    changed
}

fn new(address_type: &str, ports: &[EndpointPort], endpoints: Vec<Endpoint>, shape: &Shape) -> EndpointSlice {
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(shape.prefix.clone()),
            namespace: Some(shape.namespace.clone()),
            labels: Some(shape.labels.clone()),
            annotations: (!shape.annotations.is_empty()).then(|| shape.annotations.clone()),
            owner_references: Some(vec![shape.owner.clone()]),
            ..ObjectMeta::default()
        },
        address_type: address_type.to_owned(),
        endpoints: Some(endpoints),
        ports: Some(ports.to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn service() -> Service {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "n", "uid": "s"},
            "spec": {"clusterIP": "10.0.0.1", "selector": {"app": "web"}, "ipFamilies": ["IPv4"],
                "ports": [{"port": 80, "targetPort": "http"}]},
        }))
        .unwrap()
    }

    fn pods(count: usize, ready: bool) -> Vec<Arc<Pod>> {
        let pod = |i: usize| {
            Arc::new(
                serde_json::from_value(json!({
                    "metadata": {"name": format!("p{i}"), "namespace": "n", "uid": format!("u{i}")},
                    "spec": {"nodeName": "n1", "containers": [{"name": "c",
                        "ports": [{"name": "http", "containerPort": 8080}]}]},
                    "status": {"phase": "Running", "podIPs": [{"ip": format!("10.1.0.{i}")}],
                        "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]},
                }))
                .unwrap(),
            )
        };
        (0..count).map(pod).collect()
    }

    fn apply(existing: &[Arc<EndpointSlice>], pods: &[Arc<Pod>]) -> (Vec<usize>, Vec<Arc<EndpointSlice>>) {
        let service = service();
        let groups = of_pods(&service, pods, |_| Some("z".to_owned()));
        let writes = plan(existing, groups, &Shape::of_service(&service));
        let mut counts = vec![0; 3];
        let mut slices = Vec::new();
        for write in writes {
            match write {
                Write::Create(s) => {
                    counts[0] += 1;
                    slices.push(Arc::new(*s));
                }
                Write::Replace(s) => {
                    counts[1] += 1;
                    slices.push(Arc::new(*s));
                }
                Write::Delete(_) => counts[2] += 1,
            }
        }
        (counts, slices)
    }

    #[test]
    fn a_hundred_endpoints_to_a_slice_and_no_needless_writes() {
        let (counts, slices) = apply(&[], &pods(150, true));
        assert_eq!(counts, [2, 0, 0]);
        let sizes: Vec<_> = slices.iter().map(|s| s.endpoints.as_ref().unwrap().len()).collect();
        assert_eq!(sizes, [100, 50]);
        assert_eq!(ports_of(&slices[0])[0].port, Some(8080));
        assert_eq!(apply(&slices, &pods(150, true)).0, [0, 0, 0]);
        assert_eq!(apply(&slices, &pods(160, true)).0, [0, 1, 0], "ten more go where there is room");
    }

    #[test]
    fn without_endpoints_one_empty_slice_stays() {
        let (counts, slices) = apply(&[], &[]);
        assert_eq!((counts, slices[0].endpoints.as_deref()), (vec![1, 0, 0], Some(&[][..])));
        assert_eq!(apply(&slices, &[]).0, [0, 0, 0]);
    }

    #[test]
    fn a_pod_that_is_not_ready_is_listed_as_such() {
        let (_, slices) = apply(&[], &pods(1, false));
        let endpoint = &slices[0].endpoints.as_ref().unwrap()[0];
        let expected = json!({"ready": false, "serving": false, "terminating": false});
        assert_eq!(serde_json::to_value(&endpoint.conditions).unwrap(), expected);
        assert_eq!(endpoint.zone.as_deref(), Some("z"));
    }
}
