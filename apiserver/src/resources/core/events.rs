//! Events: what happened to an object, kept for an hour. Two groups serve them from one storage.

use std::time::Duration;

use coracle_api::Object;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::super::columns::{NAME, path, rule, since, wide};
use super::field;
use crate::resource::{Column, NAMESPACED, Row, SelectableField};

/// How long an event is kept.
pub(in super::super) const LIFETIME: Duration = Duration::from_secs(3600);

pub(super) const ROW: Row = Row {
    kind: "Event",
    plural: "events",
    short: &["ev"],
    storage: "/events",
    fields: FIELDS,
    columns: COLUMNS,
    create_on_update: true,
    ttl: Some(LIFETIME),
    ..NAMESPACED
};

pub(in super::super) const FIELDS: &[SelectableField] = &[
    field("involvedObject.kind", &["involvedObject", "kind"]),
    field("involvedObject.namespace", &["involvedObject", "namespace"]),
    field("involvedObject.name", &["involvedObject", "name"]),
    field("involvedObject.uid", &["involvedObject", "uid"]),
    field("involvedObject.apiVersion", &["involvedObject", "apiVersion"]),
    field("involvedObject.resourceVersion", &["involvedObject", "resourceVersion"]),
    field("involvedObject.fieldPath", &["involvedObject", "fieldPath"]),
    field("reason", &["reason"]),
    field("reportingComponent", &["reportingComponent"]),
    SelectableField { or: &["reportingComponent"], ..field("source", &["source", "component"]) },
    field("type", &["type"]),
];

/// Both forms of an event print alike; a field is looked for under its newer name where the older is absent.
pub(in super::super) const COLUMNS: &[Column] = &[
    rule("Last Seen", |o, now| last_seen(o, now)),
    path("Type", &["type"]),
    path("Reason", &["reason"]),
    rule("Object", |o, _| target(o)),
    wide(rule("Subobject", |o, _| subject(o).map_or(json!(""), |s| text(&s["fieldPath"])))),
    wide(rule("Source", |o, _| source(o))),
    rule("Message", |o, _| json!(first(o, &[&["message"], &["note"]]).trim())),
    wide(rule("First Seen", |o, now| first_seen(o, now))),
    wide(rule("Count", |o, _| count(o))),
    wide(NAME),
];

fn subject(o: &Object) -> Option<&Value> {
    o.at(&["involvedObject"]).or_else(|| o.at(&["regarding"]))
}

fn target(o: &Object) -> Value {
    let Some(s) = subject(o) else { return json!("") };
    let kind = s["kind"].as_str().unwrap_or_default().to_lowercase();
    match s["name"].as_str().unwrap_or_default() {
        "" => json!(kind),
        name => json!(format!("{kind}/{name}")),
    }
}

fn source(o: &Object) -> Value {
    let component = first(
        o,
        &[
            &["source", "component"],
            &["deprecatedSource", "component"],
            &["reportingComponent"],
            &["reportingController"],
        ],
    );
    let host = first(o, &[&["source", "host"], &["deprecatedSource", "host"], &["reportingInstance"]]);
    if host.is_empty() { json!(component) } else { json!(format!("{component}, {host}")) }
}

fn count(o: &Object) -> Value {
    let at = |path: &[&str]| o.i64_at(path);
    let count = at(&["series", "count"]).or_else(|| at(&["count"])).or_else(|| at(&["deprecatedCount"]));
    json!(count.filter(|c| *c != 0).unwrap_or(1))
}

fn first_seen(o: &Object, now: Timestamp) -> Value {
    let at = o.at(&["firstTimestamp"]).or_else(|| o.at(&["deprecatedFirstTimestamp"]));
    since(at.or_else(|| o.at(&["eventTime"])), now)
}

fn last_seen(o: &Object, now: Timestamp) -> Value {
    let series = o.at(&["series", "lastObservedTime"]);
    let at = series.or_else(|| o.at(&["lastTimestamp"])).or_else(|| o.at(&["deprecatedLastTimestamp"]));
    match at {
        Some(at) => since(Some(at), now),
        None => first_seen(o, now),
    }
}

fn first<'a>(o: &'a Object, paths: &[&[&str]]) -> &'a str {
    paths.iter().map(|path| o.str_at(path)).find(|s| !s.is_empty()).unwrap_or_default()
}

fn text(value: &Value) -> Value {
    json!(value.as_str().unwrap_or_default())
}
