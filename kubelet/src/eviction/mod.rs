//! Eviction: the node keeps itself alive by ending pods, when it is short of something or they exceed their limits.
//!
//! `thresholds`, `state`, `ranking`, `limits`, `brake` and `words` decide and are pure; `measure` looks; this file acts, at most one pod
//! at a time for what the node lacks.

mod brake;
mod limits;
mod measure;
mod ranking;
mod state;
pub mod thresholds;
mod words;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use coracle_api::priority;
use coracle_api::resources::QosClass;
use coracle_api::taint::tolerated;
use k8s_openapi::api::core::v1::{Pod, Taint};
use parking_lot::Mutex;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    node::{admission::Rejection, image_gc, pressure},
    pods::{
        node_context::NodeContext,
        recorder::{node_reference, pod_reference},
        roster::Eviction,
        sweep,
        view::{name_of, spec_of, uid_of},
    },
    tasks::supervised,
};
pub(crate) use measure::disk_of;
#[cfg(test)]
pub(crate) use ranking::ContainerUsage;
use ranking::rank;
pub(crate) use ranking::{Disk, Usage};
use state::{Observations, State, met};
use thresholds::{Condition, Resource, Signal, Threshold};
pub use thresholds::{EvictionConfig, EvictionFlags};

/// What the node is short of.
pub(crate) type Shortages = BTreeSet<Condition>;

/// Upstream's times: between two looks, and for an evicted pod to be gone.
const LOOK: Duration = Duration::from_secs(10);
const CLEAN_UP: Duration = Duration::from_secs(30);
/// Memory goes faster than that, and costs nothing to look at.
const GLANCE: Duration = Duration::from_secs(1);
/// Seconds that a pod has to end when the node cannot wait.
const AT_ONCE: i64 = 1;
/// Measuring a pod's files shall take no more than this part of the time.
const WALKING: u32 = 20;

/// Evictions by what they were for, since the start of the program.
static EVICTIONS: Mutex<BTreeMap<&'static str, u64>> = Mutex::new(BTreeMap::new());

/// The evictions so far, by signal.
pub(crate) fn evictions() -> Vec<(&'static str, u64)> {
    EVICTIONS.lock().iter().map(|(signal, count)| (*signal, *count)).collect()
}

/// Watches the node and its pods until `shutdown`; what the node is short of is told in `shortages`.
pub(crate) async fn run(
    node: Arc<NodeContext>,
    shortages: watch::Sender<Shortages>,
    shutdown: CancellationToken,
) {
    let pressure = supervised("eviction", || relieve(&node, &shortages));
    let limits = supervised("storage limits", || hold_to_limits(&node));
    shutdown.run_until_cancelled(async { tokio::join!(pressure, limits) }).await;
}

/// Whether a pod may come while the node is short of something: critical ones always, and others while it is only memory and
/// they either have asked for some or tolerate it.
pub(crate) fn admit(pod: &Pod, shortages: &Shortages) -> Result<(), Rejection> {
    if shortages.is_empty() || is_critical(pod) {
        return Ok(());
    }
    let memory_only = shortages.iter().eq([&Condition::Memory]);
    if memory_only && (QosClass::of_pod(pod) != QosClass::BestEffort || tolerates_memory_pressure(pod)) {
        return Ok(());
    }
    Err(Rejection { reason: words::REASON.to_owned(), message: words::refused(shortages.iter()) })
}

fn tolerates_memory_pressure(pod: &Pod) -> bool {
    let (key, effect) = ("node.kubernetes.io/memory-pressure".to_owned(), "NoSchedule".to_owned());
    tolerated(spec_of(pod).tolerations.as_deref(), &Taint { key, effect, ..Taint::default() })
}

/// Static pods, mirrors of them, and those of the system's priorities are never evicted.
fn is_critical(pod: &Pod) -> bool {
    let annotation = |key: &str| pod.metadata.annotations.as_ref().and_then(|all| all.get(key));
    let is_static = annotation("kubernetes.io/config.source").is_some_and(|source| source != "api");
    is_static
        || annotation("kubernetes.io/config.mirror").is_some()
        || priority::is_critical(spec_of(pod).priority)
}

async fn relieve(node: &NodeContext, shortages: &watch::Sender<Shortages>) {
    let mut state = State::default();
    let mut mark = None;
    loop {
        let observed = measure::observe(node).await;
        slow_down(node, &observed, &mut mark).await;
        let Some(evicted) = look(node, shortages, &mut state, &observed).await else {
            let short = shortages.borrow().contains(&Condition::Memory);
            rest(node, short).await;
            continue;
        };
        // Its memory and disk are given back by and by; the next pod is taken only if that was not enough.
        if timeout(CLEAN_UP, node.roster.ended(&evicted)).await.is_err() {
            tracing::warn!(uid = evicted, "an evicted pod is not gone yet");
        }
    }
}

