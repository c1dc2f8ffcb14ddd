//! What is wrong with a definition, in upstream's words and order.

mod defaults;
mod openapi;
mod spec;
mod structural;

use coracle_api::{Object, conditions};
use serde_json::{Value, json};

use super::status::{self, Approval};
use crate::field::{Cause, FieldError};
use crate::schema::structural::is_known_format;

/// Everything wrong with a definition. `only_status`: the write is one of its status.
pub fn validate(new: &Object, old: Option<&Object>, only_status: bool) -> Vec<FieldError> {
    let mut errors = vec![];
    if !only_status {
        spec::validate(new, old, &mut errors);
        if let Some(old) = old {
            immutable(new, old, &mut errors);
        }
    }
    let accepted = new.at(&["status", "acceptedNames"]).unwrap_or(&Value::Null);
    spec::names("status.acceptedNames", accepted, &mut errors);
    if !only_status {
        stored_versions(new, &mut errors);
        approval(new, old, &mut errors);
        preserve(new, old, &mut errors);
    }
    errors
}

/// The formats in a definition's schemas that mean nothing here, once for each place.
pub fn unknown_formats(crd: &Object) -> Vec<&str> {
    let mut found = vec![];
    for version in crd.items_at(&["spec", "versions"]) {
        collect_unknown_formats(&version["schema"]["openAPIV3Schema"], &mut found);
    }
    found
}

fn collect_unknown_formats<'a>(schema: &'a Value, found: &mut Vec<&'a str>) {
    let format = text(schema, "format");
    if !format.is_empty() && !is_known_format(text(schema, "type"), format) {
        found.push(format);
    }
    for key in ["items", "not", "additionalProperties", "additionalItems"] {
        match &schema[key] {
            Value::Array(all) => all.iter().for_each(|s| collect_unknown_formats(s, found)),
            one if one.is_object() => collect_unknown_formats(one, found),
            _ => {}
        }
    }
    for key in ["allOf", "anyOf", "oneOf"] {
        schema[key].as_array().into_iter().flatten().for_each(|s| collect_unknown_formats(s, found));
    }
    for key in ["properties", "patternProperties", "definitions", "dependencies"] {
        schema[key].as_object().into_iter().flatten().for_each(|(_, s)| collect_unknown_formats(s, found));
    }
}

/// The text at a key.
fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn invalid(at: impl Into<String>, value: impl Into<Value>, why: impl Into<String>) -> FieldError {
    FieldError::invalid(at, &value.into(), why)
}

/// A value shown in another form than its JSON.
fn invalid_text(at: impl Into<String>, value: String, why: impl Into<String>) -> FieldError {
    FieldError { field: at.into(), cause: Cause::Invalid, value, detail: why.into() }
}

/// A word of a closed set, which is shown in the order given.
fn unsupported(at: impl Into<String>, word: &str, words: &[&str]) -> FieldError {
    let words: Vec<String> = words.iter().map(|w| format!("{w:?}")).collect();
    let detail = format!("supported values: {}", words.join(", "));
    FieldError { field: at.into(), cause: Cause::NotSupported, value: format!("{word:?}"), detail }
}

/// What storage and clients rely on.
fn immutable(new: &Object, old: &Object, errors: &mut Vec<FieldError>) {
    let mut same = |path: &[&str]| {
        let (now, before) = (new.at(path), old.at(path));
        if now != before {
            let now = now.cloned().unwrap_or_else(|| json!(""));
            errors.push(invalid(path.join("."), now, "field is immutable"));
        }
    };
    if conditions::is_true(old.items_at(&["status", "conditions"]), "Established") {
        same(&["spec", "scope"]);
        same(&["spec", "names", "kind"]);
    }
    same(&["spec", "group"]);
    same(&["spec", "names", "plural"]);
}

fn stored_versions(crd: &Object, errors: &mut Vec<FieldError>) {
    const AT: &str = "status.storedVersions";
    let stored = crd.items_at(&["status", "storedVersions"]);
    if stored.is_empty() {
        let why = "must have at least one stored version";
        return errors.push(invalid_text(AT, "null".to_owned(), why));
    }
    let versions = crd.items_at(&["spec", "versions"]);
    // A version that comes twice is found once.
    let mut left: Vec<&Value> = stored.iter().collect();
    for version in versions {
        let known = left.contains(&&version["name"]);
        if version["storage"] == true && !known {
            let why = format!("must have the storage version {}", text(version, "name"));
            errors.push(invalid(AT, json!(stored), why));
        }
        left.retain(|name| **name != version["name"]);
    }
    for (i, name) in stored.iter().enumerate() {
        if !versions.iter().any(|v| v["name"] == *name) {
            let n = name.as_str().unwrap_or_default();
            let why = format!(
                "missing from spec.versions; {n} was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in {n} and removes {n} from status.storedVersions"
            );
            errors.push(invalid(format!("{AT}[{i}]"), n, why));
        }
    }
}

/// A definition in a group of the community says who approved it, unless it never did.
fn approval(new: &Object, old: Option<&Object>, errors: &mut Vec<FieldError>) {
    const APPROVAL: &str = "api-approved.kubernetes.io";
    const AT: &str = "metadata.annotations[api-approved.kubernetes.io]";
    if !status::is_protected(new.str_at(&["spec", "group"])) {
        return;
    }
    let of = |crd: &Object| status::approve(crd.annotation(APPROVAL).unwrap_or_default());
    let now = of(new);
    if old.is_some_and(|old| of(old) == now) {
        return;
    }
    let given = new.annotation(APPROVAL).unwrap_or_default();
    match now {
        Approval::Missing => errors.push(FieldError::required(AT, status::missing())),
        Approval::Invalid => errors.push(invalid(AT, given, status::invalid())),
        Approval::Approved | Approval::Bypassed => {}
    }
}

fn preserve(new: &Object, old: Option<&Object>, errors: &mut Vec<FieldError>) {
    let keeps = |crd: &Object| crd.bool_at(&["spec", "preserveUnknownFields"]) == Some(true);
    if keeps(new) && !old.is_some_and(keeps) {
        let why = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
        errors.push(invalid("spec.preserveUnknownFields", true, why));
    }
}

#[cfg(test)]
mod tests;
