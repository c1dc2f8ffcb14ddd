//! Which events are told, and as what: upstream's rules with upstream's numbers. Repeated events are counted on one object,
//! many alike are combined, and a source that floods one object is cut off. Pure.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::Hash;

use coracle_api::time;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use super::{Note, Source};

/// Sources, groups and events that are remembered, each.
const REMEMBERED: usize = 4096;
/// So many different messages of one reason on one object within `SIMILAR_WINDOW` seconds are combined.
const SIMILAR: usize = 10;
const SIMILAR_WINDOW: i64 = 600;
/// Token bucket of a source, an object and a type: so many at once, then one per so many seconds.
const BURST: f64 = 25.0;
const REFILL_SECONDS: f64 = 300.0;

/// Who speaks of what, as normal or as a warning.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Subject {
    component: &'static str,
    warning: bool,
    api_version: String,
    kind: String,
    namespace: String,
    name: String,
    uid: String,
}

/// What makes two events the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Identity {
    subject: Subject,
    reason: String,
    /// The message and the field it is about; `None` for those that are combined.
    own: Option<(String, String)>,
}

/// An event to be written.
pub(super) struct Told {
    pub(super) event: Event,
    pub(super) identity: Identity,
    /// It is there already: its count, time and message change.
    pub(super) repeated: bool,
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
pub(super) struct Correlator {
    counted: Recent<Identity, Counted>,
    similar: Recent<Identity, Similar>,
    buckets: Recent<Subject, Bucket>,
}

// === impl Correlator ===

impl Correlator {
    /// None: the source has said too much about this object.
    pub(super) fn observe(&mut self, source: &Source, note: &Note) -> Option<Told> {
        let subject = Subject::of(source, note);
        let combined = self.combines(&subject, note);
        let field = note.object.field_path.clone().unwrap_or_default();
        let identity = Identity {
            subject: subject.clone(),
            reason: note.reason.clone(),
            own: (!combined).then(|| (note.message.clone(), field)),
        };
        let counted = self.counted.entry(identity.clone(), || Counted {
            name: format!("{}.{:x}", subject.name, note.at.as_nanosecond()),
            count: 0,
            first: note.at,
        });
        counted.count += 1;
        let repeated = counted.count > 1;
        let message = match combined {
            true => format!("(combined from similar events): {}", note.message),
            false => note.message.clone(),
        };
        let event = event(source, note, counted, message);
        self.admits(subject, note.at).then_some(Told { event, identity, repeated })
    }

    /// It could not be written: the next of its kind begins anew.
    pub(super) fn forget(&mut self, identity: &Identity) {
        self.counted.remove(identity);
    }

    fn admits(&mut self, subject: Subject, at: Timestamp) -> bool {
        let bucket = self.buckets.entry(subject, || Bucket { tokens: BURST, at });
        let passed = at.duration_since(bucket.at).as_secs_f64().max(0.0);
        bucket.tokens = (bucket.tokens + passed / REFILL_SECONDS).min(BURST);
        bucket.at = at;
        let admitted = bucket.tokens >= 1.0;
        if admitted {
            bucket.tokens -= 1.0;
        }
        admitted
    }

    fn combines(&mut self, subject: &Subject, note: &Note) -> bool {
        let group = Identity { subject: subject.clone(), reason: note.reason.clone(), own: None };
        let similar = self.similar.entry(group, || Similar { messages: HashSet::new(), at: note.at });
        if note.at.duration_since(similar.at).as_secs() > SIMILAR_WINDOW {
            similar.messages.clear();
        }
        similar.at = note.at;
        let known = similar.messages.contains(&note.message);
        let full = similar.messages.len() + 1 >= SIMILAR;
        if !known && !full {
            similar.messages.insert(note.message.clone());
        }
        !known && full
    }
}

// === impl Subject ===

impl Subject {
    fn of(source: &Source, note: &Note) -> Self {
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        let ObjectReference { api_version, kind, namespace, name, uid, .. } = &note.object;
        Subject {
            component: source.component,
            warning: note.warning,
            api_version: text(api_version),
            kind: text(kind),
            namespace: text(namespace),
            name: text(name),
            uid: text(uid),
        }
    }
}

fn event(source: &Source, note: &Note, counted: &Counted, message: String) -> Event {
    let annotations = note.annotations.iter().map(|(key, value)| ((*key).to_owned(), value.clone()));
    let namespace = note.object.namespace.clone().unwrap_or_else(|| "default".to_owned());
    let second = |at: Timestamp| Time(time::whole_second(at));
    Event {
        metadata: ObjectMeta {
            annotations: (!note.annotations.is_empty()).then(|| annotations.collect()),
            name: Some(counted.name.clone()),
            namespace: Some(namespace),
            ..ObjectMeta::default()
        },
        involved_object: note.object.clone(),
        reason: Some(note.reason.clone()),
        message: Some(message),
        type_: Some(if note.warning { "Warning" } else { "Normal" }.to_owned()),
        count: Some(counted.count),
        first_timestamp: Some(second(counted.first)),
        last_timestamp: Some(second(note.at)),
        source: Some(EventSource { component: Some(source.component.to_owned()), host: source.host.clone() }),
        reporting_component: Some(source.component.to_owned()),
        reporting_instance: Some(source.host.clone().unwrap_or_default()),
        ..Event::default()
    }
}

/// A map that forgets its oldest entries.
struct Recent<K, V> {
    entries: HashMap<K, V>,
    order: VecDeque<K>,
}

// === impl Recent ===

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

