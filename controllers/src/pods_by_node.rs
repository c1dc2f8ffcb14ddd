//! Which pods are on which node, so that what happens to a node costs no look at the pods of others.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;

use crate::pods;
use crate::runtime::{Cache, Key};

#[derive(Default)]
pub(crate) struct PodsByNode(Mutex<HashMap<String, BTreeSet<Key>>>);

impl PodsByNode {
    /// Follows the cache from now on. To be called before the runtime runs.
    pub(crate) fn follow(pods: &Cache<Pod>) -> Arc<Self> {
        let index = Arc::new(PodsByNode::default());
        let kept = index.clone();
        pods.on_change(move |old, new| kept.note(old.map(AsRef::as_ref), new.map(AsRef::as_ref)));
        index
    }

    pub(crate) fn on(&self, node: &str) -> Vec<Key> {
        self.0.lock().get(node).into_iter().flatten().cloned().collect()
    }

    fn note(&self, old: Option<&Pod>, new: Option<&Pod>) {
        let (before, after) = (old.and_then(pods::node_name), new.and_then(pods::node_name));
        if before == after {
            return;
        }
        let mut nodes = self.0.lock();
        if let (Some(pod), Some(node)) = (old, before)
            && let Some(keys) = nodes.get_mut(node)
        {
            keys.remove(&Key::of(pod));
            if keys.is_empty() {
                nodes.remove(node);
            }
        }
        if let (Some(pod), Some(node)) = (new, after) {
            nodes.entry(node.to_owned()).or_default().insert(Key::of(pod));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pods_are_found_on_their_node_until_they_go() {
        let pod = |node: Option<&str>| -> Pod {
            let pod = json!({"metadata": {"namespace": "ns", "name": "p"}, "spec": {"nodeName": node, "containers": []}});
            serde_json::from_value(pod).unwrap()
        };
        let index = PodsByNode::default();
        index.note(None, Some(&pod(None)));
        assert!(index.on("n").is_empty());
        index.note(Some(&pod(None)), Some(&pod(Some("n"))));
        assert_eq!(index.on("n"), [Key::new("ns", "p")]);
        index.note(Some(&pod(Some("n"))), None);
        assert!(index.on("n").is_empty() && index.0.lock().is_empty());
    }
}
