//! `admissionregistration.k8s.io`: webhooks and CEL policies.

use coracle_api::Object;
use serde_json::{Value, json};

use super::columns::{AGE, NAME, label_selector, of_kind, path, rule, size};
use super::defaulting::{each, fill, object, within};
use super::located::{Located, conditions};
use super::policy_rules::{binding, policy};
use super::validation::Errors;
use super::webhook_rules::webhooks;
use crate::field::FieldError;
use crate::resource::{CLUSTER, Column, Row, Strategy, WriteContext};

const KIND: Row = Row {
    group: "admissionregistration.k8s.io",
    categories: &["api-extensions"],
    generation: true,
    free_finalizers: true,
    ..CLUSTER
};

pub(super) static ROWS: &[Row] = &[
    Row {
        kind: "MutatingAdmissionPolicy",
        plural: "mutatingadmissionpolicies",
        stored_as: "admissionregistration.k8s.io/v1beta1/MutatingAdmissionPolicy",
        columns: &[
            NAME,
            of_kind("integer", rule("Mutations", |o, _| json!(size(o, &["spec", "mutations"])))),
            PARAM_KIND,
            AGE,
        ],
        strategy: &Policies,
        conditional_update: true,
        ..KIND
    },
    Row {
        kind: "MutatingAdmissionPolicyBinding",
        plural: "mutatingadmissionpolicybindings",
        stored_as: "admissionregistration.k8s.io/v1beta1/MutatingAdmissionPolicyBinding",
        columns: BINDING,
        strategy: &Bindings,
        conditional_update: true,
        ..KIND
    },
    Row {
        kind: "MutatingWebhookConfiguration",
        plural: "mutatingwebhookconfigurations",
        columns: WEBHOOKS,
        strategy: &Webhooks,
        conditional_update: true,
        ..KIND
    },
    Row {
        kind: "ValidatingAdmissionPolicy",
        plural: "validatingadmissionpolicies",
        resets: &[("status", &[&["metadata"], &["spec"]])],
        status: true,
        columns: &[
            NAME,
            of_kind("integer", rule("Validations", |o, _| json!(size(o, &["spec", "validations"])))),
            PARAM_KIND,
            AGE,
        ],
        strategy: &Policies,
        conditional_update: true,
        ..KIND
    },
    Row {
        kind: "ValidatingAdmissionPolicyBinding",
        plural: "validatingadmissionpolicybindings",
        columns: BINDING,
        strategy: &Bindings,
        conditional_update: true,
        ..KIND
    },
    Row {
        kind: "ValidatingWebhookConfiguration",
        plural: "validatingwebhookconfigurations",
        columns: WEBHOOKS,
        strategy: &Webhooks,
        conditional_update: true,
        ..KIND
    },
];

const PARAM_KIND: Column = rule("ParamKind", |o, _| match o.at(&["spec", "paramKind"]) {
    Some(kind) => {
        let text = |key: &str| kind[key].as_str().unwrap_or_default();
        json!(format!("{}/{}", text("apiVersion"), text("kind")))
    }
    None => json!("<unset>"),
});

const WEBHOOKS: &[Column] =
    &[NAME, of_kind("integer", rule("Webhooks", |o, _| json!(size(o, &["webhooks"])))), AGE];

const BINDING: &[Column] =
    &[NAME, path("PolicyName", &["spec", "policyName"]), rule("ParamRef", |o, _| json!(param_ref(o))), AGE];

fn param_ref(o: &Object) -> String {
    let Some(param) = o.at(&["spec", "paramRef"]) else { return "<unset>".to_owned() };
    let text = |key: &str| param[key].as_str().unwrap_or_default();
    match (text("namespace"), text("name")) {
        (_, "") if param["selector"].is_object() => label_selector(param.get("selector")),
        (_, "") => "<unset>".to_owned(),
        ("", name) => format!("*/{name}"),
        (namespace, name) => format!("{namespace}/{name}"),
    }
}

fn matching(it: &mut Value) {
    fill(it, "matchPolicy", "Equivalent");
    fill(it, "namespaceSelector", json!({}));
    fill(it, "objectSelector", json!({}));
    for list in ["resourceRules", "excludeResourceRules", "rules"] {
        each(it, list, |rule| fill(rule, "scope", "*"));
    }
}

struct Webhooks;

impl Strategy for Webhooks {
    fn default(&self, new: &mut Object) {
        let mutating = new.kind() == "MutatingWebhookConfiguration";
        each(&mut new.0, "webhooks", |hook| {
            fill(hook, "failurePolicy", "Fail");
            matching(hook);
            fill(hook, "timeoutSeconds", 10);
            if mutating {
                fill(hook, "reinvocationPolicy", "Never");
            }
            within(hook, "clientConfig", |c| within(c, "service", |s| fill(s, "port", 443)));
        });
    }

    fn validate(&self, _cx: &WriteContext<'_>, new: &Object, _old: Option<&Object>) -> Vec<FieldError> {
        let mut errors = Errors::default();
        webhooks(new, &mut errors);
        errors.0
    }
}

struct Policies;

impl Strategy for Policies {
    fn default(&self, new: &mut Object) {
        let spec = object(&mut new.0, "spec");
        fill(spec, "failurePolicy", "Fail");
        within(spec, "matchConstraints", matching);
    }

    fn validates(&self, subresource: &str) -> bool {
        matches!(subresource, "" | "status")
    }

    fn validate(&self, cx: &WriteContext<'_>, new: &Object, _old: Option<&Object>) -> Vec<FieldError> {
        let mut errors = Errors::default();
        match cx.subresource {
            "status" => policy_status(&Located::root(new).at("status"), &mut errors),
            _ => policy(new, &mut errors),
        }
        errors.0
    }
}

struct Bindings;

impl Strategy for Bindings {
    fn default(&self, new: &mut Object) {
        within(object(&mut new.0, "spec"), "matchResources", matching);
    }

    fn validate(&self, _cx: &WriteContext<'_>, new: &Object, _old: Option<&Object>) -> Vec<FieldError> {
        let mut errors = Errors::default();
        binding(new, &mut errors);
        errors.0
    }
}

fn policy_status(status: &Located<'_>, errors: &mut Errors) {
    for warning in status.at("typeChecking").at("expressionWarnings").each() {
        warning.at("warning").required(errors);
        warning.at("fieldRef").required(errors);
    }
    conditions(&status.at("conditions"), errors);
}
