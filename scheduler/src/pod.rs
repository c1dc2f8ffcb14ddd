//! A pod as the scheduler sees it: everything a decision needs, taken out of the object once.

use std::sync::Arc;

use coracle_api::node_affinity::{NodeTerm, Required};
use coracle_api::owner::controller_of;
use coracle_api::pod::{State, is_terminal};
use coracle_api::resources::is_sidecar;
use coracle_api::selector::{LabelSelector, Labels, Operator, Requirement};
use k8s_openapi::api::core::v1::{
    ObjectReference, Pod, PodAffinityTerm, PodCondition, PodSpec, PodStatus, Toleration,
    TopologySpreadConstraint, Volume,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1;
use k8s_openapi::jiff::Timestamp;

use crate::owners::Kind;
use crate::resources::{Resources, requests_of};

/// The reason of the condition by which a pod learns that it must make room.
pub(crate) const PREEMPTED: &str = "PreemptionByScheduler";

/// Namespace and name.
pub type Key = (String, String);

#[derive(Clone, Debug)]
pub struct PodInfo {
    pub key: Key,
    pub uid: String,
    pub labels: Labels,
    pub priority: i32,
    /// `preemptionPolicy: Never`
    pub never_preempts: bool,
    pub scheduler_name: String,
    pub created: Option<Timestamp>,
    pub started: Option<Timestamp>,
    /// Bound to this node; empty while pending.
    pub node_name: String,
    pub nominated_node: String,
    pub deleting: bool,
    /// It leaves to make room for a more important pod.
    pub preempted: bool,
    /// Succeeded or Failed: it holds nothing any more.
    pub finished: bool,
    pub gates: Vec<String>,
    pub requests: Resources,
    /// With upstream's defaults for containers that ask for nothing.
    pub score_requests: Resources,
    pub host_ports: Vec<HostPort>,
    pub tolerations: Vec<Toleration>,
    /// Which nodes it may run on.
    pub node: Required,
    pub preferred_node_terms: Vec<(i32, NodeTerm)>,
    pub affinity: Vec<PodTerm>,
    pub anti_affinity: Vec<PodTerm>,
    pub preferred_affinity: Vec<(i32, PodTerm)>,
    pub preferred_anti_affinity: Vec<(i32, PodTerm)>,
    pub spread: Vec<Spread>,
    /// Of containers, init containers and image volumes.
    pub images: Vec<String>,
    /// The controller that made it, if it is one that selects its pods.
    pub(crate) owner: Option<(Kind, String)>,
    /// Claims the pod mounts, by name in its namespace.
    pub claims: Vec<String>,
    pub generation: Option<i64>,
    /// The message of the current `PodScheduled` condition, to leave out updates that change nothing.
    pub condition: Option<(String, String)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// `0.0.0.0` for every address.
    pub ip: String,
    pub protocol: String,
    pub port: i32,
}

/// A pod affinity or anti-affinity term, bound to its pod's namespace.
#[derive(Clone, Debug)]
pub struct PodTerm {
    pub selector: LabelSelector,
    pub namespaces: Vec<String>,
    /// Namespaces by label; absent selects none.
    pub namespace_selector: LabelSelector,
    pub topology_key: String,
}

#[derive(Clone, Debug)]
pub struct Spread {
    pub max_skew: i32,
    pub topology_key: String,
    pub selector: LabelSelector,
    pub min_domains: Option<i32>,
    /// `DoNotSchedule`
    pub hard: bool,
    pub honor_affinity: bool,
    pub honor_taints: bool,
}

// === impl PodInfo ===

impl PodInfo {
    pub fn new(pod: &Pod) -> PodInfo {
        let (meta, empty) = (&pod.metadata, PodSpec::default());
        let spec = pod.spec.as_ref().unwrap_or(&empty);
        let status = pod.status.as_ref();
        let namespace = meta.namespace.clone().unwrap_or_default();
        let labels = meta.labels.clone().unwrap_or_default();
        let scheduled =
            status.and_then(|s| s.conditions.iter().flatten().find(|c| c.type_ == "PodScheduled"));
        let (requests, score_requests) = requests_of(pod);
        let mut info = PodInfo {
            uid: meta.uid.clone().unwrap_or_default(),
            priority: spec.priority.unwrap_or(0),
            never_preempts: spec.preemption_policy.as_deref() == Some("Never"),
            scheduler_name: spec.scheduler_name.clone().unwrap_or_default(),
            created: meta.creation_timestamp.as_ref().map(|t| t.0),
            started: status.and_then(|s| s.start_time.as_ref()).map(|t| t.0),
            node_name: spec.node_name.clone().unwrap_or_default(),
            nominated_node: status.and_then(|s| s.nominated_node_name.clone()).unwrap_or_default(),
            deleting: pod.is_terminating(),
            preempted: status.is_some_and(preempted),
            finished: is_terminal(pod),
            gates: spec.scheduling_gates.iter().flatten().map(|g| g.name.clone()).collect(),
            requests,
            score_requests,
            host_ports: host_ports(spec),
            tolerations: spec.tolerations.clone().unwrap_or_default(),
            node: Required::of(spec),
            preferred_node_terms: Vec::new(),
            affinity: Vec::new(),
            anti_affinity: Vec::new(),
            preferred_affinity: Vec::new(),
            preferred_anti_affinity: Vec::new(),
            spread: spec
                .topology_spread_constraints
                .iter()
                .flatten()
                .map(|c| Spread::new(c, &labels))
                .collect(),
            images: images(spec),
            owner: owner(pod),
            claims: claims(spec, meta.name.as_deref().unwrap_or_default()),
            generation: meta.generation,
            condition: scheduled
                .map(|c| (c.reason.clone().unwrap_or_default(), c.message.clone().unwrap_or_default())),
            key: (namespace, meta.name.clone().unwrap_or_default()),
            labels,
        };
        info.read_affinity(spec);
        info
    }

    fn read_affinity(&mut self, spec: &PodSpec) {
        let Some(affinity) = &spec.affinity else { return };
        if let Some(node) = &affinity.node_affinity {
            let preferred = node.preferred_during_scheduling_ignored_during_execution.iter().flatten();
            self.preferred_node_terms = preferred.map(|t| (t.weight, NodeTerm::of(&t.preference))).collect();
        }
        let term = |term: &PodAffinityTerm| PodTerm::new(term, &self.key.0, &self.labels);
        if let Some(pods) = &affinity.pod_affinity {
            let required = pods.required_during_scheduling_ignored_during_execution.iter().flatten();
            let preferred = pods.preferred_during_scheduling_ignored_during_execution.iter().flatten();
            (self.affinity, self.preferred_affinity) = (
                required.map(term).collect(),
                preferred.map(|t| (t.weight, term(&t.pod_affinity_term))).collect(),
            );
        }
        if let Some(pods) = &affinity.pod_anti_affinity {
            let required = pods.required_during_scheduling_ignored_during_execution.iter().flatten();
            let preferred = pods.preferred_during_scheduling_ignored_during_execution.iter().flatten();
            (self.anti_affinity, self.preferred_anti_affinity) = (
                required.map(term).collect(),
                preferred.map(|t| (t.weight, term(&t.pod_affinity_term))).collect(),
            );
        }
    }

    /// Takes part in the scheduling of others: it runs, or is about to.
    pub fn holds_node(&self) -> bool {
        !self.node_name.is_empty() && !self.finished
    }

    pub fn reference(&self) -> ObjectReference {
        ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            namespace: Some(self.key.0.clone()),
            name: Some(self.key.1.clone()),
            uid: Some(self.uid.clone()),
            ..ObjectReference::default()
        }
    }

    /// The same pod on a node: what the world looks like once the binding is done.
    pub fn assumed_on(self: &Arc<Self>, node: &str) -> Arc<PodInfo> {
        Arc::new(PodInfo { node_name: node.to_owned(), ..PodInfo::clone(self) })
    }
}

