//! What pods prefer of their neighbours: soft topology spread, and preferred affinity and anti-affinity.
//!
//! Like the hard constraints, what depends on all nodes is counted once per decision.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use coracle_api::selector::LabelSelector;

use crate::cluster::{Cluster, NodeInfo};
use crate::pod::{PodInfo, PodTerm, Spread};
use crate::score::MAX;
use crate::topology::{counts_for, fits};

const HOSTNAME: &str = "kubernetes.io/hostname";
const ZONE: &str = "topology.kubernetes.io/zone";
/// What upstream spreads by where a pod says nothing: topology and greatest skew.
const SYSTEM_DEFAULTS: [(&str, i32); 2] = [(HOSTNAME, 3), (ZONE, 5)];
/// What a required affinity of a running pod weighs for one that comes.
const HARD_AFFINITY_WEIGHT: i64 = 1;

/// The score of soft spread constraints, 0 to 100 per node, in the order of `nodes`.
pub(crate) fn spread(pod: &PodInfo, nodes: &[&NodeInfo], cluster: &Cluster) -> Vec<i64> {
    let own = !pod.spread.is_empty();
    let constraints = soft_constraints(pod, cluster);
    if constraints.is_empty() {
        return vec![0; nodes.len()];
    }
    // Nodes without a zone still take part in the defaults.
    let counted = |n: &NodeInfo| !own || constraints.iter().all(|c| n.labels.contains_key(&c.topology_key));
    let candidates: Vec<&NodeInfo> = nodes.iter().copied().filter(|n| counted(n)).collect();
    let domains: Vec<Domains> =
        constraints.iter().map(|c| Domains::count(c, pod, &candidates, cluster, counted)).collect();
    let raw = |node: &&NodeInfo| -> Option<i64> {
        counted(node).then(|| {
            let parts = constraints.iter().zip(&domains).filter_map(|(c, d)| d.score(c, pod, node));
            parts.sum::<f64>().round() as i64
        })
    };
    let raw: Vec<Option<i64>> = nodes.iter().map(raw).collect();
    let greatest = raw.iter().flatten().copied().max().unwrap_or(0);
    let least = raw.iter().flatten().copied().min().unwrap_or(0);
    let normal = |score: Option<i64>| match score {
        None => 0,
        Some(_) if greatest == 0 => MAX,
        Some(score) => MAX * (greatest + least - score) / greatest,
    };
    raw.into_iter().map(normal).collect()
}

fn soft_constraints(pod: &PodInfo, cluster: &Cluster) -> Vec<Spread> {
    if !pod.spread.is_empty() {
        return pod.spread.iter().filter(|c| !c.hard).cloned().collect();
    }
    let Some(selector) = cluster.owners.selector_of(pod) else { return Vec::new() };
    let constraint = |(topology_key, max_skew): (&str, i32)| Spread {
        max_skew,
        topology_key: topology_key.to_owned(),
        selector: selector.clone(),
        min_domains: None,
        hard: false,
        honor_affinity: true,
        honor_taints: false,
    };
    SYSTEM_DEFAULTS.map(constraint).into()
}

/// Matching pods by the values of one constraint's label.
struct Domains {
    /// Not for host names: those are counted on the node itself.
    pods: HashMap<String, i64>,
    /// Many domains with few pods each would else weigh less than few domains.
    weight: f64,
}

// === impl Domains ===

