//! Events on objects: what a user reads under `kubectl describe`. Repeated events are counted on one object, many
//! alike are combined, and a source that floods one object is cut off, with upstream's numbers.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::Resource;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Events waiting to be sent; more are dropped, as they are but advice.
const WAITING: usize = 1000;
/// Objects the correlator remembers.
const REMEMBERED: usize = 4096;
/// Different messages of one reason on one object within `SIMILAR_WINDOW` before they are combined.
const SIMILAR: usize = 10;
const SIMILAR_WINDOW: i64 = 600;
/// Token bucket per source and object: so many at once, then one per so many seconds.
const BURST: f64 = 25.0;
const REFILL_SECONDS: f64 = 300.0;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Severity {
    Normal,
    Warning,
}

/// Records events for one component.
#[derive(Clone)]
pub(crate) struct Recorder {
    component: &'static str,
    sink: Sink,
}

#[derive(Clone)]
pub(super) struct Sink(mpsc::Sender<Note>);

/// One event as a controller reports it.
#[derive(Clone, Debug)]
struct Note {
    component: &'static str,
    severity: Severity,
    object: ObjectReference,
    reason: String,
    message: String,
    at: Timestamp,
}

// === impl Recorder ===

impl Recorder {
    pub(super) fn new(component: &'static str, sink: Sink) -> Self {
        Recorder { component, sink }
    }

    fn event(&self, object: ObjectReference, severity: Severity, reason: &str, message: impl Into<String>) {
        let note = Note {
            component: self.component,
            severity,
            object,
            reason: reason.to_owned(),
            message: message.into(),
            at: Timestamp::now(),
        };
        if self.sink.0.try_send(note).is_err() {
            tracing::debug!(component = self.component, reason, "event dropped, the queue is full");
        }
    }

    pub(crate) fn normal<K: Resource<DynamicType = ()>>(
        &self,
        object: &K,
        reason: &str,
        message: impl Into<String>,
    ) {
        self.event(reference(object), Severity::Normal, reason, message);
    }

    pub(crate) fn warning<K: Resource<DynamicType = ()>>(
        &self,
        object: &K,
        reason: &str,
        message: impl Into<String>,
    ) {
        self.event(reference(object), Severity::Warning, reason, message);
    }

    /// A warning of an object whose type is known only at run time.
    pub(crate) fn warn_of(&self, object: ObjectReference, reason: &str, message: impl Into<String>) {
        self.event(object, Severity::Warning, reason, message);
    }
}

fn reference<K: Resource<DynamicType = ()>>(object: &K) -> ObjectReference {
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

// === delivery ===

pub(super) fn sink(
    client: kube::Client,
    shutdown: CancellationToken,
) -> (Sink, impl Future<Output = ()> + Send + 'static) {
    let (sender, mut receiver) = mpsc::channel(WAITING);
    let deliver = async move {
        let mut correlator = Correlator::default();
        loop {
            let note = tokio::select! {
                () = shutdown.cancelled() => return,
                note = receiver.recv() => note,
            };
            let Some(note) = note else { return };
            if let Some(action) = correlator.correlate(&note) {
                send(&client, &mut correlator, action).await;
            }
        }
    };
    (Sink(sender), deliver)
}

async fn send(client: &kube::Client, correlator: &mut Correlator, action: Action) {
    let events: Api<Event> =
        Api::namespaced(client.clone(), action.event.metadata.namespace.as_deref().unwrap_or("default"));
    let name = action.event.metadata.name.clone().unwrap_or_default();
    if action.repeated {
        let patch = json!({"count": action.event.count, "lastTimestamp": action.event.last_timestamp, "message": action.event.message});
        match events.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(_) => return,
            Err(error) if super::is_not_found(&error) => {}
            Err(error) => return tracing::debug!(%error, "event not updated"),
        }
    }
    match events.create(&PostParams::default(), &action.event).await {
        Ok(_) => {}
        Err(error) => {
            correlator.counted.remove(&action.identity);
            tracing::debug!(%error, "event not written");
        }
    }
}

// === correlation ===

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Identity {
    component: &'static str,
    uid: String,
    name: String,
    reason: String,
    message: String,
}

struct Action {
    event: Event,
    identity: Identity,
    /// The event exists already: its count and time change.
    repeated: bool,
}

struct Counted {
    name: String,
    count: i32,
    first: Timestamp,
}

struct Bucket {
    tokens: f64,
    at: Timestamp,
}

struct Similar {
    messages: HashSet<String>,
    at: Timestamp,
}

#[derive(Default)]
struct Correlator {
    counted: Recent<Identity, Counted>,
    similar: Recent<Identity, Similar>,
    buckets: Recent<(&'static str, String), Bucket>,
}

impl Correlator {
    /// None: the source has said too much about this object.
    fn correlate(&mut self, note: &Note) -> Option<Action> {
        let uid = note.object.uid.clone().unwrap_or_default();
        if !self.admit(note.component, &uid, note.at) {
            return None;
        }
        let message = self.combine(note, &uid);
        let identity = Identity {
            component: note.component,
            uid,
            name: note.object.name.clone().unwrap_or_default(),
            reason: note.reason.clone(),
            message: message.identity,
        };
        let counted = self.counted.entry(identity.clone(), || Counted {
            name: format!("{}.{:x}", identity.name, note.at.as_nanosecond()),
            count: 0,
            first: note.at,
        });
        counted.count += 1;
        let repeated = counted.count > 1;
        let event = event(note, counted, message.text);
        Some(Action { event, identity, repeated })
    }

