//! `node.k8s.io`: runtime classes.

use coracle_api::Object;

use super::columns::{AGE, NAME, path};
use super::validation::Errors;
use crate::field::FieldError;
use crate::field_names::dns1123_label;
use crate::resource::{CLUSTER, Row, Strategy, WriteContext};

pub(super) static ROWS: &[Row] = &[Row {
    group: "node.k8s.io",
    kind: "RuntimeClass",
    plural: "runtimeclasses",
    columns: &[NAME, path("Handler", &["handler"]), AGE],
    strategy: &RuntimeClasses,
    create_on_update: true,
    conditional_update: true,
    free_finalizers: true,
    ..CLUSTER
}];

struct RuntimeClasses;

impl Strategy for RuntimeClasses {
    fn validate(&self, _cx: &WriteContext<'_>, new: &Object, old: Option<&Object>) -> Vec<FieldError> {
        let mut errors = Errors::default();
        match new.str_at(&["handler"]) {
            "" => errors.required("handler", ""),
            handler => errors.all_invalid("handler", handler, dns1123_label(handler)),
        }
        if let Some(old) = old {
            errors.immutable("handler", new.at(&["handler"]), old.at(&["handler"]));
        }
        errors.0
    }
}
