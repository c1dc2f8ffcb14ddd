//! Objects as `meta.k8s.io/v1` tables (what `kubectl get` shows) and as bare metadata.

use coracle_api::{Object, time};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::resource::{Cell, Column};

/// What a row carries beside its cells: the `includeObject` query parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum IncludeObject {
    None,
    #[default]
    Metadata,
    Object,
}

/// The columns of a kind that names none, as a custom resource may.
const NAME_AND_AGE: [Column; 2] = [
    Column {
        name: "Name",
        kind: "string",
        format: "name",
        priority: 0,
        cell: Cell::Path(&["metadata", "name"]),
    },
    Column { name: "Age", kind: "date", format: "", priority: 0, cell: Cell::Age },
];

// === impl IncludeObject ===

impl IncludeObject {
    /// Reads the query parameter; `None` where it names nothing known.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "" | "Metadata" => Some(IncludeObject::Metadata),
            "None" => Some(IncludeObject::None),
            "Object" => Some(IncludeObject::Object),
            _ => None,
        }
    }
}

/// A whole table. `metadata` is the list's (or the single object's `{resourceVersion}`). A watch sends the definitions
/// with its first event only.
pub fn table<'a>(
    columns: &[Column],
    objects: impl IntoIterator<Item = &'a Object>,
    include: IncludeObject,
    metadata: &Value,
    with_definitions: bool,
    now: Timestamp,
) -> Value {
    let definitions = if with_definitions { definitions(columns) } else { Value::Null };
    let mut table = json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata});
    table["columnDefinitions"] = definitions;
    table["rows"] = objects.into_iter().map(|o| row(columns, o, include, now)).collect();
    table
}

/// An object without spec, status and data.
pub fn partial_metadata(object: &Object) -> Object {
    let mut partial = json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1"});
    partial["metadata"] = object.at(&["metadata"]).cloned().unwrap_or_else(|| json!({}));
    Object(partial)
}

/// What a table says of its columns.
pub(crate) fn definitions(columns: &[Column]) -> Value {
    columns_of(columns).iter().map(definition).collect()
}

pub(super) fn columns_of(columns: &[Column]) -> &[Column] {
    if columns.is_empty() { &NAME_AND_AGE } else { columns }
}

fn definition(column: &Column) -> Value {
    json!({"name": column.name, "type": column.kind, "format": column.format, "description": "",
           "priority": column.priority})
}

pub(crate) fn row(columns: &[Column], object: &Object, include: IncludeObject, now: Timestamp) -> Value {
    let mut row = json!({});
    row["cells"] = columns_of(columns).iter().map(|c| cell(c, object, now)).collect();
    row["object"] = match include {
        IncludeObject::None => Value::Null,
        IncludeObject::Metadata => partial_metadata(object).0,
        IncludeObject::Object => object.0.clone(),
    };
    row
}

pub(super) fn cell(column: &Column, object: &Object, now: Timestamp) -> Value {
    match column.cell {
        Cell::Path(path) => object.at(path).cloned().unwrap_or_else(|| match column.kind {
            "integer" | "number" => json!(0),
            "boolean" => json!(false),
            _ => json!(""),
        }),
        Cell::Age => {
            let created = object.at(&["metadata", "creationTimestamp"]);
            json!(time::since(created.and_then(time::parse), now))
        }
        Cell::Compute(rule) => rule(object, now),
    }
}
