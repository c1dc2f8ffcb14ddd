//! Watches over the heartbeats of nodes: a node that is silent becomes Unknown, its pods not ready, and its
//! conditions become taints.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use coracle_api::names::{NAMESPACE_NODE_LEASE, TAINT_NOT_READY, TAINT_UNREACHABLE, TAINT_UNSCHEDULABLE};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use parking_lot::Mutex;
use serde_json::json;
use tokio::time::Instant;

use crate::Config;
use crate::claims::name;
use crate::pods;
use crate::pods_by_node::PodsByNode;
use crate::runtime::{Cache, Key, Next, Queue, Reconcile, Recorder, Runtime, Writer};

/// So long may a node be silent.
const GRACE: Duration = Duration::from_secs(50);

/// Conditions a kubelet reports and nobody vouches for once it is silent.
const REPORTED: &[&str] = &["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// Conditions that are trouble when true, and their taints.
const PRESSURES: &[(&str, &str)] = &[
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];

/// When each node was last heard of, by our own clock.
type Heartbeats = Mutex<HashMap<String, Instant>>;

struct Controller {
    nodes: Arc<Cache<Node>>,
    pods: Arc<Cache<Pod>>,
    by_node: Arc<PodsByNode>,
    heartbeats: Arc<Heartbeats>,
    recorder: Recorder,
}

pub(crate) fn start(runtime: &mut Runtime, _config: &Config) {
    let (nodes, pods) = (runtime.cache::<Node>(), runtime.cache::<Pod>());
    let leases = runtime.cache::<Lease>();
    let by_node = PodsByNode::follow(&pods);
    let heartbeats: Arc<Heartbeats> = Arc::default();
    let queue = Queue::default();
    let (heard, changed) = (heartbeats.clone(), queue.clone());
    nodes.on_change(move |old, new| match (old, new) {
        (Some(old), None) => drop(heard.lock().remove(name(&**old))),
        (old, Some(new)) => {
            let beat = |n: &Arc<Node>| ready(n).and_then(|c| c.last_heartbeat_time.clone());
            if old.is_none_or(|old| beat(old) != beat(new)) {
                heard.lock().insert(name(&**new).to_owned(), Instant::now());
            }
            changed.add(Key::of(&**new));
        }
        (None, None) => {}
    });
    let heard = heartbeats.clone();
    leases.on_change(move |old, new| {
        let renewed = |l: &Arc<Lease>| l.spec.as_ref().and_then(|s| s.renew_time.clone());
        if let Some(new) = new.filter(|l| l.metadata.namespace.as_deref() == Some(NAMESPACE_NODE_LEASE))
            && old.is_none_or(|old| renewed(old) != renewed(new))
        {
            heard.lock().insert(name(&**new).to_owned(), Instant::now());
        }
    });
    let recorder = runtime.recorder("node-controller");
    runtime.work(
        "node-lifecycle-controller",
        queue,
        5,
        Controller { nodes, pods, by_node, heartbeats, recorder },
    );
}

fn ready(node: &Node) -> Option<&NodeCondition> {
    condition(node, "Ready")
}

fn condition<'a>(node: &'a Node, type_: &str) -> Option<&'a NodeCondition> {
    node.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == type_)
}

impl Reconcile for Controller {
    async fn reconcile(&self, key: &Key, api: &Writer) -> anyhow::Result<Next> {
        let Some(node) = self.nodes.get(key) else { return Ok(Next::Done) };
        let heard = self.heartbeats.lock().get(&key.name).copied();
        let silent = heard.map_or(GRACE, |heard| heard.elapsed());
        let now = Timestamp::now();
        let mut node = (*node).clone();
        if silent >= GRACE && silence(&mut node, now) {
            node = api.replace_status(&node).await?;
        }
        if let Some(taints) = taints(&node, now) {
            node.spec.get_or_insert_default().taints = (!taints.is_empty()).then_some(taints);
            node = api.replace(&node).await?;
        }
        if ready(&node).is_none_or(|c| c.status != "True") {
            self.mark_pods(&node, api, now).await?;
        }
        let left = GRACE.saturating_sub(silent);
        Ok(if left.is_zero() { Next::Done } else { Next::After(left) })
    }
}

impl Controller {
    async fn mark_pods(&self, node: &Node, api: &Writer, now: Timestamp) -> anyhow::Result<()> {
        let pods = self.by_node.on(name(node)).into_iter().filter_map(|key| self.pods.get(&key));
        for pod in pods.filter(pods::is_ready) {
            let mut conditions = pod.status.clone().unwrap_or_default().conditions.unwrap_or_default();
            for condition in conditions.iter_mut().filter(|c| c.type_ == "Ready") {
                condition.status = "False".to_owned();
                condition.last_transition_time = Some(Time(now));
            }
            let patch = json!({"metadata": {"resourceVersion": pod.metadata.resource_version},
                "status": {"conditions": conditions}});
            api.merge_status::<Pod>(&Key::of(&*pod), patch).await?;
            self.recorder.warning(&*pod, "NodeNotReady", "Node is not ready");
        }
        Ok(())
    }
}

