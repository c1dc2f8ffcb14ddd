//! LimitRanges and ResourceQuotas: how much one object, and how much a namespace may ask for.

use coracle_api::Object;
use serde_json::{Value, json};

use super::super::columns::{AGE, NAME, NAME_AND_CREATED_AT, rule};
use super::super::defaulting::{each, fill, object};
use super::super::located::Located;
use super::super::validation::Errors;
use super::limit_rules::{limit_range, quota, quota_amounts, same_scopes};
use crate::field::FieldError;
use crate::resource::{NAMESPACED, Row, Strategy, WriteContext};

pub(super) const LIMIT_RANGE: Row = Row {
    kind: "LimitRange",
    plural: "limitranges",
    short: &["limits"],
    columns: NAME_AND_CREATED_AT,
    strategy: &LimitRanges,
    create_on_update: true,
    ..NAMESPACED
};

pub(super) const RESOURCE_QUOTA: Row = Row {
    kind: "ResourceQuota",
    plural: "resourcequotas",
    short: &["quota"],
    status: true,
    columns: &[
        NAME,
        rule("Request", |o, _| json!(usage(o, false))),
        rule("Limit", |o, _| json!(usage(o, true))),
        AGE,
    ],
    first_status: "{}",
    strategy: &Quotas,
    returns_deleted: true,
    ..NAMESPACED
};

struct LimitRanges;

impl Strategy for LimitRanges {
    /// One without a name gets one that nobody else has.
    fn prepare(&self, _cx: &WriteContext<'_>, new: &mut Object, old: Option<&Object>) {
        if old.is_none() && new.name().is_empty() {
            new.set(&["metadata", "name"], uuid::Uuid::new_v4().to_string());
        }
    }

    fn validate(&self, _cx: &WriteContext<'_>, new: &Object, _old: Option<&Object>) -> Vec<FieldError> {
        let mut errors = Errors::default();
        limit_range(&Located::root(new).at("spec").at("limits"), &mut errors);
        errors.0
    }

    /// For containers, defaults follow from what is given: max -> default -> defaultRequest, then min.
    fn default(&self, new: &mut Object) {
        each(object(&mut new.0, "spec"), "limits", |item| {
            if item["type"] != "Container" {
                return;
            }
            for (from, to) in [("max", "default"), ("default", "defaultRequest"), ("min", "defaultRequest")] {
                let amounts = item[from].as_object().cloned().unwrap_or_default();
                for (name, amount) in amounts {
                    fill(object(item, to), &name, amount);
                }
            }
        });
    }
}

struct Quotas;

impl Strategy for Quotas {
    fn validates(&self, _subresource: &str) -> bool {
        true
    }

    fn validate(&self, cx: &WriteContext<'_>, new: &Object, old: Option<&Object>) -> Vec<FieldError> {
        let mut errors = Errors::default();
        let new = Located::root(new);
        if cx.subresource == "status" {
            quota_amounts(&new.at("status").at("hard"), &mut errors);
            quota_amounts(&new.at("status").at("used"), &mut errors);
            return errors.0;
        }
        quota(&new.at("spec"), &mut errors);
        if let Some(old) = old {
            same_scopes(&new.at("spec"), &Located::root(old).at("spec"), &mut errors);
        }
        errors.0
    }
}

/// `pods: 1/10, ...` of the resources that are limits, or of the others.
fn usage(o: &Object, limits: bool) -> String {
    let hard = o.at(&["status", "hard"]).and_then(Value::as_object);
    let mut names: Vec<(&String, &Value)> = hard.into_iter().flatten().collect();
    names.retain(|(name, _)| name.starts_with("limits.") == limits);
    names.sort_by_key(|(name, _)| *name);
    let used = |name: &str| o.at(&["status", "used", name]).and_then(Value::as_str).unwrap_or("0").to_owned();
    let text = |(name, hard): (&String, &Value)| {
        format!("{name}: {}/{}", used(name), hard.as_str().unwrap_or_default())
    };
    names.into_iter().map(text).collect::<Vec<_>>().join(", ")
}
