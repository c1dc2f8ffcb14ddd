//! ReplicationControllers and PodTemplates.

use coracle_api::Object;
use serde_json::{Value, json};

use super::super::columns::{
    AGE, MAP_SELECTOR, NAME, TEMPLATE_CONTAINERS, TEMPLATE_IMAGES, integer, labels, names_of, rule,
};
use super::super::defaulting::{fill, object};
use super::super::pod_spec;
use super::super::validation::Errors;
use super::super::workload_status;
use crate::field::FieldError;
use crate::resource::{NAMESPACED, Row, ScalePaths, SelectableField, Strategy, WriteContext};

pub(super) const CONTROLLER: Row = Row {
    kind: "ReplicationController",
    plural: "replicationcontrollers",
    short: &["rc"],
    categories: &["all"],
    status: true,
    generation: true,
    scale: Some(ScalePaths {
        spec_replicas: &["spec", "replicas"],
        status_replicas: &["status", "replicas"],
        selector: &["spec", "selector"],
    }),
    fields: &[SelectableField {
        label: "status.replicas",
        path: &["status", "replicas"],
        absent: "0",
        or: &[],
    }],
    columns: &[
        NAME,
        integer("Desired", &["spec", "replicas"]),
        integer("Current", &["status", "replicas"]),
        integer("Ready", &["status", "readyReplicas"]),
        AGE,
        TEMPLATE_CONTAINERS,
        TEMPLATE_IMAGES,
        MAP_SELECTOR,
    ],
    first_status: r#"{"replicas": 0}"#,
    strategy: &Controllers,
    ..NAMESPACED
};

pub(super) const POD_TEMPLATE: Row = Row {
    kind: "PodTemplate",
    plural: "podtemplates",
    generation: true,
    columns: &[
        NAME,
        rule("Containers", |o, _| names_of(o.items_at(&["template", "spec", "containers"]), "name")),
        rule("Images", |o, _| names_of(o.items_at(&["template", "spec", "containers"]), "image")),
        rule("Pod Labels", |o, _| labels(o.at(&["template", "metadata", "labels"]))),
    ],
    strategy: &Templates,
    returns_deleted: true,
    ..NAMESPACED
};

struct Controllers;

impl Strategy for Controllers {
    fn default(&self, new: &mut Object) {
        if let Some(labels) = new.at(&["spec", "template", "metadata", "labels"]).cloned() {
            let empty = |v: Option<&Value>| v.is_none_or(|v| *v == json!({}));
            if empty(new.at(&["spec", "selector"])) {
                new.set(&["spec", "selector"], labels.clone());
            }
            if empty(new.at(&["metadata", "labels"])) {
                new.set(&["metadata", "labels"], labels);
            }
        }
        let spec = object(&mut new.0, "spec");
        fill(spec, "replicas", 1);
        if !spec["template"].is_null() {
            pod_spec::template(object(spec, "template"));
        }
    }

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        super::super::apps::changed_template_warnings(new, old)
    }

    fn validates(&self, _subresource: &str) -> bool {
        true
    }

    fn validate(&self, cx: &WriteContext<'_>, new: &Object, old: Option<&Object>) -> Vec<FieldError> {
        if cx.subresource == "status" {
            return super::super::apps::counts(&workload_status::CONTROLLER, new, old);
        }
        let mut errors = Errors::default();
        errors.non_negative("spec.replicas", new.i64_at(&["spec", "replicas"]));
        errors.non_negative("spec.minReadySeconds", new.i64_at(&["spec", "minReadySeconds"]));
        let selector = json!({"matchLabels": new.at(&["spec", "selector"])});
        if super::super::validation::is_empty_selector(&selector) {
            errors.required("spec.selector", "");
        }
        match new.at(&["spec", "template"]) {
            None => errors.required("spec.template", ""),
            Some(template) => {
                let labels = &template["metadata"]["labels"];
                let picked = super::super::validation::selector_matches(&selector, labels);
                pod_spec::replicated_template(
                    "spec.template",
                    template,
                    Some(picked),
                    "ReplicationController",
                    &mut errors,
                );
            }
        }
        errors.0
    }

    fn default_orphan(&self) -> bool {
        true
    }
}

struct Templates;

impl Strategy for Templates {
    fn validate(&self, _cx: &WriteContext<'_>, new: &Object, _old: Option<&Object>) -> Vec<FieldError> {
        let mut errors = Errors::default();
        pod_spec::job_template("template", new.at(&["template"]).unwrap_or(&Value::Null), &mut errors);
        errors.0
    }

    fn default(&self, new: &mut Object) {
        pod_spec::template(object(&mut new.0, "template"));
    }
}
