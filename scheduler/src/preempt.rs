//! Preemption: which pods of lesser priority make room for one that fits nowhere.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use coracle_api::selector::LabelSelector;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::jiff::Timestamp;

use crate::cluster::Cluster;
use crate::decide::{Rejection, Unschedulable};
use crate::filter;
use crate::pod::{Key, PodInfo, selector_of};
use crate::topology::Constraints;

/// A disruption budget, as far as it speaks about victims.
#[derive(Clone, Debug)]
pub struct Budget {
    namespace: String,
    selector: LabelSelector,
    allowed: i32,
    /// Pods whose end it has already counted.
    disrupted: Vec<String>,
}

#[derive(Debug)]
pub struct Preemption {
    pub node: String,
    pub victims: Vec<Arc<PodInfo>>,
}

// === impl Budget ===

impl Budget {
    pub fn new(budget: &PodDisruptionBudget) -> Budget {
        let status = budget.status.as_ref();
        let disrupted = status.and_then(|s| s.disrupted_pods.as_ref());
        Budget {
            namespace: budget.metadata.namespace.clone().unwrap_or_default(),
            selector: selector_of(budget.spec.as_ref().and_then(|s| s.selector.as_ref())),
            allowed: status.and_then(|s| s.disruptions_allowed).unwrap_or(0),
            disrupted: disrupted.into_iter().flat_map(|d| d.keys().cloned()).collect(),
        }
    }

    fn counts(&self, pod: &PodInfo) -> bool {
        self.namespace == pod.key.0
            && !self.selector.is_empty()
            && self.selector.selects(&pod.labels)
            && !self.disrupted.contains(&pod.key.1)
    }
}

/// The node where fewest and least important pods must go, or upstream's words where none helps. The cluster is the
/// same afterwards.
pub fn preempt(
    pod: &PodInfo,
    cluster: &mut Cluster,
    budgets: &HashMap<Key, Budget>,
    why: &Unschedulable,
) -> Result<Preemption, String> {
    if pod.never_preempts {
        return Err(why.not_eligible("not eligible due to preemptionPolicy=Never."));
    }
    let Unschedulable::Nodes { rejections, .. } = why else { return Err(why.preemption_in_vain(&[])) };
    let on_nominated = cluster
        .nodes
        .get(&pod.nominated_node)
        .filter(|node| rejections.iter().all(|(name, r)| *name != node.name || r.resolvable));
    let leaving = |p: &Arc<PodInfo>| p.priority < pod.priority && p.deleting && p.preempted;
    if on_nominated.is_some_and(|node| node.pods.values().any(leaving)) {
        return Err(why.not_eligible("not eligible due to a terminating pod on the nominated node."));
    }
    let (mut found, mut tried) = (Vec::new(), Vec::new());
    for (node, _) in rejections.iter().filter(|(_, r)| r.resolvable) {
        match victims_on(pod, cluster, budgets, node) {
            Ok((victims, violations)) => found.push((node, victims, violations)),
            Err(rejection) => tried.push(rejection),
        }
    }
    let best = found.into_iter().min_by_key(|(_, victims, violations)| cost(victims, *violations));
    match best {
        Some((node, victims, _)) => Ok(Preemption { node: node.clone(), victims }),
        None => Err(why.preemption_in_vain(&tried)),
    }
}

/// Upstream's order of candidates: broken budgets, the most important victim, all their priorities, their number, and
/// how long the most important ones have run.
fn cost(victims: &[Arc<PodInfo>], violations: usize) -> (usize, i32, i64, usize, Reverse<Timestamp>) {
    let highest = victims.iter().map(|p| p.priority).max().unwrap_or(i32::MIN);
    let sum = victims.iter().map(|p| i64::from(p.priority) + i64::from(i32::MAX) + 1).sum();
    let started = victims.iter().filter(|p| p.priority == highest).map(|p| start_of(p)).min();
    (violations, highest, sum, victims.len(), Reverse(started.unwrap_or(Timestamp::MAX)))
}

/// A pod that has not started yet is the youngest.
fn start_of(pod: &PodInfo) -> Timestamp {
    pod.started.unwrap_or(Timestamp::MAX)
}

/// The pods that must leave the node, with how many of them break a budget.
fn victims_on(
    pod: &PodInfo,
    cluster: &mut Cluster,
    budgets: &HashMap<Key, Budget>,
    node: &str,
) -> Result<(Vec<Arc<PodInfo>>, usize), Rejection> {
    let pods = cluster.nodes.get(node).into_iter().flat_map(|n| n.pods.values());
    let mut lesser: Vec<Arc<PodInfo>> = pods.filter(|p| p.priority < pod.priority).cloned().collect();
    if lesser.is_empty() {
        return Err(Rejection::unresolvable("No preemption victims found for incoming pod".to_owned()));
    }
    lesser.sort_by_key(|p| (Reverse(p.priority), start_of(p)));
    lesser.iter().for_each(|p| cluster.remove_pod(p));
    let without_all = fits(pod, cluster, node);
    let (mut victims, mut violations) = (Vec::new(), 0);
    if without_all.is_ok() {
        let (violating, others) = by_budgets(&lesser, budgets);
        let of_violating = violating.len();
        for (index, spared) in violating.into_iter().chain(others).enumerate() {
            cluster.add_pod(spared.clone());
            if fits(pod, cluster, node).is_err() {
                cluster.remove_pod(&spared);
                violations += usize::from(index < of_violating);
                victims.push(spared);
            }
        }
        victims.iter().for_each(|p| cluster.add_pod(p.clone()));
        victims.sort_by_key(|p| (Reverse(p.priority), start_of(p)));
    } else {
        lesser.iter().for_each(|p| cluster.add_pod(p.clone()));
    }
    without_all.map(|()| (victims, violations))
}

fn fits(pod: &PodInfo, cluster: &Cluster, node: &str) -> Result<(), Rejection> {
    let constraints = Constraints::new(pod, cluster);
    match cluster.nodes.get(node) {
        Some(node) => filter::check(pod, node, cluster, &constraints),
        None => Err(Rejection::unresolvable("node(s) are gone".to_owned())),
    }
}

/// Pods whose end would break a budget come apart from the others; the order stays.
fn by_budgets(
    pods: &[Arc<PodInfo>],
    budgets: &HashMap<Key, Budget>,
) -> (Vec<Arc<PodInfo>>, Vec<Arc<PodInfo>>) {
    let mut left: Vec<(&Budget, i32)> = budgets.values().map(|b| (b, b.allowed)).collect();
    pods.iter().cloned().partition(|pod| {
        let mut broken = false;
        for (_, allowed) in left.iter_mut().filter(|(budget, _)| budget.counts(pod)) {
            *allowed -= 1;
            broken |= *allowed < 0;
        }
        broken
    })
}
