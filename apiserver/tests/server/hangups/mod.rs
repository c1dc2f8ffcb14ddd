//! Clients that hang up, at every point of a request: what was counted, held and reserved for them is given back, and what
//! they asked for has happened whole or not at all.

mod network;
mod polls;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use coracle_apiserver::authn::User;
use coracle_apiserver::ip_allocator::Claims;
use coracle_apiserver::{Api, Config};
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use rustls::server::NoClientAuth;
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use crate::cluster::{Cluster, request};
use crate::tls;

const SERVICES: &str = "/api/v1/namespaces/default/services";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const QUOTA: &str = "/api/v1/namespaces/limited/resourcequotas/all";
const LIMITED: &str = "/api/v1/namespaces/limited/services";
const LIMITED_MAPS: &str = "/api/v1/namespaces/limited/configmaps";
const BUDGETS: &str = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
const PODS: &str = "/api/v1/namespaces/default/pods";
const PORTS: RangeInclusive<u16> = 30000..=30063;
/// 254 addresses.
const CIDR: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 96, 7, 0), 24);
/// Longer than anything here takes that does not hang.
const PATIENCE: Duration = Duration::from_secs(30);

/// A server with little to give: few node ports, few addresses, a namespace with a quota; and a tenant, whose requests wait
/// for seats as everybody's do.
struct World {
    cluster: Cluster,
    tenant: Api,
    /// Tasks that are there when nothing is asked.
    tasks: usize,
}

fn tenant() -> User {
    User::component("tenant", &["team", "system:authenticated"])
}

fn config() -> Config {
    Config { node_ports: PORTS, service_cidr: CIDR, ..Config::default() }
}

fn ports(type_: &str, numbers: &[u16]) -> Value {
    let ports: Vec<Value> = numbers.iter().map(|n| json!({"name": format!("p{n}"), "port": n})).collect();
    json!({"type": type_, "selector": {"a": "b"}, "ports": ports})
}

/// A Service of a type, with a port of each number.
fn service(name: &str, type_: &str, numbers: &[u16]) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": ports(type_, numbers)})
}

fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "1"}})
}

/// What a Service is seen to be: its type and ports. Panics where only a part of it is there.
fn whole(service: &Value) -> String {
    let (spec, name) = (&service["spec"], &service["metadata"]["name"]);
    assert!(spec["clusterIP"].as_str().is_some_and(|ip| ip.parse::<Ipv4Addr>().is_ok()), "{service}");
    assert_eq!(spec["clusterIPs"], json!([spec["clusterIP"]]), "{name}");
    let type_ = spec["type"].as_str().unwrap();
    let ports: Vec<String> = spec["ports"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| {
            assert_eq!(p["nodePort"].is_u64(), type_ == "NodePort", "{service}");
            p["port"].to_string()
        })
        .collect();
    format!("{type_} {}", ports.join(" "))
}

impl World {
    async fn start() -> Self {
        Self::of(config()).await
    }

    async fn of(config: Config) -> Self {
        let cluster = Cluster::start_with(config, User::component("admin", &["system:masters"])).await;
        let binding = json!({"metadata": {"name": "team"}, "subjects": [{"kind": "Group", "name": "team",
            "apiGroup": "rbac.authorization.k8s.io"}], "roleRef": {"kind": "ClusterRole", "name": "cluster-admin",
            "apiGroup": "rbac.authorization.k8s.io"}});
        let bindings = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
        let hard = json!({"services": "10k", "services.nodeports": "10k", "count/configmaps": "100k"});
        let used = json!({"services": "0", "services.nodeports": "0", "count/configmaps": "0"});
        let quota = json!({"metadata": {"name": "all"}, "spec": {"hard": hard}});
        for (path, object) in [
            (bindings, binding),
            ("/api/v1/namespaces", json!({"metadata": {"name": "limited"}})),
            (QUOTA.strip_suffix("/all").unwrap(), quota),
        ] {
            let (code, made) = cluster.send("POST", path, object).await;
            assert_eq!(code, 201, "{made}");
        }
        let status = json!({"status": {"hard": hard, "used": used}});
        assert_eq!(cluster.send("PATCH", &format!("{QUOTA}/status"), status).await.0, 200);
        let tenant = cluster.running.router(tenant());
        World { tenant, tasks: Handle::current().metrics().num_alive_tasks(), cluster }
    }

    async fn made(&self, method: &str, path: &str, object: Value) -> Value {
        let (code, made) = self.cluster.send(method, path, object).await;
        assert!(code == 200 || code == 201, "{method} {path}: {made}");
        made
    }