/// Sets the mark above which pods wait for memory, where it has moved.
async fn slow_down(node: &NodeContext, observed: &Observations, set: &mut Option<i64>) {
    let Some(mark) = brake::mark(&node.config.eviction.thresholds, observed) else { return };
    if !brake::moved(*set, mark) {
        return;
    }
    if let Err(error) = node.runtime.slow_pods_above(mark).await {
        tracing::warn!(%error, "pods are not slowed down when memory is short");
    }
    *set = Some(mark);
}

/// Waits for the next look, or until memory falls below a threshold.
async fn rest(node: &NodeContext, already_short: bool) {
    let of_memory = node.config.eviction.thresholds.iter().filter(|t| t.signal == Signal::MemoryAvailable);
    let threshold = of_memory.map(|t| t.value.of(node.capacity.memory)).max().unwrap_or(0);
    let end = Instant::now() + LOOK;
    while Instant::now() < end {
        sleep(GLANCE).await;
        let available = i64::try_from(pressure::memory().available).unwrap_or(i64::MAX);
        if !already_short && available < threshold {
            return;
        }
    }
}

/// One look at the node; the pod that was evicted, if any.
async fn look(
    node: &NodeContext,
    shortages: &watch::Sender<Shortages>,
    state: &mut State,
    observed: &Observations,
) -> Option<String> {
    let config = &node.config.eviction;
    let verdict = state.look(&config.thresholds, observed, config.transition, Instant::now());
    shortages.send_if_modified(|told| {
        let news = *told != verdict.conditions;
        told.clone_from(&verdict.conditions);
        news
    });
    let threshold = *verdict.due.first()?;
    let resource = threshold.signal.resource();
    let about = node_reference(&node.config.node_name);
    let attempt = format!("Attempting to reclaim {}", resource.name());
    node.recorder.warning(about, "EvictionThresholdMet", attempt);
    let separate = measure::separate_images(node);
    if reclaim(node, threshold.signal, separate).await {
        return None;
    }
    let disks = matches!(resource, Resource::EphemeralStorage | Resource::Inodes);
    let mut candidates = measure::candidates(node, active(node), disks).await;
    rank(threshold.signal, separate, &mut candidates);
    for candidate in candidates.iter().filter(|c| !is_critical(&c.pod)) {
        let pod = &candidate.pod;
        let told = words::pressure(resource, pod, candidate.usage.as_ref(), &verdict.due, observed);
        let grace = grace(pod, &threshold, config.max_pod_grace);
        if evict(node, pod, threshold.signal.name(), told, grace, true) {
            return Some(uid_of(pod).to_owned());
        }
    }
    tracing::warn!(resource = resource.name(), "no pod can be evicted");
    None
}

fn grace(pod: &Pod, threshold: &Threshold, longest: i64) -> i64 {
    if threshold.is_hard() {
        return AT_ONCE;
    }
    longest.min(spec_of(pod).termination_grace_period_seconds.unwrap_or(longest)).max(0)
}

/// The pods that have not ended and were not told to.
fn active(node: &NodeContext) -> Vec<Arc<Pod>> {
    let mut pods = node.allocations.held();
    pods.retain(|pod| node.roster.contains(uid_of(pod)) && node.roster.order(uid_of(pod)).is_none());
    pods.sort_by(|a, b| uid_of(a).cmp(uid_of(b)));
    pods
}

/// Makes room without ending a pod: what ended containers left, and images that nothing uses. True when that was enough.
async fn reclaim(node: &NodeContext, signal: Signal, separate: bool) -> bool {
    let (containers, images) = match signal {
        Signal::NodefsAvailable | Signal::NodefsInodesFree => (true, !separate),
        Signal::ImagefsAvailable | Signal::ImagefsInodesFree => (!separate, true),
        Signal::MemoryAvailable | Signal::AllocatableMemoryAvailable | Signal::PidAvailable => return false,
    };
    if containers {
        sweep::remove_ended(node).await;
    }
    if images {
        match image_gc::reclaim(node, u64::MAX).await {
            Ok(bytes) => tracing::info!(bytes, "removed unused images"),
            Err(error) => tracing::warn!(error, "unused images not removed"),
        }
    }
    let observed = measure::observe(node).await;
    met(&node.config.eviction.thresholds, &observed, true).is_empty()
}

