//! What is wrong with admission policies and their bindings: their matching, and every expression in them.

use std::collections::HashSet;

use coracle_api::{Object, gvk};
use serde_json::{Value, json};

use super::pod_spec::items;
use super::validation::{Errors, label_selector};
use super::webhook_rules::{conditions, operations, resource_rule};
use crate::admission::expressions::{Declared, configuration_type, environment, patches_type};
use crate::cel::{Environment, Type, is_keyword};
use crate::field_names::{dns1035_label, dns1123_subdomain, qualified_name};

const MUTATED: [&str; 2] = ["CREATE", "UPDATE"];
const REASONS: [&str; 3] = ["Forbidden", "Invalid", "RequestEntityTooLarge"];
const MAX_AUDIT_ANNOTATIONS: usize = 20;
const MAX_VALUE_EXPRESSION: usize = 5 * 1024;

/// A policy of either kind.
pub(super) fn policy(new: &Object, errors: &mut Errors) {
    let mutating = new.kind() == "MutatingAdmissionPolicy";
    let spec = new.at(&["spec"]).unwrap_or(&Value::Null);
    errors.supported("spec.failurePolicy", text(spec, "failurePolicy"), &["Fail", "Ignore"]);
    let params = spec["paramKind"].is_object();
    if params {
        param_kind(&spec["paramKind"], errors);
    }
    if spec["matchConstraints"].is_object() {
        match_resources("spec.matchConstraints", &spec["matchConstraints"], errors);
        if items(&spec["matchConstraints"], "resourceRules").next().is_none() {
            errors.required("spec.matchConstraints.resourceRules", "");
        }
        if mutating {
            only_writes("spec.matchConstraints", &spec["matchConstraints"], errors);
        }
    } else {
        errors.required("spec.matchConstraints", "");
    }
    conditions("spec.matchConditions", spec, params, errors);
    let mut declared = environment(Declared { params, authorizer: true, patches: mutating });
    variables(spec, &mut declared, errors);
    if mutating {
        mutations(spec, &declared, errors);
        errors.one_of("spec.reinvocationPolicy", text(spec, "reinvocationPolicy"), &["IfNeeded", "Never"]);
    } else {
        let mut messages = environment(Declared { params, ..Declared::default() });
        variables(spec, &mut messages, &mut Errors::default());
        validations(new, spec, &declared, &messages, errors);
    }
}

fn text<'a>(of: &'a Value, key: &str) -> &'a str {
    of[key].as_str().unwrap_or_default()
}

fn param_kind(kind: &Value, errors: &mut Errors) {
    const AT: &str = "spec.paramKind.apiVersion";
    let api_version = text(kind, "apiVersion");
    let (group, version) = gvk::split_api_version(api_version);
    if api_version.is_empty() {
        errors.required(AT, "");
    } else if api_version.matches('/').count() > 1 {
        errors.invalid(AT, api_version, format!("unexpected GroupVersion string: {api_version}"));
    } else {
        let wrong = if group.is_empty() { vec![] } else { dns1123_subdomain(group) };
        if !wrong.is_empty() {
            errors.invalid(AT, group, wrong.join(","));
        }
        let wrong = dns1035_label(version);
        match version {
            "" => errors.invalid(AT, api_version, "version must be specified"),
            _ if !wrong.is_empty() => errors.invalid(AT, version, wrong.join(",")),
            _ => {}
        }
    }
    let name = text(kind, "kind");
    let wrong = dns1035_label(&name.to_lowercase());
    if name.is_empty() {
        errors.required("spec.paramKind.kind", "");
    } else if !wrong.is_empty() {
        let detail = format!("may have mixed case, but should otherwise match: {}", wrong.join(","));
        errors.invalid("spec.paramKind.kind", name, detail);
    }
}

fn match_resources(at: &str, matching: &Value, errors: &mut Errors) {
    errors.supported(format!("{at}.matchPolicy"), text(matching, "matchPolicy"), &["Equivalent", "Exact"]);
    for key in ["namespaceSelector", "objectSelector"] {
        label_selector(&format!("{at}.{key}"), &matching[key], errors);
    }
    for list in ["resourceRules", "excludeResourceRules"] {
        for (i, rule) in items(matching, list).enumerate() {
            let at = format!("{at}.{list}[{i}]");
            let mut names = HashSet::new();
            for (n, name) in items(rule, "resourceNames").filter_map(Value::as_str).enumerate() {
                let at = format!("{at}.resourceNames[{n}]");
                errors.all_invalid(&*at, name, path_segment(name));
                if !names.insert(name) {
                    errors.duplicate(at, name);
                }
            }
            operations(&format!("{at}.operations"), rule, errors);
            resource_rule(&at, rule, errors);
        }
    }
}