    fn admit(&mut self, component: &'static str, uid: &str, at: Timestamp) -> bool {
        let bucket = self.buckets.entry((component, uid.to_owned()), || Bucket { tokens: BURST, at });
        let passed = Duration::try_from(at.duration_since(bucket.at)).unwrap_or_default();
        bucket.tokens = (bucket.tokens + passed.as_secs_f64() / REFILL_SECONDS).min(BURST);
        bucket.at = at;
        let admitted = bucket.tokens >= 1.0;
        if admitted {
            bucket.tokens -= 1.0;
        }
        admitted
    }

    fn combine(&mut self, note: &Note, uid: &str) -> Message {
        let group = Identity {
            component: note.component,
            uid: uid.to_owned(),
            name: String::new(),
            reason: note.reason.clone(),
            message: String::new(),
        };
        let similar = self.similar.entry(group, || Similar { messages: HashSet::new(), at: note.at });
        if note.at.duration_since(similar.at).as_secs() > SIMILAR_WINDOW {
            similar.messages.clear();
        }
        similar.at = note.at;
        if similar.messages.len() < SIMILAR {
            similar.messages.insert(note.message.clone());
        }
        if similar.messages.len() < SIMILAR || similar.messages.contains(&note.message) {
            return Message { identity: note.message.clone(), text: note.message.clone() };
        }
        Message {
            identity: "(combined)".to_owned(),
            text: format!("(combined from similar events): {}", note.message),
        }
    }
}

struct Message {
    /// What makes two events the same.
    identity: String,
    text: String,
}

fn event(note: &Note, counted: &Counted, message: String) -> Event {
    let namespace = note.object.namespace.clone().unwrap_or_else(|| "default".to_owned());
    Event {
        metadata: ObjectMeta {
            name: Some(counted.name.clone()),
            namespace: Some(namespace),
            ..ObjectMeta::default()
        },
        involved_object: note.object.clone(),
        reason: Some(note.reason.clone()),
        message: Some(message),
        type_: Some(match note.severity {
            Severity::Normal => "Normal".to_owned(),
            Severity::Warning => "Warning".to_owned(),
        }),
        count: Some(counted.count),
        first_timestamp: Some(Time(counted.first)),
        last_timestamp: Some(Time(note.at)),
        source: Some(EventSource { component: Some(note.component.to_owned()), host: None }),
        reporting_component: Some(note.component.to_owned()),
        reporting_instance: Some(String::new()),
        ..Event::default()
    }
}

/// A map that forgets its oldest entries.
struct Recent<K, V> {
    entries: HashMap<K, V>,
    order: VecDeque<K>,
}

impl<K, V> Default for Recent<K, V> {
    fn default() -> Self {
        Recent { entries: HashMap::new(), order: VecDeque::new() }
    }
}

impl<K: Clone + Eq + Hash, V> Recent<K, V> {
    fn entry(&mut self, key: K, make: impl FnOnce() -> V) -> &mut V {
        if !self.entries.contains_key(&key) {
            if self.order.len() >= REMEMBERED
                && let Some(oldest) = self.order.pop_front()
            {
                self.entries.remove(&oldest);
            }
            self.order.push_back(key.clone());
        }
        self.entries.entry(key).or_insert_with(make)
    }

    fn remove(&mut self, key: &K) {
        if self.entries.remove(key).is_some() {
            self.order.retain(|k| k != key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(message: &str, second: i64) -> Note {
        Note {
            component: "c",
            severity: Severity::Normal,
            object: ObjectReference { uid: Some("u".into()), name: Some("n".into()), ..Default::default() },
            reason: "R".into(),
            message: message.into(),
            at: Timestamp::from_second(second).unwrap(),
        }
    }

    #[test]
    fn repeated_events_are_counted_on_one_object() {
        let mut correlator = Correlator::default();
        let first = correlator.correlate(&note("m", 1)).unwrap();
        let second = correlator.correlate(&note("m", 2)).unwrap();
        assert!(!first.repeated && second.repeated);
        assert_eq!(first.event.metadata.name, second.event.metadata.name);
        assert_eq!(
            (second.event.count, second.event.first_timestamp),
            (Some(2), first.event.first_timestamp)
        );
    }

    #[test]
    fn the_eleventh_similar_event_is_combined_and_the_flood_is_cut() {
        let mut correlator = Correlator::default();
        let messages: Vec<_> = (0..30)
            .filter_map(|i| correlator.correlate(&note(&format!("m{i}"), 1)))
            .map(|action| action.event.message.unwrap())
            .collect();
        assert_eq!(messages.len(), 25);
        assert_eq!(messages[9], "m9");
        assert_eq!(messages[10], "(combined from similar events): m10");
    }
}