impl Domains {
    fn count(
        constraint: &Spread,
        pod: &PodInfo,
        candidates: &[&NodeInfo],
        cluster: &Cluster,
        counted: impl Fn(&NodeInfo) -> bool,
    ) -> Domains {
        if constraint.topology_key == HOSTNAME {
            return Domains { pods: HashMap::new(), weight: (candidates.len() as f64 + 2.0).ln() };
        }
        let values: BTreeSet<&String> =
            candidates.iter().filter_map(|n| n.labels.get(&constraint.topology_key)).collect();
        let mut pods: HashMap<String, i64> = values.iter().map(|v| ((*v).clone(), 0)).collect();
        for node in cluster.nodes.values().filter(|n| counted(n) && counts_for(constraint, pod, n)) {
            let value = node.labels.get(&constraint.topology_key);
            if let Some(count) = value.and_then(|v| pods.get_mut(v)) {
                *count += matching(&constraint.selector, pod, node);
            }
        }
        Domains { weight: (values.len() as f64 + 2.0).ln(), pods }
    }

    fn score(&self, constraint: &Spread, pod: &PodInfo, node: &NodeInfo) -> Option<f64> {
        let value = node.labels.get(&constraint.topology_key)?;
        let count = match constraint.topology_key.as_str() {
            HOSTNAME => matching(&constraint.selector, pod, node),
            _ => self.pods.get(value).copied().unwrap_or(0),
        };
        Some(count as f64 * self.weight + f64::from(constraint.max_skew - 1))
    }
}

/// A selector that selects everything counts nothing, as upstream has it.
fn matching(selector: &LabelSelector, pod: &PodInfo, node: &NodeInfo) -> i64 {
    if selector.is_empty() {
        return 0;
    }
    let counted = |p: &PodInfo| p.key.0 == pod.key.0 && !p.deleting && selector.selects(&p.labels);
    node.pods.values().filter(|p| counted(p)).count() as i64
}

/// The score of affinity between pods, 0 to 100 per node, in the order of `nodes`.
pub(crate) fn neighbours(pod: &PodInfo, nodes: &[&NodeInfo], cluster: &Cluster) -> Vec<i64> {
    let weights = weights(pod, cluster);
    if weights.is_empty() {
        return vec![0; nodes.len()];
    }
    let sum = |node: &&NodeInfo| -> i64 {
        let here =
            |(key, values): (&String, &BTreeMap<String, i64>)| values.get(node.labels.get(key)?).copied();
        weights.iter().filter_map(here).sum()
    };
    let raw: Vec<i64> = nodes.iter().map(sum).collect();
    let (least, greatest) = (raw.iter().copied().min().unwrap_or(0), raw.iter().copied().max().unwrap_or(0));
    let normal = |score: i64| match greatest - least {
        0 => 0,
        range => (MAX as f64 * ((score - least) as f64 / range as f64)) as i64,
    };
    raw.into_iter().map(normal).collect()
}

/// By topology label and value: how much is wanted there, by the pod and by those that run.
fn weights(pod: &PodInfo, cluster: &Cluster) -> BTreeMap<String, BTreeMap<String, i64>> {
    let mut weights: BTreeMap<String, BTreeMap<String, i64>> = BTreeMap::new();
    let picky = !pod.preferred_affinity.is_empty() || !pod.preferred_anti_affinity.is_empty();
    for node in cluster.nodes.values().filter(|n| picky || n.with_affinity > 0) {
        let mut add = |term: &PodTerm, weight: i64, whom: &PodInfo| {
            let value = node.labels.get(&term.topology_key);
            if let Some(value) = value.filter(|_| fits(term, whom, cluster)) {
                let values = weights.entry(term.topology_key.clone()).or_default();
                *values.entry(value.clone()).or_default() += weight;
            }
        };
        for other in node.pods.values() {
            pod.preferred_affinity.iter().for_each(|(w, term)| add(term, i64::from(*w), other));
            pod.preferred_anti_affinity.iter().for_each(|(w, term)| add(term, -i64::from(*w), other));
            other.affinity.iter().for_each(|term| add(term, HARD_AFFINITY_WEIGHT, pod));
            other.preferred_affinity.iter().for_each(|(w, term)| add(term, i64::from(*w), pod));
            other.preferred_anti_affinity.iter().for_each(|(w, term)| add(term, -i64::from(*w), pod));
        }
    }
    weights
}
