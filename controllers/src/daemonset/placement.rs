//! Where a DaemonSet wants its pods, and how a pod is tied to its node.

use coracle_api::names::{TAINT_NOT_READY, TAINT_UNREACHABLE, TAINT_UNSCHEDULABLE};
use coracle_api::node_affinity;
use coracle_api::taint::tolerated;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{
    Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, Toleration,
};

use crate::claims::{controller_ref, name, namespace};
use crate::pods;
use crate::revisions::REVISION_HASH;

const GENERATION: &str = "deprecated.daemonset.template.generation";
const NAME_FIELD: &str = "metadata.name";

/// What every daemon pod bears, besides what its template says.
const TOLERATED: &[(&str, &str)] = &[
    (TAINT_NOT_READY, "NoExecute"),
    (TAINT_UNREACHABLE, "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    (TAINT_UNSCHEDULABLE, "NoSchedule"),
];
const NETWORK: (&str, &str) = ("node.kubernetes.io/network-unavailable", "NoSchedule");

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Fit {
    Runs,
    /// No new pod, but one that is there may stay.
    Stays,
    No,
}

/// Whether the node is one the set's pods belong on.
pub(super) fn fit(set: &DaemonSet, node: &Node) -> Fit {
    let Some(spec) = set.spec.as_ref().and_then(|s| s.template.spec.as_ref()) else { return Fit::No };
    if spec.node_name.as_deref().is_some_and(|n| !n.is_empty() && n != name(node)) {
        return Fit::No;
    }
    if !node_affinity::wants(spec, name(node), node.metadata.labels.as_ref()) {
        return Fit::No;
    }
    let tolerations = tolerations(spec);
    let taints = node.spec.iter().flat_map(|s| s.taints.iter().flatten());
    let borne = |t: &&k8s_openapi::api::core::v1::Taint| tolerated(Some(&tolerations), t);
    let refused: Vec<_> =
        taints.filter(|t| t.effect != "PreferNoSchedule").filter(|t| !borne(t)).map(|t| &t.effect).collect();
    match refused.iter().any(|effect| *effect == "NoExecute") {
        _ if refused.is_empty() => Fit::Runs,
        true => Fit::No,
        false => Fit::Stays,
    }
}

fn tolerations(spec: &PodSpec) -> Vec<Toleration> {
    let mut tolerations = spec.tolerations.clone().unwrap_or_default();
    let network = spec.host_network.unwrap_or(false).then_some(&NETWORK);
    for (key, effect) in TOLERATED.iter().chain(network) {
        let wanted = Toleration {
            key: Some((*key).to_owned()),
            operator: Some("Exists".to_owned()),
            effect: Some((*effect).to_owned()),
            ..Toleration::default()
        };
        tolerations.retain(|t| (&t.key, &t.effect) != (&wanted.key, &wanted.effect) || *t == wanted);
        if !tolerations.contains(&wanted) {
            tolerations.push(wanted);
        }
    }
    tolerations
}

/// The pod for a node; the scheduler binds it there.
pub(super) fn pod(set: &DaemonSet, node: &str, hash: &str) -> Pod {
    let template = set.spec.as_ref().map(|s| s.template.clone()).unwrap_or_default();
    let mut pod = pods::from_template(&template, namespace(set), name(set), controller_ref(set));
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(REVISION_HASH.to_owned(), hash.to_owned());
    if let Some(generation) = set.metadata.annotations.as_ref().and_then(|a| a.get(GENERATION)) {
        labels.insert("pod-template-generation".to_owned(), generation.clone());
    }
    let spec = pod.spec.get_or_insert_default();
    spec.tolerations = Some(tolerations(spec));
    let by_name = NodeSelectorRequirement {
        key: NAME_FIELD.to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![node.to_owned()]),
    };
    let term = NodeSelectorTerm { match_expressions: None, match_fields: Some(vec![by_name]) };
    let affinity = spec.affinity.get_or_insert_default().node_affinity.get_or_insert_default();
    affinity.required_during_scheduling_ignored_during_execution =
        Some(NodeSelector { node_selector_terms: vec![term] });
    pod
}

/// The node of a daemon pod, bound or still to be bound.
pub(super) fn node_of(pod: &Pod) -> Option<&str> {
    if let Some(node) = pods::node_name(pod) {
        return Some(node);
    }
    let affinity = pod.spec.as_ref()?.affinity.as_ref()?.node_affinity.as_ref()?;
    let required = affinity.required_during_scheduling_ignored_during_execution.as_ref()?;
    let fields = required.node_selector_terms.iter().flat_map(|t| t.match_fields.iter().flatten());
    let mut by_name = fields.filter(|r| r.key == NAME_FIELD && r.operator == "In");
    by_name.find_map(|r| r.values.as_ref()?.first().map(String::as_str))
}
