//! Placement and updates as upstream's controller does them.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};

use super::placement::{Fit, fit, node_of, pod as new_pod};
use super::plan::{Plan, View};
use crate::claims::name;
use crate::revisions::REVISION_HASH;

#[allow(clippy::needless_pass_by_value, reason = "a literal reads best as the argument")]
fn set(strategy: Value) -> DaemonSet {
    serde_json::from_value(json!({"metadata": {"name": "d", "namespace": "ns", "generation": 2},
        "spec": {"selector": {}, "updateStrategy": strategy, "template": {"spec": {
            "nodeSelector": {"disk": "ssd"}, "containers": []}}}}))
    .unwrap()
}

fn node(name: &str, disk: &str, taint: Option<(&str, &str)>) -> Arc<Node> {
    let taints: Vec<_> = taint.iter().map(|(key, effect)| json!({"key": key, "effect": effect})).collect();
    let node = json!({"metadata": {"name": name, "labels": {"disk": disk}}, "spec": {"taints": taints}});
    Arc::new(serde_json::from_value(node).unwrap())
}

fn pod(name: &str, node: &str, hash: &str, ready: bool) -> Arc<Pod> {
    let status = if ready { "True" } else { "False" };
    Arc::new(
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "ns", "uid": name, "labels": {REVISION_HASH: hash}},
            "spec": {"nodeName": node, "containers": []},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": status}]},
        }))
        .unwrap(),
    )
}

fn run(set: &DaemonSet, nodes: &[Arc<Node>], pods: &[Arc<Pod>]) -> (Plan, Value) {
    let now = Timestamp::from_second(0).unwrap();
    let view = View::new(set, set.spec.as_ref().unwrap(), nodes, pods, "new", now);
    (view.plan(|_| None), serde_json::to_value(view.status(None)).unwrap())
}

fn deleted(plan: &Plan) -> Vec<&str> {
    plan.delete.iter().map(|p| name(&**p)).collect()
}

#[test]
fn nodes_are_chosen_by_selector_and_taints() {
    let set = set(json!({}));
    let place = |disk, taint| fit(&set, &node("n", disk, taint));
    assert_eq!(place("ssd", None), Fit::Runs);
    assert_eq!(place("hdd", None), Fit::No);
    assert_eq!(place("ssd", Some(("node.kubernetes.io/unschedulable", "NoSchedule"))), Fit::Runs);
    assert_eq!(place("ssd", Some(("own", "NoSchedule"))), Fit::Stays);
    assert_eq!(place("ssd", Some(("own", "NoExecute"))), Fit::No);
    assert_eq!(place("ssd", Some(("own", "PreferNoSchedule"))), Fit::Runs);
}

#[test]
fn a_pod_is_tied_to_its_node_by_name() {
    let pod = new_pod(&set(json!({})), "n1", "h");
    assert_eq!(node_of(&pod), Some("n1"));
    assert_eq!(pod.metadata.labels.as_ref().unwrap()[REVISION_HASH], "h");
    assert_eq!(pod.spec.unwrap().tolerations.unwrap().len(), 6);
}

#[test]
fn every_node_gets_one_pod_and_strangers_lose_theirs() {
    let nodes = [node("a", "ssd", None), node("b", "ssd", None), node("c", "hdd", None)];
    let pods = [pod("b1", "b", "new", true), pod("b2", "b", "new", true), pod("c1", "c", "new", true)];
    let (plan, status) = run(&set(json!({})), &nodes, &pods);
    assert_eq!(plan.create, ["a"]);
    assert_eq!(deleted(&plan), ["b2", "c1"]);
    let expected = json!({"desiredNumberScheduled": 2, "currentNumberScheduled": 1, "numberMisscheduled": 1,
        "numberReady": 1, "numberAvailable": 1, "numberUnavailable": 1, "updatedNumberScheduled": 1,
        "observedGeneration": 2});
    assert_eq!(status, expected);
}

#[test]
fn an_update_keeps_enough_available() {
    let nodes = [node("a", "ssd", None), node("b", "ssd", None), node("c", "ssd", None)];
    let old =
        |ready_b| [pod("a", "a", "old", true), pod("b", "b", "old", ready_b), pod("c", "c", "old", true)];
    let rolling = |n: i32| set(json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": n}}));
    assert_eq!(deleted(&run(&rolling(1), &nodes, &old(true)).0), ["a"]);
    assert_eq!(deleted(&run(&rolling(1), &nodes, &old(false)).0), ["b"], "the one that is down goes first");
    assert_eq!(deleted(&run(&rolling(2), &nodes, &old(true)).0), ["a", "b"]);
    assert!(run(&set(json!({"type": "OnDelete"})), &nodes, &old(true)).0.delete.is_empty());
}

#[test]
fn surge_makes_the_new_pod_before_the_old_goes() {
    let nodes = [node("a", "ssd", None), node("b", "ssd", None)];
    let set = set(json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}));
    let (first, _) = run(&set, &nodes, &[pod("a", "a", "old", true), pod("b", "b", "old", true)]);
    assert_eq!((first.create, first.delete.len()), (vec!["a".to_owned()], 0));
    let both = |ready| [pod("a", "a", "old", true), pod("a2", "a", "new", ready), pod("b", "b", "old", true)];
    let (waits, _) = run(&set, &nodes, &both(false));
    assert_eq!((waits.create.len(), waits.delete.len()), (0, 0));
    let (moves, _) = run(&set, &nodes, &both(true));
    assert_eq!(deleted(&moves), ["a"]);
}
