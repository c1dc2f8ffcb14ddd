//! Events about pods and the node.

pub(crate) use coracle_client::events::Recorder;
use coracle_client::events::{self, Source};
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kube::Client;

use super::view::{Role, find_container, name_of, namespace_of, spec_of, uid_of};
use crate::tasks::contained;

/// Hands events to one background task; when that is overrun, events are dropped, never the pods' work delayed.
pub(crate) fn start(client: Client, node_name: &str) -> Recorder {
    let (queue, mut delivery) = events::queue(client);
    tokio::spawn(async move {
        // One that panics has taken its event with it.
        while contained("event recorder", delivery.run()).await.is_err() {}
    });
    Recorder::new(Source { component: "kubelet", host: Some(node_name.to_owned()) }, queue)
}

pub(crate) fn pod_reference(pod: &Pod) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        namespace: Some(namespace_of(pod).to_owned()),
        name: Some(name_of(pod).to_owned()),
        uid: Some(uid_of(pod).to_owned()),
        resource_version: pod.metadata.resource_version.clone(),
        ..ObjectReference::default()
    }
}

/// `spec.containers{name}` and its kin, as the event's field path.
pub(crate) fn container_reference(pod: &Pod, list: &str, container: &str) -> ObjectReference {
    ObjectReference { field_path: Some(format!("spec.{list}{{{container}}}")), ..pod_reference(pod) }
}

/// The same, with the list found in the spec.
pub(crate) fn container_of(pod: &Pod, container: &str) -> ObjectReference {
    let list = match find_container(spec_of(pod), container) {
        Some((Role::Init | Role::Sidecar, _)) => "initContainers",
        Some((Role::Ephemeral, _)) => "ephemeralContainers",
        Some((Role::Main, _)) | None => "containers",
    };
    container_reference(pod, list, container)
}

pub(crate) fn node_reference(name: &str) -> ObjectReference {
    ObjectReference {
        kind: Some("Node".to_owned()),
        uid: Some(name.to_owned()),
        name: Some(name.to_owned()),
        ..ObjectReference::default()
    }
}
