//! What the node agent is told at its start.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::Taint;
use rustls::server::ResolvesServerCert;
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};

use crate::certificates::Certificates;
use crate::eviction::EvictionConfig;
use crate::images::{GarbagePolicy, VerificationPolicy};
use crate::node_shutdown::ShutdownPeriods;

/// Everything `run` needs. The client may be in-process or reach the API server over TLS; nothing here can tell.
#[derive(Clone)]
pub struct Config {
    /// The Kubernetes API, as `system:node:<node_name>` (or stronger).
    pub client: kube::Client,
    /// The Kubernetes API, as `system:kube-proxy` (or stronger): Services, EndpointSlices and the other nodes.
    pub proxy_client: kube::Client,
    pub node_name: String,
    /// The node's InternalIP; pods of the host network get it.
    pub node_ip: IpAddr,
    /// What must outlive a reboot: images, container state, volumes (`/var/lib/coracle`).
    pub state_dir: PathBuf,
    /// What must not: sockets, namespace files (`/run/coracle`).
    pub run_dir: PathBuf,
    /// The image store; it may be shared with `coracle image`.
    pub images_dir: PathBuf,
    /// A mirrors file for registries.
    pub registries: Option<PathBuf>,
    /// Registries on loopback that are spoken to without TLS.
    pub insecure_loopback_registries: Vec<String>,
    /// Which images that are on the node a pod may use without the registry's password.
    pub image_verification: VerificationPolicy,
    /// When unused images go.
    pub image_gc: GarbagePolicy,
    /// Container logs: `<log_dir>/<ns>_<pod>_<uid>/<container>/<attempt>.log` (`/var/log/pods`).
    pub log_dir: PathBuf,
    /// Parent cgroup of `kubepods`, `/` for the root.
    pub cgroup_root: String,
    /// All pods of the cluster, e.g. `10.244.0.0/16`. This node's part of it is the Node's `spec.podCIDR`.
    pub cluster_cidr: String,
    /// e.g. `10.96.0.0/12`
    pub service_cidr: String,
    /// The address pods find in resolv.conf (`10.96.0.10`).
    pub cluster_dns: Option<IpAddr>,
    /// e.g. `cluster.local`
    pub cluster_domain: String,
    /// 110 upstream.
    pub max_pods: u32,
    /// How many processes and threads all containers of one pod may have together; `None`: as many as the machine.
    pub pod_max_pids: Option<i64>,
    /// Sysctls beyond upstream's safe ones that pods may set: names, or beginnings that end in `*`. Each must belong to a
    /// namespace that pods have of their own.
    pub allowed_unsafe_sysctls: Vec<String>,
    /// Labels and taints the node registers with.
    pub labels: BTreeMap<String, String>,
    pub taints: Vec<Taint>,
    pub provider_id: Option<String>,
    pub serving: Serving,
    /// Where it is noted what becomes of the certificates.
    pub certificates: Arc<Certificates>,
    /// When the node ends pods to keep itself alive.
    pub eviction: EvictionConfig,
    /// How long the machine's end is put off for its pods.
    pub shutdown_periods: ShutdownPeriods,
    /// `v1.36.x+coracle`, printed by `kubectl get nodes`.
    pub version: String,
}

/// The HTTPS endpoint of the node.
#[derive(Clone, Debug)]
pub struct Serving {
    /// 10250 upstream; 0 lets the kernel choose (the Node object tells which).
    pub port: u16,
    pub listen: IpAddr,
    /// What is shown, which may change at any time; a self-signed pair is made when absent.
    pub certificate: Option<Arc<dyn ResolvesServerCert>>,
    /// PEM bundle of the CAs whose client certificates are accepted (the API server's kubelet client certificate).
    pub client_ca: Option<String>,
    /// What clients' certificates are judged by.
    pub time: Arc<dyn TimeProvider>,
    /// After how much silence a connection is closed; zero for never.
    pub idle_timeout: Duration,
}

impl Default for Serving {
    fn default() -> Self {
        Self {
            port: 10250,
            listen: IpAddr::from([0, 0, 0, 0]),
            certificate: None,
            client_ca: None,
            time: Arc::new(DefaultTimeProvider),
            idle_timeout: Duration::from_secs(4 * 3600),
        }
    }
}

impl Config {
    /// A node with upstream's usual values.
    pub fn new(client: kube::Client, node_name: impl Into<String>, node_ip: IpAddr) -> Self {
        Self {
            proxy_client: client.clone(),
            client,
            node_name: node_name.into(),
            node_ip,
            state_dir: "/var/lib/coracle".into(),
            run_dir: "/run/coracle".into(),
            images_dir: "/var/lib/coracle/images".into(),
            registries: None,
            insecure_loopback_registries: Vec::new(),
            image_verification: VerificationPolicy::default(),
            image_gc: GarbagePolicy::default(),
            log_dir: "/var/log/pods".into(),
            cgroup_root: "/".to_owned(),
            cluster_cidr: "10.244.0.0/16".to_owned(),
            service_cidr: "10.96.0.0/12".to_owned(),
            cluster_dns: Some(IpAddr::from([10, 96, 0, 10])),
            cluster_domain: "cluster.local".to_owned(),
            max_pods: 110,
            pod_max_pids: Some(4096),
            allowed_unsafe_sysctls: Vec::new(),
            labels: BTreeMap::new(),
            taints: Vec::new(),
            provider_id: None,
            serving: Serving::default(),
            certificates: Arc::default(),
            eviction: EvictionConfig::default(),
            shutdown_periods: ShutdownPeriods::default(),
            version: "v1.36.0+coracle".to_owned(),
        }
    }
}
