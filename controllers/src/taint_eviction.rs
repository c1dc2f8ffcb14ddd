//! Deletes pods from nodes whose NoExecute taints they do not tolerate, or no longer tolerate.
//!
//! A pod that tolerates its taints for a time has a deadline from the moment at which that was first seen. As upstream,
//! the deadline stands until the pod tolerates for ever or the taints are gone; what changes meanwhile does not move it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use coracle_api::taint::tolerates;
use coracle_client::errors::is_not_found;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};
use parking_lot::Mutex;

use crate::Config;
use crate::claims::{name, uid};
use crate::pod_gc::disruption;
use crate::pods;
use crate::pods_by_node::PodsByNode;
use crate::runtime::{Cache, Key, Next, Queue, Reconcile, Recorder, Runtime, Writer};

/// When pods are to go, by key, each with the uid it holds for. Bounded by the pods there are.
type Deadlines = Mutex<HashMap<Key, (String, Timestamp)>>;

struct Controller {
    pods: Arc<Cache<Pod>>,
    nodes: Arc<Cache<Node>>,
    deadlines: Arc<Deadlines>,
    recorder: Recorder,
}

/// How long a pod may stay on its node.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Stay {
    Forever,
    Until(Timestamp),
    Not,
}

pub(crate) fn start(runtime: &mut Runtime, _config: &Config) {
    let (pods, nodes) = (runtime.cache::<Pod>(), runtime.cache::<Node>());
    let by_node = PodsByNode::follow(&pods);
    let queue = Queue::default();
    let deadlines: Arc<Deadlines> = Arc::default();
    let (all, changed, kept) = (nodes.clone(), queue.clone(), deadlines.clone());
    pods.on_change(move |old, new| {
        let Some(pod) = new.filter(|p| !pods::is_terminating(p)) else {
            if let Some(gone) = new.or(old) {
                kept.lock().remove(&Key::of(&**gone));
            }
            return;
        };
        let node = pods::node_name(pod).and_then(|node| all.get(&Key::cluster(node)));
        if node.is_some_and(|n| evicting(&n).next().is_some()) {
            changed.add(Key::of(&**pod));
        }
    });
    let changed = queue.clone();
    nodes.on_change(move |old, new| {
        let Some(node) = new else { return };
        if !old.map_or_else(Vec::new, |old| evicting(old).collect()).into_iter().eq(evicting(node)) {
            for pod in by_node.on(name(&**node)) {
                changed.add(pod);
            }
        }
    });
    let recorder = runtime.recorder("taint-eviction-controller");
    runtime.work("taint-eviction-controller", queue, 8, Controller { pods, nodes, deadlines, recorder });
}

fn evicting(node: &Node) -> impl Iterator<Item = &Taint> {
    let taints = node.spec.iter().flat_map(|s| s.taints.iter().flatten());
    taints.filter(|t| t.effect == "NoExecute")
}

impl Reconcile for Controller {
    async fn reconcile(&self, key: &Key, api: &Writer) -> anyhow::Result<Next> {
        let Some(pod) = self.pods.get(key).filter(|p| !pods::is_terminating(p)) else {
            return Ok(Next::Done);
        };
        let node = pods::node_name(&pod).and_then(|node| self.nodes.get(&Key::cluster(node)));
        let Some(node) = node else { return Ok(Next::Done) };
        let tolerations = pod.spec.as_ref().and_then(|s| s.tolerations.as_deref()).unwrap_or_default();
        let now = Timestamp::now();
        let taints: Vec<&Taint> = evicting(&node).collect();
        let known = self.deadlines.lock().get(key).filter(|(of, _)| of == uid(&*pod)).map(|(_, at)| *at);
        match stay(&taints, tolerations, known, now) {
            Stay::Forever => {
                self.deadlines.lock().remove(key);
                if known.is_some() {
                    let text = format!("Cancelling deletion of Pod {key}");
                    self.recorder.normal(&*pod, "TaintManagerEviction", text);
                }
                return Ok(Next::Done);
            }
            Stay::Until(deadline) => {
                self.deadlines.lock().insert(key.clone(), (uid(&*pod).to_owned(), deadline));
                if deadline > now {
                    let left = Duration::try_from(deadline.duration_since(now)).unwrap_or_default();
                    return Ok(Next::After(left));
                }
            }
            Stay::Not => {}
        }
        let text = format!("Marking for deletion Pod {key}");
        self.recorder.normal(&*pod, "TaintManagerEviction", text);
        let message = "Taint manager: deleting due to NoExecute taint";
        let patch = disruption(&pod, "DeletionByTaintManager", message, now);
        match api.strategic_status::<Pod>(key, patch).await {
            Err(error) if is_not_found(&error) => return Ok(Next::Done),
            result => result?,
        };
        api.delete(&*pod, None).await?;
        Ok(Next::Done)
    }
}

