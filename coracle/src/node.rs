//! The node, as part of `coracle up` or alone: the kubelet with this machine's directories and certificates.

use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use coracle_api::names;
use coracle_apiserver::Running;
use coracle_apiserver::pki::clock::SystemClock;
use coracle_apiserver::pki::renewal::{self, Renewed, Uses};
use coracle_apiserver::pki::{Identity, KubeconfigFile, Leaf, Pki, ServingCertificate, Validity};
use coracle_kubelet::certificates::Certificates;
use coracle_kubelet::images::{GarbagePolicy, VerificationPolicy};
use coracle_kubelet::{EvictionFlags, Serving};
use futures::TryStreamExt;
use k8s_openapi::api::core::v1::Node;
use kube::config::{Cluster, Kubeconfig};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use rustls::server::ResolvesServerCert;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::cli::{Eviction, ImagePolicy, Kubelet, Verification};
use crate::cluster_facts::ClusterFacts;
use crate::component::{self, configured, read};
use crate::kubeconfig::{FACTS, PROXY, SERVING};
use crate::place::Place;
use crate::progress::Progress;
use crate::rotation::{self, LiveClient, Wanted};
use crate::service_manager::ServiceManager;
use crate::up::{in_process, keep_valid};
use crate::{flags, shutdown};

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
    let leaf = Leaf::kubelet_server(&place.node_name, &ips);
    let certificate = ServingCertificate::new(&pki.issue(&leaf, pki.clock().now())?)?;
    let config = coracle_kubelet::Config {
        proxy_client,
        ..config(place, client.clone(), Some(certificate.clone()), pki.ca())?
    };
    let told = Arc::new(ServingTold(config.certificates.clone()));
    let serving = pki.renewed(leaf, vec![certificate, told])?;
    keep_valid(parts, pki, vec![serving], stop);
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
pub(crate) async fn alone(mut options: Kubelet) -> Result<()> {
    let stop = shutdown::on_signal()?;
    let progress = Progress::begin();
    let file = options.client.kubeconfig.clone();
    let given = Given::of(&options)?;
    if let Some(facts) = &given.facts {
        facts.tell(&mut options.node);
    }
    let place = Place::of(options.node, true)?;
    place.layout.open()?;
    let _held = place.layout.hold()?;
    place.facts.keep(&place.layout)?;
    let certificates = Arc::new(Certificates::default());
    let joined = given.join(&place.node_name, &file, &certificates).await?;
    let client = joined.client;
    let config = coracle_kubelet::Config {
        proxy_client: joined.proxy_client,
        certificates,
        ..config(&place, client.clone(), joined.serving, given.client_ca)?
    };
    let renewing = renewal::run(joined.renewed, Arc::new(SystemClock), stop.child_token());
    let file = file.display();
    progress.step(format_args!("node {} works for the API server of {file}", place.node_name));
    let manager = ServiceManager::of_environment();
    let announce = async {
        let mut ready = pin!(ready(client, &place.node_name));
        // An API server that is away is no reason to be begun anew.
        let soon = tokio::time::timeout(READY_WITHIN, &mut ready).await;
        let told = match &soon {
            Ok(Ok(())) => format!("Node {} is Ready", place.node_name),
            Ok(Err(_)) | Err(_) => format!("Node {} waits for the API server of {file}", place.node_name),
        };
        manager.ready(&told).await;
        let now = match soon {
            Ok(now) => now,
            Err(_) => ready.await,
        };
        if now.is_ok() {
            progress.step(format_args!("node {} is Ready", place.node_name));
            manager.ready(&format!("Node {} is Ready", place.node_name)).await;
        }
        std::future::pending().await
    };
    tokio::select! {
        ended = coracle_kubelet::run(config, stop) => ended.context("node"),
        () = announce => Ok(()),
        () = manager.watch(|| async { true }) => Ok(()),
        // Ends when it is told to, as the kubelet does, which has more to end.
        () = async { renewing.await; std::future::pending().await } => Ok(()),
    }
}

