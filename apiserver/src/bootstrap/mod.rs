//! What every cluster is born with: namespaces, priority classes, RBAC policy, its own Service. All of it is reconciled at
//! each start: made where missing, kept where somebody changed it on purpose.

use std::net::Ipv4Addr;
use std::sync::Arc;

use coracle_api::names::{NAMESPACE_DEFAULT, NAMESPACE_NODE_LEASE, NAMESPACE_PUBLIC, NAMESPACE_SYSTEM};
use coracle_api::priority::{SYSTEM_CLASSES, SystemClass};
use coracle_api::{Gvr, Object};
use futures::future::try_join_all;
use serde_json::{Value, json};

use crate::Server;
use crate::authn::User;
use crate::cluster::core;
use crate::status::{Result, Status};

mod aggregation;
mod certificates;
mod policy;

pub use aggregation::run as aggregate_roles;
pub use certificates::{publish_authorities, tell_failures};

/// The server as it writes for itself.
pub fn system() -> User {
    User::component(coracle_api::names::USER_APISERVER, &[coracle_api::names::GROUP_MASTERS])
}

/// Writes what is missing. Independent writes go together, so that the store groups them into few commits.
pub async fn reconcile(server: &Arc<Server>) -> Result<()> {
    let namespaces = [NAMESPACE_SYSTEM, NAMESPACE_PUBLIC, NAMESPACE_NODE_LEASE, NAMESPACE_DEFAULT];
    let namespace = |name: &str| {
        (
            core("namespaces"),
            Object(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})),
        )
    };
    let first: Vec<_> = namespaces.iter().map(|n| namespace(n)).collect();
    ensure_all(server, first).await?;
    let mut rest = priority_classes();
    rest.extend(flow_control()?);
    let mut policy = policy::objects();
    let all: Vec<Object> =
        policy.iter().filter(|(g, _)| g.resource == "clusterroles").map(|(_, o)| o.clone()).collect();
    for (_, role) in &mut policy {
        // Made whole at once; later changes are the aggregation task's.
        if let Some(rules) = policy::aggregated(role, &all) {
            role.set(&["rules"], Value::Array(rules));
        }
    }
    // `admin` takes its rules from `edit`, which takes its from `view`: what those hold is only known after one more round.
    let all: Vec<Object> =
        policy.iter().filter(|(g, _)| g.resource == "clusterroles").map(|(_, o)| o.clone()).collect();
    for (_, role) in &mut policy {
        if let Some(rules) = policy::aggregated(role, &all) {
            role.set(&["rules"], Value::Array(rules));
        }
    }
    let user = system();
    let reconciled = policy.iter().map(|(gvr, object)| reconcile_policy(server, &user, gvr, object));
    tokio::try_join!(
        ensure_all(server, rest),
        try_join_all(reconciled),
        ensure_service(server),
        ensure_service_range(server),
        certificates::publish(server),
        ensure_token_tracking(server)
    )?;
    Ok(())
}

/// Creates each object unless it is there.
async fn ensure_all(server: &Arc<Server>, objects: Vec<(Gvr, Object)>) -> Result<()> {
    let user = system();
    let user = &user;
    try_join_all(
        objects.into_iter().map(|(gvr, object)| async move { ensure(server, user, &gvr, object).await }),
    )
    .await?;
    Ok(())
}

async fn ensure(server: &Arc<Server>, user: &User, gvr: &Gvr, object: Object) -> Result<()> {
    let (namespace, name) = (object.namespace().to_owned(), object.name().to_owned());
    if server.get(gvr, &namespace, &name).is_ok() {
        return Ok(());
    }
    match server.create(user, gvr, &namespace, object, false).await {
        Err(e) if e.code() == 409 => Ok(()),
        other => other.map(drop),
    }
}

/// Adds the rules and subjects that are missing; a role or binding marked `autoupdate: "false"` is left alone.
async fn reconcile_policy(server: &Arc<Server>, user: &User, gvr: &Gvr, wanted: &Object) -> Result<()> {
    let (namespace, name) = (wanted.namespace(), wanted.name());
    let Ok(found) = server.get(gvr, namespace, name) else {
        return ensure(server, user, gvr, wanted.clone()).await;
    };
    let fixed = found.annotation("rbac.authorization.kubernetes.io/autoupdate") == Some("false");
    let missing = |field: &str| -> Vec<Value> {
        let there = found.items_at(&[field]);
        wanted.items_at(&[field]).iter().filter(|w| !there.contains(w)).cloned().collect()
    };
    let aggregated = wanted.at(&["aggregationRule"]).is_some();
    let field = if wanted.at(&["roleRef"]).is_some() { "subjects" } else { "rules" };
    let missing = missing(field);
    if fixed || aggregated || missing.is_empty() {
        return Ok(());
    }
    let change = |object: &mut Object| {
        let list = object.entry(&[field]);
        if !list.is_array() {
            *list = json!([]);
        }
        if let Some(list) = list.as_array_mut() {
            list.extend(missing.iter().cloned());
        }
        Ok(())
    };
    server.modify(user, gvr, "", namespace, name, false, &change).await.map(drop)
}

fn priority_classes() -> Vec<(Gvr, Object)> {
    let class = |class: SystemClass| {
        let object = json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": class.name},
            "value": class.value, "description": class.description, "preemptionPolicy": "PreemptLowerPriority"});
        (Gvr::new("scheduling.k8s.io", "v1", "priorityclasses"), Object(object))
    };
    SYSTEM_CLASSES.into_iter().map(class).collect()
}

