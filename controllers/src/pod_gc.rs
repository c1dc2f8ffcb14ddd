//! Removes pods that no kubelet will ever report on again: those of nodes that are gone, those deleted before they
//! had a node, and the oldest of too many that have ended.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::DeleteParams;
use parking_lot::Mutex;

use crate::Config;
use crate::claims::name;
use crate::pods;
use crate::pods_by_node::PodsByNode;
use crate::runtime::{Cache, Key, Next, Queue, Reconcile, Runtime, Writer, is_not_found};

/// A node that is missing may come back within this time.
const QUARANTINE: Duration = Duration::from_secs(40);
/// Ended pods kept for their logs and states.
const ENDED_KEPT: usize = 12_500;

/// Ended pods by age.
type Ended = Mutex<BTreeSet<(Option<Timestamp>, Key)>>;

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
            Some(node) if all.get(&Key::cluster(node)).is_none() => changed.add_after(key, QUARANTINE),
            _ => {}
        }
    });
    let changed = queue.clone();
    nodes.on_change(move |old, new| {
        let (Some(gone), None) = (old, new) else { return };
        for pod in by_node.on(name(&**gone)) {
            changed.add_after(pod, QUARANTINE);
        }
    });
    runtime.work("pod-garbage-collector-controller", queue, 5, Controller { pods, nodes, ended });
}

/// Follows which pods have ended; returns the oldest when there are too many.
fn keep_count(ended: &Ended, old: Option<&Arc<Pod>>, new: Option<&Arc<Pod>>) -> Option<Key> {
    let entry = |pod: &Arc<Pod>| (pod.metadata.creation_timestamp.as_ref().map(|t| t.0), Key::of(&**pod));
    let mut ended = ended.lock();
    if let Some(old) = old.filter(|p| pods::is_finished(p)) {
        ended.remove(&entry(old));
    }
    if let Some(new) = new.filter(|p| pods::is_finished(p)) {
        ended.insert(entry(new));
    }
    (ended.len() > ENDED_KEPT).then(|| ended.first().map(|(_, key)| key.clone())).flatten()
}

impl Reconcile for Controller {
    async fn reconcile(&self, key: &Key, api: &Writer) -> anyhow::Result<Next> {
        let Some(pod) = self.pods.get(key) else { return Ok(Next::Done) };
        let surplus = pods::is_finished(&pod) && self.is_surplus(key);
        let orphaned = match pods::node_name(&pod) {
            None => pods::is_terminating(&pod),
            Some(name) => {
                let node = Key::cluster(name);
                self.nodes.get(&node).is_none() && api.get::<Node>(&node).await?.is_none()
            }
        };
        if !surplus && !orphaned {
            return Ok(Next::Done);
        }
        if orphaned && pods::node_name(&pod).is_some() && !pods::is_finished(&pod) {
            let failed = failed(&pod, Timestamp::now());
            match api.replace_status(&failed).await {
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
        ended.iter().take(surplus).any(|(_, ended)| ended == key)
    }
}

fn failed(pod: &Pod, now: Timestamp) -> Pod {
    let mut pod = pod.clone();
    let status = pod.status.get_or_insert_default();
    status.phase = Some("Failed".to_owned());
    disrupt(&mut pod, "DeletionByPodGC", "PodGC: node no longer exists", now);
    pod
}

/// Notes on a pod that it is not its own fault that it ends.
pub(crate) fn disrupt(pod: &mut Pod, reason: &str, message: &str, now: Timestamp) {
    let generation = pod.metadata.generation;
    let conditions = pod.status.get_or_insert_default().conditions.get_or_insert_default();
    conditions.retain(|c| c.type_ != "DisruptionTarget");
    conditions.push(PodCondition {
        type_: "DisruptionTarget".to_owned(),
        status: "True".to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_transition_time: Some(Time(now)),
        observed_generation: generation,
        ..PodCondition::default()
    });
}
