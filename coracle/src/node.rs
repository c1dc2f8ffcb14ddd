//! The node, as part of `coracle up` or alone: the kubelet with this machine's directories and certificates.

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

use crate::cli::Kubelet;
use crate::component::{client, read};
use crate::place::Place;
use crate::progress::Progress;
use crate::shutdown;
use crate::up::{cidr, in_process};

/// How long a node may take to be ready before the user is told and the start goes on.
const READY_WITHIN: Duration = Duration::from_secs(20);

pub(crate) async fn start(
    parts: &mut JoinSet<Result<()>>,
    place: &Place,
    running: &Running,
    pki: &Arc<Pki>,
    progress: &Progress,
    stop: &CancellationToken,
) -> Result<()> {
    let user = format!("system:node:{}", place.node_name);
    let client = in_process(running, "kubelet", &user, &[names::GROUP_NODES]);
    let proxy_client = in_process(running, "kube-proxy", names::USER_KUBE_PROXY, &[]);
    let ips = [place.node_ip];
    let serving = pki.issue(&Leaf::kubelet_server(&place.node_name, &ips), Timestamp::now())?;
    let certificate = Some((serving.certificate, serving.key));
    let config = coracle_kubelet::Config {
        proxy_client,
        ..config(place, client.clone(), certificate, pki.ca().to_owned())?
    };
    let token = stop.child_token();
    parts.spawn(async move { coracle_kubelet::run(config, token).await.context("node") });
    match tokio::time::timeout(READY_WITHIN, ready(client, &place.node_name)).await {
        Ok(ready) => {
            ready?;
            progress.step(format_args!("node {} is Ready", place.node_name));
        }
        Err(_) if stop.is_cancelled() => {}
        Err(_) => progress
            .step(format_args!("node {} is not Ready yet; kubectl describe node tells why", place.node_name)),
    }
    Ok(())
}

/// The node alone, for whatever API server a kubeconfig names.
pub(crate) async fn alone(options: Kubelet) -> Result<()> {
    let stop = shutdown::on_signal()?;
    let progress = Progress::begin();
    let place = Place::of(options.node, true)?;
    place.layout.open()?;
    place.facts.keep(&place.layout)?;
    let client = client(&options.client).await?;
    let client_ca = read(&options.client_ca)?;
    // Nobody has signed for this node: it makes a certificate of its own.
    let config = config(&place, client, None, client_ca)?;
    progress.step(format_args!("node {} works for {}", place.node_name, options.client.kubeconfig.display()));
    coracle_kubelet::run(config, stop).await.context("node")
}

fn config(
    place: &Place,
    client: Client,
    certificate: Option<(String, String)>,
    client_ca: String,
) -> Result<coracle_kubelet::Config> {
    let Place { layout, node_name, node_ip, facts, options } = place;
    let node = layout.node();
    Ok(coracle_kubelet::Config {
        state_dir: node.clone(),
        run_dir: layout.run.clone(),
        log_dir: node.join("logs"),
        cgroup_root: layout.cgroup_root(),
        pod_cidr: first_24(&options.cluster_cidr)?,
        cluster_cidr: facts.cluster_cidr.clone(),
        service_cidr: facts.service_cidr.clone(),
        cluster_dns: Some(facts.cluster_dns),
        cluster_domain: facts.cluster_domain.clone(),
        serving: Serving {
            port: options.kubelet_port,
            listen: options.bind_address,
            certificate,
            client_ca: Some(client_ca),
        },
        images_dir: layout.images(),
        registries: options.registries.clone(),
        insecure_loopback_registries: options.insecure_loopback_registry.clone(),
        version: crate::VERSION.to_owned(),
        ..coracle_kubelet::Config::new(client, node_name.clone(), *node_ip)
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
