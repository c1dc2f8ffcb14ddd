//! The garbage collector: dependents go with their owners - in the background, before them (foreground), or not at
//! all (orphan).
//!
//! Metadata-only watches of every deletable resource build a graph of who owns whom; each change there names the
//! objects worth a look. The graph may be behind, so an owner it does not know is asked for before it counts as gone.

mod graph;
mod judge;
mod watch;

use std::fmt;
use std::sync::Arc;

use coracle_api::names::{FINALIZER_FOREGROUND, FINALIZER_ORPHAN};
use coracle_client::errors::{is_conflict, is_not_found};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions, PropagationPolicy, Request};
use kube::core::PartialObjectMeta;
use kube::core::params::GetParams;
use parking_lot::RwLock;
use serde_json::{Value, json};

use crate::Config;
use crate::discovery::Served;
use crate::runtime::{Next, Queue, Reconcile, Recorder, Runtime, Writer};
use graph::{Graph, Node};
use judge::{OwnerState, Verdict};

/// The uid of an object, whatever its kind.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Uid(String);

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What the watches know and the collector reads.
struct Shared {
    graph: RwLock<Graph>,
    queue: Queue<Uid>,
}

struct Controller {
    client: kube::Client,
    shared: Arc<Shared>,
    recorder: Recorder,
}

pub(crate) fn start(runtime: &mut Runtime, _config: &Config) {
    let shared = Arc::new(Shared { graph: RwLock::default(), queue: Queue::default() });
    let queue = shared.queue.clone();
    runtime.task(watch::follow_all(runtime.client(), shared.clone()));
    let (client, recorder) = (runtime.client(), runtime.recorder("garbage-collector-controller"));
    runtime.work("garbage-collector-controller", queue, 20, Controller { client, shared, recorder });
}

/// The object whose owner is in another namespace, and what is said of it.
fn invalid_namespace(node: &Node, owner: &OwnerReference) -> (ObjectReference, String) {
    let text = format!(
        "ownerRef [{}/{}, namespace: {}, name: {}, uid: {}] does not exist in namespace {:?}",
        owner.api_version, owner.kind, node.namespace, owner.name, owner.uid, node.namespace
    );
    let reference = ObjectReference {
        api_version: Some(node.resource.api.api_version.clone()),
        kind: Some(node.resource.api.kind.clone()),
        name: Some(node.name.clone()),
        namespace: Some(node.namespace.clone()).filter(|n| !n.is_empty()),
        uid: Some(node.uid.clone()),
        ..ObjectReference::default()
    };
    (reference, text)
}

impl Reconcile<Uid> for Controller {
    async fn reconcile(&self, uid: &Uid, _api: &Writer) -> anyhow::Result<Next> {
        let node = self.shared.graph.read().node(&uid.0);
        let Some(node) = node else { return Ok(Next::Done) };
        if node.deleting {
            if node.has_finalizer(FINALIZER_ORPHAN) {
                self.orphan_dependents(&node).await?;
            } else if node.has_finalizer(FINALIZER_FOREGROUND) {
                self.finish_foreground(&node).await?;
            }
            return Ok(Next::Done);
        }
        self.judge(&node).await
    }
}

impl Controller {
    /// Is any owner still there? If not, or if an owner waits for it, the object goes.
    async fn judge(&self, node: &Node) -> anyhow::Result<Next> {
        if node.owners.is_empty() {
            return Ok(Next::Done);
        }
        let mut states = Vec::with_capacity(node.owners.len());
        for owner in &node.owners {
            states.push(self.owner_state(node, owner).await?);
        }
        let dependents = self.shared.graph.read().dependents_of(node);
        match judge::verdict(&states, dependents) {
            Verdict::Keep => Ok(Next::Done),
            Verdict::Release => self.release(node, &states).await,
            Verdict::Unblock => {
                let mut owners = node.owners.clone();
                owners.iter_mut().for_each(|owner| owner.block_owner_deletion = Some(false));
                self.patch(node, json!({"ownerReferences": owners})).await?;
                Ok(Next::Done)
            }
            Verdict::DeleteForeground => self.delete(node, PropagationPolicy::Foreground).await,
            Verdict::Delete => {
                let how = if node.has_finalizer(FINALIZER_ORPHAN) {
                    PropagationPolicy::Orphan
                } else if node.has_finalizer(FINALIZER_FOREGROUND) {
                    PropagationPolicy::Foreground
                } else {
                    PropagationPolicy::Background
                };
                self.delete(node, how).await
            }
        }
    }

