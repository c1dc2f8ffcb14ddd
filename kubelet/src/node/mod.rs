//! The Node object: registration, capacity, heartbeats.

pub(crate) mod admission;
pub(crate) mod configz;
pub(crate) mod disks;
pub(crate) mod exposition;
pub(crate) mod image_gc;
pub(crate) mod metrics;
pub(crate) mod pressure;
pub(crate) mod stats;
mod status;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use coracle_client::errors::{is_exists, is_not_found};
use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        coordination::v1::{Lease, LeaseSpec},
        core::v1::{Node, NodeSpec, NodeStatus, Pod},
    },
    apimachinery::pkg::api::resource::Quantity,
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference},
};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
    runtime::{WatchStreamExt, watcher},
};
use tokio_util::sync::CancellationToken;

use crate::{
    Config,
    cri::Resources,
    net::Cidr,
    pods::{
        enforceable::enforceable,
        node_context::NodeContext,
        recorder::node_reference,
        resources::{cpu_shares, milli, value},
    },
};
use status::{differs, status, transitions};

/// Upstream's periods: of the lease and the look at the node, and of a status without news.
const BEAT: Duration = Duration::from_secs(10);
const REPORT: i64 = 300;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Capacity {
    pub(crate) cpus: i64,
    /// Bytes.
    pub(crate) memory: i64,
    pub(crate) storage: i64,
}

/// What the machine has.
pub(crate) fn capacity(config: &Config) -> Capacity {
    let bytes = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    Capacity {
        cpus: std::thread::available_parallelism().map_or(1, |n| i64::try_from(n.get()).unwrap_or(1)),
        memory: bytes(pressure::memory().total),
        storage: bytes(pressure::disk(&config.state_dir).total),
    }
}

/// What of that pods may have.
pub(crate) fn allocatable(config: &Config, have: Capacity) -> BTreeMap<String, Quantity> {
    status::resources(config, have).1
}

/// What all pods may have together, as their common cgroup is held to it.
fn ceiling(config: &Config, have: Capacity) -> Resources {
    let allocatable = allocatable(config, have);
    Resources {
        cpu_shares: milli(Some(&allocatable), "cpu").map(cpu_shares),
        memory_limit: value(Some(&allocatable), "memory").filter(|bytes| *bytes > 0),
        pids_limit: processes(),
        ..Resources::default()
    }
}

/// The node itself keeps a tenth of what the kernel can number.
fn processes() -> Option<i64> {
    let read = |name: &str| {
        let text = std::fs::read_to_string(format!("/proc/sys/kernel/{name}")).ok()?;
        text.trim().parse::<i64>().ok()
    };
    let most = [read("pid_max"), read("threads-max")].into_iter().flatten().min()?;
    Some(most / 10 * 9)
}

/// Registers the node and keeps its lease and status fresh: the lease every 10 s, the status every 5 min or on change.
pub(crate) async fn run(node: Arc<NodeContext>, port: u16, shutdown: CancellationToken) {
    let Some(registered) = shutdown.run_until_cancelled(registration(&node, port)).await else { return };
    let uid = registered.metadata.uid.clone().unwrap_or_default();
    let mut beat = tokio::time::interval(BEAT);
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut written = Timestamp::now();
    let (mut network, mut shortages) = (node.network_state.clone(), node.shortages.clone());
    let mut ending = node.ending.clone();
    let mut certificates = node.config.certificates.failures();
    // What failed before there was a node to tell it of.
    certificates.mark_changed();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = beat.tick() => {}
            Ok(()) = network.changed() => {}
            Ok(()) = shortages.changed() => {}
            Ok(()) = ending.changed() => {}
            Ok(()) = certificates.changed() => {
                for why in node.config.certificates.untold() {
                    let about = node_reference(&node.config.node_name);
                    node.recorder.warning(about, "CertificateRenewalFailed", why);
                }
                continue;
            }
        }
        if let Err(error) = renew_lease(&node.config, &uid).await {
            tracing::warn!(%error, "lease not renewed");
        }
        let now = Timestamp::now();
        match keep_status(&node, port, now.duration_since(written).as_secs() >= REPORT).await {
            Ok(true) => written = now,
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "node status not written"),
        }
    }
}

/// The addresses of this node's pods, as soon as the cluster has set them aside.
pub(crate) async fn pod_range(config: &Config) -> Cidr {
    let own = watcher::Config::default().fields(&format!("metadata.name={}", config.node_name));
    let nodes = watcher(Api::<Node>::all(config.client.clone()), own).default_backoff().applied_objects();
    let mut nodes = std::pin::pin!(nodes);
    loop {
        match nodes.next().await {
            Some(Ok(node)) => {
                let ranges = node.spec.iter().flat_map(|s| s.pod_cidrs.iter().flatten().chain(&s.pod_cidr));
                if let Some(range) = ranges.filter_map(|range| range.parse().ok()).next() {
                    return range;
                }
                tracing::info!("the Node has no IPv4 podCIDR yet: pods wait for it");
            }
            Some(Err(error)) => tracing::debug!(%error, "watch of the own Node failed; it is resumed"),
            None => std::future::pending().await,
        }
    }
}

