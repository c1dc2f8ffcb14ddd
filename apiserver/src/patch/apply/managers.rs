//! `metadata.managedFields`: who owns which fields, read and written.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;

use serde_json::{Map, Value, json};

use super::element;
use super::set::{Set, union};
use crate::limits::UPDATE_MANAGERS;

/// The manager of the joined entries.
const ANCIENT: &str = "ancient-changes";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Operation {
    Apply,
    Update,
}

/// One manager and the fields it owns.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) manager: String,
    pub(super) operation: Operation,
    pub(super) api_version: String,
    pub(super) subresource: String,
    pub(super) time: Option<String>,
    pub(super) fields: Set,
}

/// Who writes, and how.
#[derive(Clone, Copy)]
pub(super) struct Writer<'a> {
    pub(super) manager: &'a str,
    pub(super) operation: Operation,
    pub(super) api_version: &'a str,
    pub(super) subresource: &'a str,
}

/// The entries of one object.
#[derive(Debug, Default)]
pub(super) struct Managers(pub(super) Vec<Entry>);

// === impl Entry ===

impl Entry {
    /// Reads an entry; what the server wrote itself is in its canonical form already.
    fn read(entry: Value, canonical: bool) -> Result<Self, String> {
        let Value::Object(mut entry) = entry else { return Err("an entry is no object".to_owned()) };
        let mut text = |key: &str| match entry.remove(key) {
            Some(Value::String(text)) => text,
            _ => String::new(),
        };
        let operation = match text("operation").as_str() {
            "Apply" => Operation::Apply,
            "Update" => Operation::Update,
            _ => return Err("operation must be `Apply` or `Update`".to_owned()),
        };
        let api_version = text("apiVersion");
        if api_version.is_empty() {
            return Err("apiVersion must not be empty".to_owned());
        }
        if text("fieldsType") != "FieldsV1" {
            return Err("fieldsType must be FieldsV1".to_owned());
        }
        let (manager, subresource, time) = (text("manager"), text("subresource"), text("time"));
        let fields = match entry.remove("fieldsV1") {
            None | Some(Value::Null) => Set::new(),
            Some(Value::Object(set)) if canonical => set,
            Some(Value::Object(set)) => canonical_set(set)?,
            Some(_) => return Err("fieldsV1 is no object".to_owned()),
        };
        let time = Some(time).filter(|t| !t.is_empty());
        Ok(Entry { manager, operation, api_version, subresource, time, fields })
    }

    fn write(self) -> Value {
        let operation = match self.operation {
            Operation::Apply => "Apply",
            Operation::Update => "Update",
        };
        let mut entry = Map::new();
        entry.insert("apiVersion".to_owned(), self.api_version.into());
        entry.insert("fieldsType".to_owned(), "FieldsV1".into());
        entry.insert("fieldsV1".to_owned(), Value::Object(self.fields));
        for (key, text) in [("manager", self.manager), ("subresource", self.subresource)] {
            if !text.is_empty() {
                entry.insert(key.to_owned(), text.into());
            }
        }
        entry.insert("operation".to_owned(), operation.into());
        if let Some(time) = self.time {
            entry.insert("time".to_owned(), time.into());
        }
        Value::Object(entry)
    }

    /// Appliers are the same whatever version they apply.
    fn is_of(&self, writer: Writer<'_>) -> bool {
        self.manager == writer.manager
            && self.operation == writer.operation
            && self.subresource == writer.subresource
            && (self.operation == Operation::Apply || self.api_version == writer.api_version)
    }

    /// The manager as conflicts name it.
    pub(super) fn shown(&self) -> String {
        let mut text = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            text.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if self.operation == Operation::Update {
            text.push_str(&format!(" using {}", self.api_version));
        }
        text
    }

    /// What upstream sorts managers by.
    pub(super) fn identity(&self) -> String {
        let mut identity = format!("{{\"manager\":{:?},\"operation\":\"{:?}\"", self.manager, self.operation);
        if self.operation == Operation::Update {
            identity.push_str(&format!(",\"apiVersion\":{:?}", self.api_version));
        }
        if !self.subresource.is_empty() {
            identity.push_str(&format!(",\"subresource\":{:?}", self.subresource));
        }
        identity.push('}');
        identity
    }
}

