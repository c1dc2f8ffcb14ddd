//! The schema of a custom resource as its definition gives it: a structural tree that prunes, defaults and validates.
//!
//! The typed tree of [`super::types`] is derived from it ([`typed`]), so that apply sees one kind of schema only.

mod default;
mod embedded;
mod formats;
mod lists;
pub(crate) mod numbers;
mod prune;
mod told;
mod typed;
mod validate;

use std::collections::BTreeMap;
use std::sync::OnceLock;

use serde_json::Value;

pub(crate) use default::{Nulls, fill};
pub(crate) use embedded::{coerce, validate as validate_embedded};
pub(crate) use formats::is_known as is_known_format;
pub(crate) use lists::duplicates;
pub(crate) use prune::{prune, prune_value};
pub(super) use typed::types;
pub(crate) use validate::validate;

use crate::regexp::Regexp;

/// One place in a structural schema.
#[derive(Debug, Default)]
pub struct Structural {
    /// `object`, `array`, `string`, `integer`, `number`, `boolean`, or nothing.
    pub(crate) kind: Box<str>,
    pub(crate) nullable: bool,
    pub(crate) int_or_string: bool,
    pub(crate) preserve_unknown: bool,
    /// A whole Kubernetes object, with `apiVersion`, `kind` and `metadata`.
    pub(crate) embedded: bool,
    pub(crate) default: Option<Value>,
    /// Each in a box: a map's nodes have room for many values, most of which are not there.
    pub(crate) properties: BTreeMap<Box<str>, Box<Structural>>,
    pub(crate) additional: Additional,
    pub(crate) items: Option<Box<Structural>>,
    /// `atomic`, `set`, `map`, or nothing.
    pub(crate) list_type: Box<str>,
    pub(crate) list_keys: Vec<Box<str>>,
    /// `atomic`, `granular`, or nothing.
    pub(crate) map_type: Box<str>,
    pub(crate) limits: Limits,
    pub(crate) all_of: Vec<Structural>,
    pub(crate) any_of: Vec<Structural>,
    pub(crate) one_of: Vec<Structural>,
    pub(crate) not: Option<Box<Structural>>,
}

/// What is said of fields that are not among the properties.
#[derive(Debug, Default)]
pub(crate) enum Additional {
    #[default]
    Unsaid,
    Any,
    None,
    Of(Box<Structural>),
}

/// The value validations of one place.
#[derive(Debug, Default)]
pub(crate) struct Limits {
    pub(crate) required: Vec<Box<str>>,
    pub(crate) values: Option<Vec<Value>>,
    pub(crate) format: Box<str>,
    pub(crate) pattern: Option<Pattern>,
    pub(crate) min_length: Option<u64>,
    pub(crate) max_length: Option<u64>,
    pub(crate) min_items: Option<u64>,
    pub(crate) max_items: Option<u64>,
    pub(crate) min_properties: Option<u64>,
    pub(crate) max_properties: Option<u64>,
    pub(crate) minimum: Option<Bound>,
    pub(crate) maximum: Option<Bound>,
    pub(crate) multiple_of: Option<f64>,
}

