//! Puts the parts of the node together and keeps them running until told to stop.

use std::{
    net::IpAddr,
    sync::{Arc, OnceLock},
};

use anyhow::Context as _;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Service;
use kube::{
    Api,
    runtime::{WatchStreamExt, reflector, watcher},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    Config,
    eviction::{self, Shortages},
    images::{Images, ImagesConfig},
    net::{Cidr, NetConfig, NetworkState, PodNetwork, ServicesConfig, run_repair, run_services},
    node, node_shutdown,
    pods::{
        self,
        allocation::Allocations,
        enforceable::{Abilities, Sysctls},
        node_context::NodeContext,
        recorder,
        roster::Roster,
        sources::Sources,
    },
    runtime::{Runtime, RuntimeConfig},
    streaming::{Endpoints, Listener},
    sys::process,
    tasks::supervised,
};

/// Upstream's `oomScoreAdj` of a kubelet.
const OOM_SCORE: i32 = -999;

/// Runs the node until `shutdown` is cancelled. Pods go on running without it and are adopted by the next run: also by the
/// one that follows a panic.
pub async fn run(config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    // As upstream's: the node's own program is the last that the kernel takes when memory is short.
    if let Err(error) = process::set_oom_score(OOM_SCORE) {
        tracing::warn!(%error, "the OOM killer may take this program like any other");
    }
    supervised("node agent", || run_once(config.clone(), shutdown.clone())).await
}

async fn run_once(config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    tracing::info!(node = %config.node_name, "starting the node agent");
    for dir in [&config.state_dir, &config.run_dir, &config.log_dir] {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    let images = Images::open(ImagesConfig {
        dir: config.images_dir.clone(),
        mirrors_file: config.registries.clone(),
        plain_http: config.insecure_loopback_registries.clone(),
        verification: config.image_verification.clone(),
    })
    .await
    .context("cannot open the image store")?;
    let runtime = Runtime::open(RuntimeConfig {
        state_dir: config.state_dir.join("runtime"),
        run_dir: config.run_dir.clone(),
        cgroup_root: format!("{}/kubepods", config.cgroup_root.trim_end_matches('/')),
        shim_arguments: vec!["shim".into()],
        seccomp_dir: config.state_dir.join("seccomp"),
        images: images.clone(),
        max_pods: config.max_pods,
    })
    .await
    .context("cannot open the container runtime")?;
    let abilities = abilities(&config, &runtime)?;
    let (services, writer) = reflector::store::<Service>();
    let watch = watcher(Api::all(config.client.clone()), watcher::Config::default());
    let mut watch = Box::pin(reflector::reflector(writer, watch.default_backoff()));
    let services_task = async { while watch.next().await.is_some() {} };
    let names = vec![config.node_name.clone(), config.node_ip.to_string()];
    let listener = Listener::bind(&config.serving, names).await?;
    let port = listener.port();
    let (state, network_state) = watch::channel(NetworkState::default());
    let capacity = node::capacity(&config);
    let (shortages, told) = watch::channel(Shortages::new());
    let (end_is_near, ending) = watch::channel(false);
    let node = Arc::new(NodeContext {
        recorder: recorder::start(config.client.clone(), &config.node_name),
        sources: Sources::new(config.client.clone()),
        capacity,
        allocations: Allocations::new(node::allocatable(&config, capacity)),
        roster: Roster::default(),
        shortages: told,
        ending,
        abilities,
        runtime,
        images,
        network: OnceLock::new(),
        network_state,
        services,
        config,
    });
    let directory = pods::Directory::default();
    let served = Arc::new(pods::served::Served {
        node: node.clone(),
        directory: directory.clone(),
        disks: node::disks::Disks::default(),
    });
    let endpoints =
        Endpoints { runtime: node.runtime.clone(), pods: served, log_dir: node.config.log_dir.clone() };
    let streaming = listener.serve(
        endpoints,
        node.config.client.clone(),
        node.config.node_name.clone(),
        shutdown.clone(),
    );
    let connected = connect(node.clone(), state, directory, shutdown.clone());
    let images_collected =
        supervised("image garbage collection", || node::image_gc::run(node.clone(), shutdown.clone()));
    let registered = async {
        node::run(node.clone(), port, shutdown.clone()).await;
        Ok(())
    };
    let evicting = eviction::run(node.clone(), shortages, shutdown.clone());
    let waiting_for_the_end = node_shutdown::run(node.clone(), end_is_near, shutdown.clone());
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = evicting => {}
        () = waiting_for_the_end => {}
        () = services_task => {}
        () = streaming => {}
        () = images_collected => {}
        result = async { tokio::try_join!(registered, connected) } => drop(result?),
    }
    Ok(())
}

