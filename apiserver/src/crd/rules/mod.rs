//! `x-kubernetes-validations`: a definition's rules in the expression language, at every level of its schema.
//!
//! Rules are compiled once per version ([`Rules::new`]), judged when a definition is written ([`check`]) and evaluated
//! within one budget per object. What an update leaves as it was draws warnings, and errors only from rules about the change.

mod check;
mod compile;
mod extent;
mod types;

use std::collections::BTreeMap;

use serde_json::Value as Json;

use crate::cel::{
    Context, EXPRESSION_BUDGET, Failure, POLICY_BUDGET, Program, Query, Scope, Value, Verdict, beside_workers,
};
use crate::field::{Cause, FieldError};

pub(super) use check::check;
pub(super) use compile::field_path;
pub use types::escape as escape_field;

/// Upstream's path of what is said of the whole object.
const ROOT: &str = "<nil>";
/// How long a message may be that a rule makes.
const MESSAGE_BYTES: usize = 5 * 1024;

/// The rules of one place in a schema and of those below it.
#[derive(Debug)]
pub(super) struct Rules {
    /// Where it has rules of its own.
    typed: Option<types::Typed>,
    /// The schema's type, as errors show it.
    kind: Box<str>,
    own: Vec<Rule>,
    properties: BTreeMap<Box<str>, Rules>,
    additional: Option<Box<Rules>>,
    items: Option<Box<Rules>>,
    /// By which items of a list are the same as before.
    keys: Vec<Box<str>>,
}

#[derive(Debug)]
struct Rule {
    text: Box<str>,
    program: Result<Program, String>,
    /// Whether it is about a change.
    uses_old: bool,
    optional_old: bool,
    message: Box<str>,
    made: Option<Program>,
    made_text: Box<str>,
    reason: Box<str>,
    /// Relative to the place.
    path: Box<str>,
}

/// What an evaluation has found, and what it may still cost; nothing once it is over.
struct Judgement {
    errors: Vec<FieldError>,
    budget: Option<u64>,
    /// Whether it is about what has not changed, and that alone.
    repeats: bool,
}

/// What the variables of one place stand for.
struct Selves<'a> {
    this: Value<'a>,
    old: Option<Value<'a>>,
}

/// How a place is related to the object before.
#[derive(Clone, Copy)]
struct Before<'a> {
    value: Option<&'a Json>,
    /// Whether it, or what it is in, has not changed.
    same: bool,
}

impl<'a> Scope<'a> for Selves<'a> {
    fn variable(&self, name: &str, _context: &mut Context<'a, '_>) -> Option<Result<Value<'a>, Failure>> {
        match name {
            "self" => Some(Ok(self.this.clone())),
            "oldSelf" => self.old.clone().map(Ok),
            _ => None,
        }
    }

    fn authorize(&self, _query: &Query) -> Verdict {
        Verdict { allowed: false, reason: String::new(), error: None }
    }
}

/// How expressions see an object of a schema; `None` where they do not.
pub fn expression_type(schema: &Json, name: &str) -> Option<crate::cel::Type> {
    types::of(schema, name, true).map(|typed| typed.ty)
}

// === impl Rules ===

impl Rules {
    /// All that an object breaks. Errors that others have found may stand in the way of that.
    pub(super) fn judge(&self, new: &Json, old: Option<&Json>, found: &[FieldError]) -> Vec<FieldError> {
        let blocks = |e: &FieldError| {
            matches!(
                e.cause,
                Cause::NotSupported | Cause::Required | Cause::TooLong | Cause::TooMany | Cause::TypeInvalid
            )
        };
        if found.iter().any(blocks) {
            let why = "some validation rules were not checked because the object was invalid; correct the existing errors \
                       to complete validation";
            return vec![FieldError::invalid(ROOT, &Json::Null, why)];
        }
        self.evaluate(new, old, false)
    }

    /// What an object broke before and still does: its writers are told, and not hindered.
    pub(super) fn warnings(&self, new: &Json, old: &Json) -> Vec<String> {
        self.evaluate(new, Some(old), true).iter().map(ToString::to_string).collect()
    }

    fn evaluate(&self, new: &Json, old: Option<&Json>, repeats: bool) -> Vec<FieldError> {
        let mut judgement = Judgement { errors: vec![], budget: Some(POLICY_BUDGET), repeats };
        let before = Before { value: old, same: old == Some(new) };
        beside_workers(|| self.place(new, before, "", true, &mut judgement));
        judgement.errors
    }

    fn place(&self, new: &Json, before: Before<'_>, path: &str, root: bool, judgement: &mut Judgement) {
        if new.is_null() || judgement.budget.is_none() {
            return;
        }
        let old = before.value.filter(|old| !old.is_null());
        for rule in &self.own {
            self.rule(rule, new, old, before.same, path, judgement);
        }
        match new {
            Json::Array(items) => {
                let Some(rules) = &self.items else { return };
                for (i, item) in items.iter().enumerate() {
                    let value = old.and_then(|old| self.same_item(item, old));
                    let before = Before { value, same: before.same || value == Some(item) };
                    rules.place(item, before, &format!("{path}[{i}]"), false, judgement);
                }
            }
            Json::Object(map) => {
                for (key, field) in map {
                    let value = old.and_then(|old| old.get(key));
                    let typed = root && matches!(key.as_str(), "apiVersion" | "kind");
                    let before = Before { value, same: !typed && (before.same || value == Some(field)) };
                    if let Some(rules) = &self.additional {
                        rules.place(field, before, &format!("{path}[{key}]"), false, judgement);
                    }
                    if let Some(rules) = self.properties.get(key.as_str()) {
                        rules.place(field, before, &child(path, key), false, judgement);
                    }
                }
            }
            _ => {}
        }
    }

