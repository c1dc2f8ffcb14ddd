//! Puts the parts of the node together and keeps them running until told to stop.

use std::{net::IpAddr, sync::Arc};

use anyhow::Context as _;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Service;
use kube::{
    Api,
    runtime::{WatchStreamExt, reflector, watcher},
};
use tokio_util::sync::CancellationToken;

use crate::{
    Config,
    images::{Images, ImagesConfig},
    net::{NetConfig, PodNetwork, ServicesConfig, run_services},
    node,
    pods::{self, node_context::NodeContext, recorder::Recorder, sources::Sources},
    runtime::{Runtime, RuntimeConfig},
    streaming::{Endpoints, Listener},
};

/// Runs the node until `shutdown` is cancelled. Pods go on running without it and are adopted by the next run.
pub async fn run(config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    tracing::info!(node = %config.node_name, "starting the node agent");
    for dir in [&config.state_dir, &config.run_dir, &config.log_dir] {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    let images = Images::open(ImagesConfig {
        dir: config.images_dir.clone(),
        mirrors_file: config.registries.clone(),
        plain_http: config.insecure_loopback_registries.clone(),
    })
    .await
    .context("cannot open the image store")?;
    let runtime = Runtime::open(RuntimeConfig {
        state_dir: config.state_dir.join("runtime"),
        run_dir: config.run_dir.clone(),
        cgroup_root: format!("{}/kubepods", config.cgroup_root.trim_end_matches('/')),
        shim_command: vec!["/proc/self/exe".into(), "shim".into()],
        seccomp_dir: config.state_dir.join("seccomp"),
        images: images.clone(),
    })
    .await
    .context("cannot open the container runtime")?;
    let network = open_network(&config).await?;
    let alive: Vec<String> = runtime.sandboxes().into_iter().map(|sandbox| sandbox.pod_uid).collect();
    network.retain(&alive).await.context("cannot remove links without a pod")?;
    let cluster_services = ServicesConfig {
        client: config.proxy_client.clone(),
        node_name: config.node_name.clone(),
        cluster_dns: config.cluster_dns,
        cluster_domain: config.cluster_domain.clone(),
    };
    let cluster_services = run_services(cluster_services, network.config().clone(), shutdown.clone());
    let (services, writer) = reflector::store::<Service>();
    let watch = watcher(Api::all(config.client.clone()), watcher::Config::default());
    let mut watch = Box::pin(reflector::reflector(writer, watch.default_backoff()));
    let services_task = async { while watch.next().await.is_some() {} };
    let names = vec![config.node_name.clone(), config.node_ip.to_string()];
    let listener = Listener::bind(&config.serving, names).await?;
    let port = listener.port();
    let node = Arc::new(NodeContext {
        recorder: Recorder::start(config.client.clone(), &config.node_name),
        sources: Sources::new(config.client.clone()),
        capacity: node::capacity(&config),
        runtime,
        images,
        network,
        services,
        config,
    });
    let directory = pods::Directory::default();
    let served = Arc::new(pods::served::Served { node: node.clone(), directory: directory.clone() });
    let endpoints = Endpoints { runtime: node.runtime.clone(), pods: served };
    let streaming = listener.serve(
        endpoints,
        node.config.client.clone(),
        node.config.node_name.clone(),
        shutdown.clone(),
    );
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = services_task => {}
        result = cluster_services => result?,
        () = streaming => {}
        ((), ()) = async { tokio::join!(node::run(node.clone(), port, shutdown.clone()), pods::run(node.clone(), directory, shutdown.clone())) } => {}
    }
    Ok(())
}

async fn open_network(config: &Config) -> anyhow::Result<PodNetwork> {
    let IpAddr::V4(node_ip) = config.node_ip else {
        anyhow::bail!("node address {} is not IPv4", config.node_ip)
    };
    let network = NetConfig {
        pod_cidr: config.pod_cidr.parse().context("pod range")?,
        service_cidr: config.service_cidr.parse().context("service range")?,
        cluster_cidr: config.cluster_cidr.parse().context("cluster range")?,
        node_ip,
        mtu: 1500,
        state_dir: config.run_dir.join("net"),
    };
    PodNetwork::open(network).await.context("cannot set up the pod network")
}