/// A name that may be a part of a path.
fn path_segment(name: &str) -> Vec<String> {
    match name {
        "." | ".." => vec![format!("may not be '{name}'")],
        name => {
            let bad = ["/", "%"].into_iter().filter(|c| name.contains(c));
            bad.map(|c| format!("may not contain '{c}'")).collect()
        }
    }
}

/// It is only possible to mutate what is written.
fn only_writes(at: &str, matching: &Value, errors: &mut Errors) {
    for operation in items(matching, "resourceRules").flat_map(|rule| items(rule, "operations")) {
        errors.supported(
            format!("{at}.resourceRules.operations"),
            operation.as_str().unwrap_or_default(),
            &MUTATED,
        );
    }
}

/// Every variable may use those before it.
fn variables(spec: &Value, declared: &mut Environment, errors: &mut Errors) {
    for (i, variable) in items(spec, "variables").enumerate() {
        let at = format!("spec.variables[{i}]");
        let name = text(variable, "name");
        let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        let begins = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        if name.trim().is_empty() {
            errors.required(format!("{at}.name"), "name is not specified");
        } else if !plain || !begins || is_keyword(name) {
            errors.invalid(format!("{at}.name"), name, "must be a valid CEL identifier");
        }
        let expression = text(variable, "expression");
        if expression.trim().is_empty() {
            errors.required(format!("{at}.expression"), "expression is not specified");
        } else if let Err(why) = crate::admission::expressions::declare_variable(declared, name, expression) {
            errors.invalid(format!("{at}.expression"), expression, why);
        }
    }
}

fn compiled(at: String, text: &str, environment: &Environment, wanted: &[Type], errors: &mut Errors) {
    if let Err(why) = environment.compile_as(text, wanted) {
        errors.invalid(at, text, why);
    }
}

fn validations(
    new: &Object,
    spec: &Value,
    declared: &Environment,
    messages: &Environment,
    errors: &mut Errors,
) {
    if ["validations", "auditAnnotations"].iter().all(|k| items(spec, k).next().is_none()) {
        for key in ["validations", "auditAnnotations"] {
            let detail = "validations or auditAnnotations must contain at least one item";
            errors.required(format!("spec.{key}"), detail);
        }
        return;
    }
    for (i, validation) in items(spec, "validations").enumerate() {
        let at = format!("spec.validations[{i}]");
        let expression = text(validation, "expression");
        match expression.trim() {
            "" => errors.required(format!("{at}.expression"), "expression is not specified"),
            _ => compiled(format!("{at}.expression"), expression, declared, &[Type::Bool], errors),
        }
        let message = text(validation, "messageExpression");
        if !message.is_empty() && message.trim().is_empty() {
            errors.invalid(format!("{at}.messageExpression"), message, "must be non-empty if specified");
        } else if !message.is_empty() {
            compiled(format!("{at}.messageExpression"), message, messages, &[Type::String], errors);
        }
        let message = text(validation, "message");
        if !message.is_empty() && message.trim().is_empty() {
            errors.invalid(format!("{at}.message"), message, "must be non-empty if specified");
        } else if message.trim().contains(['\n', '\r']) {
            errors.invalid(format!("{at}.message"), message, "must not contain line breaks");
        }
        if let Some(reason) = validation["reason"].as_str() {
            errors.supported(format!("{at}.reason"), reason, &REASONS);
        }
    }
    annotations(new.name(), spec, declared, errors);
}

fn annotations(name: &str, spec: &Value, declared: &Environment, errors: &mut Errors) {
    if items(spec, "auditAnnotations").count() > MAX_AUDIT_ANNOTATIONS {
        let detail = format!("must not have more than {MAX_AUDIT_ANNOTATIONS} auditAnnotations");
        errors.invalid("spec.auditAnnotations", spec["auditAnnotations"].clone(), detail);
    }
    let mut keys = HashSet::new();
    for (i, annotation) in items(spec, "auditAnnotations").enumerate() {
        let at = format!("spec.auditAnnotations[{i}]");
        let key = text(annotation, "key");
        let whole = format!("{name}/{key}");
        errors.all_invalid(format!("{at}.key"), &*whole, qualified_name(&whole));
        let expression = text(annotation, "valueExpression");
        let at_value = format!("{at}.valueExpression");
        if expression.trim().is_empty() {
            errors.required(at_value, "valueExpression is not specified");
        } else if expression.trim().len() > MAX_VALUE_EXPRESSION {
            errors.required(at_value, &format!("must not exceed {MAX_VALUE_EXPRESSION} bytes in length"));
        } else {
            compiled(at_value, expression, declared, &[Type::String, Type::Null], errors);
        }
        if !keys.insert(key) {
            errors.duplicate(format!("{at}.key"), key);
        }
    }
}

