//! What is wrong with webhook configurations: names, rules, and where the hook is.

use std::cell::LazyCell;
use std::collections::HashSet;

use coracle_api::Object;
use serde_json::Value;

use super::pod_spec::items;
use super::validation::{Errors, label_selector};
use crate::admission::expressions::{self, Declared};
use crate::cel::Type;
use crate::field::FieldError;
use crate::field_names::{dns1035_label, dns1123_subdomain, port_number, qualified_name};

const OPERATIONS: [&str; 5] = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
const MAX_CONDITIONS: usize = 64;
const VERSIONS: [&str; 2] = ["v1", "v1beta1"];

pub(super) fn webhooks(new: &Object, errors: &mut Errors) {
    let mut names = HashSet::new();
    for (i, hook) in new.items_at(&["webhooks"]).iter().enumerate() {
        let at = format!("webhooks[{i}]");
        webhook(&at, hook, errors);
        review_versions(&format!("{at}.admissionReviewVersions"), hook, errors);
        let name = hook["name"].as_str().unwrap_or_default();
        if !name.is_empty() && !names.insert(name) {
            errors.duplicate(format!("{at}.name"), name);
        }
    }
}

fn webhook(at: &str, hook: &Value, errors: &mut Errors) {
    let text = |key: &str| hook[key].as_str().unwrap_or_default();
    full_name(&format!("{at}.name"), text("name"), errors);
    for (i, rule) in items(hook, "rules").enumerate() {
        let at = format!("{at}.rules[{i}]");
        operations(&format!("{at}.operations"), rule, errors);
        resource_rule(&at, rule, errors);
    }
    errors.supported(format!("{at}.failurePolicy"), text("failurePolicy"), &["Fail", "Ignore"]);
    errors.supported(format!("{at}.matchPolicy"), text("matchPolicy"), &["Equivalent", "Exact"]);
    match hook["sideEffects"].as_str() {
        None => errors.required(format!("{at}.sideEffects"), "must specify one of None, NoneOnDryRun"),
        Some(effects) => {
            errors.supported(format!("{at}.sideEffects"), effects, &["None", "NoneOnDryRun"]);
        }
    }
    if let Some(seconds) = hook["timeoutSeconds"].as_i64().filter(|s| !(1..=30).contains(s)) {
        let detail = "the timeout value must be between 1 and 30 seconds";
        errors.invalid(format!("{at}.timeoutSeconds"), seconds, detail);
    }
    for key in ["namespaceSelector", "objectSelector"] {
        label_selector(&format!("{at}.{key}"), &hook[key], errors);
    }
    client(&format!("{at}.clientConfig"), &hook["clientConfig"], errors);
    if let Some(policy) = hook["reinvocationPolicy"].as_str() {
        errors.supported(format!("{at}.reinvocationPolicy"), policy, &["IfNeeded", "Never"]);
    }
    conditions(&format!("{at}.matchConditions"), hook, false, errors);
}

/// At least three labels, so that two vendors do not choose the same.
fn full_name(at: &str, name: &str, errors: &mut Errors) {
    if name.is_empty() {
        return errors.required(at, "");
    }
    let wrong = dns1123_subdomain(name);
    if !wrong.is_empty() {
        return errors.all_invalid(at, name, wrong);
    }
    if name.split('.').count() < 3 {
        errors.invalid(at, name, "should be a domain with at least three segments separated by dots");
    }
}

pub(super) fn operations(at: &str, rule: &Value, errors: &mut Errors) {
    let all: Vec<&str> = items(rule, "operations").filter_map(Value::as_str).collect();
    if all.is_empty() {
        errors.required(at, "");
    }
    if all.len() > 1 && all.contains(&"*") {
        let detail = "if '*' is present, must not specify other operations";
        errors.invalid(at, rule["operations"].clone(), detail);
    }
    for (i, operation) in all.iter().enumerate() {
        errors.supported(format!("{at}[{i}]"), operation, &OPERATIONS);
    }
}

/// Groups, versions and resources: each at least one, and `*` alone.
pub(super) fn resource_rule(at: &str, rule: &Value, errors: &mut Errors) {
    for (key, what) in [("apiGroups", "API groups"), ("apiVersions", "API versions")] {
        let at = format!("{at}.{key}");
        let count = items(rule, key).count();
        if count == 0 {
            errors.required(&*at, "");
        }
        if count > 1 && items(rule, key).any(|v| v == "*") {
            let detail = format!("if '*' is present, must not specify other {what}");
            errors.invalid(&*at, rule[key].clone(), detail);
        }
        for (i, version) in items(rule, key).enumerate() {
            if key == "apiVersions" && version == "" {
                errors.required(format!("{at}[{i}]"), "");
            }
        }
    }
    resources(&format!("{at}.resources"), rule, errors);
    if let Some(scope) = rule["scope"].as_str() {
        errors.supported(format!("{at}.scope"), scope, &["*", "Cluster", "Namespaced"]);
    }
}

fn resources(at: &str, rule: &Value, errors: &mut Errors) {
    let all: Vec<&str> = items(rule, "resources").filter_map(Value::as_str).collect();
    if all.is_empty() {
        errors.required(at, "");
    }
    let (mut any_sub, mut of_all) = (HashSet::new(), HashSet::new());
    for (i, text) in all.iter().enumerate() {
        let at = format!("{at}[{i}]");
        if text.is_empty() {
            errors.required(at, "");
            continue;
        }
        if *text == "*/*" && all.len() > 1 {
            let detail = "if '*/*' is present, must not specify other resources";
            errors.invalid(at, *text, detail);
            continue;
        }
        let Some((resource, sub)) = text.split_once('/') else { continue };
        if any_sub.contains(resource) {
            errors.invalid(&*at, *text, format!("if '{resource}/*' is present, must not specify {text}"));
        }
        if of_all.contains(sub) {
            errors.invalid(&*at, *text, format!("if '*/{sub}' is present, must not specify {text}"));
        }
        if sub == "*" {
            any_sub.insert(resource);
        }
        if resource == "*" {
            of_all.insert(sub);
        }
    }
    if all.len() > 1 && all.contains(&"*") && all.iter().any(|r| !r.contains('/') && *r != "*") {
        let detail = "if '*' is present, must not specify other resources without subresources";
        errors.invalid(at, rule["resources"].clone(), detail);
    }
}

