//! Fields that meet: what other seeds have at a place, and two fields of one struct changed at once, which shows what is
//! checked between fields without naming the rule.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::changes::{Change, Edit, is_shallow, shown};
use super::documents::{Documents, Place};

/// How many values of other seeds are tried at a place, and how long they may be.
const VALUES: usize = 3;
const LONGEST: usize = 400;

/// How many pairs of one struct are tried in one seed, and in all seeds of a kind.
const PAIRS: u64 = 24;
const PAIRS_OF_A_KIND: usize = 48;

/// What seeds have in the fields of each definition.
#[derive(Debug, Default)]
pub(super) struct Harvest(BTreeMap<String, BTreeMap<String, Vec<Value>>>);

/// How many meetings there were already in each definition of a kind.
pub(super) type Tried = BTreeMap<String, usize>;

/// One side of a meeting.
struct Side {
    edit: Edit,
    name: String,
}

struct Walk<'a> {
    documents: &'a Documents,
    harvest: &'a Harvest,
    tried: &'a mut Tried,
    pod: bool,
    place: Vec<String>,
    found: Vec<Change>,
}

// === impl Harvest ===

impl Harvest {
    pub(super) fn gather(&mut self, documents: &Documents, place: Place<'_>, value: &Value) {
        match place {
            Place::Struct(name, fields) => {
                for (field, schema) in fields {
                    let Some(value) = value.get(field) else { continue };
                    let of = self.0.entry(name.to_owned()).or_default().entry(field.clone()).or_default();
                    if of.len() < VALUES && !of.contains(value) && value.to_string().len() < LONGEST {
                        of.push(value.clone());
                    }
                    self.gather(documents, documents.place(schema), value);
                }
            }
            Place::List(items) => {
                for item in value.as_array().into_iter().flatten() {
                    self.gather(documents, documents.place(items), item);
                }
            }
            Place::Map(of) => {
                for (_, item) in value.as_object().into_iter().flatten() {
                    self.gather(documents, documents.place(of), item);
                }
            }
            _ => {}
        }
    }

    fn of(&self, definition: &str, field: &str) -> &[Value] {
        self.0.get(definition).and_then(|fields| fields.get(field)).map_or(&[], Vec::as_slice)
    }
}

/// All meetings in an object that is in order.
pub(super) fn of(
    documents: &Documents,
    harvest: &Harvest,
    tried: &mut Tried,
    kind: &str,
    root: Place<'_>,
    object: &Value,
) -> Vec<Change> {
    let mut walk = Walk { documents, harvest, tried, pod: kind == "Pod", place: vec![], found: vec![] };
    walk.at(root, object);
    walk.found
}

// === impl Walk ===

impl Walk<'_> {
    fn at(&mut self, place: Place<'_>, value: &Value) {
        match place {
            Place::Struct(name, fields) => self.structure(name, fields, value),
            Place::List(items) => {
                for (i, item) in value.as_array().into_iter().flatten().enumerate() {
                    self.below(&i.to_string(), items, item);
                }
            }
            Place::Map(of) => {
                for (key, item) in value.as_object().into_iter().flatten() {
                    self.below(key, of, item);
                }
            }
            _ => {}
        }
    }

    fn below(&mut self, step: &str, schema: &Value, value: &Value) {
        self.place.push(step.to_owned());
        self.at(self.documents.place(schema), value);
        self.place.pop();
    }

    fn structure(&mut self, name: &str, fields: &Map<String, Value>, object: &Value) {
        if is_shallow(name, self.pod) {
            return;
        }
        let top = self.place.is_empty();
        let skipped = |field: &str| top && matches!(field, "apiVersion" | "kind" | "metadata" | "status");
        let mut sides: Vec<Vec<Side>> = vec![];
        for (field, schema) in fields.iter().filter(|(field, _)| !skipped(field)) {
            let present = object.get(field);
            let others = self.harvest.of(name, field).iter().filter(|v| present != Some(v));
            let others: Vec<Side> = others.map(|v| self.side(field, Some(v.clone()))).collect();
            for side in &others {
                let name = format!("{}: {}", shown(&self.place_of(field)), side.name);
                self.found.push(Change { name, edits: vec![side.edit.clone()], mistyped: false });
            }
            let mut of_field: Vec<Side> = present.map(|_| self.side(field, None)).into_iter().collect();
            of_field.extend(others.into_iter().take(2));
            if of_field.is_empty() {
                of_field.extend(self.plain(schema).map(|value| self.side(field, Some(value))));
            }
            sides.push(of_field);
        }
        self.pairs(name, &sides);
        for (field, schema) in fields.iter().filter(|(field, _)| !skipped(field)) {
            if let Some(value) = object.get(field) {
                self.below(field, schema, value);
            }
        }
    }

    /// Each two fields once at least; of structs with many fields, a part that stays the same.
    fn pairs(&mut self, definition: &str, sides: &[Vec<Side>]) {
        let tried = self.tried.entry(definition.to_owned()).or_default();
        let mut pairs = vec![];
        for (i, first) in sides.iter().enumerate() {
            for second in &sides[i + 1..] {
                for a in first {
                    pairs.extend(second.iter().map(|b| (a, b)));
                }
            }
        }
        let share = (pairs.len() as u64).div_ceil(PAIRS);
        for (a, b) in pairs {
            let at = shown(&self.place);
            let (left, right) = (a.edit.place.last(), b.edit.place.last());
            let (left, right) = (left.map_or("", |s| s), right.map_or("", |s| s));
            let name = format!("{at}: {left} {} with {right} {}", a.name, b.name);
            if *tried < PAIRS_OF_A_KIND && (share <= 1 || hash(&name).is_multiple_of(share)) {
                *tried += 1;
                self.found.push(Change {
                    name,
                    edits: vec![a.edit.clone(), b.edit.clone()],
                    mistyped: false,
                });
            }
        }
    }

    fn place_of(&self, field: &str) -> Vec<String> {
        let mut place = self.place.clone();
        place.push(field.to_owned());
        place
    }

    fn side(&self, field: &str, value: Option<Value>) -> Side {
        let name = match &value {
            None => "gone".to_owned(),
            Some(value) => {
                let text = value.to_string();
                let short: String = text.chars().take(40).collect();
                if short == text { text } else { format!("{short} #{:x}", hash(&text) & 0xffff) }
            }
        };
        Side { edit: Edit { place: self.place_of(field), value }, name }
    }

    /// A value for a place that no seed has one for.
    fn plain(&self, schema: &Value) -> Option<Value> {
        Some(match self.documents.place(schema) {
            Place::Text => json!("a"),
            Place::Bytes => json!("AAAA"),
            Place::Time => json!("2026-01-01T00:00:00Z"),
            Place::Quantity => json!("1"),
            Place::Number | Place::NumberOrText => json!(1),
            Place::Flag => json!(true),
            Place::Struct(..) => json!({}),
            Place::List(items) => match self.documents.place(items) {
                Place::Text => json!(["a"]),
                Place::Struct(..) => json!([{}]),
                _ => return None,
            },
            Place::Map(of) => match self.documents.place(of) {
                Place::Text => json!({"a": "b"}),
                Place::Quantity => json!({"a": "1"}),
                _ => return None,
            },
            Place::Any => return None,
        })
    }
}

/// The same for the same text, today and later: FNV-1a.
pub(super) fn hash(text: &str) -> u64 {
    let step = |h: u64, byte: &u8| (h ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    let folded = text.as_bytes().iter().fold(0xcbf2_9ce4_8422_2325, step);
    folded ^ (folded >> 32)
}
