//! `proxy`: HTTP to a pod, to one of a Service's endpoints, or to a kubelet.

use std::net::IpAddr;

use axum::body::Body;
use coracle_api::{Gvr, Object};
use http::header::LOCATION;
use http::{Method, Request, Response, StatusCode};
use rand::seq::IndexedRandom;
use serde_json::Value;

use super::dial::Target;
use super::kubelet;
use crate::cluster::{Cluster, core};
use crate::request::RequestInfo;
use crate::status::{Result, Status};

/// Where a proxy request goes, and the path it asks for there, as the client encoded it.
pub(super) fn target<'a>(cluster: &dyn Cluster, info: &'a RequestInfo) -> Result<(Target, &'a str)> {
    let Some(named) = split_name(&info.name) else {
        return Err(Status::bad_request(format!(
            "invalid {} request {:?}",
            singular(&info.resource),
            info.name
        )));
    };
    let target = match info.resource.as_str() {
        "nodes" => node(cluster, named)?,
        "services" => service(cluster, info, named)?,
        _ => pod(cluster, &info.namespace, named)?,
    };
    Ok((target, if info.tail.is_empty() { "/" } else { &info.tail }))
}

/// `.../proxy` is answered with the way to `.../proxy/`, or the page's relative links would lead astray.
pub(super) fn to_directory(info: &RequestInfo, request: &Request<Body>) -> Option<Response<Body>> {
    let (method, path) = (request.method(), request.uri().path());
    if !info.tail.is_empty() || !(method == Method::GET || method == Method::HEAD) {
        return None;
    }
    let query = request.uri().query().map(|q| format!("?{q}")).unwrap_or_default();
    let answer = Response::builder().status(StatusCode::MOVED_PERMANENTLY);
    answer.header(LOCATION, format!("{path}/{query}")).body(Body::empty()).ok()
}

fn singular(resource: &str) -> &str {
    resource.strip_suffix('s').unwrap_or(resource)
}

/// Scheme, name and port, of `name`, `name:port` or `scheme:name:port`.
fn split_name(text: &str) -> Option<(&str, &str, &str)> {
    let parts: Vec<&str> = text.split(':').collect();
    let named = match parts[..] {
        [name] => ("", name, ""),
        [name, port] => ("", name, port),
        [scheme @ ("" | "http" | "https"), name, port] => (scheme, name, port),
        _ => return None,
    };
    Some(named).filter(|(_, name, _)| !name.is_empty())
}

/// A kubelet; or whatever listens at another port of its machine, which sees nothing of our credentials.
fn node(cluster: &dyn Cluster, (scheme, name, port): (&str, &str, &str)) -> Result<Target> {
    let kubelet = Target { guarded: true, ..kubelet(cluster, name)? };
    if port.is_empty() || port == kubelet.port.to_string() {
        return Ok(kubelet);
    }
    let invalid = |_| Status::bad_request(format!("invalid node request {name:?}"));
    Ok(Target { port: port.parse().map_err(invalid)?, tls: scheme == "https", kubelet: false, ..kubelet })
}

fn pod(cluster: &dyn Cluster, namespace: &str, (scheme, name, port): (&str, &str, &str)) -> Result<Target> {
    let Some(pod) = cluster.get(&core("pods"), namespace, name) else {
        return Err(Status::not_found(&core("pods"), name));
    };
    let containers = pod.items_at(&["spec", "containers"]);
    let ports = || containers.iter().filter_map(|c| c.get("ports")?.as_array()).flatten();
    let number =
        |p: &Value| p.get("containerPort").and_then(Value::as_u64).and_then(|p| u16::try_from(p).ok());
    let port = match port {
        "" => ports().find_map(number).unwrap_or(if scheme == "https" { 443 } else { 80 }),
        text => match text.parse() {
            Ok(number) => number,
            Err(_) => ports()
                .find(|p| p["name"] == text)
                .and_then(number)
                .ok_or_else(|| Status::bad_request(format!("invalid pod request {name:?}")))?,
        },
    };
    let ip = pod.str_at(&["status", "podIP"]);
    if ip.parse::<IpAddr>().is_err() {
        return Err(Status::bad_request("address not allowed"));
    }
    Ok(Target { host: ip.to_owned(), port, tls: scheme == "https", kubelet: false, guarded: true })
}

