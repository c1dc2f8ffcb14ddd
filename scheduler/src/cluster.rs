//! What the scheduler knows of the cluster, kept up to date event by event: a decision reads it and never copies it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use coracle_api::Quantity;
use coracle_api::resources::list_of;
use coracle_api::selector::Labels;
use k8s_openapi::api::core::v1::{Node, Taint};

use crate::owners::Owners;
use crate::pod::{Key, PodInfo};
use crate::resources::Resources;
use crate::volumes::Volumes;

/// Nodes with the pods on them, assumed ones included, and what else decisions depend on.
#[derive(Debug, Default)]
pub struct Cluster {
    pub nodes: BTreeMap<String, NodeInfo>,
    /// Pods on nodes that are not known (yet): kept for when the node appears.
    homeless: HashMap<Key, Arc<PodInfo>>,
    /// Labels of namespaces, for affinity terms that select by them.
    pub namespaces: HashMap<String, Labels>,
    pub(crate) volumes: Volumes,
    pub(crate) owners: Owners,
    /// How many nodes have each image: one that is everywhere says little.
    image_nodes: HashMap<String, usize>,
}

#[derive(Clone, Debug, Default)]
pub struct NodeInfo {
    pub name: String,
    pub labels: Labels,
    pub taints: Vec<Taint>,
    pub unschedulable: bool,
    pub allocatable: Resources,
    pub max_pods: i64,
    /// Bytes by image name.
    pub images: HashMap<String, i64>,
    pub pods: HashMap<Key, Arc<PodInfo>>,
    pub requested: Resources,
    pub score_requested: Resources,
    /// Pods here that have a required anti-affinity: others must ask them.
    pub repelling: usize,
    /// Pods here that have any affinity or anti-affinity.
    pub with_affinity: usize,
}

// === impl Cluster ===

impl Cluster {
    /// Takes a node over; says whether anything that decisions look at has changed.
    pub fn set_node(&mut self, node: &Node) -> bool {
        let mut fresh = NodeInfo::new(node);
        let name = fresh.name.clone();
        if let Some(old) = self.nodes.remove(&name) {
            let changed = !fresh.same_node(&old);
            self.count_images(&old.images, false);
            fresh.take_pods(old);
            self.count_images(&fresh.images, true);
            self.nodes.insert(name, fresh);
            return changed;
        }
        let here: Vec<Key> =
            self.homeless.values().filter(|p| p.node_name == name).map(|p| p.key.clone()).collect();
        for key in here {
            if let Some(pod) = self.homeless.remove(&key) {
                fresh.add(pod);
            }
        }
        self.count_images(&fresh.images, true);
        self.nodes.insert(name, fresh);
        true
    }

    pub fn remove_node(&mut self, name: &str) {
        if let Some(node) = self.nodes.remove(name) {
            self.count_images(&node.images, false);
            self.homeless.extend(node.pods);
        }
    }

    fn count_images(&mut self, images: &HashMap<String, i64>, add: bool) {
        for image in images.keys() {
            let count = self.image_nodes.entry(image.clone()).or_default();
            *count = if add { *count + 1 } else { count.saturating_sub(1) };
            if *count == 0 {
                self.image_nodes.remove(image);
            }
        }
    }

    pub fn nodes_with_image(&self, image: &str) -> usize {
        self.image_nodes.get(image).copied().unwrap_or(0)
    }

    /// Puts a bound or assumed pod on its node.
    pub fn add_pod(&mut self, pod: Arc<PodInfo>) {
        match self.nodes.get_mut(&pod.node_name) {
            Some(node) => node.add(pod),
            None => drop(self.homeless.insert(pod.key.clone(), pod)),
        }
    }

    pub fn remove_pod(&mut self, pod: &PodInfo) {
        match self.nodes.get_mut(&pod.node_name) {
            Some(node) => drop(node.remove(&pod.key)),
            None => drop(self.homeless.remove(&pod.key)),
        }
    }
}

// === impl NodeInfo ===

impl NodeInfo {
    pub fn new(node: &Node) -> NodeInfo {
        let (spec, status) = (node.spec.as_ref(), node.status.as_ref());
        let allocatable = list_of(status.and_then(|s| s.allocatable.as_ref()));
        let mut images = HashMap::new();
        for image in status.iter().flat_map(|s| s.images.iter().flatten()) {
            for name in image.names.iter().flatten() {
                images.insert(name.clone(), image.size_bytes.unwrap_or(0));
            }
        }
        NodeInfo {
            name: node.metadata.name.clone().unwrap_or_default(),
            labels: node.metadata.labels.clone().unwrap_or_default(),
            taints: spec.and_then(|s| s.taints.clone()).unwrap_or_default(),
            unschedulable: spec.and_then(|s| s.unschedulable).unwrap_or(false),
            allocatable: Resources::of(&allocatable),
            max_pods: allocatable.get("pods").map_or(0, Quantity::value),
            images,
            ..NodeInfo::default()
        }
    }

    /// Heartbeats and conditions do not count.
    fn same_node(&self, old: &NodeInfo) -> bool {
        self.labels == old.labels
            && self.taints == old.taints
            && self.unschedulable == old.unschedulable
            && self.allocatable == old.allocatable
            && self.max_pods == old.max_pods
            && self.images == old.images
    }

    fn take_pods(&mut self, old: NodeInfo) {
        self.pods = old.pods;
        self.requested = old.requested;
        self.score_requested = old.score_requested;
        self.repelling = old.repelling;
        self.with_affinity = old.with_affinity;
    }

    pub fn add(&mut self, pod: Arc<PodInfo>) {
        self.remove(&pod.key);
        self.requested.add(&pod.requests);
        self.score_requested.add(&pod.score_requests);
        self.repelling += usize::from(!pod.anti_affinity.is_empty());
        self.with_affinity += usize::from(has_affinity(&pod));
        self.pods.insert(pod.key.clone(), pod);
    }

    pub fn remove(&mut self, key: &Key) -> Option<Arc<PodInfo>> {
        let pod = self.pods.remove(key)?;
        self.requested.sub(&pod.requests);
        self.score_requested.sub(&pod.score_requests);
        self.repelling -= usize::from(!pod.anti_affinity.is_empty());
        self.with_affinity -= usize::from(has_affinity(&pod));
        Some(pod)
    }
}

fn has_affinity(pod: &PodInfo) -> bool {
    let required = !pod.affinity.is_empty() || !pod.anti_affinity.is_empty();
    required || !pod.preferred_affinity.is_empty() || !pod.preferred_anti_affinity.is_empty()
}