// === impl PodTerm ===

impl PodTerm {
    fn new(term: &PodAffinityTerm, namespace: &str, labels: &Labels) -> PodTerm {
        let mut selector = selector_of(term.label_selector.as_ref());
        selector.and(own_values(term.match_label_keys.as_ref(), labels, Operator::In));
        selector.and(own_values(term.mismatch_label_keys.as_ref(), labels, Operator::NotIn));
        let mut namespaces = term.namespaces.clone().unwrap_or_default();
        if namespaces.is_empty() && term.namespace_selector.is_none() {
            namespaces.push(namespace.to_owned());
        }
        PodTerm {
            selector,
            namespaces,
            namespace_selector: selector_of(term.namespace_selector.as_ref()),
            topology_key: term.topology_key.clone(),
        }
    }
}

// === impl Spread ===

impl Spread {
    fn new(constraint: &TopologySpreadConstraint, labels: &Labels) -> Spread {
        let mut selector = selector_of(constraint.label_selector.as_ref());
        selector.and(own_values(constraint.match_label_keys.as_ref(), labels, Operator::In));
        Spread {
            max_skew: constraint.max_skew,
            topology_key: constraint.topology_key.clone(),
            selector,
            min_domains: constraint.min_domains,
            hard: constraint.when_unsatisfiable == "DoNotSchedule",
            honor_affinity: constraint.node_affinity_policy.as_deref() != Some("Ignore"),
            honor_taints: constraint.node_taints_policy.as_deref() == Some("Honor"),
        }
    }
}

