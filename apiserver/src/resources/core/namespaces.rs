//! Namespaces: labelled with their own name, active until they are deleted, held by `spec.finalizers`.

use coracle_api::Object;
use coracle_api::names::{FINALIZER_KUBERNETES, LABEL_METADATA_NAME};
use serde_json::json;

use super::super::columns::{AGE, NAME, path};
use super::{field, part};
use crate::field::FieldError;
use crate::resource::{CLUSTER, Row, Strategy, WriteContext};

/// Namespaces cannot be deleted as a collection.
const VERBS: &[&str] = &["create", "delete", "get", "list", "patch", "update", "watch"];

pub(super) const ROW: Row = Row {
    kind: "Namespace",
    plural: "namespaces",
    resets: &[("finalize", &[&["status"]])],
    short: &["ns"],
    verbs: VERBS,
    status: true,
    fields: &[field("status.phase", &["status", "phase"])],
    columns: &[NAME, path("Status", &["status", "phase"]), AGE],
    subresources: &[part("finalize", "Namespace", &["update"])],
    strategy: &Namespaces,
    returns_deleted: true,
    ..CLUSTER
};

struct Namespaces;

impl Strategy for Namespaces {
    fn default(&self, new: &mut Object) {
        if !new.name().is_empty() {
            let name = new.name().to_owned();
            new.set(&["metadata", "labels", LABEL_METADATA_NAME], name);
        }
        new.set_default(&["status", "phase"], "Active");
    }

    fn prepare(&self, cx: &WriteContext<'_>, new: &mut Object, old: Option<&Object>) {
        let Some(old) = old else {
            let held = new.items_at(&["spec", "finalizers"]).iter().any(|f| f == FINALIZER_KUBERNETES);
            if !held {
                let mut finalizers = new.items_at(&["spec", "finalizers"]).to_vec();
                finalizers.push(json!(FINALIZER_KUBERNETES));
                new.set(&["spec", "finalizers"], finalizers);
            }
            // A generated name is known only now.
            self.default(new);
            return;
        };
        if cx.subresource.is_empty() {
            let finalizers = old.items_at(&["spec", "finalizers"]).to_vec();
            match finalizers.is_empty() {
                true => drop(new.remove(&["spec", "finalizers"])),
                false => new.set(&["spec", "finalizers"], finalizers),
            }
        }
    }

    fn validate_name(&self, name: &str, _of: &Object) -> Vec<String> {
        crate::field_names::dns1123_label(name)
    }

    fn validates(&self, subresource: &str) -> bool {
        matches!(subresource, "" | "finalize")
    }

    fn validate(&self, _cx: &WriteContext<'_>, new: &Object, _old: Option<&Object>) -> Vec<FieldError> {
        let mut errors = vec![];
        for (i, finalizer) in new.items_at(&["spec", "finalizers"]).iter().enumerate() {
            let (at, name) = (format!("spec.finalizers[{i}]"), finalizer.as_str().unwrap_or_default());
            let bad = crate::field_names::qualified_name(name).into_iter();
            errors.extend(bad.map(|why| FieldError::invalid(&*at, finalizer, why)));
            if !name.contains('/') && !matches!(name, FINALIZER_KUBERNETES | "orphan" | "foregroundDeletion")
            {
                let why = "name is neither a standard finalizer name nor is it fully qualified";
                errors.push(FieldError::invalid(&*at, finalizer, why));
            }
        }
        errors
    }

    fn isolate(&self, _subresource: &str, new: &mut Object, old: &Object) {
        new.set(&["status"], old.at(&["status"]).cloned().unwrap_or_default());
    }

    fn terminate(&self, object: &mut Object) {
        object.set(&["status", "phase"], "Terminating");
    }

    fn held(&self, object: &Object) -> bool {
        !object.items_at(&["spec", "finalizers"]).is_empty()
    }
}
