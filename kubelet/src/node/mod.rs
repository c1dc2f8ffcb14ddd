//! The Node object: registration, capacity, conditions, heartbeats.

use std::{collections::BTreeMap, fs, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        coordination::v1::{Lease, LeaseSpec},
        core::v1::{ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeSpec, NodeStatus, NodeSystemInfo},
    },
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference}},
};
use kube::{Api, api::{Patch, PatchParams, PostParams}};
use tokio_util::sync::CancellationToken;

use crate::{Config, images::Images, pods::{node_context::NodeContext, recorder::node_reference}};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Capacity {
    pub(crate) cpus: i64,
    /// Bytes.
    pub(crate) memory: i64,
    pub(crate) storage: i64,
}

/// What the machine has.
pub(crate) fn capacity(config: &Config) -> Capacity {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = meminfo.lines().find_map(|l| l.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse::<i64>().ok());
    let storage = nix::sys::statvfs::statvfs(&config.state_dir).map_or(0, |s| i64::try_from(s.blocks() * s.fragment_size()).unwrap_or(i64::MAX));
    Capacity {
        cpus: std::thread::available_parallelism().map_or(1, |n| i64::try_from(n.get()).unwrap_or(1)),
        memory: kib.unwrap_or(0) * 1024,
        storage,
    }
}

/// Registers the node and keeps its lease and status fresh: the lease every 10 s, the status every 5 min or on change.
pub(crate) async fn run(node: Arc<NodeContext>, port: u16, shutdown: CancellationToken) {
    let mut failures = 0_u32;
    let uid = loop {
        match register(&node, port).await {
            Ok(registered) => {
                node.recorder.normal(node_reference(&registered), "Starting", "Starting kubelet.");
                break registered.metadata.uid.unwrap_or_default();
            }
            Err(error) => {
                tracing::warn!(%error, "node not registered yet");
                failures += 1;
                tokio::time::sleep(Duration::from_millis(100 << failures.min(6))).await;
            }
        }
        if shutdown.is_cancelled() {
            return;
        }
    };
    let mut beat = tokio::time::interval(Duration::from_secs(10));
    let mut written = (Vec::new(), Timestamp::UNIX_EPOCH);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = beat.tick() => {}
        }
        if let Err(error) = renew_lease(&node.config, &uid).await {
            tracing::warn!(%error, "lease not renewed");
        }
        let images: Vec<String> = node.images.list().into_iter().map(|i| i.id).collect();
        let now = Timestamp::now();
        if images != written.0 || now.duration_since(written.1).as_secs() >= 300 {
            match write_status(&node, port).await {
                Ok(_) => written = (images, now),
                Err(error) => tracing::warn!(%error, "node status not written"),
            }
        }
    }
}

async fn register(node: &NodeContext, port: u16) -> Result<Node, kube::Error> {
    let config = &node.config;
    let api: Api<Node> = Api::all(config.client.clone());
    let wanted = Node {
        metadata: ObjectMeta { name: Some(config.node_name.clone()), labels: Some(labels(config)), ..ObjectMeta::default() },
        spec: Some(NodeSpec {
            taints: (!config.taints.is_empty()).then(|| config.taints.clone()),
            provider_id: config.provider_id.clone(),
            ..NodeSpec::default()
        }),
        status: Some(status(node, port, None)),
    };
    match api.create(&PostParams::default(), &wanted).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.code == 409 => {
            let patch = serde_json::json!({"metadata": {"labels": labels(config)}});
            api.patch(&config.node_name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        }
        Err(error) => return Err(error),
    }
    write_status(node, port).await
}

async fn write_status(node: &NodeContext, port: u16) -> Result<Node, kube::Error> {
    let api: Api<Node> = Api::all(node.config.client.clone());
    let old = api.get(&node.config.node_name).await?;
    let patch = serde_json::json!({"status": status(node, port, old.status.as_ref())});
    api.patch_status(&node.config.node_name, &PatchParams::default(), &Patch::Strategic(patch)).await
}

async fn renew_lease(config: &Config, node_uid: &str) -> Result<(), kube::Error> {
    let api: Api<Lease> = Api::namespaced(config.client.clone(), "kube-node-lease");
    let spec = LeaseSpec {
        holder_identity: Some(config.node_name.clone()),
        lease_duration_seconds: Some(40),
        renew_time: Some(MicroTime(Timestamp::now())),
        ..LeaseSpec::default()
    };
    let patch = Patch::Merge(serde_json::json!({"spec": spec}));
    match api.patch(&config.node_name, &PatchParams::default(), &patch).await {
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        other => return other.map(drop),
    }
    let owner = OwnerReference { api_version: "v1".to_owned(), kind: "Node".to_owned(), name: config.node_name.clone(), uid: node_uid.to_owned(), ..OwnerReference::default() };
    let metadata = ObjectMeta { name: Some(config.node_name.clone()), owner_references: Some(vec![owner]), ..ObjectMeta::default() };
    api.create(&PostParams::default(), &Lease { metadata, spec: Some(spec) }).await.map(drop)
}

fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn labels(config: &Config) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    for (key, value) in [("arch", arch()), ("os", "linux")] {
        labels.insert(format!("kubernetes.io/{key}"), value.to_owned());
        labels.insert(format!("beta.kubernetes.io/{key}"), value.to_owned());
    }
    labels.insert("kubernetes.io/hostname".to_owned(), config.node_name.clone());
    labels.extend(config.labels.clone());
    labels
}

fn status(node: &NodeContext, port: u16, old: Option<&NodeStatus>) -> NodeStatus {
    let config = &node.config;
    let have = node.capacity;
    let q = |text: String| Quantity(text);
    let capacity = BTreeMap::from([
        ("cpu".to_owned(), q(have.cpus.to_string())),
        ("memory".to_owned(), q(format!("{}Ki", have.memory / 1024))),
        ("ephemeral-storage".to_owned(), q(format!("{}Ki", have.storage / 1024))),
        ("pods".to_owned(), q(config.max_pods.to_string())),
        ("hugepages-1Gi".to_owned(), q("0".to_owned())),
        ("hugepages-2Mi".to_owned(), q("0".to_owned())),
    ]);
    let mut allocatable = capacity.clone();
    // Upstream keeps 100 MiB of memory and a tenth of the disk back as eviction thresholds.
    allocatable.insert("memory".to_owned(), q(format!("{}Ki", have.memory / 1024 - 100 * 1024)));
    allocatable.insert("ephemeral-storage".to_owned(), q((have.storage / 10 * 9).to_string()));
    let address = |kind: &str, address: String| NodeAddress { type_: kind.to_owned(), address };
    NodeStatus {
        addresses: Some(vec![address("InternalIP", config.node_ip.to_string()), address("Hostname", config.node_name.clone())]),
        capacity: Some(capacity),
        allocatable: Some(allocatable),
        conditions: Some(conditions(old)),
        daemon_endpoints: Some(NodeDaemonEndpoints { kubelet_endpoint: Some(DaemonEndpoint { port: i32::from(port) }) }),
        images: Some(images(&node.images)),
        node_info: Some(info(config)),
        ..NodeStatus::default()
    }
}

fn images(images: &Images) -> Vec<ContainerImage> {
    let mut list = images.list();
    list.sort_by_key(|i| std::cmp::Reverse(i.size_bytes));
    let image = |i: crate::cri::ImageInfo| ContainerImage {
        names: Some(i.digests.into_iter().chain(i.tags).take(5).collect()),
        size_bytes: i64::try_from(i.size_bytes).ok(),
    };
    list.into_iter().take(50).map(image).collect()
}

fn conditions(old: Option<&NodeStatus>) -> Vec<NodeCondition> {
    let now = Timestamp::now();
    let table = [
        ("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
    ];
    let at = crate::pods::whole_second(now);
    let condition = |(kind, status, reason, message): (&str, &str, &str, &str)| {
        let known = old.and_then(|o| o.conditions.as_ref()).into_iter().flatten().find(|c| c.type_ == kind && c.status == status);
        NodeCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_heartbeat_time: Some(at.clone()),
            last_transition_time: known.and_then(|c| c.last_transition_time.clone()).or_else(|| Some(at.clone())),
        }
    };
    table.into_iter().map(condition).collect()
}

fn info(config: &Config) -> NodeSystemInfo {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let release = read("/etc/os-release");
    let os = release.lines().find_map(|l| l.strip_prefix("PRETTY_NAME=")).unwrap_or("Linux").trim_matches('"').to_owned();
    NodeSystemInfo {
        architecture: arch().to_owned(),
        boot_id: read("/proc/sys/kernel/random/boot_id"),
        container_runtime_version: format!("coracle://{}", env!("CARGO_PKG_VERSION")),
        kernel_version: read("/proc/sys/kernel/osrelease"),
        kube_proxy_version: String::new(),
        kubelet_version: config.version.clone(),
        machine_id: read("/etc/machine-id"),
        operating_system: "linux".to_owned(),
        os_image: os,
        system_uuid: read("/sys/class/dmi/id/product_uuid"),
        ..NodeSystemInfo::default()
    }
}