/// Makes what the kubelet reported unknown; returns whether anything changed.
fn silence(node: &mut Node, now: Timestamp) -> bool {
    let created = node.metadata.creation_timestamp.clone();
    let conditions = node.status.get_or_insert_default().conditions.get_or_insert_default();
    let mut changed = false;
    for type_ in REPORTED {
        match conditions.iter_mut().find(|c| c.type_ == *type_) {
            Some(condition) if condition.status == "Unknown" => {}
            Some(condition) => {
                condition.status = "Unknown".to_owned();
                condition.reason = Some("NodeStatusUnknown".to_owned());
                condition.message = Some("Kubelet stopped posting node status.".to_owned());
                condition.last_transition_time = Some(Time(now));
                changed = true;
            }
            None => {
                conditions.push(NodeCondition {
                    type_: (*type_).to_owned(),
                    status: "Unknown".to_owned(),
                    reason: Some("NodeStatusNeverUpdated".to_owned()),
                    message: Some("Kubelet never posted node status.".to_owned()),
                    last_heartbeat_time: created.clone(),
                    last_transition_time: Some(Time(now)),
                });
                changed = true;
            }
        }
    }
    changed
}

/// The taints the node should have; None if it has them.
fn taints(node: &Node, now: Timestamp) -> Option<Vec<Taint>> {
    let status = |type_| condition(node, type_).map(|c| c.status.as_str());
    let mut wanted = Vec::new();
    let sick = match status("Ready") {
        Some("False") => Some(TAINT_NOT_READY),
        Some("Unknown") => Some(TAINT_UNREACHABLE),
        _ => None,
    };
    wanted.extend(sick.into_iter().flat_map(|key| [(key, "NoSchedule"), (key, "NoExecute")]));
    wanted.extend(
        PRESSURES.iter().filter(|(c, _)| status(c) == Some("True")).map(|(_, key)| (*key, "NoSchedule")),
    );
    if node.spec.as_ref().and_then(|s| s.unschedulable) == Some(true) {
        wanted.push((TAINT_UNSCHEDULABLE, "NoSchedule"));
    }
    let ours = |t: &Taint| {
        [TAINT_NOT_READY, TAINT_UNREACHABLE, TAINT_UNSCHEDULABLE].contains(&t.key.as_str())
            || PRESSURES.iter().any(|(_, key)| *key == t.key)
    };
    let present = node.spec.as_ref().and_then(|s| s.taints.clone()).unwrap_or_default();
    let is = |t: &Taint, w: &(&str, &str)| t.key == w.0 && t.effect == w.1;
    let mut taints: Vec<Taint> =
        present.iter().filter(|t| !ours(t) || wanted.iter().any(|w| is(t, w))).cloned().collect();
    for want in wanted.iter().filter(|w| !present.iter().any(|t| is(t, w))) {
        taints.push(Taint {
            key: want.0.to_owned(),
            effect: want.1.to_owned(),
            time_added: Some(Time(now)),
            value: None,
        });
    }
    (taints != present).then_some(taints)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_node_is_unknown_and_unreachable_until_it_speaks() {
        let now = Timestamp::UNIX_EPOCH;
        let mut node: Node = serde_json::from_value(json!({"metadata": {"name": "n"},
            "spec": {"taints": [{"key": "mine", "effect": "NoSchedule"}]},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]}}))
        .unwrap();
        assert_eq!(taints(&node, now), None);
        assert!(silence(&mut node, now) && !silence(&mut node, now));
        let keys = |t: &[Taint]| t.iter().map(|t| format!("{}:{}", t.key, t.effect)).collect::<Vec<_>>();
        let tainted = taints(&node, now).unwrap();
        let unreachable = |effect: &str| format!("{TAINT_UNREACHABLE}:{effect}");
        assert_eq!(
            keys(&tainted),
            ["mine:NoSchedule".to_owned(), unreachable("NoSchedule"), unreachable("NoExecute")]
        );
        node.spec.as_mut().unwrap().taints = Some(tainted);
        node.status.as_mut().unwrap().conditions.as_mut().unwrap()[0].status = "True".into();
        assert_eq!(keys(&taints(&node, now).unwrap()), ["mine:NoSchedule"]);
    }
}
