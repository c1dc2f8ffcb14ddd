//! What a valid object can be made into: each of its fields of another type, empty, too long, out of range, of wrong
//! characters, twice, gone; and each field that it does not have, with values that may do and values that may not.

use serde_json::{Map, Value, json};

use super::documents::{Documents, Place};

/// What is done to an object at once.
#[derive(Clone, Debug)]
pub(super) struct Change {
    /// `spec.ports[0].name: empty`
    pub name: String,
    pub edits: Vec<Edit>,
    /// Whether the value is of a type that the place does not take.
    pub mistyped: bool,
}

/// One place and what is put there; `None` takes it away.
#[derive(Clone, Debug)]
pub(super) struct Edit {
    pub place: Vec<String>,
    pub value: Option<Value>,
}

/// How deep in definitions that hold themselves, or that another kind's seed goes through.
const SHALLOW: [&str; 2] = ["PodSpec", "JSONSchemaProps"];

pub(super) fn is_shallow(definition: &str, of_pod: bool) -> bool {
    let short = definition.rsplit('.').next().unwrap_or_default();
    SHALLOW.contains(&short) && !(short == "PodSpec" && of_pod)
}

// === impl Change ===

impl Change {
    pub(super) fn apply(&self, object: &Value) -> Value {
        let mut changed = object.clone();
        for edit in &self.edits {
            edit.apply(&mut changed);
        }
        changed
    }

    /// Whether it begins below this field of the object.
    pub(super) fn is_of(&self, field: &str) -> bool {
        self.edits.first().and_then(|e| e.place.first()).is_some_and(|first| first == field)
    }
}

// === impl Edit ===

impl Edit {
    fn apply(&self, object: &mut Value) {
        let [parents @ .., last] = &self.place[..] else { return };
        let mut at = object;
        for step in parents {
            at = match at {
                Value::Array(list) => match step.parse::<usize>().ok().and_then(|i| list.get_mut(i)) {
                    Some(next) => next,
                    None => return,
                },
                Value::Object(_) | Value::Null => &mut at[step.as_str()],
                _ => return,
            };
        }
        match (at, &self.value) {
            (Value::Array(list), value) => {
                if let Some(slot) = last.parse::<usize>().ok().and_then(|i| list.get_mut(i)) {
                    *slot = value.clone().unwrap_or_default();
                }
            }
            (Value::Object(map), None) => {
                map.remove(last);
            }
            (at @ (Value::Object(_) | Value::Null), Some(value)) => at[last.as_str()] = value.clone(),
            _ => {}
        }
    }
}

/// A place as messages write it: `spec.ports[0].name`.
pub(super) fn shown(place: &[String]) -> String {
    let mut at = String::new();
    for step in place {
        match step.parse::<usize>() {
            Ok(i) => at.push_str(&format!("[{i}]")),
            Err(_) if at.is_empty() => at.push_str(step),
            Err(_) => at.push_str(&format!(".{step}")),
        }
    }
    at
}

/// All changes of an object that is in order.
pub(super) fn of(documents: &Documents, kind: &str, root: Place<'_>, object: &Value) -> Vec<Change> {
    let mut walk = Walk { documents, pod: kind == "Pod", place: vec![], found: vec![] };
    if let Place::Struct(name, fields) = root {
        walk.fields(name, fields, object);
    }
    walk.found
}

struct Walk<'a> {
    documents: &'a Documents,
    pod: bool,
    place: Vec<String>,
    found: Vec<Change>,
}

// === impl Walk ===

