//! What the scheduler writes: bindings, the `PodScheduled` condition, events.

use k8s_openapi::api::core::v1::{Binding, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::events::{Event, EventType, Recorder};
use kube::{Api, Client};
use serde_json::{Value, json};
use tracing::warn;

use crate::pod::{PREEMPTED, PodInfo};

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

/// Says in the pod's status why it is not scheduled, and the node that is being cleared for it; unless it says so
/// already.
pub(crate) async fn report_unscheduled(
    client: &Client,
    pod: &PodInfo,
    (reason, message): (&str, &str),
    nominated: Option<&str>,
    now: Timestamp,
) {
    let known = pod.condition.as_ref().is_some_and(|(r, m)| r == reason && m == message);
    if known && nominated.is_none_or(|node| node == pod.nominated_node) {
        return;
    }
    let condition = json!({
        "type": "PodScheduled", "status": "False", "reason": reason, "message": message,
        "lastProbeTime": null, "lastTransitionTime": now.to_string(), "observedGeneration": pod.generation,
    });
    let mut status = json!({"conditions": [condition]});
    if let Some(node) = nominated {
        status["nominatedNodeName"] = json!(node);
    }
    let patch = Patch::Strategic(json!({"metadata": {"uid": pod.uid}, "status": status}));
    let api: Api<Pod> = Api::namespaced(client.clone(), &pod.key.0);
    match api.patch_status(&pod.key.1, &PatchParams::default(), &patch).await {
        // Deleted meanwhile: nobody is left to be told.
        Ok(_) | Err(kube::Error::Api(_)) => {}
        Err(error) => warn!(%error, pod = ?pod.key, "cannot report why the pod is not scheduled"),
    }
}

/// Ends a pod to make room for another, and says so.
pub(crate) async fn evict(
    client: &Client,
    recorder: &Recorder,
    scheduler: &str,
    victim: &PodInfo,
    preemptor: &PodInfo,
) -> Result<(), kube::Error> {
    let api: Api<Pod> = Api::namespaced(client.clone(), &victim.key.0);
    if !victim.preempted {
        let condition = json!({
            "type": "DisruptionTarget", "status": "True", "reason": PREEMPTED,
            "message": format!("{scheduler}: preempting to accommodate a higher priority pod"),
            "lastProbeTime": null, "lastTransitionTime": Timestamp::now().to_string(),
            "observedGeneration": victim.generation,
        });
        let patch =
            Patch::Strategic(json!({"metadata": {"uid": victim.uid}, "status": {"conditions": [condition]}}));
        api.patch_status(&victim.key.1, &PatchParams::default(), &patch).await?;
    }
    let same = Preconditions { uid: Some(victim.uid.clone()), resource_version: None };
    let params = DeleteParams { preconditions: Some(same), ..DeleteParams::default() };
    api.delete(&victim.key.1, &params).await?;
    let note = format!("Preempted by pod {} on node {}", preemptor.uid, victim.node_name);
    event(recorder, victim, EventType::Normal, ["Preempted", "Preempting", &note]).await;
    Ok(())
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