/// What is wrong with where a webhook is said to be, whoever calls it.
pub(crate) fn wrong_webhook_client(at: &str, client: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    self::client(at, client, &mut errors);
    errors.0
}

fn client(at: &str, client: &Value, errors: &mut Errors) {
    let service = &client["service"];
    match (client["url"].as_str(), service.is_object()) {
        (Some(_), true) | (None, false) => errors.required(at, "exactly one of url or service is required"),
        (Some(url), false) => check_url(&format!("{at}.url"), url, errors),
        (None, true) => check_service(&format!("{at}.service"), service, errors),
    }
}

fn check_url(at: &str, url: &str, errors: &mut Errors) {
    const FORM: &str = "; desired format: https://host[/path]";
    let (scheme, rest) = url.split_once(':').unwrap_or(("", url));
    let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let authority = rest.strip_prefix("//").unwrap_or_default();
    let authority = authority.split('/').next().unwrap_or_default();
    let (user, host) = authority.rsplit_once('@').map_or((None, authority), |(u, h)| (Some(u), h));
    if scheme != "https" {
        errors.invalid(at, scheme, format!("'https' is the only allowed URL scheme{FORM}"));
    }
    if host.is_empty() {
        errors.invalid(at, host, format!("host must be specified{FORM}"));
    }
    if let Some(user) = user {
        errors.invalid(at, user, "user information is not permitted in the URL");
    }
    if !fragment.is_empty() {
        errors.invalid(at, fragment, "fragments are not permitted in the URL");
    }
    if !query.is_empty() {
        errors.invalid(at, query, "query parameters are not permitted in the URL");
    }
}

/// The Service's own names are given to upstream's rule the wrong way round, and so they are here.
fn check_service(at: &str, service: &Value, errors: &mut Errors) {
    let text = |key: &str| service[key].as_str().unwrap_or_default();
    for (value, named) in [("namespace", "name"), ("name", "namespace")] {
        if text(value).is_empty() {
            errors.required(format!("{at}.{named}"), "");
        }
    }
    let port = service["port"].as_i64().unwrap_or(0);
    let wrong = port_number(port);
    if !wrong.is_empty() {
        errors.invalid(format!("{at}.port"), port, format!("port is not valid: {}", wrong.join(", ")));
    }
    let path = text("path");
    let at = format!("{at}.path");
    if matches!(path, "" | "/") {
        return;
    }
    if path == "//" {
        return errors.invalid(at, path, "segment[0] may not be empty");
    }
    if !path.starts_with('/') {
        errors.invalid(&*at, path, "must start with a '/'");
    }
    let inner = path.get(1..).unwrap_or_default();
    for (i, step) in inner.strip_suffix('/').unwrap_or(inner).split('/').enumerate() {
        if step.is_empty() {
            errors.invalid(&*at, path, format!("segment[{i}] may not be empty"));
            continue;
        }
        for wrong in dns1123_subdomain(step) {
            errors.invalid(&*at, path, format!("segment[{i}]: {wrong}"));
        }
    }
}

/// Expressions must be there, be about what is declared, answer yes or no, and have names of their own.
pub(super) fn conditions(at: &str, hook: &Value, params: bool, errors: &mut Errors) {
    let mut names = HashSet::new();
    let environment = LazyCell::new(|| {
        expressions::environment(Declared { params, authorizer: true, ..Declared::default() })
    });
    let count = items(hook, "matchConditions").count();
    if count > MAX_CONDITIONS {
        errors.0.push(FieldError::too_many(at, count, MAX_CONDITIONS));
    }
    for (i, condition) in items(hook, "matchConditions").enumerate() {
        let at = format!("{at}[{i}]");
        let text = |key: &str| condition[key].as_str().unwrap_or_default();
        match text("expression").trim() {
            "" => errors.required(format!("{at}.expression"), ""),
            expression => {
                if let Err(why) = environment.compile_as(expression, &[Type::Bool]) {
                    errors.invalid(format!("{at}.expression"), expression, why);
                }
            }
        }
        match text("name") {
            "" => errors.required(format!("{at}.name"), ""),
            name => {
                errors.all_invalid(format!("{at}.name"), name, qualified_name(name));
                if !names.insert(name) {
                    errors.duplicate(format!("{at}.name"), name);
                }
            }
        }
    }
}

fn review_versions(at: &str, hook: &Value, errors: &mut Errors) {
    let all: Vec<&str> = items(hook, "admissionReviewVersions").filter_map(Value::as_str).collect();
    if all.is_empty() {
        return errors.required(at, "must specify one of v1, v1beta1");
    }
    let mut seen = HashSet::new();
    for (i, version) in all.iter().enumerate() {
        if seen.insert(version) {
            errors.all_invalid(format!("{at}[{i}]"), *version, dns1035_label(version));
        } else {
            errors.invalid(format!("{at}[{i}]"), *version, "duplicate version");
        }
    }
    if !all.iter().any(|v| VERSIONS.contains(v)) {
        let value = hook["admissionReviewVersions"].clone();
        errors.invalid(at, value, "must include at least one of v1, v1beta1");
    }
}
