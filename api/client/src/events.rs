//! Events on objects: what a user reads under `kubectl describe`. They wait in a bounded queue for one task that writes them.

mod correlation;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, ObjectReference};
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Client, Resource};
use serde_json::json;
use tokio::sync::mpsc;

use crate::errors::is_not_found;
use correlation::Correlator;

/// Events waiting to be sent; more are dropped, as they are but advice.
const WAITING: usize = 1000;

/// Who tells.
#[derive(Clone, Debug)]
pub struct Source {
    pub component: &'static str,
    /// The node, where it is one that tells.
    pub host: Option<String>,
}

/// Tells of what happens to objects, for one component. Whoever tells never waits.
#[derive(Clone)]
pub struct Recorder {
    source: Source,
    queue: Queue,
}

/// Events on their way.
#[derive(Clone)]
pub struct Queue(mpsc::Sender<(Source, Note)>);

/// The other end of a queue.
pub struct Delivery {
    client: Client,
    waiting: mpsc::Receiver<(Source, Note)>,
    correlator: Correlator,
}

/// One event as it is told.
#[derive(Clone, Debug)]
struct Note {
    object: ObjectReference,
    warning: bool,
    reason: String,
    message: String,
    annotations: Vec<(&'static str, String)>,
    at: Timestamp,
}

/// A queue, and what brings its events to the API: for the caller to run.
pub fn queue(client: Client) -> (Queue, Delivery) {
    let (sender, waiting) = mpsc::channel(WAITING);
    (Queue(sender), Delivery { client, waiting, correlator: Correlator::default() })
}

/// An event's reference to an object.
pub fn reference<K: Resource<DynamicType = ()>>(object: &K) -> ObjectReference {
    let meta = object.meta();
    ObjectReference {
        api_version: Some(K::api_version(&()).into_owned()),
        kind: Some(K::kind(&()).into_owned()),
        name: meta.name.clone(),
        namespace: meta.namespace.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        field_path: None,
    }
}

// === impl Recorder ===

impl Recorder {
    pub fn new(source: Source, queue: Queue) -> Self {
        Recorder { source, queue }
    }

    pub fn normal(&self, object: ObjectReference, reason: &str, message: impl Into<String>) {
        self.tell(object, false, reason, message.into(), Vec::new());
    }

    pub fn warning(&self, object: ObjectReference, reason: &str, message: impl Into<String>) {
        self.tell(object, true, reason, message.into(), Vec::new());
    }

    /// A warning that says more to machines than to people.
    pub fn annotated(
        &self,
        object: ObjectReference,
        reason: &str,
        message: String,
        annotations: Vec<(&'static str, String)>,
    ) {
        self.tell(object, true, reason, message, annotations);
    }

    fn tell(
        &self,
        object: ObjectReference,
        warning: bool,
        reason: &str,
        message: String,
        annotations: Vec<(&'static str, String)>,
    ) {
        let note =
            Note { object, warning, reason: reason.to_owned(), message, annotations, at: Timestamp::now() };
        if self.queue.0.try_send((self.source.clone(), note)).is_err() {
            tracing::debug!(component = self.source.component, reason, "event dropped, the queue is full");
        }
    }
}

// === impl Delivery ===

impl Delivery {
    /// Writes what comes, until nobody is left who could tell. May be dropped and called again.
    pub async fn run(&mut self) {
        while let Some((source, note)) = self.waiting.recv().await {
            self.deliver(&source, &note).await;
        }
    }

    async fn deliver(&mut self, source: &Source, note: &Note) {
        let Some(told) = self.correlator.observe(source, note) else { return };
        let event = &told.event;
        let events: Api<Event> =
            Api::namespaced(self.client.clone(), event.metadata.namespace.as_deref().unwrap_or("default"));
        let name = event.metadata.name.as_deref().unwrap_or_default();
        if told.repeated {
            let patch = json!({"count": event.count, "lastTimestamp": event.last_timestamp, "message": event.message});
            match events.patch(name, &PatchParams::default(), &Patch::Strategic(patch)).await {
                Ok(_) => return,
                Err(error) if is_not_found(&error) => {}
                Err(error) => return tracing::debug!(%error, "event not updated"),
            }
        }
        if let Err(error) = events.create(&PostParams::default(), event).await {
            self.correlator.forget(&told.identity);
            tracing::debug!(%error, "event not written");
        }
    }
}