/// `known` is the deadline of a pod that has one. Of each taint the first toleration that matches counts, as upstream,
/// and of all these the shortest.
fn stay(taints: &[&Taint], tolerations: &[Toleration], known: Option<Timestamp>, now: Timestamp) -> Stay {
    let mut least: Option<i64> = None;
    for taint in taints {
        let Some(first) = tolerations.iter().find(|t| tolerates(t, taint)) else { return Stay::Not };
        if let Some(seconds) = first.toleration_seconds {
            least = Some(least.map_or(seconds, |least| least.min(seconds)).max(0));
        }
    }
    let Some(seconds) = least else { return Stay::Forever };
    let fresh = now.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX);
    Stay::Until(known.unwrap_or(fresh))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_stay_is_counted_from_when_it_was_first_seen_and_not_moved() {
        let exists = |key: &str, seconds: Option<i64>| json!({"key": key, "operator": "Exists", "tolerationSeconds": seconds});
        let any = |seconds: i64| json!({"operator": "Exists", "tolerationSeconds": seconds});
        // Taint keys, tolerations, the deadline known, and what follows at second 1000.
        let cases: &[(&[&str], Value, Option<i64>, Stay)] = &[
            (&[], json!([]), None, Stay::Forever),
            (&[], json!([]), Some(1010), Stay::Forever),
            (&["k"], json!([]), None, Stay::Not),
            (&["k"], json!([]), Some(2000), Stay::Not),
            (&["k"], json!([exists("k", None)]), Some(1010), Stay::Forever),
            (&["k"], json!([exists("k", Some(30))]), None, Stay::Until(at(1030))),
            (&["k"], json!([exists("k", Some(30))]), Some(1010), Stay::Until(at(1010))),
            (&["k"], json!([exists("k", Some(30))]), Some(999), Stay::Until(at(999))),
            (&["k"], json!([exists("k", Some(-5))]), None, Stay::Until(at(1000))),
            (&["k"], json!([exists("k", Some(300)), any(150)]), None, Stay::Until(at(1300))),
            (&["k"], json!([exists("k", None), any(150)]), None, Stay::Forever),
            (
                &["k", "l"],
                json!([exists("k", Some(300)), exists("l", Some(20))]),
                None,
                Stay::Until(at(1020)),
            ),
            (&["k", "l"], json!([exists("k", None), exists("l", Some(20))]), None, Stay::Until(at(1020))),
            (&["k", "l"], json!([exists("k", Some(300))]), None, Stay::Not),
            (&["k"], json!([{"key": "k", "operator": "Gt", "value": "1"}]), None, Stay::Not),
        ];
        for (taints, tolerations, known, expected) in cases {
            // A time at which the taint was set does not count: upstream starts the clock when it sees it.
            let taint =
                |key: &&str| json!({"key": key, "effect": "NoExecute", "timeAdded": at(900).to_string()});
            let taints: Vec<Taint> =
                taints.iter().map(|key| serde_json::from_value(taint(key)).unwrap()).collect();
            let given: Vec<Toleration> = serde_json::from_value(tolerations.clone()).unwrap();
            let found = stay(&taints.iter().collect::<Vec<_>>(), &given, known.map(at), at(1000));
            assert_eq!(found, *expected, "{tolerations} known {known:?}");
        }
    }
}