    const SOURCE: Source = Source { component: "c", host: None };

    fn note(reason: &str, message: &str, second: i64) -> Note {
        Note {
            object: ObjectReference { uid: Some("u".into()), name: Some("n".into()), ..Default::default() },
            warning: false,
            reason: reason.into(),
            message: message.into(),
            annotations: vec![],
            at: Timestamp::from_second(second).unwrap(),
        }
    }

    fn told(correlator: &mut Correlator, note: &Note) -> Option<String> {
        let told = correlator.observe(&SOURCE, note)?;
        Some(format!("{} x{}", told.event.message.unwrap(), told.event.count.unwrap()))
    }

    #[test]
    fn repeated_events_are_counted_on_one_object() {
        let mut correlator = Correlator::default();
        let first = correlator.observe(&SOURCE, &note("R", "m", 1)).unwrap();
        let second = correlator.observe(&SOURCE, &note("R", "m", 2)).unwrap();
        assert!(!first.repeated && second.repeated);
        assert_eq!(first.event.metadata.name, second.event.metadata.name);
        assert_eq!(
            (second.event.count, second.event.first_timestamp),
            (Some(2), first.event.first_timestamp.clone())
        );
        let mut of_part = note("R", "m", 3);
        of_part.object.field_path = Some("spec.containers{a}".into());
        assert!(!correlator.observe(&SOURCE, &of_part).unwrap().repeated, "about another field");
        correlator.forget(&second.identity);
        let anew = correlator.observe(&SOURCE, &note("R", "m", 4)).unwrap();
        assert!(!anew.repeated && anew.event.metadata.name != first.event.metadata.name);
    }

    #[test]
    fn the_tenth_different_message_is_combined_and_the_flood_is_cut() {
        let mut correlator = Correlator::default();
        let messages: Vec<_> =
            (0..30).filter_map(|i| told(&mut correlator, &note("R", &format!("m{i}"), 1))).collect();
        assert_eq!(messages.len(), 25);
        assert_eq!(messages[8], "m8 x1");
        assert_eq!(messages[9], "(combined from similar events): m9 x1");
        assert_eq!(messages[10], "(combined from similar events): m10 x2");
        let mut other = note("R", "m", 1);
        other.warning = true;
        assert_eq!(
            told(&mut correlator, &other).as_deref(),
            Some("m x1"),
            "warnings have tokens of their own"
        );
        assert_eq!(told(&mut correlator, &note("S", "m", 300)), None);
        assert_eq!(
            told(&mut correlator, &note("R", "m0", 302)).as_deref(),
            Some("m0 x2"),
            "one that is known"
        );
        let later = note("R", "m40", 1 + 3 * 600);
        assert_eq!(told(&mut correlator, &later).as_deref(), Some("m40 x1"), "they are forgotten in time");
    }

    #[test]
    fn no_more_is_remembered_than_is_meant() {
        let mut correlator = Correlator::default();
        for i in 0..=i64::try_from(REMEMBERED).unwrap() {
            let mut one = note("R", "m", i);
            one.object.uid = Some(i.to_string());
            assert!(correlator.observe(&SOURCE, &one).is_some());
        }
        let sizes = [
            correlator.counted.entries.len(),
            correlator.similar.entries.len(),
            correlator.buckets.entries.len(),
        ];
        assert_eq!(sizes, [REMEMBERED; 3]);
    }
}
