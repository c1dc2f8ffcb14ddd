//! Events: what happened to an object, kept for an hour. Two groups serve them from one storage.

use std::time::Duration;

use coracle_api::Object;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::super::columns::{NAME, path, rule, since, wide};
use super::super::located::Located;
use super::super::validation::Errors;
use super::field;
use crate::field::FieldError;
use crate::field_names::{dns1123_subdomain, path_segment, qualified_name};
use crate::resource::{Column, NAMESPACED, Row, SelectableField, Strategy, WriteContext};

/// How long an event is kept.
pub(in super::super) const LIFETIME: Duration = Duration::from_secs(3600);

pub(super) const ROW: Row = Row {
    kind: "Event",
    metadata_looks: [0, 0],
    plural: "events",
    short: &["ev"],
    storage: "/events",
    fields: FIELDS,
    columns: COLUMNS,
    strategy: &Events,
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

pub(in super::super) struct Events;

impl Strategy for Events {
    fn validate(&self, cx: &WriteContext<'_>, new: &Object, old: Option<&Object>) -> Vec<FieldError> {
        let mut errors = Errors::default();
        let newer = cx.resource.gvr.group == "events.k8s.io";
        if new.at(&["eventTime"]).is_some_and(|t| !t.is_null()) {
            reported(new, newer, &mut errors);
        } else {
            placed(new, &["", "default"], &mut errors);
        }
        if newer && old.is_none() {
            if !new.name().is_empty() {
                errors.all_invalid("metadata.name", new.name(), dns1123_subdomain(new.name()));
            }
            errors.0.extend(crate::verbs::metadata::validate(new, cx.resource));
            strict(new, &mut errors);
        }
        if let Some(old) = old.filter(|_| newer) {
            unchanged(new, old, &mut errors);
        }
        errors.0
    }

    fn validates_metadata(&self) -> bool {
        true
    }

    /// Names of events came before the rule for names.
    fn validate_name(&self, name: &str, _of: &Object) -> Vec<String> {
        path_segment(name)
    }
}

/// An event lives in the namespace of what it is about; one about a thing without namespace has a few places.
fn placed(new: &Object, places: &[&str], errors: &mut Errors) {
    let about = subject(new).and_then(|s| s["namespace"].as_str()).unwrap_or_default();
    let fits = if about.is_empty() { places.contains(&new.namespace()) } else { about == new.namespace() };
    if !fits {
        errors.invalid("involvedObject.namespace", about, "does not match event.namespace");
    }
}

/// What an event with a precise time must say of its reporter.
fn reported(new: &Object, newer: bool, errors: &mut Errors) {
    let about = subject(new).and_then(|s| s["namespace"].as_str()).unwrap_or_default();
    if about.is_empty() {
        placed(new, &["default", "kube-system"], errors);
    }
    let at = if newer { "reportingController" } else { "reportingComponent" };
    let controller = first(new, &[&["reportingComponent"], &["reportingController"]]);
    if controller.is_empty() {
        errors.required(at, "");
    }
    errors.all_invalid(at, controller, qualified_name(controller));
    for (key, text, most) in [
        ("reportingInstance", new.str_at(&["reportingInstance"]), 128),
        ("action", new.str_at(&["action"]), 128),
        ("reason", new.str_at(&["reason"]), 128),
        ("message", first(new, &[&["message"], &["note"]]), 1024),
    ] {
        if text.is_empty() && key != "message" {
            errors.required(key, "");
        }
        if text.len() > most {
            errors.invalid(key, "", format!("can have at most {most} characters"));
        }
    }
}

/// What the newer group lets an update change: of what an event says, its series alone.
fn unchanged(new: &Object, old: &Object, errors: &mut Errors) {
    if new.at(&["series"]) != old.at(&["series"]) {
        series(new, errors);
    }
    // Each field under the name upstream reports it by, and its newer name.
    const FIELDS: [(&str, &str); 14] = [
        ("involvedObject", "regarding"),
        ("reason", "reason"),
        ("message", "note"),
        ("source", "deprecatedSource"),
        ("firstTimestamp", "deprecatedFirstTimestamp"),
        ("lastTimestamp", "deprecatedLastTimestamp"),
        ("count", "deprecatedCount"),
        ("reason", "reason"),
        ("type", "type"),
        ("eventTime", "eventTime"),
        ("action", "action"),
        ("related", "related"),
        ("reportingController", "reportingComponent"),
        ("reportingInstance", "reportingInstance"),
    ];
    let unset = |v: &&Value| v.is_null() || **v == json!(0) || **v == json!({}) || **v == json!("");
    for (name, other) in FIELDS {
        let of = |event: &'_ Object| {
            let found = event.at(&[name]).or_else(|| event.at(&[other]));
            // The one that is a pointer in upstream's type may be there and empty.
            found.filter(|v| name == "related" || !unset(v)).cloned()
        };
        let (is, was) = (of(new), of(old));
        if name == "eventTime"
            && is.as_ref().and_then(coracle_api::time::parse)
                == was.as_ref().and_then(coracle_api::time::parse)
        {
            continue;
        }
        if is != was {
            // Upstream shows it as a field of the older type.
            let field = if name == "reportingController" { "reportingComponent" } else { name };
            let mut shown = Object(json!({"apiVersion": "v1", "kind": "Event"}));
            shown.set(&[field], is);
            Located::root(&shown).at(field).called(name).wrong("field is immutable", errors);
        }
    }
}