fn mutations(spec: &Value, declared: &Environment, errors: &mut Errors) {
    if items(spec, "mutations").next().is_none() {
        errors.required("spec.mutations", "mutations must contain at least one item");
    }
    for (i, mutation) in items(spec, "mutations").enumerate() {
        let at = format!("spec.mutations[{i}]");
        let (own, other, wanted) = match text(mutation, "patchType") {
            "" => {
                errors.required(format!("{at}.patchType"), "");
                continue;
            }
            "JSONPatch" => ("jsonPatch", "applyConfiguration", patches_type()),
            "ApplyConfiguration" => ("applyConfiguration", "jsonPatch", configuration_type()),
            unknown => {
                errors.supported(format!("{at}.patchType"), unknown, &["ApplyConfiguration", "JSONPatch"]);
                continue;
            }
        };
        let kind = text(mutation, "patchType");
        if mutation[own].is_object() {
            let at = format!("{at}.{own}.expression");
            match text(&mutation[own], "expression").trim() {
                "" => errors.required(at, ""),
                expression => compiled(at, expression, declared, &[wanted], errors),
            }
        } else {
            errors.required(format!("{at}.{own}"), &format!("must be specified when patchType is {kind}"));
        }
        if mutation[other].is_object() {
            let detail = format!("must not be specified when patchType is {kind}");
            errors.invalid(format!("{at}.{other}"), format!("{{{other}}}"), detail);
        }
    }
}

/// A binding of either kind.
pub(super) fn binding(new: &Object, errors: &mut Errors) {
    let mutating = new.kind() == "MutatingAdmissionPolicyBinding";
    let spec = new.at(&["spec"]).unwrap_or(&Value::Null);
    match text(spec, "policyName") {
        "" => errors.required("spec.policyName", ""),
        name => errors.all_invalid("spec.policyName", name, dns1123_subdomain(name)),
    }
    if spec["paramRef"].is_object() {
        param_ref(&spec["paramRef"], errors);
    }
    if spec["matchResources"].is_object() {
        match_resources("spec.matchResources", &spec["matchResources"], errors);
        if mutating {
            only_writes("spec.matchResources", &spec["matchResources"], errors);
        }
    }
    if !mutating {
        actions(spec, errors);
    }
}

fn param_ref(param: &Value, errors: &mut Errors) {
    let (name, selects) = (text(param, "name"), param["selector"].is_object());
    const BOTH: &str = "name and selector are mutually exclusive";
    if !name.is_empty() {
        errors.all_invalid("spec.paramRef.name", name, path_segment(name));
        if selects {
            errors.forbidden("spec.paramRef.name", BOTH);
        }
    }
    if selects {
        label_selector("spec.paramRef.selector", &param["selector"], errors);
        if !name.is_empty() {
            errors.forbidden("spec.paramRef.selector", BOTH);
        }
    }
    if name.is_empty() && !selects {
        errors.required("spec.paramRef", "one of name or selector must be specified");
    }
    let action = text(param, "parameterNotFoundAction");
    errors.one_of("spec.paramRef.parameterNotFoundAction", action, &["Deny", "Allow"]);
}

fn actions(spec: &Value, errors: &mut Errors) {
    const AT: &str = "spec.validationActions";
    let mut seen = HashSet::new();
    for (i, action) in items(spec, "validationActions").filter_map(Value::as_str).enumerate() {
        errors.supported(format!("{AT}[{i}]"), action, &["Audit", "Deny", "Warn"]);
        if !seen.insert(action) {
            errors.duplicate(format!("{AT}[{i}]"), action);
        }
    }
    if seen.contains("Deny") && seen.contains("Warn") {
        let detail = "must not contain both Deny and Warn (repeating the same validation failure information in the API \
                      response and headers serves no purpose)";
        errors.invalid(AT, json!(spec["validationActions"]), detail);
    }
    if seen.is_empty() {
        errors.required(AT, "at least one validation action is required");
    }
}
