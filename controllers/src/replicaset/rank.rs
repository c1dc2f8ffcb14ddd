//! Which pods go first when there are too many.

use std::cmp::{Ordering, Reverse};
use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use crate::pods;

const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// The `surplus` pods whose loss hurts least: not on a node before on one, pending before running, not ready before
/// ready, lower deletion cost, more siblings on the same node, ready for a shorter time, more restarts, younger.
pub(crate) fn choose(
    mut pods: Vec<Arc<Pod>>,
    related: &[Arc<Pod>],
    surplus: usize,
    now: Timestamp,
) -> Vec<Arc<Pod>> {
    if surplus < pods.len() {
        let crowd = crowd(related);
        pods.sort_by(|a, b| compare(a, b, &crowd, now));
        pods.truncate(surplus);
    }
    pods
}

/// Active pods per node.
fn crowd(related: &[Arc<Pod>]) -> HashMap<String, usize> {
    let mut crowd = HashMap::new();
    for node in related.iter().filter(pods::is_active).filter_map(|p| pods::node_name(p)) {
        *crowd.entry(node.to_owned()).or_default() += 1;
    }
    crowd
}

fn compare(a: &Pod, b: &Pod, crowd: &HashMap<String, usize>, now: Timestamp) -> Ordering {
    let rank = |pod: &Pod| pods::node_name(pod).and_then(|n| crowd.get(n)).copied().unwrap_or(0);
    let plain = |pod: &Pod| {
        (pods::node_name(pod).is_some(), phase_rank(pod), pods::is_ready(pod), cost(pod), Reverse(rank(pod)))
    };
    plain(a)
        .cmp(&plain(b))
        .then_with(|| match (pods::is_ready(a), pods::is_ready(b)) {
            (true, true) => younger(pods::ready_since(a), pods::ready_since(b), now),
            _ => Ordering::Equal,
        })
        .then_with(|| pods::restarts(b).cmp(&pods::restarts(a)))
        .then_with(|| younger(created(a), created(b), now))
        .then_with(|| a.metadata.uid.cmp(&b.metadata.uid))
}

fn phase_rank(pod: &Pod) -> u8 {
    match pods::phase(pod) {
        "Pending" => 0,
        "Unknown" => 1,
        "Running" => 2,
        _ => 0,
    }
}

fn cost(pod: &Pod) -> i32 {
    let text = pod.metadata.annotations.as_ref().and_then(|a| a.get(DELETION_COST));
    text.and_then(|t| t.parse().ok()).unwrap_or(0)
}

fn created(pod: &Pod) -> Option<Timestamp> {
    pod.metadata.creation_timestamp.as_ref().map(|t| t.0)
}

/// The younger goes first, but ages within the same power of two are alike, so that not always the newest replicas,
/// which tend to sit in the same zone, are taken.
fn younger(a: Option<Timestamp>, b: Option<Timestamp>, now: Timestamp) -> Ordering {
    let magnitude = |t: Option<Timestamp>| {
        let age = t.map_or(0, |t| now.duration_since(t).as_secs());
        if age <= 0 { -1 } else { i64::from(age.ilog2()) }
    };
    match (a, b) {
        (None, Some(_)) => Ordering::Less,
        (Some(_), None) => Ordering::Greater,
        _ => magnitude(a).cmp(&magnitude(b)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, node: Option<&str>, phase: &str, ready: bool, cost: &str, age: i64) -> Arc<Pod> {
        let time = Timestamp::from_second(1_000_000 - age).unwrap().to_string();
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": name, "uid": name, "creationTimestamp": time,
                    "annotations": {DELETION_COST: cost}},
                "spec": {"nodeName": node, "containers": []},
                "status": {"phase": phase, "conditions": [
                    {"type": "Ready", "status": if ready { "True" } else { "False" }, "lastTransitionTime": time},
                ]},
            }))
            .unwrap(),
        )
    }

    #[test]
    fn upstreams_order_of_deletion() {
        let expected = [
            pod("unassigned", None, "Pending", false, "0", 900),
            pod("pending", Some("n1"), "Pending", false, "0", 900),
            pod("not-ready", Some("n1"), "Running", false, "0", 900),
            pod("cheap", Some("n1"), "Running", true, "-5", 900),
            pod("crowded-young", Some("n1"), "Running", true, "0", 60),
            pod("crowded-old", Some("n1"), "Running", true, "0", 900),
            pod("alone", Some("n2"), "Running", true, "0", 60),
            pod("dear", Some("n1"), "Running", true, "5", 60),
        ];
        let mut shuffled = expected.to_vec();
        shuffled.reverse();
        let now = Timestamp::from_second(1_000_000).unwrap();
        let chosen = choose(shuffled, &expected, 7, now);
        let names =
            |pods: &[Arc<Pod>]| pods.iter().map(|p| p.metadata.name.clone().unwrap()).collect::<Vec<_>>();
        assert_eq!(names(&chosen), names(&expected[..7]));
    }
}