/// Absent selects nothing, empty selects everything.
pub(crate) fn selector_of(selector: Option<&v1::LabelSelector>) -> LabelSelector {
    selector.map_or_else(LabelSelector::nothing, LabelSelector::of_typed)
}

/// `matchLabelKeys`: requirements with the pod's own values of these labels; labels it lacks are left out.
fn own_values(keys: Option<&Vec<String>>, labels: &Labels, operator: Operator) -> Vec<Requirement> {
    let present = keys.into_iter().flatten().filter_map(|key| Some((key, labels.get(key)?)));
    present.map(|(key, value)| Requirement::new(key, operator, vec![value.clone()])).collect()
}

fn host_ports(spec: &PodSpec) -> Vec<HostPort> {
    let sidecars = spec.init_containers.iter().flatten().filter(|c| is_sidecar(c.restart_policy.as_deref()));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten());
    let ports = ports.filter_map(|p| Some((p, p.host_port.filter(|n| *n > 0)?)));
    ports
        .map(|(p, port)| HostPort {
            ip: p.host_ip.clone().filter(|ip| !ip.is_empty()).unwrap_or_else(|| "0.0.0.0".to_owned()),
            protocol: p.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
            port,
        })
        .collect()
}

fn preempted(status: &PodStatus) -> bool {
    let by_us = |c: &PodCondition| {
        c.type_ == "DisruptionTarget" && c.status == "True" && c.reason.as_deref() == Some(PREEMPTED)
    };
    status.conditions.iter().flatten().any(by_us)
}

fn images(spec: &PodSpec) -> Vec<String> {
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    let volumes = spec.volumes.iter().flatten().filter_map(|v| v.image.as_ref()?.reference.clone());
    containers.filter_map(|c| c.image.clone()).chain(volumes).collect()
}

fn owner(pod: &Pod) -> Option<(Kind, String)> {
    let owner = controller_of(&pod.metadata)?;
    Some((Kind::of_owner(&owner.kind)?, owner.name.clone()))
}

fn claims(spec: &PodSpec, pod_name: &str) -> Vec<String> {
    let name = |volume: &Volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(claim), _) => Some(claim.claim_name.clone()),
        (None, Some(_)) => Some(format!("{pod_name}-{}", volume.name)),
        (None, None) => None,
    };
    spec.volumes.iter().flatten().filter_map(name).collect()
}