/// Tries until the API has the node.
async fn registration(node: &NodeContext, port: u16) -> Node {
    let mut failures = 0_u32;
    loop {
        match register(node, port).await {
            Ok(registered) => {
                let about = node_reference(&node.config.node_name);
                node.recorder.normal(about.clone(), "Starting", "Starting kubelet.");
                for reason in registered.status.iter().flat_map(|s| transitions(s, None)) {
                    tell(node, reason);
                }
                match node.runtime.limit_pods(&ceiling(&node.config, node.capacity)).await {
                    Ok(()) => {
                        let message = "Updated Node Allocatable limit across pods";
                        node.recorder.normal(about, "NodeAllocatableEnforced", message);
                    }
                    Err(error) => {
                        let error = format!("{:#}", anyhow::Error::from(error));
                        let message = format!("Failed to update Node Allocatable Limits: {error}");
                        node.recorder.warning(about, "FailedNodeAllocatableEnforcement", message);
                    }
                }
                return registered;
            }
            Err(error) => {
                let error = format!("{:#}", anyhow::Error::from(error));
                tracing::warn!(error, "node not registered yet");
                failures += 1;
                tokio::time::sleep(Duration::from_millis(100 << failures.min(6))).await;
            }
        }
    }
}

fn tell(node: &NodeContext, reason: &str) {
    let message = format!("Node {} status is now: {reason}", node.config.node_name);
    node.recorder.normal(node_reference(&node.config.node_name), reason, message);
}

async fn register(node: &NodeContext, port: u16) -> Result<Node, kube::Error> {
    let config = &node.config;
    let api: Api<Node> = Api::all(config.client.clone());
    let wanted = Node {
        metadata: ObjectMeta {
            name: Some(config.node_name.clone()),
            labels: Some(labels(config)),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec {
            taints: (!config.taints.is_empty()).then(|| config.taints.clone()),
            provider_id: config.provider_id.clone(),
            ..NodeSpec::default()
        }),
        status: Some(status(node, port, None)),
    };
    let known = match api.create(&PostParams::default(), &wanted).await {
        Ok(_) => None,
        Err(error) if is_exists(&error) => Some(api.get(&config.node_name).await?),
        Err(error) => return Err(error),
    };
    if known.is_some() {
        let patch = serde_json::json!({"metadata": {"labels": labels(config)}});
        api.patch(&config.node_name, &PatchParams::default(), &Patch::Merge(patch)).await?;
    }
    let old = known.and_then(|k| k.status);
    write_status(node, &status(node, port, old.as_ref())).await
}

/// Writes the status when something in it has changed, or when it is `due`; tells whether it did.
async fn keep_status(node: &NodeContext, port: u16, due: bool) -> Result<bool, kube::Error> {
    let api: Api<Node> = Api::all(node.config.client.clone());
    let known = api.get(&node.config.node_name).await?;
    let old = known.status.clone().unwrap_or_default();
    let new = status(node, port, Some(&old));
    if !due && !differs(&new, &old) {
        return Ok(false);
    }
    write_status(node, &new).await?;
    for reason in transitions(&new, Some(&old)) {
        tell(node, reason);
    }
    Ok(true)
}

async fn write_status(node: &NodeContext, status: &NodeStatus) -> Result<Node, kube::Error> {
    let api: Api<Node> = Api::all(node.config.client.clone());
    let mut patch = serde_json::json!({"status": status});
    // Addresses are merged by type otherwise, and old ones would stay.
    if let Some(addresses) = patch.pointer_mut("/status/addresses").and_then(|a| a.as_array_mut()) {
        addresses.push(serde_json::json!({"$patch": "replace"}));
    }
    api.patch_status(&node.config.node_name, &PatchParams::default(), &Patch::Strategic(patch)).await
}

/// Whether a pod new to this node may run here.
pub(crate) async fn admit(
    node: &NodeContext,
    pod: &Pod,
    others: &[Arc<Pod>],
) -> Result<(), admission::Rejection> {
    crate::eviction::admit(pod, &node.shortages.borrow().clone())?;
    crate::node_shutdown::admit(*node.ending.borrow())?;
    let api: Api<Node> = Api::all(node.config.client.clone());
    enforceable(pod, &node.abilities)?;
    match api.get(&node.config.node_name).await {
        Ok(known) => admission::admit(pod, others, &known),
        Err(error) => {
            tracing::warn!(%error, "node not read, pod not admitted");
            let message = "Kubelet cannot get node info.".to_owned();
            Err(admission::Rejection { reason: "InvalidNodeInfo".to_owned(), message })
        }
    }
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
        Err(error) if is_not_found(&error) => {}
        other => return other.map(drop),
    }
    let owner = OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: config.node_name.clone(),
        uid: node_uid.to_owned(),
        ..OwnerReference::default()
    };
    let metadata = ObjectMeta {
        name: Some(config.node_name.clone()),
        owner_references: Some(vec![owner]),
        ..ObjectMeta::default()
    };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_pods_together_have_what_the_node_says_is_allocatable() {
        let config = Config::new(crate::testing::client(|_| None), "node", [192, 0, 2, 1].into());
        let have = Capacity { cpus: 2, memory: 4 << 30, storage: 100 << 30 };
        let ceiling = ceiling(&config, have);
        let told = value(Some(&allocatable(&config, have)), "memory").unwrap();
        assert_eq!(ceiling.memory_limit, Some(told));
        let huge: i64 = 4 << 30;
        assert!(told > 0 && told < huge, "less than all, by what eviction keeps free: {told}");
        assert_eq!(ceiling.cpu_shares, Some(2048));
        let kernel = std::fs::read_to_string("/proc/sys/kernel/pid_max").unwrap();
        let most: i64 = kernel.trim().parse().unwrap();
        assert!(
            ceiling.pids_limit.is_some_and(|pids| pids > 0 && pids < most),
            "the node keeps some for itself"
        );
        // Where nothing is left, no limit of nothing is set: the node could run no pod to say so.
        let none = super::ceiling(&config, Capacity { memory: 1, ..have });
        assert_eq!(none.memory_limit, None);
    }
}