/// One of a Service's ends that is a pod of its namespace: an end may name any address, and who writes it is not the one
/// who is asked here.
fn service(
    cluster: &dyn Cluster,
    info: &RequestInfo,
    (scheme, name, port): (&str, &str, &str),
) -> Result<Target> {
    let is_pod = |address: &str, end: &Value| {
        let target = |field: &str| end["targetRef"][field].as_str().unwrap_or_default();
        let usable = address.parse().is_ok_and(is_global_unicast);
        let pod = (usable && target("namespace") == info.namespace)
            .then(|| cluster.get(&core("pods"), &info.namespace, target("name")));
        pod.flatten()
            .is_some_and(|pod| pod.items_at(&["status", "podIPs"]).iter().any(|ip| ip["ip"] == address))
    };
    let (host, port) = choose(cluster, &info.namespace, name, port, is_pod)?;
    Ok(Target { host, port, tls: scheme == "https", kubelet: false, guarded: true })
}

/// Address and port of one of the ready ends behind a port of a Service, pod or not.
pub fn endpoint(cluster: &dyn Cluster, namespace: &str, name: &str, port: &str) -> Result<(String, u16)> {
    choose(cluster, namespace, name, port, |_, _| true)
}

/// One of the ends that `may` be asked. Names are none: they could mean anything by the time they are looked up.
fn choose(
    cluster: &dyn Cluster,
    namespace: &str,
    name: &str,
    port: &str,
    may: impl Fn(&str, &Value) -> bool,
) -> Result<(String, u16)> {
    let Some(service) = cluster.get(&core("services"), namespace, name) else {
        return Err(Status::not_found(&core("services"), name));
    };
    let none = || Status::unavailable(format!("no endpoints available for service {name:?}"));
    let port_name = service_port(&service, port)
        .ok_or_else(|| Status::unavailable(format!("no service port {port:?} found for service {name:?}")))?;
    let slices = Gvr::new("discovery.k8s.io", "v1", "endpointslices");
    let own = cluster.list_labelled(&slices, namespace, coracle_api::names::LABEL_SERVICE_NAME, name);
    let ends: Vec<(String, u16)> = own.iter().flat_map(|slice| ready_ends(slice, &port_name, &may)).collect();
    ends.choose(&mut rand::rng()).cloned().ok_or_else(none)
}

/// The name of the service port a request means: by name, by number, or the only one.
fn service_port(service: &Object, wanted: &str) -> Option<String> {
    let ports = service.items_at(&["spec", "ports"]);
    let name = |p: &Value| p.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
    if wanted.is_empty() {
        return match ports {
            [only] => Some(name(only)),
            _ => ports.iter().map(name).find(String::is_empty),
        };
    }
    let number = wanted.parse::<u64>().ok();
    ports.iter().find(|p| name(p) == wanted || number.is_some_and(|n| p["port"] == n)).map(name)
}

fn ready_ends(slice: &Object, port_name: &str, may: impl Fn(&str, &Value) -> bool) -> Vec<(String, u16)> {
    let named = |p: &&Value| p.get("name").and_then(Value::as_str).unwrap_or_default() == port_name;
    let port = slice.items_at(&["ports"]).iter().find(named).and_then(|p| p["port"].as_u64());
    let Some(port) = port.and_then(|p| u16::try_from(p).ok()) else { return vec![] };
    let ready = slice.items_at(&["endpoints"]).iter().filter(|e| e["conditions"]["ready"] != false);
    let addresses = ready.flat_map(|end| {
        let addresses = end["addresses"].as_array().into_iter().flatten().filter_map(Value::as_str);
        addresses.map(move |address| (address, end))
    });
    addresses
        .filter(|(address, end)| address.parse::<IpAddr>().is_ok() && may(address, end))
        .map(|(address, _)| (address.to_owned(), port))
        .collect()
}

