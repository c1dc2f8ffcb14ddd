//! Constraints between pods: required affinity and anti-affinity, and hard topology spread.
//!
//! What depends on all nodes is counted once per decision; the check of a node is a look-up. Pods without such
//! constraints, in a cluster where no pod repels others, cost nothing.

use std::collections::{HashMap, HashSet};

use coracle_api::selector::Labels;

use crate::cluster::{Cluster, NodeInfo};
use crate::decide::Rejection;
use crate::filter;
use crate::pod::{PodInfo, PodTerm, Spread};

/// A label of nodes with one of its values: what upstream calls a topology pair.
type Domain = (String, String);

pub(crate) struct Constraints<'a> {
    pod: &'a PodInfo,
    /// Domains in which a running pod refuses this one.
    repelled: HashSet<Domain>,
    /// For each required affinity term, the domains that have a matching pod.
    attracted: Vec<HashSet<String>>,
    /// The pod matches its own terms and no other does: the first of a group may go anywhere.
    first_of_group: bool,
    /// For each required anti-affinity term, the domains that have a matching pod.
    avoided: Vec<HashSet<String>>,
    /// For each hard spread constraint, matching pods by domain, among the nodes that count.
    spread: Vec<(&'a Spread, HashMap<String, i64>)>,
}

// === impl Constraints ===

impl<'a> Constraints<'a> {
    pub(crate) fn new(pod: &'a PodInfo, cluster: &Cluster) -> Constraints<'a> {
        let matching = |term: &PodTerm| domains_with(cluster, term, pod);
        let attracted: Vec<_> = match pod.affinity.as_slice() {
            [] => Vec::new(),
            // A pod attracts only if it matches all terms together.
            terms => terms
                .iter()
                .map(|t| domains_where(cluster, t, |p| terms.iter().all(|t| fits(t, p, cluster))))
                .collect(),
        };
        let alone = !pod.affinity.is_empty() && attracted.iter().all(HashSet::is_empty);
        Constraints {
            pod,
            repelled: repelled(cluster, pod),
            first_of_group: alone && pod.affinity.iter().all(|term| fits(term, pod, cluster)),
            attracted,
            avoided: pod.anti_affinity.iter().map(matching).collect(),
            spread: pod.spread.iter().filter(|s| s.hard).map(|s| (s, count(cluster, pod, s))).collect(),
        }
    }

    pub(crate) fn check(&self, node: &NodeInfo) -> Result<(), Rejection> {
        self.check_spread(node)?;
        for (term, domains) in self.pod.affinity.iter().zip(&self.attracted) {
            let value = node.labels.get(&term.topology_key);
            let allowed = value.is_some_and(|v| domains.contains(v) || self.first_of_group);
            if !allowed {
                return Err(Rejection::unresolvable("node(s) didn't match pod affinity rules".to_owned()));
            }
        }
        let avoided = self.pod.anti_affinity.iter().zip(&self.avoided);
        if avoided.into_iter().any(|(t, d)| node.labels.get(&t.topology_key).is_some_and(|v| d.contains(v))) {
            return Err(Rejection::resolvable(vec![
                "node(s) didn't match pod anti-affinity rules".to_owned(),
            ]));
        }
        if self.repelled.iter().any(|(key, value)| node.labels.get(key) == Some(value)) {
            let reason = "node(s) didn't satisfy existing pods anti-affinity rules".to_owned();
            return Err(Rejection::resolvable(vec![reason]));
        }
        Ok(())
    }

    fn check_spread(&self, node: &NodeInfo) -> Result<(), Rejection> {
        const REASON: &str = "node(s) didn't match pod topology spread constraints";
        for (constraint, counts) in &self.spread {
            let Some(value) = node.labels.get(&constraint.topology_key) else {
                return Err(Rejection::unresolvable(format!("{REASON} (missing required label)")));
            };
            let too_few = constraint.min_domains.is_some_and(|n| (counts.len() as i64) < i64::from(n));
            let least = if too_few { 0 } else { counts.values().copied().min().unwrap_or(0) };
            let own = i64::from(constraint.selector.selects(&self.pod.labels));
            let here = counts.get(value).copied().unwrap_or(0);
            if here + own - least > i64::from(constraint.max_skew) {
                return Err(Rejection::resolvable(vec![REASON.to_owned()]));
            }
        }
        Ok(())
    }
}

/// Whether a pod is one that a term speaks of.
pub(crate) fn fits(term: &PodTerm, pod: &PodInfo, cluster: &Cluster) -> bool {
    let empty = Labels::new();
    let namespace = || cluster.namespaces.get(&pod.key.0).unwrap_or(&empty);
    let in_scope = term.namespaces.contains(&pod.key.0) || term.namespace_selector.selects(namespace());
    in_scope && term.selector.selects(&pod.labels)
}

fn domains_with(cluster: &Cluster, term: &PodTerm, of: &PodInfo) -> HashSet<String> {
    domains_where(cluster, term, |p| p.key != of.key && fits(term, p, cluster))
}

fn domains_where(cluster: &Cluster, term: &PodTerm, wanted: impl Fn(&PodInfo) -> bool) -> HashSet<String> {
    let nodes = cluster.nodes.values().filter_map(|n| Some((n, n.labels.get(&term.topology_key)?)));
    nodes.filter(|(n, _)| n.pods.values().any(|p| wanted(p))).map(|(_, value)| value.clone()).collect()
}

/// Where the anti-affinity of running pods forbids this one.
fn repelled(cluster: &Cluster, pod: &PodInfo) -> HashSet<Domain> {
    let mut out = HashSet::new();
    for node in cluster.nodes.values().filter(|n| n.repelling > 0) {
        for term in node.pods.values().flat_map(|p| &p.anti_affinity).filter(|t| fits(t, pod, cluster)) {
            if let Some(value) = node.labels.get(&term.topology_key) {
                out.insert((term.topology_key.clone(), value.clone()));
            }
        }
    }
    out
}

/// Whether a node counts, as the constraint's policies for affinity and taints say.
pub(crate) fn counts_for(constraint: &Spread, pod: &PodInfo, node: &NodeInfo) -> bool {
    let affine = !constraint.honor_affinity || pod.node.allows(&node.name, Some(&node.labels));
    let tolerated = !constraint.honor_taints || filter::taints(pod, node).is_ok();
    affine && tolerated
}

/// Matching pods by domain. Nodes the pod could not use anyway are left out as the constraint's policies say, and
/// so are nodes that lack the label of any hard constraint.
fn count(cluster: &Cluster, pod: &PodInfo, constraint: &Spread) -> HashMap<String, i64> {
    let mut counts = HashMap::new();
    for node in cluster.nodes.values() {
        let labelled =
            pod.spread.iter().filter(|s| s.hard).all(|s| node.labels.contains_key(&s.topology_key));
        let counts_here = labelled && counts_for(constraint, pod, node);
        let Some(value) = node.labels.get(&constraint.topology_key).filter(|_| counts_here) else {
            continue;
        };
        let counted = |p: &&std::sync::Arc<PodInfo>| {
            p.key.0 == pod.key.0 && !p.deleting && constraint.selector.selects(&p.labels)
        };
        *counts.entry(value.clone()).or_default() += node.pods.values().filter(counted).count() as i64;
    }
    counts
}
