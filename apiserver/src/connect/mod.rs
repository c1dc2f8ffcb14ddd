//! Raw connections: log, exec, attach and port-forward go to the kubelet of the pod's node, `proxy` to what is named.
//!
//! This module decides where to; `dial` opens the connection and carries the bytes. Upgrades (WebSocket, SPDY) are tunnelled
//! as they are: the protocol is a matter between the client and the kubelet.

use std::sync::Arc;

use axum::body::Body;
use coracle_api::Object;
use coracle_api::pod::is_over;
use http::{Request, Response, StatusCode};
use serde_json::Value;

use crate::Server;
use crate::admission::{Attributes, Operation};
use crate::authn::User;
use crate::authz::{Asked, Decision};
use crate::cluster::{Cluster, core};
use crate::flow_control::Held;
use crate::request::RequestInfo;
use crate::resource::{Connect, Resource};
use crate::status::{Result, Status};

pub(crate) mod dial;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod hostile;
mod links;
mod proxy;
mod query;

use dial::Target;
pub use proxy::endpoint;
use query::Query;

/// Whether a connection may be opened. Sessions in a container create something, however they are asked for: a WebSocket
/// begins with a GET. Then admission is asked; what it sees is the kind's options. Logs are read, and so not its business.
pub async fn admit(
    server: &Arc<Server>,
    user: &User,
    resource: &Resource,
    kind: Connect,
    info: &RequestInfo,
) -> Result<()> {
    if matches!(kind, Connect::Exec | Connect::Attach | Connect::PortForward) && info.verb != "create" {
        let asked = Asked { verb: "create", ..Asked::from(info) };
        if let Decision::Deny(why) = server.access.authz.decide(&**server, user, &asked) {
            return Err(Status::forbidden(&resource.gvr, &info.name, &why));
        }
    }
    let Some(sub) = resource.subresource(&info.subresource).filter(|s| s.name != "log") else {
        return Ok(());
    };
    let (_, version, kind) = sub.kind;
    let mut options = options(&Query::parse(&info.query));
    options.set_gvk(&coracle_api::Gvk::new("", version, kind));
    let attributes = Attributes {
        user,
        operation: Operation::Connect,
        resource,
        subresource: &info.subresource,
        namespace: if resource.namespaced() { &info.namespace } else { "" },
        name: &info.name,
        dry_run: false,
    };
    server.access.admission.admit_call(server, &attributes, &mut options).await.map(|_| ())
}

/// The options of a connection as an object.
fn options(query: &Query) -> Object {
    let mut options = Object(serde_json::json!({}));
    for flag in ["stdin", "stdout", "stderr", "tty"] {
        if query.get(flag).is_some() {
            options.set(&[flag], query.flag(flag, false));
        }
    }
    for text in ["container", "path"] {
        if let Some(value) = query.get(text) {
            options.set(&[text], value);
        }
    }
    let command: Vec<&str> = query.all("command").collect();
    if !command.is_empty() {
        options.set(&["command"], command);
    }
    let ports: Vec<u16> =
        query.all("ports").flat_map(|p| p.split(',')).filter_map(|p| p.parse().ok()).collect();
    if !ports.is_empty() {
        options.set(&["ports"], ports);
    }
    options
}

