//! `metadata` of custom objects and of objects embedded in them: the one part of them that has a Go type upstream.

use std::sync::LazyLock;

use coracle_api::{Gvk, Object};
use serde_json::{Value, json};

use super::super::normalize::{Normalizer, Path, Paths};
use super::super::{BUILTIN, Schema, TypeId};
use super::Structural;
use super::told::{At, Told};
use crate::field::FieldError;
use crate::field_names;

static METADATA: LazyLock<TypeId> = LazyLock::new(|| {
    let schema = Schema::builtin(&Gvk::new("", "v1", "ConfigMap")).expect("ConfigMap is built in");
    schema.root().child("metadata").expect("every object has metadata").id
});

/// The type of `metadata` among the built-in types.
pub(crate) fn metadata_type() -> TypeId {
    *METADATA
}

/// Gives all metadata its typed form. Answers the paths of fields it does not have, or what is malformed.
pub(crate) fn coerce(object: &mut Value, schema: &Structural) -> Result<Vec<String>, String> {
    let mut unknown = Paths::default();
    walk(object, schema, true, Path::Root, &mut unknown)?;
    Ok(unknown.list)
}

fn walk(
    value: &mut Value,
    schema: &Structural,
    object: bool,
    path: Path<'_>,
    unknown: &mut Paths,
) -> Result<(), String> {
    match value {
        Value::Object(map) => {
            for (key, value) in map.iter_mut() {
                let here = Path::Key(&path, key);
                match key.as_str() {
                    "apiVersion" | "kind" if object && !value.is_string() => {
                        return Err(FieldError::invalid(here.text(), value, "must be a string").to_string());
                    }
                    "metadata" if object => metadata(value, here, unknown)?,
                    _ => {}
                }
                if let Some(field) = schema.field(key) {
                    walk(value, field, field.embedded, here, unknown)?;
                }
            }
            if object && map.get("metadata").is_some_and(Value::is_null) {
                map.remove("metadata");
            }
            Ok(())
        }
        Value::Array(items) => {
            let Some(schema) = &schema.items else { return Ok(()) };
            for (i, item) in items.iter_mut().enumerate() {
                walk(item, schema, schema.embedded, Path::Index(&path, i), unknown)?;
            }
            Ok(())
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(()),
    }
}

fn metadata(value: &mut Value, path: Path<'_>, unknown: &mut Paths) -> Result<(), String> {
    if value.is_null() {
        return Ok(());
    }
    let given = value.clone();
    let mut normalizer = Normalizer::new(&BUILTIN);
    if let Err(mismatch) = normalizer.value(metadata_type(), value, Path::Root) {
        let why = mismatch.message();
        let own = matches!(path, Path::Key(Path::Root, _));
        return Err(if own { why } else { FieldError::invalid(path.text(), &given, why).to_string() });
    }
    for name in &normalizer.noticed.list {
        unknown.push(&Path::Key(&path, name));
    }
    if value.get("creationTimestamp").is_some_and(Value::is_null) {
        value.as_object_mut().and_then(|m| m.remove("creationTimestamp"));
    }
    Ok(())
}

/// What is wrong with embedded objects: each must say what it is, and its metadata must be well formed.
pub(crate) fn validate(object: &Value, schema: &Structural) -> Vec<FieldError> {
    let mut told = Told::new();
    check(object, schema, false, At::Root, &mut told);
    told.errors
}

fn check(value: &Value, schema: &Structural, object: bool, path: At<'_>, told: &mut Told) {
    if told.is_full() {
        return;
    }
    match value {
        Value::Object(map) => {
            if object {
                check_object(value, path, told);
            }
            for (key, value) in map {
                let Some(field) = schema.field(key) else { continue };
                check(value, field, field.embedded, At::Field(&path, key), told);
            }
        }
        Value::Array(items) => {
            let Some(schema) = &schema.items else { return };
            for (i, item) in items.iter().enumerate() {
                check(item, schema, schema.embedded, At::Item(&path, i), told);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn check_object(value: &Value, path: At<'_>, told: &mut Told) {
    for key in ["apiVersion", "kind"] {
        let at = || At::Dotted(&path, key).text();
        match value.get(key) {
            None => told.add(|| FieldError::required(at(), "")),
            Some(text) if text == "" => told.add(|| FieldError::invalid(at(), text, "must not be empty")),
            Some(Value::String(text)) if key == "apiVersion" && text.matches('/').count() > 1 => {
                let why = format!("unexpected GroupVersion string: {text}");
                told.add(|| FieldError::invalid(at(), &json!(text), why));
            }
            Some(Value::String(text)) if key == "kind" => {
                let broken = field_names::dns1035_label(&text.to_lowercase());
                if !broken.is_empty() {
                    let why =
                        format!("may have mixed case, but should otherwise match: {}", broken.join(","));
                    told.add(|| FieldError::invalid(at(), &json!(text), why));
                }
            }
            Some(Value::String(_)) => {}
            Some(other) => told.add(|| FieldError::invalid(at(), other, "must be a string")),
        }
    }
    let metadata = json!({"metadata": value.get("metadata")});
    for error in crate::verbs::metadata::validate_embedded(&Object(metadata)) {
        told.add(|| FieldError { field: format!("{}.{}", path.text(), error.field), ..error });
    }
}
