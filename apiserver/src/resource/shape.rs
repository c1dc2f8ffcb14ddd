//! What a row says in static data and a custom resource definition in text, in the one form that requests use.

use std::borrow::Cow;

use coracle_api::Object;
use serde_json::Value;

use super::{Cell, Column, ScalePaths, SelectableField};
use crate::crd::JsonPath;

/// Field names from an object's root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldPath(Box<[Box<str>]>);

/// A field that `fieldSelector` may name.
#[derive(Clone, Debug)]
pub struct IndexedField {
    pub label: Box<str>,
    pub path: FieldPath,
    /// What an absent field counts as.
    pub absent: Box<str>,
    /// Where to look when there is nothing under `path`; mostly empty.
    pub or: FieldPath,
}

/// Where `scale` finds its numbers in the object.
#[derive(Clone, Debug)]
pub struct Scale {
    pub spec_replicas: FieldPath,
    pub status_replicas: FieldPath,
    /// A `LabelSelector`, a plain map, or a selector's text; empty: there is none.
    pub selector: FieldPath,
}

/// One column of a table.
pub struct TableColumn {
    pub name: Cow<'static, str>,
    pub kind: Cow<'static, str>,
    pub format: Cow<'static, str>,
    pub description: Cow<'static, str>,
    pub priority: i64,
    pub cell: Shown,
}

/// Where a cell's value comes from.
pub enum Shown {
    Row(Cell),
    Path(JsonPath),
}

/// The columns of a kind that names none.
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

pub(super) fn columns(columns: &[Column]) -> Vec<TableColumn> {
    let columns = if columns.is_empty() { &NAME_AND_AGE } else { columns };
    columns.iter().map(TableColumn::from).collect()
}

// === impl FieldPath ===

impl FieldPath {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value there.
    pub fn of<'a>(&self, object: &'a Object) -> Option<&'a Value> {
        self.0.iter().try_fold(&object.0, |value, name| value.get(&**name))
    }

    pub fn set(&self, object: &mut Object, value: impl Into<Value>) {
        object.set(&self.names(), value);
    }

    pub fn names(&self) -> Vec<&str> {
        self.0.iter().map(|name| &**name).collect()
    }
}

impl From<&[&str]> for FieldPath {
    fn from(names: &[&str]) -> Self {
        FieldPath(names.iter().map(|&name| name.into()).collect())
    }
}

/// `.spec.replicas`
impl From<&str> for FieldPath {
    fn from(path: &str) -> Self {
        FieldPath(path.split('.').filter(|name| !name.is_empty()).map(Into::into).collect())
    }
}

impl From<&SelectableField> for IndexedField {
    fn from(field: &SelectableField) -> Self {
        IndexedField {
            label: field.label.into(),
            path: field.path.into(),
            absent: field.absent.into(),
            or: field.or.into(),
        }
    }
}

impl From<ScalePaths> for Scale {
    fn from(paths: ScalePaths) -> Self {
        Scale {
            spec_replicas: paths.spec_replicas.into(),
            status_replicas: paths.status_replicas.into(),
            selector: paths.selector.into(),
        }
    }
}

impl From<&Column> for TableColumn {
    fn from(column: &Column) -> Self {
        TableColumn {
            name: column.name.into(),
            kind: column.kind.into(),
            format: column.format.into(),
            description: "".into(),
            priority: column.priority.into(),
            cell: Shown::Row(column.cell),
        }
    }
}