/// Notes in the node's metrics which certificate it shows.
struct ServingTold(Arc<Certificates>);

impl Uses for ServingTold {
    fn take(&self, identity: &Identity) -> Result<()> {
        self.0.serving.ends(Validity::of(&identity.certificate)?.not_after.as_second());
        Ok(())
    }
}

/// What a node that runs alone finds in its kubeconfig: see `coracle kubeconfig --node`. Of one that somebody else made,
/// the user in use does everything, and the node makes a serving certificate of its own.
struct Given {
    kubeconfig: Kubeconfig,
    facts: Option<ClusterFacts>,
    client_ca: String,
}

/// The node's clients and what it serves with, all of which change when they are renewed.
struct Joined {
    client: Client,
    proxy_client: Client,
    serving: Option<Arc<ServingCertificate>>,
    renewed: Vec<Arc<Renewed>>,
}

// === impl Given ===

impl Given {
    fn of(options: &Kubelet) -> Result<Self> {
        let kubeconfig = component::kubeconfig(&options.client.kubeconfig)?;
        let facts = facts(&kubeconfig)?;
        let cluster = kubeconfig.clusters.first().and_then(|c| c.cluster.as_ref());
        let client_ca = match (&options.client_ca, cluster) {
            (Some(file), _) => read(file)?,
            (None, Some(Cluster { certificate_authority_data: Some(data), .. })) => decoded(data)?,
            (None, Some(Cluster { certificate_authority: Some(file), .. })) => read(Path::new(file))?,
            (None, _) => bail!("the kubeconfig names no CA: give one with --client-ca"),
        };
        rotation::close(&options.client.kubeconfig);
        Ok(Given { facts, client_ca, kubeconfig })
    }

    /// The clients of this node, and the certificates of it that are renewed from now on: those that the file holds, and
    /// that a node can ask for.
    async fn join(&self, node: &str, file: &Path, told: &Arc<Certificates>) -> Result<Joined> {
        let proxy = self.kubeconfig.contexts.iter().any(|c| c.name == PROXY).then_some(PROXY);
        let kubelet = LiveClient::new(configured(self.kubeconfig.clone(), None, "kubelet").await?)?;
        let proxy_client = LiveClient::new(configured(self.kubeconfig.clone(), proxy, "kube-proxy").await?)?;
        let file = Arc::new(KubeconfigFile::new(file));
        let serving = file.identity(SERVING).map(|own| ServingCertificate::new(&own)).transpose()?;
        let mut renewed = vec![];
        if let Some(user) = self.user_in_use() {
            let users: Vec<Arc<dyn Uses>> = match proxy {
                Some(_) => vec![kubelet.clone()],
                None => vec![kubelet.clone(), proxy_client.clone()],
            };
            let wanted = Wanted::kubelet(user, node);
            renewed.extend(rotation::renewed(&file, wanted, kubelet.client(), told, users)?);
        }
        if proxy.is_some() {
            let wanted = Wanted::proxy(PROXY);
            let users: Vec<Arc<dyn Uses>> = vec![proxy_client.clone()];
            renewed.extend(rotation::renewed(&file, wanted, proxy_client.client(), told, users)?);
        }
        if let Some(serving) = &serving {
            let wanted = Wanted::serving(SERVING, node);
            let users: Vec<Arc<dyn Uses>> = vec![serving.clone()];
            renewed.extend(rotation::renewed(&file, wanted, kubelet.client(), told, users)?);
        }
        Ok(Joined { client: kubelet.client(), proxy_client: proxy_client.client(), serving, renewed })
    }

    fn user_in_use(&self) -> Option<&str> {
        let current = self.kubeconfig.current_context.as_deref()?;
        let context = self.kubeconfig.contexts.iter().find(|c| c.name == current)?;
        context.context.as_ref()?.user.as_deref()
    }
}

