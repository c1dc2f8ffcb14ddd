//! Custom objects, held to the schema of their definition.

use std::collections::HashSet;
use std::sync::{Arc, OnceLock};

use coracle_api::Object;
use serde_json::{Value, json};

use super::rules::Rules;
use crate::field::FieldError;
use crate::field_names::qualified_name;
use crate::resource::{FieldPath, Scale, Strategy, WriteContext};
use crate::schema::{Schema, structural};

/// The rules of one version of one custom kind.
pub(super) struct CustomObjects {
    schema: Arc<Schema>,
    scale: Option<(Scale, [String; 3])>,
    /// Compiled when an object is first held to them: most definitions of a cluster are never used.
    rules: OnceLock<Option<Rules>>,
}

// === impl CustomObjects ===

impl CustomObjects {
    pub(super) fn new(schema: Arc<Schema>, scale: Option<Scale>, version: &Value) -> Self {
        let written =
            |key: &str| version["subresources"]["scale"][key].as_str().unwrap_or_default().to_owned();
        let names = ["specReplicasPath", "statusReplicasPath", "labelSelectorPath"].map(written);
        CustomObjects { schema, scale: scale.map(|s| (s, names)), rules: OnceLock::new() }
    }

    fn rules(&self) -> Option<&Rules> {
        let compile = || self.schema.definition().and_then(|d| Rules::new(&d.written()));
        self.rules.get_or_init(compile).as_ref()
    }

    fn judge(&self, new: &Object, before: Option<&Value>, errors: &mut Vec<FieldError>) {
        if let Some(rules) = self.rules() {
            let broken = rules.judge(&new.0, before, errors);
            errors.extend(broken);
        }
    }

    /// The numbers and the selector of an object's scale are of their types, as far as they are there.
    fn check_scale(&self, subresource: &str, new: &Object, errors: &mut Vec<FieldError>) {
        let Some((scale, [spec, status, selector])) = &self.scale else { return };
        if subresource != "status" {
            replicas(&scale.spec_replicas, spec, new, errors);
        }
        replicas(&scale.status_replicas, status, new, errors);
        if let Err(why) = label_selector(scale, selector, new) {
            errors.push(FieldError::invalid(selector.as_str(), &json!(""), why));
        }
    }
}

impl Strategy for CustomObjects {
    /// The status and the scale are parts of the object that a schema describes, too.
    fn validates(&self, _subresource: &str) -> bool {
        true
    }

    fn validate(&self, cx: &WriteContext<'_>, new: &Object, old: Option<&Object>) -> Vec<FieldError> {
        let Some(definition) = self.schema.definition() else { return vec![] };
        let schema = definition.structural();
        let before = old.map(|o| &o.0);
        if cx.subresource == "status" {
            let mut errors = match (new.at(&["status"]), schema.properties.get("status")) {
                (Some(status), Some(of)) => {
                    structural::validate(status, before.map(|o| &o["status"]), of, "status")
                }
                _ => vec![],
            };
            self.check_scale("status", new, &mut errors);
            if before.is_none_or(|old| structural::duplicates(old, schema).is_empty()) {
                errors.extend(structural::duplicates(&new.0, schema));
            }
            self.judge(new, before, &mut errors);
            return errors;
        }
        let mut errors = structural::validate(&new.0, before, schema, "");
        self.check_scale("", new, &mut errors);
        errors.extend(structural::validate_embedded(&new.0, schema));
        // Lists that were wrong before the definition said so may stay.
        if before.is_none_or(|old| structural::duplicates(old, schema).is_empty()) {
            errors.extend(structural::duplicates(&new.0, schema));
        }
        self.judge(new, before, &mut errors);
        errors
    }

    fn missing_replicas(&self, object: &Object) -> Result<Option<&str>, String> {
        let Some((scale, [spec, status, selector])) = &self.scale else { return Ok(None) };
        integer(&scale.status_replicas, status, object)?;
        label_selector(scale, selector, object)?;
        Ok(integer(&scale.spec_replicas, spec, object)?.is_none().then_some(spec.as_str()))
    }

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        let before: HashSet<&str> = old.into_iter().flat_map(Object::finalizers).collect();
        let mut added: Vec<&str> = new.finalizers().filter(|f| !before.contains(f)).collect();
        added.sort_unstable();
        let broken = self.rules().zip(old).map(|(rules, old)| rules.warnings(&new.0, &old.0));
        broken.into_iter().flatten().chain(added.into_iter().flat_map(finalizer_warnings)).collect()
    }
}

fn finalizer_warnings(name: &str) -> Vec<String> {
    let at = format!("metadata.finalizers: {name:?}: ");
    let mut all: Vec<String> = qualified_name(name).into_iter().map(|why| format!("{at}{why}")).collect();
    if !name.contains('/') && !["orphan", "foregroundDeletion", "kubernetes"].contains(&name) {
        let path = if name.contains('.') { " including a path (/)" } else { "" };
        all.push(format!(
            "{at}prefer a domain-qualified finalizer name{path} to avoid accidental conflicts with other finalizer writers"
        ));
    }
    all
}

fn replicas(path: &FieldPath, written: &str, new: &Object, errors: &mut Vec<FieldError>) {
    let invalid = |value: i64, why: String| FieldError::invalid(written, &json!(value), why);
    match integer(path, written, new) {
        Err(why) => errors.push(invalid(0, why)),
        Ok(Some(n)) if n < 0 => errors.push(invalid(n, "should be a non-negative integer".into())),
        Ok(Some(n)) if n > i64::from(i32::MAX) => {
            errors.push(invalid(n, format!("should be less than or equal to {}", i32::MAX)));
        }
        Ok(_) => {}
    }
}

/// The whole number at a path.
fn integer(path: &FieldPath, written: &str, object: &Object) -> Result<Option<i64>, String> {
    match nested(path, object)? {
        None => Ok(None),
        Some(found) => match found.as_i64() {
            Some(n) => Ok(Some(n)),
            None => Err(accessor(written, found, "int64")),
        },
    }
}

fn label_selector(scale: &Scale, written: &str, object: &Object) -> Result<(), String> {
    if scale.selector.is_empty() {
        return Ok(());
    }
    match nested(&scale.selector, object)? {
        Some(found) if !found.is_string() => Err(accessor(written, found, "string")),
        _ => Ok(()),
    }
}

/// What stands at a path; an error where it leads through something that has no fields.
fn nested<'a>(path: &FieldPath, object: &'a Object) -> Result<Option<&'a Value>, String> {
    let names = path.names();
    let mut here = &object.0;
    for (i, name) in names.iter().enumerate() {
        here = match here {
            Value::Object(map) => match map.get(*name) {
                Some(inner) => inner,
                None => return Ok(None),
            },
            Value::Null => return Ok(None),
            other => {
                let way = format!(".{}", names[..=i].join("."));
                return Err(accessor(&way, other, "map[string]interface {}"));
            }
        };
    }
    Ok(Some(here))
}

fn accessor(path: &str, found: &Value, wanted: &str) -> String {
    let shown = match found {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    format!("{path} accessor error: {shown} is of the type {}, expected {wanted}", go(found))
}

/// Go's name of a decoded JSON value's type.
pub(super) fn go(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(n) if n.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}
