//! Deletes pods from nodes whose NoExecute taints they do not tolerate, or no longer tolerate.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};

use crate::Config;
use crate::claims::name;
use crate::pod_gc::disrupt;
use crate::pods;
use crate::pods_by_node::PodsByNode;
use crate::runtime::{Cache, Key, Next, Queue, Reconcile, Recorder, Runtime, Writer};

struct Controller {
    pods: Arc<Cache<Pod>>,
    nodes: Arc<Cache<Node>>,
    recorder: Recorder,
}

pub(crate) fn start(runtime: &mut Runtime, _config: &Config) {
    let (pods, nodes) = (runtime.cache::<Pod>(), runtime.cache::<Node>());
    let by_node = PodsByNode::follow(&pods);
    let queue = Queue::default();
    let (all, changed) = (nodes.clone(), queue.clone());
    pods.on_change(move |_, new| {
        let Some(pod) = new.filter(|p| !pods::is_terminating(p)) else { return };
        let node = pods::node_name(pod).and_then(|node| all.get(&Key::cluster(node)));
        if node.is_some_and(|n| evicting(&n).next().is_some()) {
            changed.add(Key::of(&**pod));
        }
    });
    let changed = queue.clone();
    nodes.on_change(move |old, new| {
        let Some(node) = new.filter(|n| evicting(n).next().is_some()) else { return };
        if old.is_some_and(|old| evicting(old).eq(evicting(node))) {
            return;
        }
        for pod in by_node.on(name(&**node)) {
            changed.add(pod);
        }
    });
    let recorder = runtime.recorder("taint-eviction-controller");
    runtime.work("taint-eviction-controller", queue, 8, Controller { pods, nodes, recorder });
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
        match time_left(evicting(&node), tolerations, now) {
            None => return Ok(Next::Done),
            Some(left) if !left.is_zero() => return Ok(Next::After(left)),
            Some(_) => {}
        }
        let text = format!("Marking for deletion Pod {key}");
        self.recorder.normal(&*pod, "TaintManagerEviction", text);
        let mut marked = (*pod).clone();
        disrupt(&mut marked, "DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint", now);
        let marked = api.replace_status(&marked).await?;
        api.delete(&marked, None).await?;
        Ok(Next::Done)
    }
}

/// How long the pod may stay; None: for ever.
fn time_left<'a>(
    taints: impl Iterator<Item = &'a Taint>,
    tolerations: &[Toleration],
    now: Timestamp,
) -> Option<Duration> {
    let mut least: Option<i64> = None;
    for taint in taints {
        let mut matching = tolerations.iter().filter(|t| tolerates(t, taint)).peekable();
        if matching.peek().is_none() {
            return Some(Duration::ZERO);
        }
        // Of several tolerations of one taint the shortest limit counts; one without limit sets none.
        if let Some(seconds) = matching.filter_map(|t| t.toleration_seconds).min() {
            let since = taint.time_added.as_ref().map_or(now, |t| t.0);
            let left = (since.as_second() + seconds.max(0) - now.as_second()).max(0);
            least = Some(least.map_or(left, |l| l.min(left)));
        }
    }
    least.map(|seconds| Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

pub(crate) fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let any_or = |value: Option<&str>, wanted: &str| value.is_none_or(|v| v.is_empty() || v == wanted);
    let key = any_or(toleration.key.as_deref(), &taint.key);
    let effect = any_or(toleration.effect.as_deref(), &taint.effect);
    let value = match toleration.operator.as_deref() {
        Some("Exists") => true,
        None | Some("" | "Equal") => {
            toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default()
        }
        Some(_) => false,
    };
    key && effect && value
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_shortest_toleration_ends_the_stay() {
        let now = Timestamp::from_second(1000).unwrap();
        let added = Timestamp::from_second(900).unwrap().to_string();
        let taint: Taint =
            serde_json::from_value(json!({"key": "k", "effect": "NoExecute", "timeAdded": added})).unwrap();
        let left = |tolerations: serde_json::Value| {
            let tolerations: Vec<Toleration> = serde_json::from_value(tolerations).unwrap();
            time_left([&taint].into_iter(), &tolerations, now).map(|d| d.as_secs())
        };
        assert_eq!(left(json!([])), Some(0));
        assert_eq!(left(json!([{"key": "k", "operator": "Exists"}])), None);
        let limits = json!([{"key": "k", "operator": "Exists", "tolerationSeconds": 300},
            {"operator": "Exists", "tolerationSeconds": 150}]);
        assert_eq!(left(limits), Some(50));
    }
}
