//! Whether another server can be asked: first what the store knows of its Service, then the server itself.

use std::time::Duration;

use axum::body::Body;
use coracle_api::{Gvr, Object};
use http::Request;
use serde_json::Value;

use super::remote::{CallError, Remote, Service};
use crate::Server;
use crate::authn::User;
use crate::cluster::{Cluster, core};

/// How long a server may take to answer what it must always be able to.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a server cannot be asked: the condition's reason and message.
#[derive(Debug, PartialEq)]
pub(super) struct Unavailable {
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// Whom the server is asked for when nobody asks.
pub(super) fn aggregator() -> User {
    User {
        name: "system:kube-aggregator".to_owned(),
        groups: vec![coracle_api::names::GROUP_MASTERS.to_owned()],
        ..User::default()
    }
}

pub(super) async fn check(server: &Server, remote: &Remote) -> Result<(), Unavailable> {
    let at = &remote.service;
    let service = Cluster::get(server, &core("services"), &at.namespace, &at.name);
    let slices = Gvr::new("discovery.k8s.io", "v1", "endpointslices");
    let label = coracle_api::names::LABEL_SERVICE_NAME;
    let slices = Cluster::list_labelled(server, &slices, &at.namespace, label, &at.name);
    judge(at, service.as_ref(), &slices)?;
    ask(server, remote).await.map_err(|message| Unavailable { reason: "FailedDiscoveryCheck", message })
}

/// Whether there is somebody to ask.
fn judge(at: &Service, service: Option<&Object>, slices: &[Object]) -> Result<(), Unavailable> {
    let Service { namespace, name, port } = at;
    let because = |reason, message| Err(Unavailable { reason, message });
    let Some(service) = service else {
        return because("ServiceNotFound", format!("service/{name} in {namespace:?} is not present"));
    };
    if service.str_at(&["spec", "type"]) != "ClusterIP" {
        return Ok(());
    }
    let ports = service.items_at(&["spec", "ports"]);
    let Some(service_port) = ports.iter().find(|p| p["port"] == *port) else {
        let why = format!("service/{name} in {namespace:?} is not listening on port {port}");
        return because("ServicePortError", why);
    };
    if slices.is_empty() {
        let why = format!("cannot find endpointslices for service/{name} in {namespace:?}");
        return because("EndpointsNotFound", why);
    }
    let port_name = service_port["name"].as_str().unwrap_or_default();
    if !slices.iter().any(|slice| has_ready_end(slice, port_name)) {
        let why = format!(
            "endpointslices for service/{name} in {namespace:?} have no addresses with port name {port_name:?}"
        );
        return because("MissingEndpoints", why);
    }
    Ok(())
}

fn has_ready_end(slice: &Object, port_name: &str) -> bool {
    let named = |p: &Value| p["name"].as_str().unwrap_or_default() == port_name && p["port"].is_number();
    slice.items_at(&["endpoints"]).iter().any(|e| e["conditions"]["ready"] != false)
        && slice.items_at(&["ports"]).iter().any(named)
}

/// Asks for the one document that the server must be able to give.
async fn ask(server: &Server, remote: &Remote) -> Result<(), String> {
    let address = remote.resolve(server).map_err(|e| e.to_string())?;
    let url = format!("https://{address}{}", remote.path());
    let failed = |why: String| format!("failing or missing response from {url}: {why}");
    let request = Request::get(remote.path()).body(Body::empty()).map_err(|e| e.to_string())?;
    let user = aggregator();
    let asked = remote.call(&address, &user, request);
    match tokio::time::timeout(CHECK_TIMEOUT, asked).await {
        Ok(Ok(answer)) if answer.status().is_success() => Ok(()),
        Ok(Ok(answer)) => Err(failed(format!("bad status from {url}: {}", answer.status().as_u16()))),
        Ok(Err(CallError::Unusable(why))) => Err(why),
        Ok(Err(why)) => Err(failed(format!("Get \"{url}\": {why}"))),
        Err(_) => {
            let why = "context deadline exceeded (Client.Timeout exceeded while awaiting headers)";
            Err(failed(format!("Get \"{url}\": {why}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_missing_is_named_as_upstream_does() {
        let at = Service { namespace: "n".into(), name: "s".into(), port: 443 };
        let service = |kind: &str, port: u16| {
            Object(json!({"spec": {"type": kind, "ports": [{"name": "https", "port": port}]}}))
        };
        let slice = |port: &str, ready: Value| {
            Object(json!({"ports": [{"name": port, "port": 8443}],
                          "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": ready}}]}))
        };
        let listening = service("ClusterIP", 443);
        for (service, slices, expected) in [
            (None, vec![], "ServiceNotFound: service/s in \"n\" is not present"),
            (
                Some(service("ClusterIP", 80)),
                vec![],
                "ServicePortError: service/s in \"n\" is not listening on port 443",
            ),
            (Some(service("ExternalName", 80)), vec![], ""),
            (
                Some(listening.clone()),
                vec![],
                "EndpointsNotFound: cannot find endpointslices for service/s in \"n\"",
            ),
            (
                Some(listening.clone()),
                vec![slice("https", json!(false)), slice("http", json!(true))],
                "MissingEndpoints: endpointslices for service/s in \"n\" have no addresses with port name \"https\"",
            ),
            (Some(listening.clone()), vec![slice("https", json!(false)), slice("https", Value::Null)], ""),
        ] {
            let judged = judge(&at, service.as_ref(), &slices);
            let got = judged.err().map(|u| format!("{}: {}", u.reason, u.message)).unwrap_or_default();
            assert_eq!(got, expected);
        }
    }
}
