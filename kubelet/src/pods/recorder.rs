//! Events about pods and the node: aggregated and limited per source object as upstream's recorder does.

use std::collections::HashMap;

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference, Pod},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use tokio::sync::mpsc;

use super::view::{Role, find_container, name_of, namespace_of, spec_of, uid_of};
use crate::tasks::contained;

/// Bursts per object, and the refill of one event per five minutes.
const BURST: f64 = 25.0;
const REFILL_PER_SECOND: f64 = 1.0 / 300.0;
/// Different messages of one reason within ten minutes that are still kept apart.
const SIMILAR: usize = 10;
const REMEMBERED: usize = 4096;

struct Occurrence {
    object: ObjectReference,
    warning: bool,
    reason: String,
    message: String,
    annotations: Vec<(&'static str, String)>,
    at: Timestamp,
}

/// Hands events to one background task; when that is overrun, events are dropped, never the pods' work delayed.
#[derive(Clone)]
pub(crate) struct Recorder {
    queue: mpsc::Sender<Occurrence>,
}

impl Recorder {
    pub(crate) fn start(client: Client, node_name: &str) -> Self {
        let (queue, receiver) = mpsc::channel(1000);
        tokio::spawn(send_all(client, node_name.to_owned(), receiver));
        Self { queue }
    }

    pub(crate) fn normal(&self, object: ObjectReference, reason: &str, message: impl Into<String>) {
        self.record(object, false, reason, message.into(), Vec::new());
    }

    pub(crate) fn warning(&self, object: ObjectReference, reason: &str, message: impl Into<String>) {
        self.record(object, true, reason, message.into(), Vec::new());
    }

    /// A warning that says more to machines than to people.
    pub(crate) fn annotated(
        &self,
        object: ObjectReference,
        reason: &str,
        message: String,
        annotations: Vec<(&'static str, String)>,
    ) {
        self.record(object, true, reason, message, annotations);
    }

    fn record(
        &self,
        object: ObjectReference,
        warning: bool,
        reason: &str,
        message: String,
        annotations: Vec<(&'static str, String)>,
    ) {
        let (reason, at) = (reason.to_owned(), Timestamp::now());
        let event = Occurrence { object, warning, reason, message, annotations, at };
        if let Err(error) = self.queue.try_send(event) {
            tracing::debug!(%error, "event dropped: the queue is full");
        }
    }
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

struct Sent {
    name: String,
    count: i32,
}

#[derive(Default)]
struct Memory {
    sent: HashMap<String, Sent>,
    similar: HashMap<String, (std::collections::HashSet<String>, Timestamp)>,
    buckets: HashMap<String, (f64, Timestamp)>,
}

async fn send_all(client: Client, node: String, mut queue: mpsc::Receiver<Occurrence>) {
    let mut memory = Memory::default();
    while let Some(event) = queue.recv().await {
        if let Ok(Err(error)) = contained("event recorder", send(&client, &node, &mut memory, event)).await {
            tracing::debug!(%error, "event not written");
        }
    }
}

async fn send(
    client: &Client,
    node: &str,
    memory: &mut Memory,
    mut event: Occurrence,
) -> Result<(), kube::Error> {
    let o = &event.object;
    let source = format!("{:?}/{:?}/{:?}/{:?}", o.kind, o.namespace, o.name, o.uid);
    let group = format!("{source}/{:?}/{}/{}", o.field_path, event.reason, event.warning);
    if memory.aggregate(&group, &event) {
        event.message = format!("(combined from similar events): {}", event.message);
    }
    let key =
        if event.message.starts_with("(combined") { group } else { format!("{group}/{}", event.message) };
    if !memory.admit(&source, event.at) {
        return Ok(());
    }
    let namespace = event.object.namespace.clone().unwrap_or_else(|| "default".to_owned());
    let api: Api<Event> = Api::namespaced(client.clone(), &namespace);
    let at = super::conditions::whole_second(event.at);
    if let Some(sent) = memory.sent.get_mut(&key) {
        let patch =
            serde_json::json!({"count": sent.count + 1, "lastTimestamp": at, "message": event.message});
        match api.patch(&sent.name, &PatchParams::default(), &Patch::Strategic(patch)).await {
            Ok(_) => {
                sent.count += 1;
                return Ok(());
            }
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => return Err(error),
        }
    }
    let name = format!("{}.{:x}", event.object.name.as_deref().unwrap_or_default(), event.at.as_nanosecond());
    api.create(&PostParams::default(), &wire(event, node, &namespace, &name, at)).await?;
    if memory.sent.len() >= REMEMBERED {
        memory.sent.clear();
    }
    memory.sent.insert(key, Sent { name, count: 1 });
    Ok(())
}

fn wire(event: Occurrence, node: &str, namespace: &str, name: &str, at: Time) -> Event {
    let annotations = event.annotations.into_iter().map(|(key, value)| (key.to_owned(), value));
    let annotations: std::collections::BTreeMap<_, _> = annotations.collect();
    Event {
        metadata: ObjectMeta {
            annotations: (!annotations.is_empty()).then_some(annotations),
            name: Some(name.to_owned()),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        involved_object: event.object,
        reason: Some(event.reason),
        message: Some(event.message),
        type_: Some(if event.warning { "Warning" } else { "Normal" }.to_owned()),
        source: Some(EventSource { component: Some("kubelet".to_owned()), host: Some(node.to_owned()) }),
        reporting_component: Some("kubelet".to_owned()),
        reporting_instance: Some(node.to_owned()),
        count: Some(1),
        first_timestamp: Some(at.clone()),
        last_timestamp: Some(at),
        ..Event::default()
    }
}

impl Memory {
    /// Whether so many different messages of this reason came lately that they are told as one.
    fn aggregate(&mut self, group: &str, event: &Occurrence) -> bool {
        if self.similar.len() >= REMEMBERED {
            self.similar.clear();
        }
        let (messages, last) =
            self.similar.entry(group.to_owned()).or_insert_with(|| (Default::default(), event.at));
        if event.at.duration_since(*last).as_secs() > 600 {
            messages.clear();
        }
        *last = event.at;
        if messages.len() < SIMILAR {
            messages.insert(event.message.clone());
        }
        messages.len() >= SIMILAR && !messages.contains(&event.message)
    }

    /// The token bucket of the source object.
    fn admit(&mut self, source: &str, at: Timestamp) -> bool {
        if self.buckets.len() >= REMEMBERED {
            self.buckets.clear();
        }
        let (tokens, last) = self.buckets.entry(source.to_owned()).or_insert((BURST, at));
        *tokens = (*tokens + at.duration_since(*last).as_secs_f64() * REFILL_PER_SECOND).min(BURST);
        *last = at;
        if *tokens < 1.0 {
            return false;
        }
        *tokens -= 1.0;
        true
    }
}
