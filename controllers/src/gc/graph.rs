//! Who owns whom.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use coracle_api::names::{FINALIZER_FOREGROUND, FINALIZER_ORPHAN};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::judge::Dependents;
use crate::discovery::Served;

/// The metadata of one object, as far as garbage collection needs it.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) resource: Arc<Served>,
    pub(super) uid: String,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) resource_version: String,
    pub(super) owners: Vec<OwnerReference>,
    pub(super) finalizers: Vec<String>,
    pub(super) deleting: bool,
}

#[derive(Default)]
pub(super) struct Graph {
    nodes: HashMap<String, Node>,
    dependents: HashMap<String, HashSet<String>>,
    /// By apiVersion and kind.
    resources: HashMap<(String, String), Arc<Served>>,
}

// === impl Node ===

impl Node {
    pub(super) fn new(resource: &Arc<Served>, meta: ObjectMeta) -> Option<Self> {
        Some(Node {
            resource: resource.clone(),
            uid: meta.uid?,
            namespace: meta.namespace.unwrap_or_default(),
            name: meta.name?,
            resource_version: meta.resource_version.unwrap_or_default(),
            owners: meta.owner_references.unwrap_or_default(),
            finalizers: meta.finalizers.unwrap_or_default(),
            deleting: meta.deletion_timestamp.is_some(),
        })
    }

    pub(super) fn has_finalizer(&self, finalizer: &str) -> bool {
        self.finalizers.iter().any(|f| f == finalizer)
    }

    /// Whether a reference of an object in `namespace` is one to this node: a right uid under a wrong name, kind or
    /// namespace is not. Versions of one group are versions of one object.
    pub(super) fn is_meant_by(&self, reference: &OwnerReference, namespace: &str) -> bool {
        let group = reference.api_version.split_once('/').map_or("", |(group, _)| group);
        let same = reference.uid == self.uid
            && reference.name == self.name
            && reference.kind == self.resource.api.kind
            && group == self.resource.api.group;
        same && self.is_reachable_from(namespace)
    }

    /// Owners are cluster-scoped, or in the namespace of what they own.
    pub(super) fn is_reachable_from(&self, namespace: &str) -> bool {
        self.namespace.is_empty() || self.namespace == namespace
    }

    fn waits(&self) -> bool {
        self.deleting && (self.has_finalizer(FINALIZER_FOREGROUND) || self.has_finalizer(FINALIZER_ORPHAN))
    }
}

// === impl Graph ===

impl Graph {
    pub(super) fn node(&self, uid: &str) -> Option<Node> {
        self.nodes.get(uid).cloned()
    }

    pub(super) fn resource(&self, api_version: &str, kind: &str) -> Option<Arc<Served>> {
        self.resources.get(&(api_version.to_owned(), kind.to_owned())).cloned()
    }

    pub(super) fn add_resource(&mut self, resource: &Arc<Served>) {
        let key = (resource.api.api_version.clone(), resource.api.kind.clone());
        self.resources.insert(key, resource.clone());
    }

    pub(super) fn dependents_of(&self, node: &Node) -> Dependents {
        let Some(uids) = self.dependents.get(&node.uid) else { return Dependents::None };
        let blocks = node.owners.iter().any(|o| o.block_owner_deletion == Some(true));
        let circle = blocks && uids.iter().any(|uid| self.nodes.get(uid).is_some_and(Node::waits));
        if circle { Dependents::Circle } else { Dependents::Some }
    }

    pub(super) fn dependents(&self, uid: &str) -> Vec<Node> {
        let uids = self.dependents.get(uid).into_iter().flatten();
        uids.filter_map(|uid| self.nodes.get(uid).cloned()).collect()
    }

    /// The uids known of one resource.
    pub(super) fn of_resource(&self, resource: &Arc<Served>) -> HashSet<String> {
        let own = self.nodes.values().filter(|n| Arc::ptr_eq(&n.resource, resource));
        own.map(|n| n.uid.clone()).collect()
    }

    /// Takes in a node as it is now; returns the uids worth a look.
    pub(super) fn apply(&mut self, node: Node) -> Vec<String> {
        let old = self.nodes.get(&node.uid).cloned();
        for owner in old.iter().flat_map(|o| &o.owners) {
            if !node.owners.iter().any(|o| o.uid == owner.uid) {
                self.unlink(&owner.uid, &node.uid);
            }
        }
        for owner in &node.owners {
            self.dependents.entry(owner.uid.clone()).or_default().insert(node.uid.clone());
        }
        let mut affected = Vec::new();
        let owners_changed = old.as_ref().is_none_or(|o| o.owners != node.owners);
        let needs_look = |reference: &OwnerReference| {
            let owner = self.nodes.get(&reference.uid);
            owner.is_none_or(|owner| owner.waits() || !owner.is_meant_by(reference, &node.namespace))
        };
        if node.waits() || (owners_changed && node.owners.iter().any(needs_look)) {
            affected.push(node.uid.clone());
        }
        // An owner that waits may be free when a dependent stops blocking it.
        for owner in old.iter().flat_map(|o| &o.owners).chain(&node.owners) {
            if owners_changed && self.nodes.get(&owner.uid).is_some_and(Node::waits) {
                affected.push(owner.uid.clone());
            }
        }
        self.nodes.insert(node.uid.clone(), node);
        affected
    }

