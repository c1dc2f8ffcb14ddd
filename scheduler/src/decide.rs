//! The decision: which node, or why none. Pure.

use std::collections::BTreeMap;

use coracle_api::node_affinity::NodeTerm;
use rand::Rng;
use rand::seq::IndexedRandom;

use crate::cluster::{Cluster, NodeInfo};
use crate::pod::PodInfo;
use crate::topology::Constraints;
use crate::{filter, score};

/// What upstream's plugin for resource claims says before preemption does.
const CLAIMS: &str = "no new claims to deallocate, preemption: ";

/// Why one node does not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    pub reasons: Vec<String>,
    /// Whether removing pods from the node could help.
    pub resolvable: bool,
}

/// Why no node fits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unschedulable {
    NoNodes,
    /// The pod itself is at fault, whatever the node.
    Pod {
        nodes: usize,
        reason: String,
    },
    Nodes {
        nodes: usize,
        rejections: Vec<(String, Rejection)>,
        named: usize,
    },
}

// === impl Rejection ===

impl Rejection {
    pub fn resolvable(reasons: Vec<String>) -> Self {
        Rejection { reasons, resolvable: true }
    }

    pub fn unresolvable(reason: String) -> Self {
        Rejection { reasons: vec![reason], resolvable: false }
    }
}

/// The best node for a pod; among equals a random one.
pub fn schedule(pod: &PodInfo, cluster: &Cluster, rng: &mut impl Rng) -> Result<String, Unschedulable> {
    if cluster.nodes.is_empty() {
        return Err(Unschedulable::NoNodes);
    }
    let total = cluster.nodes.len();
    if let Err(reason) = cluster.volumes.admit(pod) {
        return Err(Unschedulable::Pod { nodes: total, reason });
    }
    let constraints = Constraints::new(pod, cluster);
    let (mut fitting, mut rejections, mut asked) = (Vec::new(), Vec::new(), 0);
    let nominated = cluster
        .nodes
        .get(&pod.nominated_node)
        .filter(|n| filter::check(pod, n, cluster, &constraints).is_ok());
    if let Some(node) = nominated {
        return Ok(node.name.clone());
    }
    for node in candidates(pod, cluster) {
        asked += 1;
        match filter::check(pod, node, cluster, &constraints) {
            Ok(()) => fitting.push(node),
            Err(rejection) => rejections.push((node.name.clone(), rejection)),
        }
    }
    best(pod, &fitting, cluster, rng).ok_or(Unschedulable::Nodes {
        nodes: total,
        rejections,
        named: total - asked,
    })
}

fn best(pod: &PodInfo, fitting: &[&NodeInfo], cluster: &Cluster, rng: &mut impl Rng) -> Option<String> {
    if let [only] = fitting {
        return Some(only.name.clone());
    }
    let totals = score::totals(pod, fitting, cluster);
    let greatest = totals.iter().copied().max()?;
    let winners: Vec<_> =
        fitting.iter().zip(totals).filter(|(_, t)| *t == greatest).map(|(n, _)| n).collect();
    winners.choose(rng).map(|node| node.name.clone())
}

/// All nodes, or only those that every term of the pod's affinity names, as for a DaemonSet's pods.
fn candidates<'a>(pod: &PodInfo, cluster: &'a Cluster) -> Vec<&'a NodeInfo> {
    let named = pod.node.terms().and_then(|terms| {
        let names: Option<Vec<&[String]>> = terms.iter().map(NodeTerm::named_nodes).collect();
        names.filter(|n| !n.is_empty())
    });
    match named {
        None => cluster.nodes.values().collect(),
        Some(names) => {
            let unique: std::collections::BTreeSet<_> = names.into_iter().flatten().collect();
            unique.into_iter().filter_map(|name| cluster.nodes.get(name)).collect()
        }
    }
}

// === impl Unschedulable ===

impl Unschedulable {
    /// Upstream's words, with what preemption says about it.
    pub fn message(&self, preemption: &str) -> String {
        let (nodes, histogram) = match self {
            Unschedulable::NoNodes => return "no nodes available to schedule pods".to_owned(),
            Unschedulable::Pod { nodes, reason } => (*nodes, reason.clone()),
            Unschedulable::Nodes { nodes, rejections, named } => {
                let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
                for reason in rejections.iter().flat_map(|(_, r)| &r.reasons) {
                    *counts.entry(reason).or_default() += 1;
                }
                if *named > 0 {
                    counts.insert("node(s) didn't satisfy plugin(s) [NodeAffinity]", *named);
                }
                (*nodes, histogram(&counts))
            }
        };
        format!("0/{nodes} nodes are available: {histogram}. {preemption}").trim_end().to_owned()
    }

    /// What upstream adds where a pod may not preempt others.
    pub fn not_eligible(&self, reason: &str) -> String {
        format!("{CLAIMS}{reason}")
    }

    /// What upstream adds where preemption was tried in vain; `tried` says why of each node where it could have helped.
    pub fn preemption_in_vain<'a>(&self, tried: &'a [Rejection]) -> String {
        let mut counts: BTreeMap<&'a str, usize> = BTreeMap::new();
        let mut count = |reason: &'a str, n: usize| {
            if n > 0 {
                *counts.entry(reason).or_default() += n;
            }
        };
        let total = match self {
            Unschedulable::NoNodes => return String::new(),
            Unschedulable::Pod { nodes, .. } => {
                count("Preemption is not helpful for scheduling", *nodes);
                *nodes
            }
            Unschedulable::Nodes { nodes, rejections, named } => {
                let hopeless = rejections.iter().filter(|(_, r)| !r.resolvable).count();
                tried.iter().flat_map(|r| &r.reasons).for_each(|reason| count(reason, 1));
                count("Preemption is not helpful for scheduling", hopeless + named);
                *nodes
            }
        };
        format!("{CLAIMS}0/{total} nodes are available: {}.", histogram(&counts))
    }
}

/// `1 Insufficient cpu, 2 node(s) ...`, sorted as text like upstream.
fn histogram(counts: &BTreeMap<&str, usize>) -> String {
    let mut parts: Vec<_> = counts.iter().map(|(reason, n)| format!("{n} {reason}")).collect();
    parts.sort();
    parts.join(", ")
}
