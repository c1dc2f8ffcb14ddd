//! The vocabulary of `kubectl get` columns: constructors, and the texts several kinds print alike.

use coracle_api::selector::{LabelSelector, Operator};
use coracle_api::{Object, time};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::resource::{Cell, Column};

type Rule = fn(&Object, Timestamp) -> Value;

pub(super) const NAME: Column = Column { format: "name", ..path("Name", &["metadata", "name"]) };
pub(super) const AGE: Column =
    Column { name: "Age", kind: "string", format: "", priority: 0, cell: Cell::Age };
/// Kinds for which upstream has no printer.
pub(super) const CREATED_AT: Column =
    Column { kind: "date", ..path("Created At", &["metadata", "creationTimestamp"]) };
pub(super) const NAME_AND_AGE: &[Column] = &[NAME, AGE];
pub(super) const NAME_AND_CREATED_AT: &[Column] = &[NAME, CREATED_AT];

pub(super) const fn path(name: &'static str, path: &'static [&'static str]) -> Column {
    Column { name, kind: "string", format: "", priority: 0, cell: Cell::Path(path) }
}

pub(super) const fn integer(name: &'static str, at: &'static [&'static str]) -> Column {
    Column { kind: "integer", ..path(name, at) }
}

pub(super) const fn rule(name: &'static str, rule: Rule) -> Column {
    Column { name, kind: "string", format: "", priority: 0, cell: Cell::Compute(rule) }
}

/// Shown only with `-o wide`.
pub(super) const fn wide(column: Column) -> Column {
    Column { priority: 1, ..column }
}

pub(super) const fn of_kind(kind: &'static str, column: Column) -> Column {
    Column { kind, ..column }
}

/// Containers and Images of a workload's template.
pub(super) const TEMPLATE_CONTAINERS: Column = wide(rule("Containers", |o, _| {
    names_of(o.items_at(&["spec", "template", "spec", "containers"]), "name")
}));
pub(super) const TEMPLATE_IMAGES: Column =
    wide(rule("Images", |o, _| names_of(o.items_at(&["spec", "template", "spec", "containers"]), "image")));
pub(super) const LABEL_SELECTOR: Column =
    wide(rule("Selector", |o, _| json!(label_selector(o.at(&["spec", "selector"])))));
pub(super) const MAP_SELECTOR: Column = wide(rule("Selector", |o, _| labels(o.at(&["spec", "selector"]))));

/// The text at a path, or a word for its absence.
pub(super) fn or(o: &Object, path: &[&str], absent: &str) -> Value {
    match o.str_at(path) {
        "" => json!(absent),
        text => json!(text),
    }
}

pub(super) fn count(o: &Object, path: &[&str]) -> Value {
    json!(o.i64_at(path).unwrap_or(0))
}

/// How many entries a list or map has.
pub(super) fn size(o: &Object, path: &[&str]) -> usize {
    match o.at(path) {
        Some(Value::Array(items)) => items.len(),
        Some(Value::Object(entries)) => entries.len(),
        _ => 0,
    }
}

/// A field of every element, joined by commas.
pub(super) fn names_of(items: &[Value], field: &str) -> Value {
    let names: Vec<&str> = items.iter().map(|i| i[field].as_str().unwrap_or_default()).collect();
    json!(names.join(","))
}

pub(super) fn since(at: Option<&Value>, now: Timestamp) -> Value {
    json!(time::since(at.and_then(time::parse), now))
}

/// `a=b,c=d` in key order, `<none>` when empty.
pub(super) fn labels(map: Option<&Value>) -> Value {
    let text = map.and_then(Value::as_object).map(pairs).unwrap_or_default();
    json!(if text.is_empty() { "<none>".to_owned() } else { text })
}

/// A `LabelSelector` in the query language: requirements sorted by key.
pub(super) fn label_selector(selector: Option<&Value>) -> String {
    let Some(selector) = selector else { return "<none>".to_owned() };
    let expressions = selector["matchExpressions"].as_array().into_iter().flatten();
    let mut operators = expressions.map(|e| e["operator"].as_str().unwrap_or_default());
    if operators.any(|operator| matches!(operator, "Gt" | "Lt") || Operator::named(operator).is_none()) {
        return "<error>".to_owned();
    }
    let text = LabelSelector::of_json(selector).to_string();
    if text.is_empty() { "<none>".to_owned() } else { text }
}

/// The first `max` of a list, and how many more there are.
pub(super) fn first_of(all: &[String], max: usize, empty: &str) -> String {
    match all.len() {
        0 => empty.to_owned(),
        n if n > max => format!("{} + {} more...", all[..max].join(","), n - max),
        _ => all.join(","),
    }
}

fn pairs(map: &Map<String, Value>) -> String {
    let mut all: Vec<String> =
        map.iter().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect();
    all.sort();
    all.join(",")
}