    /// Forgets a node; returns the uids worth a look: what it owned, and owners that waited for it.
    pub(super) fn remove(&mut self, uid: &str) -> Vec<String> {
        let Some(node) = self.nodes.remove(uid) else { return Vec::new() };
        let mut affected: Vec<String> = self.dependents.get(uid).into_iter().flatten().cloned().collect();
        for owner in &node.owners {
            self.unlink(&owner.uid, uid);
            if self.nodes.get(&owner.uid).is_some_and(Node::waits) {
                affected.push(owner.uid.clone());
            }
        }
        affected
    }

    fn unlink(&mut self, owner: &str, dependent: &str) {
        if let Some(dependents) = self.dependents.get_mut(owner) {
            dependents.remove(dependent);
            if dependents.is_empty() {
                self.dependents.remove(owner);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(uid: &str, owners: &[&str], deleting: bool, finalizers: &[&str]) -> Node {
        let api = kube::core::ApiResource {
            group: String::new(),
            version: "v1".into(),
            api_version: "v1".into(),
            kind: "ConfigMap".into(),
            plural: "configmaps".into(),
        };
        let resource = Arc::new(Served { api, namespaced: true, verbs: Vec::new() });
        let owners: Vec<_> = owners
            .iter()
            .map(|uid| json!({"apiVersion": "v1", "kind": "ConfigMap", "name": uid, "uid": uid, "blockOwnerDeletion": true}))
            .collect();
        let meta = json!({"name": uid, "uid": uid, "ownerReferences": owners, "finalizers": finalizers,
            "deletionTimestamp": deleting.then_some("2026-01-01T00:00:00Z")});
        Node::new(&resource, serde_json::from_value(meta).unwrap()).unwrap()
    }

    #[test]
    fn a_circle_is_seen_where_it_closes() {
        let mut graph = Graph::default();
        graph.apply(node("a", &["c"], true, &[FINALIZER_FOREGROUND]));
        graph.apply(node("b", &["a"], true, &[FINALIZER_FOREGROUND]));
        let last = node("c", &["b"], false, &[]);
        graph.apply(last.clone());
        assert_eq!(graph.dependents_of(&last), Dependents::Circle);
        let unblocking = Node { owners: vec![], ..last };
        assert_eq!(graph.dependents_of(&unblocking), Dependents::Some);
    }

    #[test]
    fn a_right_uid_under_wrong_coordinates_is_worth_a_look() {
        // Namespace of the dependent, then apiVersion, kind and name of the reference; whether it means the owner.
        let cases = [
            ("a", "v1", "ConfigMap", "owner", true),
            ("b", "v1", "ConfigMap", "owner", false),
            ("", "v1", "ConfigMap", "owner", false),
            ("a", "v1", "ConfigMap", "other", false),
            ("a", "v1", "Secret", "owner", false),
            ("a", "apps/v1", "ConfigMap", "owner", false),
            ("a", "v2", "ConfigMap", "owner", true),
        ];
        for (namespace, api_version, kind, name, meant) in cases {
            let mut graph = Graph::default();
            graph.apply(Node { namespace: "a".to_owned(), ..node("owner", &[], false, &[]) });
            let mut child = Node { namespace: namespace.to_owned(), ..node("child", &["owner"], false, &[]) };
            let reference = &mut child.owners[0];
            (reference.api_version, reference.kind) = (api_version.to_owned(), kind.to_owned());
            reference.name = name.to_owned();
            let worth: &[&str] = if meant { &[] } else { &["child"] };
            assert_eq!(graph.apply(child), worth, "{namespace} {api_version} {kind} {name}");
        }
    }

    #[test]
    fn changes_name_the_objects_worth_a_look() {
        let mut graph = Graph::default();
        assert_eq!(
            graph.apply(node("child", &["owner"], false, &[])),
            ["child"],
            "the owner is not known yet"
        );
        assert!(graph.apply(node("owner", &[], false, &[])).is_empty());
        assert!(graph.apply(node("child", &["owner"], false, &[])).is_empty());
        assert_eq!(graph.apply(node("owner", &[], true, &[FINALIZER_FOREGROUND])), ["owner"]);
        assert_eq!(graph.remove("child"), ["owner"], "the foreground deletion goes on");
        graph.apply(node("child", &["owner"], false, &[]));
        assert_eq!(graph.remove("owner"), ["child"]);
        let owner = node("owner", &[], false, &[]);
        assert_eq!(
            graph.dependents_of(&owner),
            Dependents::Some,
            "so that the child is found if it comes back"
        );
    }
}