    /// All objects of a collection, by name.
    async fn all(&self, path: &str) -> BTreeMap<String, Value> {
        let list = self.cluster.get(path).await;
        let items = list["items"].as_array().unwrap().iter();
        items.map(|o| (o["metadata"]["name"].as_str().unwrap().to_owned(), o.clone())).collect()
    }

    /// What each Service of a collection is.
    async fn services(&self, path: &str) -> BTreeMap<String, String> {
        self.all(path).await.iter().map(|(name, service)| (name.clone(), whole(service))).collect()
    }

    async fn clear(&self, path: &str) {
        self.made("DELETE", path, Value::Null).await;
    }

    /// Waits for what goes on without its client: what is queued is written in order, and tasks end.
    async fn settle(&self) {
        self.made("POST", MAPS, json!({"metadata": {"generateName": "settle-"}})).await;
        let over = async {
            while Handle::current().metrics().num_alive_tasks() > self.tasks {
                tokio::task::yield_now().await;
            }
        };
        let left = tokio::time::timeout(PATIENCE, over).await.is_err();
        let tasks = Handle::current().metrics().num_alive_tasks();
        assert!(!left, "{tasks} tasks, at first {}", self.tasks);
    }

    /// The values of a metric, by its labels.
    async fn metric(&self, name: &str) -> BTreeMap<String, i64> {
        let text = self.cluster.get("/metrics").await;
        let lines = text.as_str().unwrap().lines().filter_map(|l| l.strip_prefix(name));
        let values = lines.filter(|l| l.starts_with(['{', ' '])).filter_map(|l| l.rsplit_once(' '));
        values.map(|(labels, value)| (labels.to_owned(), value.parse::<f64>().unwrap() as i64)).collect()
    }

    /// How many requests about a resource have been counted.
    async fn counted(&self, resource: &str) -> i64 {
        let all = self.metric("apiserver_request_total").await;
        all.iter().filter(|(l, _)| l.contains(&format!("resource=\"{resource}\""))).map(|(_, n)| n).sum()
    }

    /// Nothing is held for anybody, and what is taken is what is stored.
    async fn nothing_is_left(&self) {
        for gauge in [
            "apiserver_current_inflight_requests",
            "apiserver_longrunning_requests",
            "apiserver_flowcontrol_current_inqueue_requests",
            "apiserver_flowcontrol_current_executing_seats",
        ] {
            for (labels, value) in self.metric(gauge).await {
                // The question for it is one that reads.
                assert_eq!(value, i64::from(labels.contains("readOnly")), "{gauge}{labels}");
            }
        }
        self.taken_is_what_is_stored().await;
        self.quota_is_what_is_stored().await;
    }

    async fn taken_is_what_is_stored(&self) {
        let (mut ips, mut ports) = (BTreeSet::new(), BTreeSet::new());
        for service in self.cluster.get("/api/v1/services").await["items"].as_array().unwrap() {
            let ip = service["spec"]["clusterIP"].as_str().unwrap().parse::<Ipv4Addr>().unwrap();
            assert!(ips.insert(ip), "{ip} twice");
            for port in
                service["spec"]["ports"].as_array().unwrap().iter().filter_map(|p| p["nodePort"].as_u64())
            {
                assert!(ports.insert(u16::try_from(port).unwrap()), "{port} twice");
            }
        }
        // Whatever is free is taken, and given back.
        let (free_ips, free_ports) = self.cluster.running.server.services.with(
            || panic!("nothing was ever taken"),
            |ledger| {
                let mut free = Claims::default();
                free.ips.extend(std::iter::from_fn(|| ledger.any_ip().ok()));
                free.ports.extend(std::iter::from_fn(|| ledger.any_port().ok()));
                ledger.release(&free);
                (free.ips, free.ports)
            },
        );
        let lost: Vec<u16> = PORTS.filter(|p| !free_ports.contains(p) && !ports.contains(p)).collect();
        assert!(lost.is_empty(), "node ports that nobody has: {lost:?}");
        assert!(ports.iter().all(|p| !free_ports.contains(p)), "node ports that are given twice");
        assert_eq!(free_ips.len() + ips.len(), 254, "cluster IPs that nobody has");
        assert!(ips.iter().all(|ip| !free_ips.contains(ip)), "cluster IPs that are given twice");
    }