/// What a kubeconfig of this program's making says of the cluster.
pub(crate) fn facts(kubeconfig: &Kubeconfig) -> Result<Option<ClusterFacts>> {
    let cluster = kubeconfig.clusters.first().and_then(|c| c.cluster.as_ref());
    let extensions = cluster.and_then(|c| c.extensions.as_deref()).unwrap_or_default();
    let facts = extensions.iter().find(|e| e.name == FACTS).map(|e| e.extension.clone());
    facts.map(serde_json::from_value).transpose().context("the cluster's extension")
}

pub(crate) fn decoded(data: &str) -> Result<String> {
    let bytes = STANDARD.decode(data).context("the kubeconfig's base64")?;
    String::from_utf8(bytes).context("the kubeconfig's PEM")
}

fn config(
    place: &Place,
    client: Client,
    certificate: Option<Arc<ServingCertificate>>,
    client_ca: String,
) -> Result<coracle_kubelet::Config> {
    let Place { layout, node_name, node_ip, facts, options } = place;
    let node = layout.node();
    Ok(coracle_kubelet::Config {
        state_dir: node.clone(),
        run_dir: layout.run.clone(),
        log_dir: node.join("logs"),
        cgroup_root: layout.cgroup_root(),
        cluster_cidr: facts.cluster_cidr.clone(),
        service_cidr: facts.service_cidr.clone(),
        cluster_dns: Some(facts.cluster_dns),
        cluster_domain: facts.cluster_domain.clone(),
        serving: Serving {
            port: options.kubelet_port,
            listen: options.bind_address,
            certificate: certificate.map(|certificate| certificate as Arc<dyn ResolvesServerCert>),
            client_ca: Some(client_ca),
            idle_timeout: options.streaming_connection_idle_timeout,
            ..Serving::default()
        },
        eviction: flags::eviction(options)?,
        shutdown_periods: flags::shutdown_periods(options)?,
        images_dir: layout.images(),
        registries: options.registries.clone(),
        pod_max_pids: (options.pod_max_pids > 0).then_some(options.pod_max_pids),
        allowed_unsafe_sysctls: options.allowed_unsafe_sysctls.clone(),
        insecure_loopback_registries: options.insecure_loopback_registry.clone(),
        image_verification: verification(&options.image_policy),
        image_gc: GarbagePolicy {
            high_percent: options.image_policy.image_gc_high_threshold,
            low_percent: options.image_policy.image_gc_low_threshold,
            maximum_age: options.image_policy.image_maximum_gc_age.map(Duration::from_secs),
            ..GarbagePolicy::default()
        },
        version: crate::VERSION.to_owned(),
        ..coracle_kubelet::Config::new(client, node_name.clone(), *node_ip)
    })
}

pub(crate) fn eviction_flags(limits: &Eviction) -> EvictionFlags {
    EvictionFlags {
        hard: Some(limits.eviction_hard.clone()),
        soft: limits.eviction_soft.clone(),
        soft_grace_period: limits.eviction_soft_grace_period.clone(),
        minimum_reclaim: limits.eviction_minimum_reclaim.clone(),
        transition: limits.eviction_pressure_transition_period,
        max_pod_grace: i64::from(limits.eviction_max_pod_grace_period),
    }
}

fn verification(policy: &ImagePolicy) -> VerificationPolicy {
    match policy.image_pull_credentials_verification {
        Verification::NeverVerify => VerificationPolicy::NeverVerify,
        Verification::NeverVerifyPreloadedImages => VerificationPolicy::NeverVerifyPreloadedImages,
        Verification::NeverVerifyAllowlistedImages => VerificationPolicy::NeverVerifyAllowlistedImages(
            policy.preloaded_images_verification_allowlist.clone(),
        ),
        Verification::AlwaysVerify => VerificationPolicy::AlwaysVerify,
    }
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
