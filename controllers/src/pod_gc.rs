//! Removes pods that no kubelet will ever report on again: those of nodes that are gone or declared out of service,
//! those deleted before they had a node, and the oldest of too many that have ended. What has not ended fails first, so
//! that whoever waits for its end sees one.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use coracle_client::errors::is_not_found;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::DeleteParams;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::Config;
use crate::claims::name;
use crate::pods;
use crate::pods_by_node::PodsByNode;
use crate::runtime::{Cache, Key, Next, Queue, Reconcile, Runtime, Writer};

/// A node that is missing may come back within this time.
const QUARANTINE: Duration = Duration::from_secs(40);
/// Ended pods kept for their logs and states.
const ENDED_KEPT: usize = 12_500;

/// Says that a node will not come back as it was: its pods may go elsewhere.
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// Ended pods in the order in which they go: those evicted by their node before the others, then by age.
type Ended = Mutex<BTreeSet<(bool, Option<Timestamp>, Key)>>;

/// Why a pod goes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Reason {
    Surplus,
    Unscheduled,
    NodeGone,
    OutOfService,
}

struct Controller {
    pods: Arc<Cache<Pod>>,
    nodes: Arc<Cache<Node>>,
    ended: Arc<Ended>,
}

pub(crate) fn start(runtime: &mut Runtime, _config: &Config) {
    let (pods, nodes) = (runtime.cache::<Pod>(), runtime.cache::<Node>());
    let ended: Arc<Ended> = Arc::default();
    let by_node = PodsByNode::follow(&pods);
    let queue = Queue::default();
    let (kept, all, changed) = (ended.clone(), nodes.clone(), queue.clone());
    pods.on_change(move |old, new| {
        if let Some(oldest) = keep_count(&kept, old, new) {
            changed.add(oldest);
        }
        let Some(pod) = new else { return };
        let key = Key::of(&**pod);
        match pods::node_name(pod) {
            None if pods::is_terminating(pod) => changed.add(key),
            Some(node) => match all.get(&Key::cluster(node)) {
                None => changed.add_after(key, QUARANTINE),
                Some(node) if pods::is_terminating(pod) && is_out_of_service(&node) => changed.add(key),
                Some(_) => {}
            },
            None => {}
        }
    });
    let (changed, all) = (queue.clone(), pods.clone());
    nodes.on_change(move |old, new| match (old, new) {
        (Some(gone), None) => {
            for pod in by_node.on(name(&**gone)) {
                changed.add_after(pod, QUARANTINE);
            }
        }
        (old, Some(node)) if is_out_of_service(node) && !old.is_some_and(|old| is_out_of_service(old)) => {
            let terminating = |key: &Key| all.get(key).is_some_and(|pod| pods::is_terminating(&pod));
            by_node.on(name(&**node)).into_iter().filter(terminating).for_each(|pod| changed.add(pod));
        }
        _ => {}
    });
    runtime.work("pod-garbage-collector-controller", queue, 5, Controller { pods, nodes, ended });
}

/// Follows which pods have ended; returns the oldest when there are too many.
fn keep_count(ended: &Ended, old: Option<&Arc<Pod>>, new: Option<&Arc<Pod>>) -> Option<Key> {
    let evicted = |pod: &Pod| pod.status.as_ref().and_then(|s| s.reason.as_deref()) == Some("Evicted");
    let made = |pod: &Pod| pod.metadata.creation_timestamp.as_ref().map(|t| t.0);
    let entry = |pod: &Arc<Pod>| (!evicted(pod), made(pod), Key::of(&**pod));
    let mut ended = ended.lock();
    if let Some(old) = old.filter(pods::is_finished) {
        ended.remove(&entry(old));
    }
    if let Some(new) = new.filter(pods::is_finished) {
        ended.insert(entry(new));
    }
    (ended.len() > ENDED_KEPT).then(|| ended.first().map(|(.., key)| key.clone())).flatten()
}

impl Reconcile for Controller {
    async fn reconcile(&self, key: &Key, api: &Writer) -> anyhow::Result<Next> {
        let Some(pod) = self.pods.get(key) else { return Ok(Next::Done) };
        let node = pods::node_name(&pod).and_then(|name| self.nodes.get(&Key::cluster(name)));
        let surplus = pods::is_finished(&pod) && self.is_surplus(key);
        let Some(reason) = reason(&pod, node.as_deref(), surplus) else { return Ok(Next::Done) };
        if let (Reason::NodeGone, Some(name)) = (reason, pods::node_name(&pod))
            && api.get::<Node>(&Key::cluster(name)).await?.is_some()
        {
            return Ok(Next::Done);
        }
        if let Some(patch) = failure(&pod, reason, Timestamp::now()) {
            match api.strategic_status::<Pod>(key, patch).await {
                Err(error) if is_not_found(&error) => return Ok(Next::Done),
                result => result?,
            };
        }
        api.delete_with(&*pod, DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() })
            .await?;
        Ok(Next::Done)
    }
}