/// A set as the server would have written it.
fn canonical_set(set: Map<String, Value>) -> Result<Set, String> {
    let mut canonical = Set::new();
    for (element, node) in set {
        let Value::Object(below) = node else { return Err(format!("{element} is no object")) };
        let below = canonical_set(below)?;
        if element == "." {
            canonical.insert(element, json!({}));
        } else if let Some(element) = element::canonical(&element)? {
            canonical.insert(element, Value::Object(below));
        }
    }
    Ok(canonical)
}

// === impl Managers ===

impl Managers {
    /// Reads `managedFields`; `canonical` where the server wrote it.
    pub(super) fn read(list: Option<Value>, canonical: bool) -> Result<Self, String> {
        let mut managers = Managers::default();
        let Some(Value::Array(entries)) = list else { return Ok(managers) };
        let mut places = HashMap::new();
        for entry in entries {
            let entry = Entry::read(entry, canonical)?;
            // Of two entries of one manager the later counts.
            match places.entry(entry.identity()) {
                Slot::Occupied(at) => managers.0[*at.get()] = entry,
                Slot::Vacant(slot) => {
                    slot.insert(managers.0.len());
                    managers.0.push(entry);
                }
            }
        }
        Ok(managers)
    }

    /// In upstream's order; `None` where nobody owns anything.
    pub(super) fn write(mut self) -> Option<Value> {
        if self.0.is_empty() {
            return None;
        }
        self.0.sort_by(|a, b| {
            let key = |e: &Entry| (e.operation, e.time.clone());
            key(a)
                .cmp(&key(b))
                .then_with(|| a.manager.cmp(&b.manager))
                .then_with(|| a.api_version.cmp(&b.api_version))
                .then_with(|| a.subresource.cmp(&b.subresource))
        });
        Some(Value::Array(self.0.into_iter().map(Entry::write).collect()))
    }

    pub(super) fn position(&self, writer: Writer<'_>) -> Option<usize> {
        self.0.iter().position(|e| e.is_of(writer))
    }

    /// Adds what an update has set.
    pub(super) fn add(&mut self, writer: Writer<'_>, fields: Set, now: &str) {
        if fields.is_empty() {
            return;
        }
        let time = Some(now.to_owned());
        match self.position(writer) {
            Some(at) => {
                let entry = &mut self.0[at];
                union(&mut entry.fields, &fields);
                entry.time = time;
            }
            None => self.0.push(Entry {
                manager: writer.manager.to_owned(),
                operation: writer.operation,
                api_version: writer.api_version.to_owned(),
                subresource: writer.subresource.to_owned(),
                time,
                fields,
            }),
        }
    }

    /// Joins the oldest updates of a version until there are few enough.
    pub(super) fn cap(&mut self) {
        let is_update = |e: &Entry| e.operation == Operation::Update;
        let mut count = self.0.iter().filter(|e| is_update(e)).count();
        if count <= UPDATE_MANAGERS {
            return;
        }
        let (mut updates, applies): (Vec<Entry>, Vec<Entry>) =
            std::mem::take(&mut self.0).into_iter().partition(is_update);
        updates.sort_by_cached_key(|e| (e.time.clone(), e.identity()));
        let mut kept: Vec<Entry> = vec![];
        let mut first: Vec<(String, usize)> = vec![];
        for entry in updates {
            let seen = first.iter().find(|(version, _)| *version == entry.api_version).map(|(_, at)| *at);
            match seen {
                Some(at) if count > UPDATE_MANAGERS => {
                    let bucket = &mut kept[at];
                    if bucket.manager != ANCIENT || !bucket.subresource.is_empty() {
                        bucket.manager = ANCIENT.to_owned();
                        bucket.subresource = String::new();
                    }
                    union(&mut bucket.fields, &entry.fields);
                    bucket.time = entry.time;
                    count -= 1;
                }
                Some(_) => kept.push(entry),
                None => {
                    first.push((entry.api_version.clone(), kept.len()));
                    kept.push(entry);
                }
            }
        }
        self.0 = applies;
        self.0.extend(kept);
    }
}