    async fn owner_state(&self, node: &Node, owner: &OwnerReference) -> anyhow::Result<OwnerState> {
        let (known, resource) = {
            let graph = self.shared.graph.read();
            (graph.node(&owner.uid), graph.resource(&owner.api_version, &owner.kind))
        };
        if let Some(known) = &known {
            if known.is_meant_by(owner, &node.namespace) {
                return Ok(OwnerState::of(known.deleting, known.has_finalizer(FINALIZER_FOREGROUND)));
            }
            if !known.is_reachable_from(&node.namespace) {
                let (reference, text) = invalid_namespace(node, owner);
                self.recorder.warn_of(reference, "OwnerRefInvalidNamespace", text);
            }
        }
        let Some(resource) = resource else {
            anyhow::bail!(
                "no resource serves the owner {} {} of {}",
                owner.api_version,
                owner.kind,
                node.name
            );
        };
        if resource.namespaced && node.namespace.is_empty() {
            // A cluster-scoped object cannot have an owner in a namespace: it is left alone.
            return Ok(OwnerState::Solid);
        }
        let namespace = (!node.namespace.is_empty()).then_some(node.namespace.as_str());
        let found = self.get(&resource, namespace, &owner.name).await?;
        let found = found.filter(|o| o.metadata.uid.as_ref() == Some(&owner.uid));
        Ok(found.map_or(OwnerState::Absent, |o| {
            let foreground = o.metadata.finalizers.iter().flatten().any(|f| f == FINALIZER_FOREGROUND);
            OwnerState::of(o.metadata.deletion_timestamp.is_some(), foreground)
        }))
    }

    /// Drops the references to owners that are gone or waiting; the others keep the object.
    async fn release(&self, node: &Node, states: &[OwnerState]) -> anyhow::Result<Next> {
        let kept = node.owners.iter().zip(states).filter(|(_, state)| **state == OwnerState::Solid);
        let kept: Vec<_> = kept.map(|(owner, _)| owner.clone()).collect();
        self.patch(node, json!({"ownerReferences": kept})).await?;
        Ok(Next::Done)
    }

    /// The dependents stay and forget this owner; then the owner may go.
    async fn orphan_dependents(&self, node: &Node) -> anyhow::Result<()> {
        let dependents = self.shared.graph.read().dependents(&node.uid);
        for dependent in dependents {
            let kept: Vec<_> = dependent.owners.iter().filter(|o| o.uid != node.uid).cloned().collect();
            self.patch(&dependent, json!({"ownerReferences": kept})).await?;
        }
        self.drop_finalizer(node, FINALIZER_ORPHAN).await
    }

    /// The owner goes once no dependent blocks it any more; until then each of them is looked at.
    async fn finish_foreground(&self, node: &Node) -> anyhow::Result<()> {
        let dependents = self.shared.graph.read().dependents(&node.uid);
        let blocks =
            |d: &&Node| d.owners.iter().any(|o| o.uid == node.uid && o.block_owner_deletion == Some(true));
        if !dependents.iter().any(|d| blocks(&d)) {
            return self.drop_finalizer(node, FINALIZER_FOREGROUND).await;
        }
        for dependent in dependents.iter().filter(|d| !d.deleting) {
            self.shared.queue.add(Uid(dependent.uid.clone()));
        }
        Ok(())
    }

    async fn drop_finalizer(&self, node: &Node, finalizer: &str) -> anyhow::Result<()> {
        let kept: Vec<_> = node.finalizers.iter().filter(|f| *f != finalizer).collect();
        self.patch(node, json!({"finalizers": kept})).await
    }

    /// Patches the metadata of exactly the object and version the graph knows.
    async fn patch(&self, node: &Node, mut metadata: Value) -> anyhow::Result<()> {
        metadata["uid"] = json!(node.uid);
        metadata["resourceVersion"] = json!(node.resource_version);
        let patch = Patch::Merge(json!({"metadata": metadata}));
        let request = self.at(node).patch_metadata(&node.name, &PatchParams::default(), &patch)?;
        match self.client.request::<PartialObjectMeta>(request).await {
            Ok(_) => Ok(()),
            Err(error) if is_not_found(&error) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    async fn delete(&self, node: &Node, how: PropagationPolicy) -> anyhow::Result<Next> {
        // By version too: an owner may have been added since we looked.
        let preconditions = Preconditions {
            uid: Some(node.uid.clone()),
            resource_version: Some(node.resource_version.clone()),
        };
        let how = DeleteParams {
            propagation_policy: Some(how),
            preconditions: Some(preconditions),
            ..DeleteParams::default()
        };
        let request = self.at(node).delete(&node.name, &how)?;
        match self.client.request_status::<Value>(request).await {
            Ok(_) => Ok(Next::Done),
            Err(error) if is_not_found(&error) => {
                self.forget(node);
                Ok(Next::Done)
            }
            Err(error) if is_conflict(&error) && self.is_gone(node).await? => {
                self.forget(node);
                Ok(Next::Done)
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn is_gone(&self, node: &Node) -> anyhow::Result<bool> {
        let namespace = (!node.namespace.is_empty()).then_some(node.namespace.as_str());
        let found = self.get(&node.resource, namespace, &node.name).await?;
        Ok(found.is_none_or(|o| o.metadata.uid.as_deref() != Some(&node.uid)))
    }

    fn forget(&self, node: &Node) {
        for affected in self.shared.graph.write().remove(&node.uid) {
            self.shared.queue.add(Uid(affected));
        }
    }

    async fn get(
        &self,
        resource: &Served,
        namespace: Option<&str>,
        name: &str,
    ) -> anyhow::Result<Option<PartialObjectMeta>> {
        let request = Request::new(resource.path(namespace)).get_metadata(name, &GetParams::default())?;
        match self.client.request(request).await {
            Ok(object) => Ok(Some(object)),
            Err(error) if is_not_found(&error) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn at(&self, node: &Node) -> Request {
        let namespace = (!node.namespace.is_empty()).then_some(node.namespace.as_str());
        Request::new(node.resource.path(namespace))
    }
}