fn series(new: &Object, errors: &mut Errors) {
    if let Some(series) = new.at(&["series"]).filter(|s| s.is_object()) {
        if series["count"].as_i64().unwrap_or(0) < 2 {
            errors.invalid("series.count", "", "should be at least 2");
        }
        if series["lastObservedTime"].is_null() {
            errors.required("series.lastObservedTime", "");
        }
    }
}

/// What the newer group asks of new events.
fn strict(new: &Object, errors: &mut Errors) {
    series(new, errors);
    if new.at(&["eventTime"]).is_none_or(Value::is_null) {
        errors.required("eventTime", "");
    }
    let kind = new.str_at(&["type"]);
    if !matches!(kind, "Normal" | "Warning") {
        errors.invalid("type", "", format!("has invalid value: {kind}"));
    }
    for (key, old_key, new_key) in [
        ("firstTimestamp", "firstTimestamp", "deprecatedFirstTimestamp"),
        ("lastTimestamp", "lastTimestamp", "deprecatedLastTimestamp"),
        ("count", "count", "deprecatedCount"),
        ("source", "source", "deprecatedSource"),
    ] {
        let unset = |v: Option<&Value>| v.is_none_or(|v| v.is_null() || *v == json!(0) || *v == json!({}));
        if !unset(new.at(&[old_key])) || !unset(new.at(&[new_key])) {
            errors.invalid(key, "", "needs to be unset");
        }
    }
}

/// Both forms of an event print alike; a field is looked for under its newer name where the older is absent.
pub(in super::super) const COLUMNS: &[Column] = &[
    rule("Last Seen", last_seen),
    path("Type", &["type"]),
    path("Reason", &["reason"]),
    rule("Object", |o, _| target(o)),
    wide(rule("Subobject", |o, _| subject(o).map_or(json!(""), |s| text(&s["fieldPath"])))),
    wide(rule("Source", |o, _| source(o))),
    rule("Message", |o, _| json!(first(o, &[&["message"], &["note"]]).trim())),
    wide(rule("First Seen", first_seen)),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_the_newer_group_only_the_series_of_an_event_changes() {
        let old = || {
            json!({"regarding": {"name": "p"}, "reason": "R", "note": "N", "type": "Normal", "action": "A",
            "eventTime": "2026-01-01T00:00:00.000000Z", "reportingController": "c", "reportingInstance": "i"})
        };
        let series = json!({"count": 2, "lastObservedTime": "2026-01-01T00:00:01.000000Z"});
        let cases = [
            ("series", series, ""),
            (
                "series",
                json!({"count": 1, "lastObservedTime": "2026-01-01T00:00:01.000000Z"}),
                "series.count",
            ),
            ("reason", json!("other"), "reason"),
            ("note", json!("other"), "message"),
            ("regarding", json!({"name": "q"}), "involvedObject"),
            ("type", json!("Warning"), "type"),
            ("deprecatedCount", json!(7), "count"),
            ("deprecatedCount", json!(0), ""),
            ("reportingController", json!("d"), "reportingController"),
            ("eventTime", json!("2026-01-01T00:00:00Z"), ""),
            ("eventTime", json!("2026-01-01T00:00:02Z"), "eventTime"),
        ];
        for (field, value, refused) in cases {
            let mut new = Object(old());
            new.set(&[field], value.clone());
            let mut errors = Errors::default();
            unchanged(&new, &Object(old()), &mut errors);
            let mut fields: Vec<&str> = errors.0.iter().map(|e| e.field.as_str()).collect();
            // As upstream says it, a reason is told twice.
            fields.dedup_by_key(|field| *field == "reason");
            let expected: &[&str] = if refused.is_empty() { &[] } else { &[refused] };
            assert_eq!(fields, expected, "{field} {value}");
        }
    }
}
