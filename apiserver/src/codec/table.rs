//! Objects as `meta.k8s.io/v1` tables (what `kubectl get` shows) and as bare metadata.

use coracle_api::{Object, time};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::resource::{Cell, Shown, TableColumn};

/// What a row carries beside its cells: the `includeObject` query parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum IncludeObject {
    None,
    #[default]
    Metadata,
    Object,
}

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
    columns: &[TableColumn],
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
pub(crate) fn definitions(columns: &[TableColumn]) -> Value {
    columns.iter().map(definition).collect()
}

fn definition(column: &TableColumn) -> Value {
    json!({"name": column.name, "type": column.kind, "format": column.format, "description": column.description,
           "priority": column.priority})
}

pub(crate) fn row(columns: &[TableColumn], object: &Object, include: IncludeObject, now: Timestamp) -> Value {
    let mut row = json!({});
    row["cells"] = columns.iter().map(|c| cell(c, object, now)).collect();
    row["object"] = match include {
        IncludeObject::None => Value::Null,
        IncludeObject::Metadata => partial_metadata(object).0,
        IncludeObject::Object => object.0.clone(),
    };
    row
}

pub(super) fn cell(column: &TableColumn, object: &Object, now: Timestamp) -> Value {
    match &column.cell {
        Shown::Row(Cell::Path(path)) => object.at(path).cloned().unwrap_or_else(|| match &*column.kind {
            "integer" | "number" => json!(0),
            "boolean" => json!(false),
            _ => json!(""),
        }),
        Shown::Row(Cell::Age) => {
            let created = object.at(&["metadata", "creationTimestamp"]);
            json!(time::since(created.and_then(time::parse), now))
        }
        Shown::Row(Cell::Compute(rule)) => rule(object, now),
        Shown::Path(path) => path.first(&object.0).map_or(Value::Null, |v| of_type(&column.kind, v, now)),
    }
}

/// A value as a custom column of a type shows it; nothing where it is of another type.
fn of_type(kind: &str, value: &Value, now: Timestamp) -> Value {
    match (kind, value) {
        ("string", Value::String(_)) | ("boolean", Value::Bool(_)) => value.clone(),
        ("string", Value::Null) => json!("<nil>"),
        ("string", other) => json!(other.to_string()),
        ("integer", Value::Number(n)) => n.as_i64().map_or_else(
            #[allow(clippy::cast_possible_truncation, reason = "upstream cuts fractions off, too")]
            || json!(n.as_f64().map(|f| f as i64)),
            |i| json!(i),
        ),
        ("number", Value::Number(n)) => json!(n.as_f64()),
        ("date", Value::String(_)) => match time::parse(value) {
            Some(at) => json!(time::since(Some(at), now)),
            None => json!("<invalid>"),
        },
        _ => Value::Null,
    }
}
