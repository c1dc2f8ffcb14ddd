//! `apiextensions.k8s.io`: custom resource definitions.

use coracle_api::{Object, time};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::columns::NAME_AND_CREATED_AT;
use crate::crd::FINALIZER;
use crate::field::FieldError;
use crate::field_names::dns1123_subdomain;
use crate::resource::{CLUSTER, Row, Strategy, WriteContext};

pub(super) static ROWS: &[Row] = &[Row {
    group: "apiextensions.k8s.io",
    kind: "CustomResourceDefinition",
    plural: "customresourcedefinitions",
    stored_as: "apiextensions.k8s.io/v1beta1/CustomResourceDefinition",
    short: &["crd", "crds"],
    categories: &["api-extensions"],
    status: true,
    generation: true,
    columns: NAME_AND_CREATED_AT,
    strategy: &Definitions,
    conditional_update: true,
    free_finalizers: true,
    returns_deleted: false,
    ..CLUSTER
}];

struct Definitions;

impl Strategy for Definitions {
    fn default(&self, new: &mut Object) {
        let kind = new.str_at(&["spec", "names", "kind"]).to_owned();
        if new.str_at(&["spec", "names", "singular"]).is_empty() {
            new.set(&["spec", "names", "singular"], kind.to_lowercase());
        }
        if new.str_at(&["spec", "names", "listKind"]).is_empty() && !kind.is_empty() {
            new.set(&["spec", "names", "listKind"], format!("{kind}List"));
        }
        if new.at(&["spec", "conversion"]).is_none_or(Value::is_null) {
            new.set(&["spec", "conversion"], json!({"strategy": "None"}));
        }
        let service = ["spec", "conversion", "webhook", "clientConfig", "service"];
        if new.at(&service).is_some_and(Value::is_object) {
            let port = [&service[..], &["port"]].concat();
            new.set_default(&port, 443);
        }
    }

    fn prepare(&self, cx: &WriteContext<'_>, new: &mut Object, old: Option<&Object>) {
        if old.is_none() {
            new.set(
                &["status"],
                json!({"conditions": null, "acceptedNames": {"plural": "", "kind": ""}, "storedVersions": null}),
            );
        }
        if !cx.subresource.is_empty() {
            return;
        }
        let versions = new.items_at(&["spec", "versions"]);
        let stored = versions.iter().find(|v| v["storage"] == true).map(|v| v["name"].clone());
        let list = new.entry(&["status", "storedVersions"]);
        if !list.is_array() {
            *list = json!([]);
        }
        if let (Some(list), Some(stored)) = (list.as_array_mut(), stored)
            && !list.contains(&stored)
        {
            list.push(stored);
        }
    }

    fn validate_name(&self, name: &str, of: &Object) -> Vec<String> {
        let wanted = format!("{}.{}", of.str_at(&["spec", "names", "plural"]), of.str_at(&["spec", "group"]));
        let mut wrong = dns1123_subdomain(name);
        if name != wanted {
            wrong.push("must be spec.names.plural+\".\"+spec.group".to_owned());
        }
        wrong
    }

    fn validate(&self, cx: &WriteContext<'_>, new: &Object, old: Option<&Object>) -> Vec<FieldError> {
        // Schemas are large, and their rules are compiled.
        crate::cel::beside_workers(|| crate::crd::validate(new, old, cx.subresource == "status"))
    }

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        let known = old.map(crate::crd::unknown_formats).unwrap_or_default();
        let mut formats = crate::crd::unknown_formats(new);
        formats.retain(|format| !known.contains(format));
        formats.into_iter().map(|format| format!("unrecognized format {format:?}")).collect()
    }

    /// A definition that is deleted is kept until its objects are gone.
    fn held(&self, object: &Object) -> bool {
        !object.is_being_deleted()
    }

    fn terminate(&self, object: &mut Object) {
        // Upstream marks definitions by a way of its own: without a grace period, and without a new generation.
        if object.remove(&["metadata", "deletionGracePeriodSeconds"]).is_some() {
            object.set(&["metadata", "generation"], object.generation() - 1);
        }
        let there = object.at(&["status", "conditions"]).cloned().unwrap_or_default();
        let marked = there.as_array().is_some_and(|c| c.iter().any(|c| c["type"] == "Terminating"));
        if marked {
            return;
        }
        let mut finalizers: Vec<String> = object.finalizers().map(str::to_owned).collect();
        if !finalizers.iter().any(|f| f == FINALIZER) {
            finalizers.push(FINALIZER.to_owned());
        }
        object.set(&["metadata", "finalizers"], json!(finalizers));
        let mut conditions = there.as_array().cloned().unwrap_or_default();
        conditions.push(json!({"type": "Terminating", "status": "True", "reason": "InstanceDeletionPending",
            "lastTransitionTime": time::seconds(Timestamp::now()),
            "message": "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon"}));
        object.set(&["status", "conditions"], Value::Array(conditions));
    }
}
