//! Namespaces: labelled with their own name, active until they are deleted, held by `spec.finalizers`.

use coracle_api::Object;
use coracle_api::names::{FINALIZER_KUBERNETES, LABEL_METADATA_NAME};
use serde_json::json;

use super::super::columns::{AGE, NAME, path};
use super::super::located::Located;
use super::super::validation::Errors;
use super::{field, part};
use crate::field::FieldError;
use crate::field_names::qualified_name;
use crate::resource::{CLUSTER, Row, Strategy, WriteContext};

/// Namespaces cannot be deleted as a collection.
const VERBS: &[&str] = &["create", "delete", "get", "list", "patch", "update", "watch"];

pub(super) const ROW: Row = Row {
    kind: "Namespace",
    metadata_looks: [2, 1],
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
        matches!(subresource, "" | "finalize" | "status")
    }

    fn validate(&self, cx: &WriteContext<'_>, new: &Object, old: Option<&Object>) -> Vec<FieldError> {
        let mut errors = Errors::default();
        let root = Located::root(new);
        match (cx.subresource, old) {
            ("status", _) => phase(&root.at("status").at("phase"), new.is_being_deleted(), &mut errors),
            ("", Some(_)) => {}
            (part, _) => {
                let list = root.at("spec").at("finalizers");
                for name in list.each() {
                    // Upstream says which of them only where it is about them alone.
                    let at = if part.is_empty() { name.clone().called(list.path()) } else { name };
                    finalizer(&at, &mut errors);
                }
            }
        }
        errors.0
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

fn finalizer(name: &Located<'_>, errors: &mut Errors) {
    name.obeys(qualified_name, errors);
    let known = matches!(name.text(), FINALIZER_KUBERNETES | "orphan" | "foregroundDeletion");
    if !name.text().contains('/') && !known {
        name.wrong("name is neither a standard finalizer name nor is it fully qualified", errors);
    }
}

fn phase(phase: &Located<'_>, ending: bool, errors: &mut Errors) {
    let (only, why) = match ending {
        false => ("Active", "may only be 'Active' if `deletionTimestamp` is empty"),
        true => ("Terminating", "may only be 'Terminating' if `deletionTimestamp` is not empty"),
    };
    if phase.text() != only {
        errors.invalid("status.Phase", phase.text(), why);
    }
}
