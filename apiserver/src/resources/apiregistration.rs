//! `apiregistration.k8s.io`: which group versions other servers answer.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use coracle_api::{Object, conditions};
use serde_json::{Value, json};

use super::columns::{AGE, NAME, rule};
use super::validation::Errors;
use crate::field::FieldError;
use crate::field_names::{dns1035_label, dns1123_subdomain};
use crate::resource::{CLUSTER, Row, Strategy, WriteContext};

pub(super) static ROWS: &[Row] = &[Row {
    group: "apiregistration.k8s.io",
    kind: "APIService",
    metadata_looks: [2, 1],
    plural: "apiservices",
    resets: &[("status", &[&["metadata"], &["spec"]])],
    categories: &["api-extensions"],
    status: true,
    columns: &[
        NAME,
        rule("Service", |o, _| match o.at(&["spec", "service"]) {
            Some(s) => {
                let text = |key: &str| s[key].as_str().unwrap_or_default();
                json!(format!("{}/{}", text("namespace"), text("name")))
            }
            None => json!("Local"),
        }),
        rule("Available", |o, _| available(o)),
        AGE,
    ],
    strategy: &Services,
    conditional_update: true,
    free_finalizers: true,
    ..CLUSTER
}];

fn available(o: &Object) -> Value {
    match conditions::find(o.items_at(&["status", "conditions"]), "Available") {
        Some(c) if c["status"] == "True" => json!("True"),
        Some(c) => {
            let text = |key: &str| c[key].as_str().unwrap_or_default();
            json!(format!("{} ({})", text("status"), text("reason")))
        }
        None => json!("Unknown"),
    }
}

struct Services;

impl Strategy for Services {
    fn default(&self, new: &mut Object) {
        if new.at(&["spec", "service"]).is_some_and(|s| s.is_object() && s["port"].is_null()) {
            new.set(&["spec", "service", "port"], 443);
        }
    }

    /// What this server answers itself is there at once.
    fn prepare(&self, cx: &WriteContext<'_>, new: &mut Object, old: Option<&Object>) {
        if old.is_none() && new.at(&["spec", "service"]).is_none() {
            let condition = crate::aggregation::local_condition(cx.now);
            new.set(&["status", "conditions"], json!([condition]));
        }
    }

    fn validates(&self, subresource: &str) -> bool {
        matches!(subresource, "" | "status")
    }

    fn validate_name(&self, name: &str, of: &Object) -> Vec<String> {
        let required = format!("{}.{}", of.str_at(&["spec", "version"]), of.str_at(&["spec", "group"]));
        match name == required {
            true => vec![],
            false => vec![format!("must be `spec.version+\".\"+spec.group`: {required:?}")],
        }
    }

    fn validate(&self, cx: &WriteContext<'_>, new: &Object, _old: Option<&Object>) -> Vec<FieldError> {
        let mut errors = Errors::default();
        if cx.subresource == "status" {
            validate_status(new, &mut errors);
            return errors.0;
        }
        let text = |key: &str| new.str_at(&["spec", key]);
        let (group, version) = (text("group"), text("version"));
        match group {
            "" if version != "v1" => {
                errors.required("spec.group", "only v1 may have an empty group and it better be legacy kube");
            }
            "" => {}
            group => errors.all_invalid("spec.group", group, dns1123_subdomain(group)),
        }
        errors.all_invalid("spec.version", version, dns1035_label(version));
        for (key, below) in [("groupPriorityMinimum", 20_000), ("versionPriority", 1000)] {
            let value = new.i64_at(&["spec", key]).unwrap_or(0);
            if !(1..=below).contains(&value) {
                let detail = format!("must be positive and less than {below}");
                errors.invalid(format!("spec.{key}"), value, detail);
            }
        }
        match new.at(&["spec", "service"]) {
            Some(service) => validate_service(new, service, &mut errors),
            None => validate_local(new, &mut errors),
        }
        errors.0
    }
}

/// Where another server answers: which one, and how it is believed.
fn validate_service(new: &Object, service: &Value, errors: &mut Errors) {
    for key in ["namespace", "name"] {
        if service[key].as_str().unwrap_or_default().is_empty() {
            errors.required(format!("spec.service.{key}"), "");
        }
    }
    let port = service["port"].as_i64().unwrap_or(0);
    if !(1..=65535).contains(&port) {
        let detail = "port is not valid: must be between 1 and 65535, inclusive";
        errors.invalid("spec.service.port", port, detail);
    }
    if insecure(new) && !new.str_at(&["spec", "caBundle"]).is_empty() {
        errors.invalid("spec.insecureSkipTLSVerify", true, "may not be true if caBundle is present");
    }
}

fn validate_local(new: &Object, errors: &mut Errors) {
    let bundle = STANDARD.decode(new.str_at(&["spec", "caBundle"])).unwrap_or_default();
    if !bundle.is_empty() {
        let shown = format!("{} bytes", bundle.len());
        errors.invalid("spec.caBundle", shown, "local APIServices may not have a caBundle");
    }
    if insecure(new) {
        let detail = "local APIServices may not have insecureSkipTLSVerify";
        errors.invalid("spec.insecureSkipTLSVerify", true, detail);
    }
}

fn insecure(new: &Object) -> bool {
    new.at(&["spec", "insecureSkipTLSVerify"]) == Some(&json!(true))
}

fn validate_status(new: &Object, errors: &mut Errors) {
    for (i, condition) in new.items_at(&["status", "conditions"]).iter().enumerate() {
        if !matches!(condition["status"].as_str(), Some("True" | "False" | "Unknown")) {
            let at = format!("status.conditions[{i}].status");
            let shown = format!("{:?}", condition["status"].as_str().unwrap_or_default());
            errors.unsupported_text(at, shown, &["True", "False", "Unknown"]);
        }
    }
}
