//! Claims, volumes and storage classes as far as they decide on nodes.

use std::collections::HashMap;

use coracle_api::node_affinity::NodeTerm;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;

use crate::cluster::NodeInfo;
use crate::decide::Rejection;
use crate::pod::{Key, PodInfo};

#[derive(Debug, Default)]
pub(crate) struct Volumes {
    claims: HashMap<Key, Claim>,
    /// Required node affinity by volume; `None` where it has none.
    volumes: HashMap<String, Option<Vec<NodeTerm>>>,
    /// Whether a class waits for the first consumer.
    classes: HashMap<String, bool>,
}

#[derive(Debug, PartialEq)]
struct Claim {
    volume: String,
    class: String,
    deleting: bool,
}

// === impl Volumes ===

impl Volumes {
    pub(crate) fn set_claim(&mut self, key: Key, claim: Option<&PersistentVolumeClaim>) {
        let Some(claim) = claim else { return drop(self.claims.remove(&key)) };
        let spec = claim.spec.as_ref();
        let value = Claim {
            volume: spec.and_then(|s| s.volume_name.clone()).unwrap_or_default(),
            class: spec.and_then(|s| s.storage_class_name.clone()).unwrap_or_default(),
            deleting: claim.metadata.deletion_timestamp.is_some(),
        };
        self.claims.insert(key, value);
    }

    pub(crate) fn set_volume(&mut self, name: String, volume: Option<&PersistentVolume>) {
        let Some(volume) = volume else { return drop(self.volumes.remove(&name)) };
        let affinity = volume.spec.as_ref().and_then(|s| s.node_affinity.as_ref());
        let terms = affinity.and_then(|a| a.required.as_ref());
        self.volumes.insert(name, terms.map(|t| t.node_selector_terms.iter().map(NodeTerm::of).collect()));
    }

    pub(crate) fn set_class(&mut self, name: String, class: Option<&StorageClass>) {
        let Some(class) = class else {
            self.classes.remove(&name);
            return;
        };
        self.classes.insert(name, class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"));
    }

    /// What no node can mend: claims that are missing, going away, or not bound though they should be.
    pub(crate) fn admit(&self, pod: &PodInfo) -> Result<(), String> {
        let mut unbound_immediate = false;
        for name in &pod.claims {
            let Some(claim) = self.claims.get(&(pod.key.0.clone(), name.clone())) else {
                return Err(format!("persistentvolumeclaim {name:?} not found"));
            };
            if claim.deleting {
                return Err(format!("persistentvolumeclaim {name:?} is being deleted"));
            }
            let waits = self.classes.get(&claim.class).copied().unwrap_or(false);
            unbound_immediate |= claim.volume.is_empty() && !waits;
        }
        if unbound_immediate {
            return Err("pod has unbound immediate PersistentVolumeClaims".to_owned());
        }
        Ok(())
    }

    pub(crate) fn check(&self, pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
        for name in &pod.claims {
            let bound = self.claims.get(&(pod.key.0.clone(), name.clone())).filter(|c| !c.volume.is_empty());
            let Some(claim) = bound else { continue };
            match self.volumes.get(&claim.volume) {
                None => {
                    let reason = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)"
                        .to_owned();
                    return Err(Rejection::unresolvable(reason));
                }
                Some(Some(terms)) if !terms.iter().any(|t| t.matches(&node.name, Some(&node.labels))) => {
                    return Err(Rejection::unresolvable(
                        "node(s) didn't match PersistentVolume's node affinity".to_owned(),
                    ));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }
}
