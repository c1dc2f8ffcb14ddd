//! `proxy`: HTTP to a pod, to one of a Service's endpoints, or to a kubelet.

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

/// Where a proxy request goes, and the path it asks for there.
pub(super) fn target(cluster: &dyn Cluster, info: &RequestInfo, raw_path: &str) -> Result<(Target, String)> {
    let Some((scheme, name, port)) = split_name(&info.name) else {
        return Err(Status::bad_request(format!(
            "invalid {} request {:?}",
            singular(&info.resource),
            info.name
        )));
    };
    let target = match info.resource.as_str() {
        "nodes" => kubelet(cluster, name)?,
        "services" => service(cluster, &info.namespace, (scheme, name, port))?,
        _ => pod(cluster, &info.namespace, (scheme, name, port))?,
    };
    // The part behind `/proxy` as the client encoded it.
    let marker = format!("/{}/{}/proxy", info.resource, info.name);
    let rest = raw_path.split_once(&marker).map_or("", |(_, rest)| rest);
    Ok((target, if rest.is_empty() { "/".to_owned() } else { rest.to_owned() }))
}

/// `.../proxy` is answered with the way to `.../proxy/`, or the page's relative links would lead astray.
pub(super) fn to_directory(info: &RequestInfo, request: &Request<Body>) -> Option<Response<Body>> {
    let (method, path) = (request.method(), request.uri().path());
    let at_root = path.ends_with(&format!("/{}/{}/proxy", info.resource, info.name));
    if !at_root || !(method == Method::GET || method == Method::HEAD) {
        return None;
    }
    let query = request.uri().query().map(|q| format!("?{q}")).unwrap_or_default();
    let answer = Response::builder().status(StatusCode::MOVED_PERMANENTLY);
    answer.header(LOCATION, format!("{path}/{query}")).body(Body::empty()).ok()
}

fn singular(resource: &str) -> &str {
    resource.strip_suffix('s').unwrap_or(resource)
}

/// `name`, `name:port` or `scheme:name:port`.
fn split_name(text: &str) -> Option<(&str, &str, &str)> {
    let parts: Vec<&str> = text.split(':').collect();
    match parts[..] {
        [name] => Some(("", name, "")),
        [name, port] => Some(("", name, port)),
        [scheme @ ("" | "http" | "https"), name, port] => Some((scheme, name, port)),
        _ => None,
    }
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
    if ip.is_empty() {
        return Err(Status::bad_request("address not allowed"));
    }
    Ok(Target { host: ip.to_owned(), port, tls: scheme == "https", kubelet: false })
}

fn service(
    cluster: &dyn Cluster,
    namespace: &str,
    (scheme, name, port): (&str, &str, &str),
) -> Result<Target> {
    let (host, port) = endpoint(cluster, namespace, name, port)?;
    Ok(Target { host, port, tls: scheme == "https", kubelet: false })
}

/// One of the ready ends behind a port of a Service.
pub fn endpoint(cluster: &dyn Cluster, namespace: &str, name: &str, port: &str) -> Result<(String, u16)> {
    let Some(service) = cluster.get(&core("services"), namespace, name) else {
        return Err(Status::not_found(&core("services"), name));
    };
    let none = || Status::unavailable(format!("no endpoints available for service {name:?}"));
    let port_name = service_port(&service, port)
        .ok_or_else(|| Status::unavailable(format!("no service port {port:?} found for service {name:?}")))?;
    let slices = Gvr::new("discovery.k8s.io", "v1", "endpointslices");
    let own = cluster.list_labelled(&slices, namespace, coracle_api::names::LABEL_SERVICE_NAME, name);
    let ends: Vec<(String, u16)> = own.iter().flat_map(|slice| ready_ends(slice, &port_name)).collect();
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

fn ready_ends(slice: &Object, port_name: &str) -> Vec<(String, u16)> {
    let named = |p: &&Value| p.get("name").and_then(Value::as_str).unwrap_or_default() == port_name;
    let port = slice.items_at(&["ports"]).iter().find(named).and_then(|p| p["port"].as_u64());
    let Some(port) = port.and_then(|p| u16::try_from(p).ok()) else { return vec![] };
    let ready = |e: &&Value| e["conditions"]["ready"] != false;
    let addresses =
        slice.items_at(&["endpoints"]).iter().filter(ready).filter_map(|e| e["addresses"].as_array());
    addresses.flatten().filter_map(Value::as_str).map(|a| (a.to_owned(), port)).collect()
}
