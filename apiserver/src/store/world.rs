//! What is there now: one shelf per resource, with its objects in key order and a ring of its newest events.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use coracle_api::Object;
use parking_lot::RwLock;
use serde_json::Value;
use tokio::sync::watch;

use super::backend::Record;
use super::cursor::Event;
use super::draft::Draft;
use crate::codec::ordered::Ordered;
use crate::codec::{Row, depth};
use crate::limits;
use crate::resource::{FieldPath, IndexedField};

/// Bounds of one ring. What falls out is still in the log.
const RING_EVENTS: usize = 2048;
const RING_BYTES: usize = 8 << 20;

/// One object as it is handed out: never parsed again on the way to a client.
#[derive(Debug)]
pub struct Stored {
    pub revision: u64,
    /// `namespace/name`, or `name` for cluster-wide kinds.
    pub key: Arc<str>,
    /// The object as JSON, its revision inside.
    pub value: Bytes,
    pub index: Index,
    pub forms: Forms,
}

/// The same object in other forms, each made when somebody first asks for it.
#[derive(Debug, Default)]
pub struct Forms {
    /// Its protobuf message; `None` where its kind has none.
    pub protobuf: OnceLock<Option<Bytes>>,
    /// Its row in a table; `None` where time changes it.
    pub row: OnceLock<Option<Box<Row>>>,
    /// Itself in the version that was first asked for, where a webhook makes versions.
    version: OnceLock<Box<Version>>,
}

/// An object as another version of its kind.
#[derive(Debug)]
struct Version {
    edition: u64,
    api_version: Box<str>,
    made: Arc<Stored>,
}

/// What selectors look at.
#[derive(Debug, Default, Clone)]
pub struct Index {
    labels: Box<[(Box<str>, Box<str>)]>,
    /// In the order of the resource's selectable fields.
    fields: Box<[Box<str>]>,
}

/// A list: a point in the log.
pub struct View {
    pub revision: u64,
    pub items: Vec<Arc<Stored>>,
    /// How many follow that were wanted, too, but not taken.
    pub more: usize,
}

/// Everything of one resource.
pub(super) struct Shelf {
    pub(super) name: Arc<str>,
    fields: Vec<IndexedField>,
    state: RwLock<State>,
    newest: watch::Sender<u64>,
}

struct State {
    live: BTreeMap<Arc<str>, Arc<Stored>>,
    ring: VecDeque<Event>,
    ring_bytes: usize,
    /// The newest revision that is not in the ring (or never was).
    floor: u64,
    newest: u64,
}

// === impl Stored ===

impl Stored {
    pub(super) fn new(revision: u64, key: Arc<str>, value: Bytes, index: Index) -> Arc<Self> {
        Arc::new(Stored { revision, key, value, index, forms: Forms::default() })
    }

    /// Parses the object. The store holds only what it has encoded itself.
    pub fn object(&self) -> Object {
        parse(&self.value)
    }

    /// The same object in other words.
    pub fn restated(&self, object: &Object) -> Arc<Stored> {
        let value = Ordered::of(&object.0).bytes();
        Stored::new(self.revision, self.key.clone(), value.into(), Index::of(object, &[]))
    }

    /// Empty for cluster-wide kinds.
    pub fn namespace(&self) -> &str {
        self.key.split_once('/').map_or("", |(namespace, _)| namespace)
    }

    pub fn name(&self) -> &str {
        self.key.split_once('/').map_or(&*self.key, |(_, name)| name)
    }
}

/// Reads what the store has written. What was stored before there was a limit and is nested deeper than can be read lacks
/// what is too deep.
fn parse(value: &[u8]) -> Object {
    let read = serde_json::from_slice(value);
    let read = read.or_else(|_| serde_json::from_slice(&depth::cut(value, limits::STORED_DEPTH)));
    Object(read.unwrap_or(Value::Null))
}

// === impl Forms ===

impl Forms {
    /// The object as one version, as a conversion made it.
    pub fn version(&self, edition: u64, api_version: &str) -> Option<Arc<Stored>> {
        let kept = self.version.get()?;
        (kept.edition == edition && *kept.api_version == *api_version).then(|| kept.made.clone())
    }

    pub fn keep_version(&self, edition: u64, api_version: &str, made: &Arc<Stored>) {
        let version = || Box::new(Version { edition, api_version: api_version.into(), made: made.clone() });
        self.version.get_or_init(version);
    }
}

// === impl Index ===

impl Index {
    pub(super) fn of(object: &Object, fields: &[IndexedField]) -> Self {
        let labels = object.labels().into_iter().flatten();
        let mut labels: Box<[_]> =
            labels.map(|(k, v)| (k.as_str().into(), v.as_str().unwrap_or_default().into())).collect();
        labels.sort_unstable();
        Index { labels, fields: fields.iter().map(|f| field_value(object, f).into()).collect() }
    }