impl Controller {
    fn is_surplus(&self, key: &Key) -> bool {
        let ended = self.ended.lock();
        let surplus = ended.len().saturating_sub(ENDED_KEPT);
        ended.iter().take(surplus).any(|(.., ended)| ended == key)
    }
}

fn is_out_of_service(node: &Node) -> bool {
    let taints = node.spec.iter().flat_map(|s| s.taints.iter().flatten());
    let conditions = node.status.iter().flat_map(|s| s.conditions.iter().flatten());
    let ready = conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True");
    !ready && taints.into_iter().any(|t| t.key == OUT_OF_SERVICE)
}

/// `node` is that of the pod as far as it is known; `surplus`: too many have ended, and this is one of the first.
fn reason(pod: &Pod, node: Option<&Node>, surplus: bool) -> Option<Reason> {
    let terminating = pods::is_terminating(pod);
    match (pods::node_name(pod), node) {
        _ if surplus => Some(Reason::Surplus),
        (None, _) => terminating.then_some(Reason::Unscheduled),
        (Some(_), None) => Some(Reason::NodeGone),
        (Some(_), Some(node)) => (terminating && is_out_of_service(node)).then_some(Reason::OutOfService),
    }
}

/// The patch of the status by which a pod that has not ended fails.
fn failure(pod: &Pod, reason: Reason, now: Timestamp) -> Option<Value> {
    if pods::is_finished(pod) {
        return None;
    }
    let mut patch = match reason {
        Reason::NodeGone => disruption(pod, "DeletionByPodGC", "PodGC: node no longer exists", now),
        Reason::Surplus | Reason::Unscheduled | Reason::OutOfService => {
            json!({"metadata": {"uid": pod.metadata.uid}, "status": {}})
        }
    };
    patch["status"]["phase"] = json!("Failed");
    Some(patch)
}

/// A strategic merge patch of the status that says that it is not the pod's own fault that it ends.
pub(crate) fn disruption(pod: &Pod, reason: &str, message: &str, now: Timestamp) -> Value {
    let known = pods::condition(pod, "DisruptionTarget").filter(|c| c.status == "True");
    let since = known.and_then(|c| c.last_transition_time.as_ref()).map_or(now, |t| t.0);
    json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [{
        "type": "DisruptionTarget", "status": "True", "reason": reason, "message": message,
        "lastTransitionTime": since.round(jiff::Unit::Second).unwrap_or(since).to_string(),
        "observedGeneration": pod.metadata.generation,
    }]}})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_without_a_kubelet_fail_and_go() {
        let node = |ready: &str, taint: &str| -> Option<Node> {
            let node = json!({"metadata": {"name": "n"}, "spec": {"taints": [{"key": taint, "effect": "NoExecute"}]},
                "status": {"conditions": [{"type": "Ready", "status": ready}]}});
            Some(serde_json::from_value(node).unwrap())
        };
        let down = || node("Unknown", OUT_OF_SERVICE);
        // Node's name, phase, being deleted, what is known of the node, surplus; then why it goes, whether it has
        // to fail first, and by what fault.
        let cases = [
            (None, "Pending", false, None, false, None),
            (None, "Pending", true, None, false, Some((Reason::Unscheduled, true, false))),
            (None, "Failed", true, None, false, Some((Reason::Unscheduled, false, false))),
            (Some("n"), "Running", false, None, false, Some((Reason::NodeGone, true, true))),
            (Some("n"), "Succeeded", false, None, false, Some((Reason::NodeGone, false, false))),
            (Some("n"), "Running", true, node("True", "x"), false, None),
            (Some("n"), "Running", true, down(), false, Some((Reason::OutOfService, true, false))),
            (Some("n"), "Running", false, down(), false, None),
            (Some("n"), "Running", true, node("True", OUT_OF_SERVICE), false, None),
            (Some("n"), "Failed", false, node("True", "x"), true, Some((Reason::Surplus, false, false))),
        ];
        for (at, phase, deleted, node, surplus, expected) in cases {
            let pod: Pod = serde_json::from_value(json!({
                "metadata": {"name": "p", "deletionTimestamp": deleted.then_some("2026-01-01T00:00:00Z")},
                "spec": {"nodeName": at, "containers": []}, "status": {"phase": phase}}))
            .unwrap();
            let found = reason(&pod, node.as_ref(), surplus).map(|why| {
                let patch = failure(&pod, why, Timestamp::UNIX_EPOCH);
                let fault = patch.as_ref().is_some_and(|p| p["status"]["conditions"].is_array());
                (why, patch.is_some_and(|p| p["status"]["phase"] == "Failed"), fault)
            });
            assert_eq!(found, expected, "{at:?} {phase} deleted: {deleted}");
        }
    }
}
