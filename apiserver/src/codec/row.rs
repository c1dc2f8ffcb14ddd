//! A table's row as text that is kept with its object: who lists again writes it out, and only its age anew.

use std::ops::Range;
use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use coracle_api::{Object, time};
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::IncludeObject;
use super::table::cell;
use crate::resource::{Cell, Resource, Shown};

/// All that a row shows of one stored object.
pub struct Row {
    /// Whose columns these are. Held, so that no other resource can come to stand at its address.
    resource: Arc<Resource>,
    /// The cells without brackets, with a hole where the age belongs.
    cells: Box<str>,
    age: Option<Age>,
    /// Where the object's metadata stands in its JSON.
    metadata: Range<usize>,
}

#[derive(Debug)]
struct Age {
    at: usize,
    created: Option<Timestamp>,
}

/// A cell that says the same now and after this time does not depend on time.
const LATER: SignedDuration = SignedDuration::from_hours(24 * 1000);

#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow)]
    metadata: &'a RawValue,
}

/// An object's metadata as it stands in its JSON.
pub(crate) fn metadata_of(value: &[u8]) -> Option<&[u8]> {
    Some(serde_json::from_slice::<Head<'_>>(value).ok()?.metadata.get().as_bytes())
}

// === impl Row ===

impl Row {
    /// `None` where a cell besides the age changes with time: such a row cannot be kept.
    pub fn of(resource: &Arc<Resource>, value: &[u8], now: Timestamp) -> Option<Self> {
        let text = std::str::from_utf8(value).ok()?;
        let object = Object(serde_json::from_str(text).ok()?);
        let (mut cells, mut age) = (String::new(), None);
        for (n, column) in resource.columns.iter().enumerate() {
            if n > 0 {
                cells.push(',');
            }
            if matches!(column.cell, Shown::Row(Cell::Age)) && age.is_none() {
                let created = object.at(&["metadata", "creationTimestamp"]).and_then(time::parse);
                age = Some(Age { at: cells.len(), created });
                continue;
            }
            let shown = cell(column, &object, now);
            if shown != cell(column, &object, now + LATER) {
                return None;
            }
            cells += &shown.to_string();
        }
        let metadata = serde_json::from_str::<Head<'_>>(text).ok()?.metadata.get();
        let at = metadata.as_ptr() as usize - text.as_ptr() as usize;
        Some(Row { resource: resource.clone(), cells: cells.into(), age, metadata: at..at + metadata.len() })
    }

    pub fn is_of(&self, resource: &Arc<Resource>) -> bool {
        Arc::ptr_eq(&self.resource, resource)
    }

    /// Appends the row of the object whose JSON is `value`.
    pub fn write(&self, value: &[u8], include: IncludeObject, now: Timestamp, out: &mut BytesMut) {
        out.put_slice(b"{\"cells\":[");
        let (before, after) = self.cells.split_at(self.age.as_ref().map_or(self.cells.len(), |a| a.at));
        out.put_slice(before.as_bytes());
        if let Some(age) = &self.age {
            out.put_u8(b'"');
            out.put_slice(time::since(age.created, now).as_bytes());
            out.put_u8(b'"');
        }
        out.put_slice(after.as_bytes());
        out.put_slice(b"],\"object\":");
        match include {
            IncludeObject::None => out.put_slice(b"null"),
            IncludeObject::Object => out.put_slice(value),
            IncludeObject::Metadata => {
                out.put_slice(
                    b"{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"meta.k8s.io/v1\",\"metadata\":",
                );
                out.put_slice(&value[self.metadata.clone()]);
                out.put_u8(b'}');
            }
        }
        out.put_u8(b'}');
    }
}

impl std::fmt::Debug for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Row").field("cells", &self.cells).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::table::row;
    use super::*;
    use crate::registry::Registry;

    /// The kept row of an object, and the one computed from it.
    fn both(kind: (&str, &str, &str), object: &Value, include: IncludeObject) -> (Option<Value>, Value) {
        let (group, version, plural) = kind;
        let registry = Registry::new(crate::resources::builtins());
        let resource = registry.lookup(&coracle_api::Gvr::new(group, version, plural)).unwrap();
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let text = object.to_string();
        let computed = row(&resource.columns, &Object(object.clone()), include, now);
        let kept = Row::of(&resource, text.as_bytes(), now).map(|kept| {
            let mut out = BytesMut::new();
            kept.write(text.as_bytes(), include, now + SignedDuration::ZERO, &mut out);
            serde_json::from_slice(&out).unwrap()
        });
        (kept, computed)
    }

    #[test]
    fn a_kept_row_says_what_a_computed_one_says() {
        let metadata = json!({"name": "a", "namespace": "b", "creationTimestamp": "2026-11-21T08:00:00Z"});
        let node =
            json!({"kind": "Node", "apiVersion": "v1", "metadata": metadata, "spec": {}, "status": {}});
        let pod = json!({"kind": "Pod", "apiVersion": "v1", "metadata": metadata, "status": {"phase": "Running"},
            "spec": {"containers": [{"name": "a"}], "nodeName": "n1"}});
        for include in [IncludeObject::None, IncludeObject::Metadata, IncludeObject::Object] {
            for (plural, object) in [("nodes", &node), ("pods", &pod)] {
                let (kept, computed) = both(("", "v1", plural), object, include);
                assert_eq!(kept, Some(computed));
            }
        }
    }

    #[test]
    fn a_row_that_time_changes_is_not_kept() {
        let pod = json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "a"},
            "spec": {"containers": [{"name": "a"}]},
            "status": {"phase": "Running", "containerStatuses": [{"name": "a", "ready": true, "restartCount": 2,
                "lastState": {"terminated": {"finishedAt": "2026-11-21T08:00:00Z"}}, "state": {"running": {}}}]}});
        assert_eq!(both(("", "v1", "pods"), &pod, IncludeObject::None).0, None);
    }
}