    pub fn label(&self, key: &str) -> Option<&str> {
        let at = self.labels.binary_search_by(|(k, _)| (**k).cmp(key)).ok()?;
        Some(&self.labels[at].1)
    }

    /// The value of the n-th selectable field.
    pub fn field(&self, at: usize) -> &str {
        self.fields.get(at).map_or("", |f| f)
    }
}

/// What a field selector compares with.
pub fn field_value(object: &Object, field: &IndexedField) -> String {
    let there = |path: &FieldPath| path.of(object).filter(|v| v.as_str() != Some("") && !path.is_empty());
    match there(&field.path).or_else(|| there(&field.or)) {
        Some(Value::String(s)) => s.clone(),
        Some(other) => other.to_string(),
        None => field.absent.clone().into(),
    }
}

// === impl Shelf ===

impl Shelf {
    pub(super) fn new(name: Arc<str>, fields: Vec<IndexedField>, origin: u64) -> Self {
        let state =
            State { live: BTreeMap::new(), ring: VecDeque::new(), ring_bytes: 0, floor: origin, newest: 0 };
        Shelf { name, fields, state: RwLock::new(state), newest: watch::Sender::new(0) }
    }

    pub(super) fn draft(&self, object: &Object) -> Draft {
        Draft::new(object, &self.fields)
    }

    /// Makes a log line an object of the world.
    pub(super) fn revive(&self, revision: u64, key: Arc<str>, value: Bytes) -> Arc<Stored> {
        let object = parse(&value);
        Stored::new(revision, key, value, Index::of(&object, &self.fields))
    }

    pub(super) fn load(&self, record: Record) {
        let stored = self.revive(record.revision, record.key, record.value);
        let mut state = self.state.write();
        state.newest = state.newest.max(stored.revision);
        state.live.insert(stored.key.clone(), stored);
    }

    pub(super) fn set_origin(&self, revision: u64) {
        self.state.write().floor = revision;
    }

    pub(super) fn get(&self, key: &str) -> Option<Arc<Stored>> {
        self.state.read().live.get(key).cloned()
    }

    pub(super) fn len(&self) -> usize {
        self.state.read().live.len()
    }

    pub(super) fn newest(&self) -> u64 {
        self.state.read().newest
    }

    /// Lets all cursors look again.
    pub(super) fn wake(&self) {
        self.newest.send_modify(|_| {});
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }

    /// The first `limit` objects that are wanted, and how many wanted ones follow. `head` must have been read before: all
    /// that was published up to it is then in this view.
    pub(super) fn list(
        &self,
        prefix: &str,
        start: &str,
        head: u64,
        limit: usize,
        wanted: impl Fn(&Stored) -> bool,
    ) -> View {
        let from = match start {
            "" => Bound::Included(prefix),
            start => Bound::Excluded(start),
        };
        let state = self.state.read();
        let range = state.live.range::<str, _>((from, Bound::Unbounded));
        let mut range = range.take_while(|(key, _)| key.starts_with(prefix)).filter(|(_, s)| wanted(s));
        let items = range.by_ref().take(limit).map(|(_, s)| s.clone()).collect();
        View { revision: head.max(state.newest), items, more: range.count() }
    }

    /// Events of the ring after a revision, at most `limit`, and none once they are of so many `bytes`; `Err` is the floor
    /// where the ring does not reach back so far.
    pub(super) fn events(
        &self,
        after: u64,
        prefix: &str,
        limit: usize,
        bytes: usize,
    ) -> Result<Vec<Event>, u64> {
        let state = self.state.read();
        if after < state.floor {
            return Err(state.floor);
        }
        let at = state.ring.partition_point(|e| e.revision <= after);
        let wanted = state.ring.range(at..).filter(|e| e.object.key.starts_with(prefix)).take(limit);
        let mut gathered = 0;
        let within = wanted.take_while(|event| {
            let room = gathered < bytes;
            gathered += event.bytes();
            room
        });
        Ok(within.cloned().collect())
    }

    /// Makes a batch of committed changes visible, all at once.
    pub(super) fn publish(&self, changes: impl Iterator<Item = (Arc<Stored>, bool)>) {
        let mut state = self.state.write();
        for (stored, deleted) in changes {
            let previous = match deleted {
                true => state.live.remove(&stored.key),
                false => state.live.insert(stored.key.clone(), stored.clone()),
            };
            state.newest = stored.revision;
            state.remember(Event { revision: stored.revision, deleted, object: stored, previous });
        }
        let newest = state.newest;
        drop(state);
        self.newest.send_replace(newest);
    }
}

// === impl State ===

impl State {
    fn remember(&mut self, event: Event) {
        self.ring_bytes += event.object.value.len();
        self.ring.push_back(event);
        while self.ring.len() > RING_EVENTS || (self.ring_bytes > RING_BYTES && self.ring.len() > 1) {
            let Some(oldest) = self.ring.pop_front() else { break };
            self.ring_bytes -= oldest.object.value.len();
            self.floor = oldest.revision;
        }
    }
}