/// Serves one connection below an object. Authorisation has happened; the place is held to the connection's end.
pub async fn serve(
    server: &Arc<Server>,
    kind: Connect,
    info: &RequestInfo,
    request: Request<Body>,
    held: Held,
) -> Result<Response<Body>> {
    let cluster: &dyn Cluster = &**server;
    if kind == Connect::Proxy {
        let (target, path) = proxy::target(cluster, info)?;
        if let Some(moved) = proxy::to_directory(info, &request) {
            return Ok(moved);
        }
        let mounted = links::Mounted::of(&target, path, &request);
        let answer = dial::forward(server, &target, &with_query(path, &info.query), request, held).await?;
        return Ok(mounted.apply(answer));
    }
    let pod = server.get(&core("pods"), &info.namespace, &info.name)?;
    let query = Query::parse(&info.query);
    let node = pod.str_at(&["spec", "nodeName"]);
    if kind == Connect::Log {
        let path = log_path(&pod, &query)?;
        if node.is_empty() {
            // Not scheduled yet: there is nothing to read.
            let mut nothing = Response::new(Body::empty());
            *nothing.status_mut() = StatusCode::NO_CONTENT;
            return Ok(nothing);
        }
        let target = kubelet(cluster, node)?;
        let answer = dial::forward(server, &target, &path, request, held).await?;
        // A node would have who reads a log read, or do, something else with their own rights.
        return match answer.status().is_redirection() {
            true => Err(Status::internal("the node's answer is a redirect: redirects forbidden")),
            false => Ok(answer),
        };
    }
    if !dial::asks_to_upgrade(request.headers()) {
        return Err(Status::bad_request("Upgrade request required"));
    }
    let path = session_path(kind, &pod, &query)?;
    if node.is_empty() {
        return Err(Status::bad_request(format!("pod {} does not have a host assigned", pod.name())));
    }
    let target = kubelet(cluster, node)?;
    dial::forward(server, &target, &path, request, held).await
}

/// The kubelet's endpoint as its Node object tells.
fn kubelet(cluster: &dyn Cluster, name: &str) -> Result<Target> {
    let Some(node) = cluster.get(&core("nodes"), "", name) else {
        return Err(Status::not_found(&core("nodes"), name));
    };
    let address = ["InternalIP", "ExternalIP", "Hostname"].iter().find_map(|kind| {
        let addresses = node.items_at(&["status", "addresses"]);
        addresses.iter().find(|a| a["type"] == **kind).and_then(|a| a["address"].as_str())
    });
    let Some(address) = address else {
        return Err(Status::internal(format!(
            "no preferred addresses found; known addresses: [] (node {name})"
        )));
    };
    let port = node.i64_at(&["status", "daemonEndpoints", "kubeletEndpoint", "Port"]);
    let port = port.and_then(|p| u16::try_from(p).ok()).filter(|p| *p != 0).unwrap_or(10250);
    Ok(Target { host: address.to_owned(), port, tls: true, kubelet: true, guarded: false })
}

fn log_path(pod: &Object, query: &Query) -> Result<String> {
    let errors = log_errors(query);
    if !errors.is_empty() {
        let kind = coracle_api::Gvk::new("", "v1", "PodLogOptions");
        return Err(Status::invalid(&kind, pod.name(), &errors));
    }
    let container = container(pod, query.get("container"))?;
    let names = [
        "follow",
        "previous",
        "sinceSeconds",
        "sinceTime",
        "timestamps",
        "tailLines",
        "limitBytes",
        "stream",
    ];
    let options = query.only(&names);
    Ok(with_query(&format!("/containerLogs/{}/{}/{container}", pod.namespace(), pod.name()), &options))
}

fn log_errors(query: &Query) -> Vec<crate::field::FieldError> {
    use crate::field::FieldError;
    let mut errors = vec![];
    let least = |name: &str, least: i64, why: &str| {
        let value = query.get(name)?.parse::<i64>().ok()?;
        (value < least).then(|| FieldError::invalid(name, &Value::from(value), why))
    };
    errors.extend(least("tailLines", 0, "must be greater than or equal to 0"));
    errors.extend(least("limitBytes", 1, "must be greater than 0"));
    if query.get("sinceSeconds").is_some() && query.get("sinceTime").is_some() {
        errors
            .push(FieldError::forbidden("", "at most one of `sinceTime` or `sinceSeconds` may be specified"));
    } else {
        errors.extend(least("sinceSeconds", 1, "must be greater than 0"));
    }
    errors
}