/// A regular expression and its text. Syntax that we do not know matches everything: the definition's own validation has
/// refused what upstream does not know.
#[derive(Debug)]
pub(crate) struct Pattern {
    pub(crate) text: Box<str>,
    /// Compiled when a value is first held against it.
    regexp: OnceLock<Option<Regexp>>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Bound {
    pub(crate) at: f64,
    pub(crate) exclusive: bool,
}

// === impl Pattern ===

impl Pattern {
    /// Whether it is found in a text.
    pub(crate) fn fits(&self, text: &str) -> bool {
        let compiled = self.regexp.get_or_init(|| Regexp::new(&self.text).ok());
        compiled.as_ref().is_none_or(|r| r.is_match(text))
    }
}

// === impl Structural ===

impl Structural {
    /// Reads a `JSONSchemaProps`. What is malformed counts as absent: definitions are validated when they are written.
    pub fn parse(schema: &Value) -> Structural {
        let text = |key: &str| -> Box<str> { schema[key].as_str().unwrap_or_default().into() };
        let flag = |key: &str| schema[key] == true;
        let many = |key: &str| schema[key].as_array().into_iter().flatten().map(Structural::parse).collect();
        let one = |key: &str| schema[key].as_object().map(|_| Box::new(Structural::parse(&schema[key])));
        let properties = schema["properties"].as_object().into_iter().flatten();
        Structural {
            kind: text("type"),
            nullable: flag("nullable"),
            int_or_string: flag("x-kubernetes-int-or-string"),
            preserve_unknown: flag("x-kubernetes-preserve-unknown-fields"),
            embedded: flag("x-kubernetes-embedded-resource"),
            default: schema.get("default").filter(|d| !d.is_null()).cloned(),
            properties: properties
                .map(|(k, v)| (k.as_str().into(), Box::new(Structural::parse(v))))
                .collect(),
            additional: match &schema["additionalProperties"] {
                Value::Bool(true) => Additional::Any,
                Value::Bool(false) => Additional::None,
                Value::Object(_) => {
                    Additional::Of(Box::new(Structural::parse(&schema["additionalProperties"])))
                }
                _ => Additional::Unsaid,
            },
            items: one("items"),
            list_type: text("x-kubernetes-list-type"),
            list_keys: strings(&schema["x-kubernetes-list-map-keys"]),
            map_type: text("x-kubernetes-map-type"),
            limits: Limits::parse(schema),
            all_of: many("allOf"),
            any_of: many("anyOf"),
            one_of: many("oneOf"),
            not: one("not"),
        }
    }

    /// The schema of a field, whether it has a name or is one of many.
    pub(crate) fn field(&self, name: &str) -> Option<&Structural> {
        match (self.properties.get(name), &self.additional) {
            (Some(field), _) => Some(field),
            (None, Additional::Of(schema)) => Some(schema),
            (None, _) => None,
        }
    }

    fn refuses_null(&self) -> bool {
        !self.nullable
    }
}

// === impl Limits ===

impl Limits {
    fn parse(schema: &Value) -> Limits {
        let number = |key: &str| schema[key].as_u64();
        let bound = |key: &str, exclusive: &str| {
            schema[key].as_f64().map(|at| Bound { at, exclusive: schema[exclusive] == true })
        };
        Limits {
            required: strings(&schema["required"]),
            values: schema["enum"].as_array().cloned(),
            format: formats::enforced(schema).into(),
            pattern: schema["pattern"]
                .as_str()
                .filter(|p| !p.is_empty())
                .map(|text| Pattern { text: text.into(), regexp: OnceLock::new() }),
            min_length: number("minLength"),
            max_length: number("maxLength"),
            min_items: number("minItems"),
            max_items: number("maxItems"),
            min_properties: number("minProperties"),
            max_properties: number("maxProperties"),
            minimum: bound("minimum", "exclusiveMinimum"),
            maximum: bound("maximum", "exclusiveMaximum"),
            multiple_of: schema["multipleOf"].as_f64(),
        }
    }
}

/// Whether anything in a schema, as it is written, has a default, so that objects stored without it must be given it when
/// read.
pub(crate) fn has_defaults(written: &Value) -> bool {
    let Value::Object(schema) = written else { return false };
    schema.get("default").is_some_and(|d| !d.is_null())
        || ["items", "additionalProperties"].iter().filter_map(|key| schema.get(*key)).any(has_defaults)
        || schema.get("properties").and_then(Value::as_object).is_some_and(|p| p.values().any(has_defaults))
}

fn strings(list: &Value) -> Vec<Box<str>> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).map(Into::into).collect()
}

#[cfg(test)]
mod tests;
