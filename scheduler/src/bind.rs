//! What the scheduler writes: bindings, the `PodScheduled` condition, events.

use k8s_openapi::api::core::v1::{Binding, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::events::{Event, EventType, Recorder};
use kube::{Api, Client};
use serde_json::{Value, json};
use tracing::warn;

use crate::pod::PodInfo;

/// Binds a pod to a node. An error leaves the pod pending.
pub(crate) async fn bind(client: &Client, pod: &PodInfo, node: &str) -> Result<(), kube::Error> {
    let binding = Binding {
        metadata: ObjectMeta {
            name: Some(pod.key.1.clone()),
            namespace: Some(pod.key.0.clone()),
            uid: Some(pod.uid.clone()),
            ..ObjectMeta::default()
        },
        target: ObjectReference {
            kind: Some("Node".to_owned()),
            name: Some(node.to_owned()),
            ..ObjectReference::default()
        },
    };
    let api: Api<Pod> = Api::namespaced(client.clone(), &pod.key.0);
    let _: Value = api.create_subresource("binding", &pod.key.1, &PostParams::default(), &binding).await?;
    Ok(())
}

/// Says in the pod's status why it is not scheduled, unless it says so already.
pub(crate) async fn report_unscheduled(
    client: &Client,
    pod: &PodInfo,
    reason: &str,
    message: &str,
    now: Timestamp,
) {
    if pod.condition.as_ref().is_some_and(|(r, m)| r == reason && m == message) {
        return;
    }
    let condition = json!({
        "type": "PodScheduled", "status": "False", "reason": reason, "message": message,
        "lastProbeTime": null, "lastTransitionTime": now.to_string(), "observedGeneration": pod.generation,
    });
    let patch =
        Patch::Strategic(json!({"metadata": {"uid": pod.uid}, "status": {"conditions": [condition]}}));
    let api: Api<Pod> = Api::namespaced(client.clone(), &pod.key.0);
    match api.patch_status(&pod.key.1, &PatchParams::default(), &patch).await {
        // Deleted meanwhile: nobody is left to be told.
        Ok(_) | Err(kube::Error::Api(_)) => {}
        Err(error) => warn!(%error, pod = ?pod.key, "cannot report why the pod is not scheduled"),
    }
}

pub(crate) async fn event(recorder: &Recorder, pod: &PodInfo, type_: EventType, words: [&str; 3]) {
    let [reason, action, note] = words;
    let event = Event {
        type_,
        reason: reason.to_owned(),
        action: action.to_owned(),
        note: Some(truncated(note)),
        secondary: None,
    };
    if let Err(error) = recorder.publish(&event, &pod.reference()).await {
        warn!(%error, pod = ?pod.key, "cannot record an event");
    }
}

/// Events carry at most 1024 bytes of text.
fn truncated(note: &str) -> String {
    const LIMIT: usize = 1024;
    if note.len() <= LIMIT {
        return note.to_owned();
    }
    let cut = (0..=LIMIT - 4).rev().find(|i| note.is_char_boundary(*i)).unwrap_or(0);
    format!("{} ...", &note[..cut])
}