/// Go's `IsGlobalUnicast`: no address of this machine, of its link or of many.
pub(super) fn is_global_unicast(ip: IpAddr) -> bool {
    let special = match ip.to_canonical() {
        IpAddr::V4(ip) => {
            ip.is_unspecified()
                || ip.is_loopback()
                || ip.is_link_local()
                || ip.is_multicast()
                || ip.is_broadcast()
        }
        IpAddr::V6(ip) => {
            ip.is_unspecified() || ip.is_loopback() || ip.is_unicast_link_local() || ip.is_multicast()
        }
    };
    !special
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::testing::Fixed;
    use crate::request;
    use serde_json::json;

    fn pod(name: &str, ip: &str) -> (&'static str, &'static str, Value) {
        (
            "",
            "pods",
            json!({"metadata": {"name": name, "namespace": "n"},
            "spec": {"containers": [{"ports": [{"name": "web", "containerPort": 8080}]}]},
            "status": {"podIP": ip, "podIPs": [{"ip": ip}]}}),
        )
    }

    fn slice(name: &str, address: &str, target: &Value) -> Vec<(&'static str, &'static str, Value)> {
        let service =
            json!({"metadata": {"name": name, "namespace": "n"}, "spec": {"ports": [{"port": 80}]}});
        let slice = json!({"metadata": {"name": name, "namespace": "n", "labels": {"kubernetes.io/service-name": name}},
            "ports": [{"port": 8080}], "endpoints": [{"addresses": [address], "targetRef": target}]});
        vec![("", "services", service), ("discovery.k8s.io", "endpointslices", slice)]
    }

    #[test]
    fn only_pods_are_dialled() {
        let node = |ip: &str| {
            json!({"metadata": {"name": "m"}, "status": {
            "addresses": [{"type": "InternalIP", "address": ip}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}}}})
        };
        let target =
            |namespace: &str, name: &str| json!({"kind": "Pod", "namespace": namespace, "name": name});
        let mut objects =
            vec![pod("p", "10.0.0.1"), pod("name", "db.internal"), ("", "nodes", node("10.0.0.9"))];
        for (name, address, target) in [
            ("good", "10.0.0.1", target("n", "p")),
            ("free", "10.0.0.1", Value::Null),
            ("moved", "10.0.0.2", target("n", "p")),
            ("elsewhere", "10.0.0.1", target("m", "p")),
            ("metadata", "169.254.169.254", target("n", "p")),
            ("loopback", "127.0.0.1", target("n", "p")),
            ("fqdn", "db.internal", target("n", "name")),
        ] {
            objects.extend(slice(name, address, &target));
        }
        let cluster = Fixed::new(objects);
        for (uri, expected) in [
            ("/api/v1/namespaces/n/services/good/proxy/x%2Fy", Ok("http 10.0.0.1:8080/x%2Fy")),
            ("/api/v1/namespaces/n/services/https:good:80/proxy", Ok("https 10.0.0.1:8080/")),
            ("/api/v1/namespaces/n/services/free/proxy", Err(503)),
            ("/api/v1/namespaces/n/services/moved/proxy", Err(503)),
            ("/api/v1/namespaces/n/services/elsewhere/proxy", Err(503)),
            ("/api/v1/namespaces/n/services/metadata/proxy", Err(503)),
            ("/api/v1/namespaces/n/services/loopback/proxy", Err(503)),
            ("/api/v1/namespaces/n/services/fqdn/proxy", Err(503)),
            ("/api/v1/namespaces/n/pods/p/proxy/", Ok("http 10.0.0.1:8080/")),
            ("/api/v1/namespaces/n/pods/p%3A99/proxy/a//b", Ok("http 10.0.0.1:99/a//b")),
            ("/api/v1/namespaces/n/pods/name/proxy", Err(400)),
            ("/api/v1/namespaces/n/pods/:80/proxy", Err(400)),
            ("/api/v1/nodes/m/proxy/pods", Ok("kubelet 10.0.0.9:10250/pods")),
            ("/api/v1/nodes/m:10250/proxy/pods", Ok("kubelet 10.0.0.9:10250/pods")),
            ("/api/v1/nodes/m:22/proxy/", Ok("http 10.0.0.9:22/")),
            ("/api/v1/nodes/m:x/proxy/", Err(400)),
            ("/api/v1/nodes/other/proxy/", Err(404)),
        ] {
            let info = request::parse(&Method::GET, uri, "");
            let found = super::target(&cluster, &info).map(|(target, path)| {
                assert!(target.guarded);
                let scheme = if target.kubelet {
                    "kubelet"
                } else if target.tls {
                    "https"
                } else {
                    "http"
                };
                format!("{scheme} {}:{}{path}", target.host, target.port)
            });
            assert_eq!(found.map_err(|e| e.code()), expected.map(str::to_owned), "{uri}");
        }
    }

    #[test]
    fn addresses_of_the_machine_and_its_link_are_refused() {
        for (ip, expected) in [
            ("10.0.0.1", true),
            ("8.8.8.8", true),
            ("fd00::1", true),
            ("127.0.0.1", false),
            ("0.0.0.0", false),
            ("169.254.169.254", false),
            ("224.0.0.1", false),
            ("255.255.255.255", false),
            ("::1", false),
            ("::", false),
            ("fe80::1", false),
            ("::ffff:127.0.0.1", false),
        ] {
            assert_eq!(is_global_unicast(ip.parse().unwrap()), expected, "{ip}");
        }
    }
}