/// The flow schemas and priority levels that clusters are known to have.
fn flow_control() -> Result<Vec<(Gvr, Object)>> {
    const GROUP: &str = "flowcontrol.apiserver.k8s.io";
    let all: Vec<Value> =
        serde_json::from_str(include_str!("flow_control.json")).map_err(Status::internal)?;
    let object = |item: Value| {
        let plural = if item["kind"] == "FlowSchema" { "flowschemas" } else { "prioritylevelconfigurations" };
        let metadata =
            json!({"name": item["name"], "annotations": {"apf.kubernetes.io/autoupdate-spec": "true"}});
        let object = json!({"apiVersion": format!("{GROUP}/v1"), "kind": item["kind"],
            "metadata": metadata, "spec": item["spec"]});
        (Gvr::new(GROUP, "v1", plural), Object(object))
    };
    Ok(all.into_iter().map(object).collect())
}

/// Since which day the uses of Secrets' tokens are noted.
async fn ensure_token_tracking(server: &Arc<Server>) -> Result<()> {
    let name = "kube-apiserver-legacy-service-account-token-tracking";
    let today = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date().to_string();
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"since": today},
        "metadata": {"name": name, "namespace": NAMESPACE_SYSTEM}});
    let user = system();
    ensure(server, &user, &core("configmaps"), Object(map)).await?;
    let change = |map: &mut Object| -> Result<(), Status> {
        if map.str_at(&["data", "since"]).parse::<jiff::civil::Date>().is_err() {
            map.set(&["data", "since"], json!(today));
        }
        Ok(())
    };
    server.modify(&user, &core("configmaps"), "", NAMESPACE_SYSTEM, name, false, &change).await.map(drop)
}

/// The first address of the service range: the API server's own.
pub fn service_address((network, _): (Ipv4Addr, u8)) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(network) + 1)
}

/// `default/kubernetes` and the endpoints behind it, which follow the advertised address.
async fn ensure_service(server: &Arc<Server>) -> Result<()> {
    let advertise = server.config.advertise;
    let (address, port) = (advertise.ip().to_string(), advertise.port());
    let ip = service_address(server.config.service_cidr).to_string();
    let meta = json!({"name": "kubernetes", "namespace": NAMESPACE_DEFAULT});
    let service = json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "kubernetes", "namespace": NAMESPACE_DEFAULT,
                     "labels": {"component": "apiserver", "provider": "kubernetes"}},
        "spec": {"clusterIP": ip, "clusterIPs": [ip], "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
                 "type": "ClusterIP", "sessionAffinity": "None",
                 "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": port}]}});
    let user = system();
    ensure(server, &user, &core("services"), Object(service)).await?;
    // Upstream's endpoints of a loopback address would be refused by validation; there is none to reach then.
    if advertise.ip().is_loopback() || advertise.ip().is_unspecified() {
        return Ok(());
    }
    let mut endpoints = json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": meta,
        "subsets": [{"addresses": [{"ip": address}], "ports": [{"name": "https", "port": port, "protocol": "TCP"}]}]});
    endpoints["metadata"]["labels"] = json!({"endpointslice.kubernetes.io/skip-mirror": "true"});
    let mut slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": meta,
        "addressType": "IPv4", "endpoints": [{"addresses": [address], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": port, "protocol": "TCP"}]});
    slice["metadata"]["labels"] = json!({"kubernetes.io/service-name": "kubernetes"});
    follow(server, &user, &core("endpoints"), Object(endpoints), &["subsets"]).await?;
    let slices = Gvr::new("discovery.k8s.io", "v1", "endpointslices");
    follow(server, &user, &slices, Object(slice), &["endpoints", "ports"]).await
}

/// The ServiceCIDR that stands for the range this server was started with.
async fn ensure_service_range(server: &Arc<Server>) -> Result<()> {
    let (network, bits) = server.config.service_cidr;
    let ranges = Gvr::new("networking.k8s.io", "v1", "servicecidrs");
    let range = json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "kubernetes"},
        "spec": {"cidrs": [format!("{network}/{bits}")]}});
    let user = system();
    ensure(server, &user, &ranges, Object(range)).await?;
    let ready = |range: &mut Object| -> Result<(), Status> {
        if range.items_at(&["status", "conditions"]).is_empty() {
            let now = coracle_api::time::seconds(jiff::Timestamp::now());
            range.set(
                &["status", "conditions"],
                json!([{"type": "Ready", "status": "True", "reason": "",
                "message": "Kubernetes default Service CIDR is ready", "lastTransitionTime": now}]),
            );
        }
        Ok(())
    };
    server.modify(&user, &ranges, "status", "", "kubernetes", false, &ready).await.map(drop)
}

/// Creates an object, or brings the named fields of the existing one up to date.
async fn follow(server: &Arc<Server>, user: &User, gvr: &Gvr, wanted: Object, fields: &[&str]) -> Result<()> {
    ensure(server, user, gvr, wanted.clone()).await?;
    let change = |object: &mut Object| -> Result<(), Status> {
        for field in fields {
            object.set(&[field], wanted.at(&[field]).cloned().unwrap_or_default());
        }
        Ok(())
    };
    server.modify(user, gvr, "", wanted.namespace(), wanted.name(), false, &change).await.map(drop)
}
