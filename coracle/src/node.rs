//! The node of `coracle up`: the kubelet with this machine's directories and certificates.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use coracle_api::names;
use coracle_apiserver::Running;
use coracle_apiserver::pki::{Leaf, Pki};
use coracle_kubelet::Serving;
use futures::TryStreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::progress::Progress;
use crate::up::{Plan, cidr, in_process};

/// How long a node may take to be ready before the user is told and the start goes on.
const READY_WITHIN: Duration = Duration::from_secs(20);

pub(crate) async fn start(
    parts: &mut JoinSet<Result<()>>,
    plan: &Plan,
    running: &Running,
    pki: &Arc<Pki>,
    progress: &Progress,
    stop: &CancellationToken,
) -> Result<()> {
    let user = format!("system:node:{}", plan.node_name);
    let client = in_process(running, &user, &[names::GROUP_NODES]);
    let proxy_client = in_process(running, names::USER_KUBE_PROXY, &[]);
    let config = coracle_kubelet::Config { proxy_client, ..config(plan, client.clone(), pki)? };
    let token = stop.child_token();
    parts.spawn(async move { coracle_kubelet::run(config, token).await.context("node") });
    match tokio::time::timeout(READY_WITHIN, ready(client, &plan.node_name)).await {
        Ok(ready) => {
            ready?;
            progress.step(format_args!("node {} is Ready", plan.node_name));
        }
        Err(_) if stop.is_cancelled() => {}
        Err(_) => progress
            .step(format_args!("node {} is not Ready yet; kubectl describe node tells why", plan.node_name)),
    }
    Ok(())
}

fn config(plan: &Plan, client: Client, pki: &Pki) -> Result<coracle_kubelet::Config> {
    let serving = pki.issue(&Leaf::kubelet_server(&plan.node_name, &[plan.node_ip]), Timestamp::now())?;
    let node = plan.layout.node();
    Ok(coracle_kubelet::Config {
        state_dir: node.clone(),
        run_dir: plan.layout.run.clone(),
        log_dir: node.join("logs"),
        cgroup_root: plan.layout.cgroup_root(),
        pod_cidr: first_24(&plan.options.cluster_cidr)?,
        cluster_cidr: plan.facts.cluster_cidr.clone(),
        service_cidr: plan.facts.service_cidr.clone(),
        cluster_dns: Some(plan.facts.cluster_dns),
        cluster_domain: plan.facts.cluster_domain.clone(),
        serving: Serving {
            port: plan.options.kubelet_port,
            listen: plan.options.bind_address,
            certificate: Some((serving.certificate, serving.key)),
            client_ca: Some(pki.ca().to_owned()),
        },
        images_dir: plan.layout.images(),
        registries: plan.options.registries.clone(),
        insecure_loopback_registries: plan.options.insecure_loopback_registry.clone(),
        version: crate::VERSION.to_owned(),
        ..coracle_kubelet::Config::new(client, plan.node_name.clone(), plan.node_ip)
    })
}

/// The part of the pods' range that the first node takes.
fn first_24(cluster_cidr: &str) -> Result<String> {
    let (network, bits) = cidr(cluster_cidr)?;
    Ok(format!("{}/{}", IpAddr::V4(Ipv4Addr::from(u32::from(network))), bits.max(24)))
}

/// Waits until the node says that it is ready.
async fn ready(client: Client, name: &str) -> Result<()> {
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let nodes = watcher(Api::<Node>::all(client), config).default_backoff().applied_objects();
    futures::pin_mut!(nodes);
    while let Some(node) = nodes.try_next().await? {
        let conditions = node.status.and_then(|s| s.conditions).unwrap_or_default();
        if conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True") {
            return Ok(());
        }
    }
    Ok(())
}