impl Walk<'_> {
    fn add(&mut self, name: &str, value: Option<Value>, mistyped: bool) {
        let name = format!("{}: {name}", shown(&self.place));
        let edits = vec![Edit { place: self.place.clone(), value }];
        self.found.push(Change { name, edits, mistyped });
    }

    fn values(&mut self, values: impl IntoIterator<Item = (&'static str, Value)>) {
        for (name, value) in values {
            self.add(name, Some(value), false);
        }
    }

    fn fields(&mut self, owner: &str, fields: &Map<String, Value>, object: &Value) {
        let top = self.place.is_empty();
        let shallow = is_shallow(owner, self.pod);
        let template = shallow && owner.ends_with("PodSpec");
        for (name, schema) in fields {
            if top && matches!(name.as_str(), "apiVersion" | "kind" | "metadata") {
                continue;
            }
            self.place.push(name.clone());
            let place = self.documents.place(schema);
            match object.get(name) {
                Some(value) => self.present(place, value, shallow),
                None if template => {}
                None => self.absent(place),
            }
            self.place.pop();
        }
    }

    /// Values for a place that has one.
    fn present(&mut self, place: Place<'_>, value: &Value, shallow: bool) {
        self.add("gone", None, false);
        let wrong = match place {
            Place::Text | Place::Bytes | Place::Time => Some(json!(1)),
            Place::Any => None,
            _ => Some(json!("x")),
        };
        if let Some(wrong) = wrong.filter(|_| !matches!(place, Place::Quantity | Place::NumberOrText)) {
            self.add("of a wrong type", Some(wrong), true);
        }
        match place {
            Place::Text => self.values(texts()),
            Place::Bytes => self.values([("no base64", json!("!")), ("empty", json!(""))]),
            Place::Time => self.values([("no time", json!("x")), ("null", Value::Null)]),
            Place::Quantity => self.values(quantities()),
            Place::Number => self.values(numbers()),
            Place::Flag => self.add("turned", Some(json!(*value != json!(true))), false),
            Place::NumberOrText => self.values(numbers_or_texts()),
            Place::Any => self.values([
                ("text", json!("x")),
                ("a number", json!(1)),
                ("a list", json!([])),
                ("empty", json!({})),
                ("null", Value::Null),
            ]),
            Place::List(items) => self.list(items, value, shallow),
            Place::Map(of) => self.map(of, value),
            Place::Struct(name, fields) => {
                self.add("empty", Some(json!({})), false);
                if !shallow {
                    self.fields(name, fields, value);
                }
            }
        }
    }

    fn list(&mut self, items: &Value, value: &Value, shallow: bool) {
        let list = value.as_array().cloned().unwrap_or_default();
        self.add("empty", Some(json!([])), false);
        let with = |item: Value| {
            let mut longer = list.clone();
            longer.push(item);
            Some(longer.into())
        };
        let item = self.documents.place(items);
        if let Some(first) = list.first() {
            self.add("the first twice", with(first.clone()), false);
            self.add("forty of the first", Some(vec![first.clone(); 40].into()), false);
        }
        match item {
            Place::Text => self.add("another that is empty", with(json!("")), false),
            Place::Struct(..) => self.add("another that is empty", with(json!({})), false),
            _ => {}
        }
        if shallow {
            return;
        }
        for (i, value) in list.iter().enumerate() {
            self.place.push(i.to_string());
            match item {
                Place::Struct(name, fields) => self.fields(name, fields, value),
                Place::Text => self.values(texts()),
                Place::Number => self.values(numbers()),
                Place::Quantity => self.values(quantities()),
                _ => {}
            }
            self.place.pop();
        }
    }

    fn map(&mut self, of: &Value, value: &Value) {
        let map = value.as_object().cloned().unwrap_or_default();
        self.add("empty", Some(json!({})), false);
        let first = map.values().next().cloned().unwrap_or(json!("x"));
        let keyed = |key: &str| Some(json!({key: first.clone()}));
        self.add("a key of wrong characters", keyed("Bad Key!"), false);
        self.add("a key that is empty", keyed(""), false);
        self.add("a key that is too long", keyed(&"a".repeat(300)), false);
        self.add("a key that nobody knows", keyed("unknown"), false);
        let of = self.documents.place(of);
        for (key, value) in &map {
            self.place.push(key.clone());
            self.present(of, value, false);
            self.place.pop();
        }
    }

    /// Values for a place that has none: what may do, and what may not.
    fn absent(&mut self, place: Place<'_>) {
        match place {
            Place::Text => self.values([
                ("new", json!("a")),
                ("new, of wrong characters", json!("Bad Value!")),
                ("new, empty", json!("")),
            ]),
            Place::Bytes => self.values([("new", json!("AAAA"))]),
            Place::Time => self.values([("new", json!("2026-01-01T00:00:00Z"))]),
            Place::Quantity => self.values([("new", json!("1")), ("new, negative", json!("-1"))]),
            Place::Number => {
                self.values([("new", json!(1)), ("new, zero", json!(0)), ("new, negative", json!(-1))])
            }
            Place::Flag => self.values([("new, true", json!(true)), ("new, false", json!(false))]),
            Place::NumberOrText => self.values([("new", json!(1)), ("new, text", json!("x"))]),
            Place::Any => self.values([("new", json!({}))]),
            Place::List(items) => match self.documents.place(items) {
                Place::Text => self.values([
                    ("new", json!(["a"])),
                    ("new, of wrong characters", json!(["Bad Value!"])),
                    ("new, of an empty one", json!([""])),
                    ("new, of two alike", json!(["a", "a"])),
                ]),
                Place::Struct(..) => self.values([("new, of an empty one", json!([{}]))]),
                Place::Number => self.values([("new", json!([1])), ("new, negative", json!([-1]))]),
                _ => {}
            },
            Place::Map(of) => {
                let value = match self.documents.place(of) {
                    Place::Text => json!("b"),
                    Place::Quantity => json!("1"),
                    Place::Struct(..) => json!({}),
                    Place::List(_) => json!(["b"]),
                    _ => return,
                };
                self.values([
                    ("new", json!({"a": value})),
                    ("new, with a key of wrong characters", json!({"Bad Key!": value})),
                ]);
            }
            Place::Struct(..) => self.values([("new, empty", json!({}))]),
        }
    }
}

fn texts() -> [(&'static str, Value); 4] {
    [
        ("empty", json!("")),
        ("of wrong characters", json!("Bad Value!")),
        ("beginning badly", json!("-a")),
        ("too long", json!("a".repeat(300))),
    ]
}

fn numbers() -> [(&'static str, Value); 5] {
    [
        ("negative", json!(-1)),
        ("zero", json!(0)),
        ("one", json!(1)),
        ("65536", json!(65536)),
        ("the largest", json!(i32::MAX)),
    ]
}

fn quantities() -> [(&'static str, Value); 5] {
    [
        ("negative", json!("-1")),
        ("zero", json!("0")),
        ("a thousandth", json!("1m")),
        ("large", json!("1e15")),
        ("no quantity", json!("x")),
    ]
}

fn numbers_or_texts() -> [(&'static str, Value); 8] {
    [
        ("negative", json!(-1)),
        ("zero", json!(0)),
        ("65536", json!(65536)),
        ("text", json!("x")),
        ("empty", json!("")),
        ("more than all", json!("101%")),
        ("less than nothing", json!("-1%")),
        ("of wrong characters", json!("Bad Value!")),
    ]
}