/// Ends pods that have written more than they may. Apart from pressure, which must not wait for it.
async fn hold_to_limits(node: &NodeContext) {
    let mut walks: HashMap<String, Instant> = HashMap::new();
    loop {
        let pods: Vec<_> = active(node).into_iter().filter(|pod| limits::has_limits(pod)).collect();
        walks.retain(|uid, _| pods.iter().any(|pod| uid_of(pod) == uid));
        for pod in pods {
            let begun = Instant::now();
            if walks.get(uid_of(&pod)).is_some_and(|next| *next > begun) {
                continue;
            }
            let usage = measure::disk_of(node, &pod).await;
            walks.insert(uid_of(&pod).to_owned(), begun + begun.elapsed() * WALKING);
            if let Some(excess) = limits::excess(&pod, &usage).filter(|_| !is_critical(&pod)) {
                let told = words::Told { message: excess.message, annotations: Vec::new() };
                evict(node, &pod, excess.signal, told, AT_ONCE, false);
            }
        }
        sleep(LOOK).await;
    }
}

fn evict(
    node: &NodeContext,
    pod: &Pod,
    signal: &'static str,
    told: words::Told,
    grace: i64,
    disruption: bool,
) -> bool {
    let message = told.message;
    let order = Eviction { reason: words::REASON, message: message.clone(), grace, disruption };
    if !node.roster.evict(uid_of(pod), order) {
        return false;
    }
    tracing::info!(pod = name_of(pod), message, "evicting a pod");
    node.recorder.annotated(pod_reference(pod), words::REASON, message, told.annotations);
    *EVICTIONS.lock().entry(signal).or_default() += 1;
    true
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(metadata: Value, spec: Value) -> Pod {
        let mut spec = spec;
        if spec.get("containers").is_none() {
            spec["containers"] = json!([{"name": "c"}]);
        }
        serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
    }

    #[test]
    fn a_node_that_is_short_of_something_takes_only_pods_that_it_must_or_can() {
        let asking = json!({"containers": [{"name": "c", "resources": {"requests": {"memory": "1Mi"}}}]});
        let tolerating = |key: &str| json!({"tolerations": [{"key": key, "operator": "Exists"}]});
        let memory_pressure = "node.kubernetes.io/memory-pressure";
        let mirror = json!({"annotations": {"kubernetes.io/config.mirror": "x"}});
        let source = |s: &str| json!({"annotations": {"kubernetes.io/config.source": s}});
        use Condition::{Disk, Memory, Pid};
        let message = |list: &str| Some(format!("The node had condition: [{list}]. "));
        let memory = || message("MemoryPressure");
        for (metadata, spec, shortages, want) in [
            (json!({}), json!({}), vec![], None),
            (json!({}), json!({}), vec![Memory], memory()),
            (json!({}), asking.clone(), vec![Memory], None),
            (json!({}), tolerating(memory_pressure), vec![Memory], None),
            (json!({}), tolerating("node.kubernetes.io/disk-pressure"), vec![Memory], memory()),
            (json!({}), asking.clone(), vec![Disk], message("DiskPressure")),
            (json!({}), tolerating(memory_pressure), vec![Pid], message("PIDPressure")),
            (json!({}), asking, vec![Memory, Disk], message("DiskPressure MemoryPressure")),
            (json!({}), json!({"priority": 2_000_000_000}), vec![Disk], None),
            (json!({}), json!({"priority": 1_999_999_999}), vec![Disk], message("DiskPressure")),
            (mirror, json!({}), vec![Disk], None),
            (source("file"), json!({}), vec![Disk], None),
            (source("api"), json!({}), vec![Disk], message("DiskPressure")),
        ] {
            let got = admit(&pod(metadata, spec.clone()), &shortages.iter().copied().collect());
            let got = got.err().map(|refused| (refused.reason, refused.message));
            assert_eq!(got, want.map(|m| ("Evicted".to_owned(), m)), "{spec} {shortages:?}");
        }
    }

    #[test]
    fn soft_thresholds_leave_a_pod_time() {
        let soft = Threshold {
            signal: Signal::MemoryAvailable,
            value: thresholds::Amount::Fraction(0.5),
            grace: Duration::from_secs(1),
            minimum_reclaim: None,
        };
        let hard = Threshold { grace: Duration::ZERO, ..soft };
        let pod = |grace: i64| pod(json!({}), json!({"terminationGracePeriodSeconds": grace}));
        assert_eq!(grace(&pod(30), &hard, 60), 1);
        assert_eq!(grace(&pod(30), &soft, 60), 30);
        assert_eq!(grace(&pod(30), &soft, 10), 10);
    }
}