/// The kubelet's path of an exec, attach or port-forward, with the client's options under the kubelet's names.
fn session_path(kind: Connect, pod: &Object, query: &Query) -> Result<String> {
    let (namespace, name) = (pod.namespace(), pod.name());
    if kind == Connect::PortForward {
        let ports =
            query.all("ports").flat_map(|p| p.split(',')).map(|p| format!("port={p}")).collect::<Vec<_>>();
        return Ok(with_query(&format!("/portForward/{namespace}/{name}"), &ports.join("&")));
    }
    let (verb, preposition) =
        if kind == Connect::Exec { ("exec", "exec into") } else { ("attach", "attach to") };
    let container = container(pod, query.get("container"))?;
    let phase = pod.str_at(&["status", "phase"]);
    if kind == Connect::Exec && is_over(phase) {
        return Err(Status::bad_request(format!(
            "cannot {preposition} a container in a completed pod; current phase is {phase}"
        )));
    }
    let mut options: Vec<String> = vec![];
    // Upstream's defaults: output and errors are wanted unless refused.
    for (client, kubelet, default) in [
        ("stdin", "input", false),
        ("stdout", "output", true),
        ("stderr", "error", true),
        ("tty", "tty", false),
    ] {
        if query.flag(client, default) {
            options.push(format!("{kubelet}=1"));
        }
    }
    if options.is_empty() {
        return Err(Status::bad_request("you must specify at least 1 of stdin, stdout, stderr"));
    }
    let commands: Vec<&str> = query.raw("command").collect();
    if kind == Connect::Exec && commands.is_empty() {
        return Err(Status::bad_request("you must specify at least one command for the container"));
    }
    options.extend(commands.iter().map(|c| format!("command={c}")));
    Ok(with_query(&format!("/{verb}/{namespace}/{name}/{container}"), &options.join("&")))
}

/// The container a request means: the one it names, or the only one there is.
fn container(pod: &Object, wanted: Option<&str>) -> Result<String> {
    let names = |list: &str| -> Vec<&str> {
        pod.items_at(&["spec", list]).iter().filter_map(|c| c.get("name")?.as_str()).collect()
    };
    let (main, init, ephemeral) =
        (names("containers"), names("initContainers"), names("ephemeralContainers"));
    if let Some(wanted) = wanted.filter(|w| !w.is_empty()) {
        let known = [&main, &init, &ephemeral].iter().any(|list| list.contains(&wanted));
        return match known {
            true => Ok(wanted.to_owned()),
            false => {
                Err(Status::bad_request(format!("container {wanted} is not valid for pod {}", pod.name())))
            }
        };
    }
    if let [only] = main[..] {
        return Ok(only.to_owned());
    }
    let mut why = format!(
        "a container name must be specified for pod {}, choose one of: [{}]",
        pod.name(),
        main.join(" ")
    );
    if !init.is_empty() {
        why.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
    }
    if !ephemeral.is_empty() {
        why.push_str(&format!(" or one of the ephemeral containers: [{}]", ephemeral.join(" ")));
    }
    Err(Status::bad_request(why))
}

fn with_query(path: &str, query: &str) -> String {
    if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_container_is_the_only_one_or_must_be_named() {
        let pod = Object(json!({"metadata": {"name": "p", "namespace": "n"},
            "spec": {"containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}]}}));
        assert_eq!(
            container(&pod, None).unwrap_err().to_string(),
            "a container name must be specified for pod p, choose one of: [a b] or one of the init containers: [i]"
        );
        assert_eq!(container(&pod, Some("x")).unwrap_err().to_string(), "container x is not valid for pod p");
        let query = Query::parse("container=a&command=sh&command=-c&command=echo%20hi&stdin=true&tty=true");
        assert_eq!(
            session_path(Connect::Exec, &pod, &query).unwrap(),
            "/exec/n/p/a?input=1&output=1&error=1&tty=1&command=sh&command=-c&command=echo%20hi"
        );
        assert_eq!(
            log_path(&pod, &Query::parse("container=i&follow=true&pretty=1&tailLines=5")).unwrap(),
            "/containerLogs/n/p/i?follow=true&tailLines=5"
        );
        assert!(log_path(&pod, &Query::parse("container=i&tailLines=-1")).is_err());
    }
}