    /// The item that was there before under the same keys.
    fn same_item<'a>(&self, item: &Json, old: &'a Json) -> Option<&'a Json> {
        let same = |other: &&Json| self.keys.iter().all(|key| other.get(&**key) == item.get(&**key));
        if self.keys.is_empty() { None } else { old.as_array()?.iter().find(same) }
    }

    fn rule(
        &self,
        rule: &Rule,
        new: &Json,
        old: Option<&Json>,
        same: bool,
        path: &str,
        judgement: &mut Judgement,
    ) {
        let Some(budget) = judgement.budget else { return };
        let skipped = match rule.uses_old {
            true => judgement.repeats || old.is_none() && !rule.optional_old,
            false => same != judgement.repeats,
        };
        if skipped {
            return;
        }
        let here = if path.is_empty() { ROOT } else { path };
        let failed = |why: String| FieldError::invalid(here, &Json::from(&*self.kind), why);
        let (program, typed) = match (&rule.program, &self.typed) {
            (Ok(program), Some(typed)) => (program, typed),
            (Err(why), _) => return judgement.errors.push(failed(format!("rule compile error: {why}"))),
            (Ok(_), None) => return,
        };
        let before = old.map(|old| typed.form.value(old));
        let old = match (rule.optional_old, before) {
            (true, before) => Some(Value::Optional(before.map(std::rc::Rc::new))),
            (false, before) => before,
        };
        let scope = Selves { this: typed.form.value(new), old };
        let mut context = Context::new(&scope, budget);
        let outcome = program.evaluate(&mut context);
        judgement.budget = Some(context.budget);
        match outcome {
            Ok(Value::Bool(true)) => return,
            Ok(_) => {}
            Err(Failure::OutOfBudget) => {
                judgement.budget = None;
                return judgement.errors.push(failed(if budget < EXPRESSION_BUDGET {
                    spent()
                } else {
                    rule.expensive()
                }));
            }
            Err(why @ Failure::NoOverload(_)) => {
                let why = format!(
                    "'{why}': call arguments did not match a supported operator, function or macro signature for rule: {}",
                    rule.shown()
                );
                return judgement.errors.push(failed(why));
            }
            Err(Failure::Error(why)) => {
                return judgement.errors.push(failed(format!("{why} evaluating rule: {}", rule.shown())));
            }
        }
        let place = if rule.path.is_empty() { here.to_owned() } else { child(path, &rule.path) };
        match rule.detail(&mut context) {
            Ok(detail) => {
                judgement.budget = Some(context.budget);
                judgement.errors.push(self.broken(rule, place, new, detail));
            }
            Err(why) => {
                judgement.budget = None;
                judgement.errors.push(FieldError { field: place, ..failed(why) });
            }
        }
    }

    fn broken(&self, rule: &Rule, place: String, new: &Json, detail: String) -> FieldError {
        let value = if matches!(&*self.kind, "object" | "array") { String::new() } else { new.to_string() };
        match &*rule.reason {
            "FieldValueForbidden" => FieldError::forbidden(place, detail),
            "FieldValueRequired" => FieldError::required(place, detail),
            "FieldValueDuplicate" => {
                FieldError { field: place, cause: Cause::Duplicate, value, detail: String::new() }
            }
            _ => FieldError { field: place, cause: Cause::Invalid, value, detail },
        }
    }
}

fn child(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn spent() -> String {
    "validation failed due to running out of cost budget, no further validation rules will be run".to_owned()
}

// === impl Rule ===

impl Rule {
    fn shown(&self) -> &str {
        if self.message.is_empty() { &self.text } else { &self.message }
    }

    fn expensive(&self) -> String {
        let why = Failure::OutOfBudget;
        format!(
            "'{why}': no further validation rules will be run due to call cost exceeds limit for rule: {}",
            self.shown()
        )
    }

    /// What a broken rule says. The error ends the judgement.
    fn detail<'a>(&self, context: &mut Context<'a, '_>) -> Result<String, String> {
        let usual = || match &*self.message {
            "" => format!("failed rule: {}", self.text),
            message => message.to_owned(),
        };
        let Some(program) = &self.made else { return Ok(usual()) };
        let before = context.budget;
        match program.evaluate(context) {
            Ok(value) => {
                let made = types::text(&value).map(str::trim).unwrap_or_default();
                let fits = !made.is_empty() && made.len() <= MESSAGE_BYTES && !made.contains('\n');
                Ok(if fits { made.to_owned() } else { usual() })
            }
            Err(Failure::Error(_) | Failure::NoOverload(_)) => Ok(usual()),
            Err(Failure::OutOfBudget) if before < EXPRESSION_BUDGET => Err(format!(
                "messageExpression evaluation failed due to running out of cost budget, {NO_MORE}"
            )),
            Err(Failure::OutOfBudget) => {
                let text = &self.made_text;
                Err(format!("{NO_MORE} due to call cost exceeds limit for messageExpression: {text:?}"))
            }
        }
    }
}

const NO_MORE: &str = "no further validation rules will be run";

#[cfg(test)]
mod tests;