/// What the machine and the configuration let pods have.
fn abilities(config: &Config, runtime: &Runtime) -> anyhow::Result<Abilities> {
    let kernel = nix::sys::utsname::uname().context("cannot read the kernel's version")?;
    let sysctls = Sysctls::new(&kernel.release().to_string_lossy(), &config.allowed_unsafe_sysctls);
    Ok(Abilities {
        sysctls: sysctls.map_err(anyhow::Error::msg).context("unsafe sysctls")?,
        no_apparmor: runtime.no_apparmor().map(str::to_owned),
        selinux: std::path::Path::new("/sys/fs/selinux/enforce").exists(),
        no_user_namespaces: runtime.no_users().map(str::to_owned),
    })
}

/// Opens the pod network as soon as the Node has its range, then runs all that needs it.
async fn connect(
    node: Arc<NodeContext>,
    state: watch::Sender<NetworkState>,
    directory: pods::Directory,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let config = &node.config;
    let network = open_network(config, node::pod_range(config).await).await?;
    let alive: Vec<String> = node.runtime.sandboxes().into_iter().map(|sandbox| sandbox.pod_uid).collect();
    network.retain(&alive).await.context("cannot remove links without a pod")?;
    let net_config = network.config().clone();
    let damaged = Arc::new(tokio::sync::Notify::new());
    let local = match config.cluster_dns {
        Some(IpAddr::V4(dns)) => vec![dns],
        Some(IpAddr::V6(_)) | None => vec![],
    };
    let repair = run_repair(network.clone(), local, damaged.clone(), shutdown.clone());
    let repair = async { repair.await.context("cannot watch over the pod network") };
    let _ = node.network.set(network);
    state.send_modify(|state| state.open = true);
    let services = ServicesConfig {
        client: config.proxy_client.clone(),
        node_name: config.node_name.clone(),
        cluster_dns: config.cluster_dns,
        cluster_domain: config.cluster_domain.clone(),
        state,
        damaged,
    };
    let pods = async {
        pods::run(node.clone(), directory, shutdown.clone()).await;
        Ok(())
    };
    tokio::try_join!(run_services(services, net_config, shutdown.clone()), repair, pods)?;
    Ok(())
}

async fn open_network(config: &Config, pod_cidr: Cidr) -> anyhow::Result<PodNetwork> {
    let IpAddr::V4(node_ip) = config.node_ip else {
        anyhow::bail!("node address {} is not IPv4", config.node_ip)
    };
    let cluster_cidr: Cidr = config.cluster_cidr.parse().context("cluster range")?;
    anyhow::ensure!(
        cluster_cidr.contains(pod_cidr.address()),
        "the cluster gave this node {pod_cidr}, which is not in {cluster_cidr}: give the node the cluster's range"
    );
    let network = NetConfig {
        pod_cidr,
        service_cidr: config.service_cidr.parse().context("service range")?,
        cluster_cidr,
        node_ip,
        mtu: 1500,
        state_dir: config.run_dir.join("net"),
    };
    PodNetwork::open(network).await.context("cannot set up the pod network")
}