    async fn quota_is_what_is_stored(&self) {
        let used = self.cluster.get(QUOTA).await["status"]["used"].clone();
        let services = self.all(LIMITED).await;
        let ports = services.values().flat_map(|s| s["spec"]["ports"].as_array().unwrap());
        let ports = ports.filter(|p| p["nodePort"].is_u64()).count().to_string();
        let maps = self.all(LIMITED_MAPS).await.len().to_string();
        let stored = json!({"services": services.len().to_string(), "services.nodeports": ports,
                            "count/configmaps": maps});
        assert_eq!(used, stored);
    }

    /// Takes every node port there is, through the API.
    async fn every_port_can_be_had(&self) {
        self.clear(SERVICES).await;
        self.clear(LIMITED).await;
        let count = PORTS.count();
        let numbers: Vec<u16> = (1..=u16::try_from(count / 4).unwrap()).collect();
        for n in 0..4 {
            self.made("POST", SERVICES, service(&format!("all-{n}"), "NodePort", &numbers)).await;
        }
        let (code, refused) = self.cluster.send("POST", SERVICES, service("more", "NodePort", &[1])).await;
        assert_eq!(code, 422, "{refused}");
        assert!(
            refused["message"].as_str().unwrap().ends_with("failed to allocate a nodePort: range is full")
        );
        self.clear(SERVICES).await;
        let server = &self.cluster.running.server;
        let free = server.services.with(
            || panic!("nothing was ever taken"),
            |ledger| {
                let ports = std::iter::from_fn(|| ledger.any_port().ok()).collect();
                let free = Claims { ports, ..Claims::default() };
                ledger.release(&free);
                free.ports.len()
            },
        );
        assert_eq!(free, count);
    }
}

/// A webhook server. At `/now` it lets pass; at `/never` it does not answer as long as it is waited for.
struct Hook {
    port: u16,
    bundle: String,
    /// The names of the objects that it is asked about.
    asked: mpsc::Receiver<String>,
}

impl Hook {
    async fn start() -> Self {
        let (tell, asked) = mpsc::channel(1 << 12);
        let answer = move |request| answer(request, tell.clone());
        let (port, certificate) = tls::serve("127.0.0.1", Arc::new(NoClientAuth), answer).await;
        Hook { port, bundle: STANDARD.encode(certificate), asked }
    }

    /// Has a world ask this server, at a path, about the Services whose `hook` label is the name.
    async fn configure(&self, world: &World, kind: &str, name: &str, path: &str) {
        let webhook = json!({
            "name": format!("{name}.hooks.test"), "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "clientConfig": {"url": format!("https://127.0.0.1:{}/{path}", self.port), "caBundle": self.bundle},
            "objectSelector": {"matchLabels": {"hook": name}}, "timeoutSeconds": 30,
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["*"], "resources": ["services"]}],
        });
        let object = json!({"metadata": {"name": name}, "webhooks": [webhook]});
        world.made("POST", &hooks(kind), object).await;
    }
}

fn hooks(kind: &str) -> String {
    format!("/apis/admissionregistration.k8s.io/v1/{kind}webhookconfigurations")
}

async fn answer(request: Request<Incoming>, tell: mpsc::Sender<String>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let Ok(body) = request.into_body().collect().await else { return Response::new(Body::empty()) };
    let review: Value = serde_json::from_slice(&body.to_bytes()).unwrap();
    let asked = &review["request"];
    // Who is told may have enough of it.
    let _ = tell.try_send(asked["name"].as_str().unwrap_or_default().to_owned());
    if path == "/never" {
        std::future::pending::<()>().await;
    }
    let mut response = json!({"uid": asked["uid"], "allowed": true});
    if path == "/change" && asked["operation"] != "DELETE" {
        let patch = json!([{"op": "add", "path": "/metadata/annotations", "value": {"changed": "yes"}}]);
        response["patchType"] = "JSONPatch".into();
        response["patch"] = STANDARD.encode(patch.to_string()).into();
    }
    let answer =
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response});
    Response::new(Body::from(answer.to_string()))
}

/// A request whose body comes in pieces, each a while after the other.
fn in_pieces(method: &str, path: &str, body: &Value) -> Request<Body> {
    let (parts, _) = request(method, path, body).into_parts();
    let text = if body.is_null() { String::new() } else { body.to_string() };
    let pieces: Vec<Vec<u8>> =
        text.as_bytes().chunks(text.len().div_ceil(3).max(1)).map(<[u8]>::to_vec).collect();
    let pieces = futures::stream::unfold(pieces.into_iter(), |mut rest| async {
        // The server looks once whether there is something already.
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
        rest.next().map(|piece| (Ok::<_, std::io::Error>(piece), rest))
    });
    Request::from_parts(parts, Body::from_stream(pieces))
}
