//! Which pods belong together: the selectors of Services and of the controllers that own pods.

use std::collections::{BTreeMap, HashMap};

use coracle_api::selector::LabelSelector;

use crate::pod::{Key, PodInfo};

/// What selects pods: several Services may, and the one controller that owns a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Service,
    ReplicationController,
    ReplicaSet,
    StatefulSet,
}

/// By namespace, then by kind and name.
#[derive(Debug, Default)]
pub(crate) struct Owners(HashMap<String, BTreeMap<(Kind, String), LabelSelector>>);

// === impl Kind ===

impl Kind {
    pub(crate) fn of_owner(kind: &str) -> Option<Kind> {
        match kind {
            "ReplicationController" => Some(Kind::ReplicationController),
            "ReplicaSet" => Some(Kind::ReplicaSet),
            "StatefulSet" => Some(Kind::StatefulSet),
            _ => None,
        }
    }
}

// === impl Owners ===

impl Owners {
    pub(crate) fn set(&mut self, kind: Kind, (namespace, name): Key, selector: Option<LabelSelector>) {
        let Some(selector) = selector else {
            if let Some(all) = self.0.get_mut(&namespace) {
                all.remove(&(kind, name));
                if all.is_empty() {
                    self.0.remove(&namespace);
                }
            }
            return;
        };
        self.0.entry(namespace).or_default().insert((kind, name), selector);
    }

    /// What the pod's Services and its owner select by, taken together.
    pub(crate) fn selector_of(&self, pod: &PodInfo) -> Option<LabelSelector> {
        let all = self.0.get(&pod.key.0)?;
        let services = all.iter().filter(|((kind, _), s)| *kind == Kind::Service && s.selects(&pod.labels));
        let owner = pod.owner.as_ref().and_then(|owner| all.get(owner));
        let mut together = LabelSelector::default();
        for selector in services.map(|(_, s)| s).chain(owner) {
            together.and(selector.0.iter().cloned());
        }
        (!together.is_empty()).then_some(together)
    }
}
