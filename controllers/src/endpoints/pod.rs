//! What a pod offers to a Service.

use coracle_api::resources::is_sidecar;
use k8s_openapi::api::core::v1::{ObjectReference, Pod, PodIP, Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::pods;

/// What of a pod an endpoint depends on, besides its labels.
#[derive(PartialEq)]
pub(super) struct Facts<'a> {
    ips: Option<&'a Vec<PodIP>>,
    ready: bool,
    terminating: bool,
    finished: bool,
    node: Option<&'a str>,
}

impl<'a> Facts<'a> {
    pub(super) fn of(pod: &'a Pod) -> Self {
        Facts {
            ips: pod.status.as_ref().and_then(|s| s.pod_ips.as_ref()),
            ready: pods::is_ready(pod),
            terminating: pods::is_terminating(pod),
            finished: pods::is_finished(pod),
            node: pods::node_name(pod),
        }
    }
}

/// The pod's address of a family; None while it has none or when it has ended.
pub(super) fn address(pod: &Pod, ipv6: bool) -> Option<String> {
    let status = pod.status.as_ref().filter(|_| !pods::is_finished(pod))?;
    let all = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
    let mut all = all.chain(status.pod_ip.as_deref()).filter(|ip| !ip.is_empty());
    all.find(|ip| ip.contains(':') == ipv6).map(str::to_owned)
}

/// The number behind a Service's port on this pod.
pub(super) fn port(pod: &Pod, port: &ServicePort) -> Option<i32> {
    let name = match &port.target_port {
        None | Some(IntOrString::Int(0)) => return Some(port.port),
        Some(IntOrString::Int(number)) => return Some(*number),
        Some(IntOrString::String(name)) if name.is_empty() => return Some(port.port),
        Some(IntOrString::String(name)) => name,
    };
    let protocol = protocol(port.protocol.as_deref());
    let spec = pod.spec.as_ref()?;
    let sidecars = spec.init_containers.iter().flatten().filter(|c| is_sidecar(c.restart_policy.as_deref()));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten());
    ports
        .into_iter()
        .find(|p| p.name.as_ref() == Some(name) && self::protocol(p.protocol.as_deref()) == protocol)
        .map(|p| p.container_port)
}

pub(super) fn protocol(protocol: Option<&str>) -> &str {
    protocol.unwrap_or("TCP")
}

/// The host name under which DNS shall know the pod within this Service.
pub(super) fn hostname(pod: &Pod, service: &Service) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let same = spec.subdomain.is_some() && spec.subdomain == service.metadata.name;
    spec.hostname.clone().filter(|name| same && !name.is_empty())
}

pub(super) fn reference(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".to_owned()),
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        ..ObjectReference::default()
    }
}
