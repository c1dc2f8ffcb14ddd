//! `events.k8s.io`: the newer form of events, stored with the core ones.

use coracle_api::Object;

use super::core::events::{COLUMNS, Events, LIFETIME};
use crate::resource::{Conversion, NAMESPACED, Row, SelectableField};

pub(super) static ROWS: &[Row] = &[Row {
    group: "events.k8s.io",
    kind: "Event",
    plural: "events",
    short: &["ev"],
    storage: "/events",
    stored_as: "/v1/Event",
    fields: FIELDS,
    columns: COLUMNS,
    strategy: &Events,
    create_on_update: true,
    ttl: Some(LIFETIME),
    conversion: Some(&Conversion { from_storage, to_storage }),
    ..NAMESPACED
}];

/// Selectors look at the stored form.
const FIELDS: &[SelectableField] = &[
    SelectableField { label: "reason", path: &["reason"], absent: "", or: &[] },
    SelectableField { label: "type", path: &["type"], absent: "", or: &[] },
    SelectableField { label: "reportingController", path: &["reportingComponent"], absent: "", or: &[] },
    SelectableField { label: "regarding.kind", path: &["involvedObject", "kind"], absent: "", or: &[] },
    SelectableField {
        label: "regarding.namespace",
        path: &["involvedObject", "namespace"],
        absent: "",
        or: &[],
    },
    SelectableField { label: "regarding.name", path: &["involvedObject", "name"], absent: "", or: &[] },
    SelectableField { label: "regarding.uid", path: &["involvedObject", "uid"], absent: "", or: &[] },
    SelectableField {
        label: "regarding.apiVersion",
        path: &["involvedObject", "apiVersion"],
        absent: "",
        or: &[],
    },
    SelectableField {
        label: "regarding.resourceVersion",
        path: &["involvedObject", "resourceVersion"],
        absent: "",
        or: &[],
    },
    SelectableField {
        label: "regarding.fieldPath",
        path: &["involvedObject", "fieldPath"],
        absent: "",
        or: &[],
    },
];

/// Core field names and what they are called here.
const NAMES: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];

fn from_storage(event: &mut Object) {
    event.set(&["apiVersion"], "events.k8s.io/v1");
    rename(event, NAMES.iter().copied());
}

fn to_storage(event: &mut Object) {
    event.set(&["apiVersion"], "v1");
    rename(event, NAMES.iter().map(|(core, own)| (*own, *core)));
}

fn rename<'a>(event: &mut Object, names: impl Iterator<Item = (&'a str, &'a str)>) {
    for (from, to) in names {
        if let Some(value) = event.remove(&[from]) {
            event.set(&[to], value);
        }
    }
}
