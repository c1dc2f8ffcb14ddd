//! Whether a custom object is as its schema wants it, in upstream's words and order.
//!
//! On an update what has not changed is not looked at again: a stricter schema does not lock old objects up.

use std::collections::{HashMap, HashSet};
use std::fmt::Write;

use serde_json::{Map, Value};

use super::numbers;
use super::told::{At, Told};
use super::{Additional, Structural, formats};
use crate::field::{Cause, FieldError};

/// All that is wrong. `base` is the field that `new` is in (empty at the root).
pub(crate) fn validate(new: &Value, old: Option<&Value>, schema: &Structural, base: &str) -> Vec<FieldError> {
    let mut judge = Judge { told: Told::new(), quiet: false };
    judge.value(new, old, schema, At::Root);
    let mut seen = HashSet::new();
    let errors =
        judge.told.errors.into_iter().filter(|e| seen.insert((e.field.clone(), e.cause.reason(), e.body())));
    let place = |field: String| match (base, field.strip_prefix('.').unwrap_or(&field)) {
        (base, "") => base.to_owned(),
        ("", field) => field.to_owned(),
        (base, field) => format!("{base}.{field}"),
    };
    errors.map(|e| if e.field == COMPOSITE { e } else { FieldError { field: place(e.field), ..e } }).collect()
}

/// Upstream's path of errors that say no more than that one of several schemas did not fit.
pub(super) const COMPOSITE: &str = "<nil>";

/// What came of one schema: whether the value is as it wants it, and how many checks it took, by which upstream picks the
/// best of several.
#[derive(Clone, Copy, Default)]
struct Outcome {
    errors: usize,
    checks: usize,
}

// === impl Outcome ===

impl Outcome {
    fn merge(&mut self, other: Outcome) {
        self.checks += other.checks;
        self.errors += other.errors;
    }

    fn is_valid(&self) -> bool {
        self.errors == 0
    }
}

/// One walk over an object beside its schema.
struct Judge {
    told: Told,
    /// Whether this is about one of several schemas, which may yet be found not to matter: then errors are counted only.
    quiet: bool,
}

// === impl Judge ===

impl Judge {
    fn add(&mut self, outcome: &mut Outcome, error: impl FnOnce() -> FieldError) {
        outcome.errors += 1;
        if !self.quiet {
            self.told.add(error);
        }
    }

    fn invalid(
        &mut self,
        outcome: &mut Outcome,
        path: At<'_>,
        value: impl FnOnce() -> Value,
        what: impl FnOnce() -> String,
    ) {
        self.add(outcome, || {
            let path = path.text();
            let detail = format!("{path} in body {}", what());
            FieldError::invalid(path, &value(), detail)
        });
    }

    fn quietly(&mut self, new: &Value, schema: &Structural, path: At<'_>) -> Outcome {
        let before = std::mem::replace(&mut self.quiet, true);
        let outcome = self.value(new, None, schema, path);
        self.quiet = before;
        outcome
    }

    fn value(&mut self, new: &Value, old: Option<&Value>, schema: &Structural, path: At<'_>) -> Outcome {
        let mut outcome = Outcome::default();
        if old == Some(new) || (!self.quiet && self.told.is_full()) {
            return outcome;
        }
        if let Some((wanted, found)) = wrong_type(new, schema) {
            self.add(&mut outcome, || {
                let path = path.text();
                let detail = format!("{path} in body must be of type {wanted}: {found:?}");
                FieldError { field: path, cause: Cause::TypeInvalid, value: format!("{found:?}"), detail }
            });
        }
        outcome.checks += 1;
        if !new.is_null() {
            self.several(new, schema, path, &mut outcome);
        }
        match new {
            Value::String(text) => self.string(text, schema, path, &mut outcome),
            Value::Number(number) => {
                for error in numbers::check(number, schema, path) {
                    self.add(&mut outcome, || error);
                }
                outcome.checks += 1;
            }
            Value::Array(items) => self.array(items, old, schema, path, &mut outcome),
            Value::Null | Value::Bool(_) | Value::Object(_) => {}
        }
        if let Some(values) = &schema.limits.values {
            match values.contains(new) {
                true => outcome.checks += 1,
                false => self.add(&mut outcome, || unsupported(new, values, path)),
            }
        }
        if let Value::Object(map) = new {
            self.object(map, old, schema, path, &mut outcome);
        }
        outcome
    }

    /// `anyOf`, `oneOf`, `allOf`, `not`. What is inside is judged whole: there is nothing to compare it with.
    fn several(&mut self, new: &Value, schema: &Structural, path: At<'_>, outcome: &mut Outcome) {
        let composite = |what: String| FieldError {
            field: COMPOSITE.into(),
            cause: Cause::Invalid,
            value: "\"\"".into(),
            detail: format!("{:?} must {what}", path.text()),
        };
        if !schema.any_of.is_empty() {
            let outcomes: Vec<Outcome> = schema.any_of.iter().map(|s| self.quietly(new, s, path)).collect();
            match outcomes.iter().find(|o| o.is_valid()) {
                Some(valid) => outcome.merge(*valid),
                None => {
                    self.add(outcome, || composite("validate at least one schema (anyOf)".into()));
                    self.tell_best(new, &schema.any_of, &outcomes, path, outcome);
                }
            }
        }
        if !schema.one_of.is_empty() {
            let outcomes: Vec<Outcome> = schema.one_of.iter().map(|s| self.quietly(new, s, path)).collect();
            let valid: Vec<&Outcome> = outcomes.iter().filter(|o| o.is_valid()).collect();
            if let [valid] = valid[..] {
                outcome.merge(*valid);
            } else {
                let why = match valid.len() {
                    0 => "Found none valid".to_owned(),
                    n => format!("Found {n} valid alternatives"),
                };
                let none = valid.is_empty();
                self.add(outcome, || composite(format!("validate one and only one schema (oneOf). {why}")));
                if none {
                    self.tell_best(new, &schema.one_of, &outcomes, path, outcome);
                }
            }
        }
        if !schema.all_of.is_empty() {
            let outcomes: Vec<Outcome> =
                schema.all_of.iter().map(|s| self.value(new, None, s, path)).collect();
            let valid = outcomes.iter().filter(|o| o.is_valid()).count();
            outcomes.iter().for_each(|o| outcome.merge(*o));
            if valid != outcomes.len() {
                let none = if valid == 0 { ". None validated" } else { "" };
                self.add(outcome, || composite(format!("validate all the schemas (allOf){none}")));
            }
        }
        if schema.not.as_ref().is_some_and(|not| self.quietly(new, not, path).is_valid()) {
            self.add(outcome, || composite("not validate the schema (not)".into()));
        }
    }

    /// What is wrong by the first of those that took the most checks.
    fn tell_best(
        &mut self,
        new: &Value,
        schemas: &[Structural],
        outcomes: &[Outcome],
        path: At<'_>,
        outcome: &mut Outcome,
    ) {
        let best = (0..outcomes.len())
            .reduce(|best, next| if outcomes[next].checks > outcomes[best].checks { next } else { best });
        let Some(best) = best else { return };
        match self.quiet {
            true => outcome.merge(outcomes[best]),
            false => outcome.merge(self.value(new, None, &schemas[best], path)),
        }
    }

    fn string(&mut self, text: &str, schema: &Structural, path: At<'_>, outcome: &mut Outcome) {
        let (limits, shown) = (&schema.limits, || Value::from(text));
        let length = text.chars().count() as u64;
        if let Some(max) = limits.max_length.filter(|max| length > *max) {
            self.add(outcome, || {
                let detail = format!("may not be more than {max} bytes");
                FieldError { field: path.text(), cause: Cause::TooLong, value: String::new(), detail }
            });
        } else if let Some(min) = limits.min_length.filter(|min| length < *min) {
            self.invalid(outcome, path, shown, || format!("should be at least {min} chars long"));
        } else if let Some(pattern) = &limits.pattern
            && !pattern.fits(text)
        {
            self.invalid(outcome, path, shown, || format!("should match '{}'", pattern.text));
        }
        if !limits.format.is_empty() && !formats::fits(&limits.format, text) {
            self.add(outcome, || {
                let path = path.text();
                let detail = format!("{path} in body must be of type {}: {text:?}", limits.format);
                FieldError { field: path, cause: Cause::TypeInvalid, value: shown().to_string(), detail }
            });
        }
        outcome.checks += 1;
    }

    fn array(
        &mut self,
        items: &[Value],
        old: Option<&Value>,
        schema: &Structural,
        path: At<'_>,
        outcome: &mut Outcome,
    ) {
        if let Some(of) = &schema.items {
            let before = Counterparts::of(old, schema);
            for (i, item) in items.iter().enumerate() {
                outcome.merge(self.value(item, before.find(item), of, At::Item(&path, i)));
            }
        }
        let size = items.len() as u64;
        if let Some(min) = schema.limits.min_items.filter(|min| size < *min) {
            self.invalid(outcome, path, || size.into(), || format!("should have at least {min} items"));
        }
        if let Some(max) = schema.limits.max_items.filter(|max| size > *max) {
            self.add(outcome, || too_many(path, size, max));
        }
        outcome.checks += 1;
    }

    fn object(
        &mut self,
        map: &Map<String, Value>,
        old: Option<&Value>,
        schema: &Structural,
        path: At<'_>,
        outcome: &mut Outcome,
    ) {
        let limits = &schema.limits;
        let size = map.len() as u64;
        if let Some(min) = limits.min_properties.filter(|min| size < *min) {
            self.invalid(outcome, path, || size.into(), || format!("should have at least {min} properties"));
        }
        if let Some(max) = limits.max_properties.filter(|max| size > *max) {
            self.add(outcome, || too_many(path, size, max));
        }
        let before = |key: &str| old.and_then(|o| o.get(key));
        for (key, item) in map.iter().filter(|(k, _)| !schema.properties.contains_key(&***k)) {
            let here = At::Dotted(&path, key);
            match &schema.additional {
                Additional::Of(of) => outcome.merge(self.value(item, before(key), of, here)),
                Additional::None => self.add(outcome, || {
                    let path = path.text();
                    let detail = format!("{path}.{key} in body is a forbidden property");
                    FieldError::invalid(path, &key.as_str().into(), detail)
                }),
                Additional::Any | Additional::Unsaid => {}
            }
        }
        for (name, field) in &schema.properties {
            if let Some(item) = map.get(&**name) {
                outcome.merge(self.value(item, before(name), field, At::Field(&path, name)));
            }
        }
        for name in limits.required.iter().filter(|name| !map.contains_key(&***name)) {
            self.add(outcome, || FieldError::required(At::Dotted(&path, name).text(), ""));
        }
        outcome.checks += 1;
    }
}

/// The JSON type of a value, and the number format that goes with it.
fn type_of(value: &Value) -> (&'static str, &'static str) {
    match value {
        Value::Null => ("null", ""),
        Value::Bool(_) => ("boolean", ""),
        Value::String(_) => ("string", ""),
        Value::Array(_) => ("array", ""),
        Value::Object(_) => ("object", ""),
        Value::Number(n) if numbers::is_float(n) => ("number", "float64"),
        Value::Number(_) => ("integer", "int64"),
    }
}

fn wrong_type(new: &Value, schema: &Structural) -> Option<(String, &'static str)> {
    let wanted: &[&str] = match &*schema.kind {
        _ if schema.int_or_string => &["integer", "string"],
        "" => &[],
        kind => &[kind],
    };
    let wrong = |wanted: &str, found| Some((wanted.to_owned(), found));
    let (found, format) = type_of(new);
    if new.is_null() {
        return if wanted.is_empty() || schema.nullable { None } else { wrong(&wanted.join(","), "null") };
    }
    let is_whole = new.as_f64().is_some_and(numbers::is_whole);
    let fits = wanted.contains(&found)
        || (found == "number" && is_whole && wanted.contains(&"integer"))
        || (found == "integer" && wanted.contains(&"number"));
    let declared = &*schema.limits.format;
    if fits || (wanted.is_empty() && declared.is_empty()) {
        return None;
    }
    if !matches!(new, Value::String(_) | Value::Array(_)) && !declared.is_empty() && format != declared {
        return wrong(declared, format);
    }
    let numeric = wanted.iter().any(|w| matches!(*w, "number" | "integer"));
    if !numeric && !declared.is_empty() && matches!(new, Value::String(_) | Value::Array(_)) {
        return None;
    }
    wrong(&wanted.join(","), found)
}

/// The items of an old list that new ones stand for: lists that are maps have keys to tell.
struct Counterparts<'a> {
    keys: &'a [Box<str>],
    by_key: HashMap<String, &'a Value>,
}

// === impl Counterparts ===

impl<'a> Counterparts<'a> {
    fn of(old: Option<&'a Value>, schema: &'a Structural) -> Self {
        let mut this = Counterparts { keys: &schema.list_keys, by_key: HashMap::new() };
        if let (Some(Value::Array(before)), "map") = (old, &*schema.list_type) {
            for item in before {
                this.by_key.entry(this.key(item)).or_insert(item);
            }
        }
        this
    }

    fn find(&self, item: &Value) -> Option<&'a Value> {
        if self.by_key.is_empty() { None } else { self.by_key.get(&self.key(item)).copied() }
    }

    fn key(&self, item: &Value) -> String {
        let mut text = String::new();
        for key in self.keys {
            match item.get(&**key) {
                Some(value) => write!(text, "{value},"),
                None => write!(text, ","),
            }
            .expect("a String takes everything");
        }
        text
    }
}

fn too_many(path: At<'_>, size: u64, max: u64) -> FieldError {
    let mut detail = format!("must have at most {max} item");
    if max != 1 {
        detail.push('s');
    }
    FieldError { field: path.text(), cause: Cause::TooMany, value: size.to_string(), detail }
}

fn unsupported(new: &Value, values: &[Value], path: At<'_>) -> FieldError {
    let mut detail = "supported values: ".to_owned();
    for (i, value) in values.iter().enumerate() {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        write!(detail, "{}{text:?}", if i == 0 { "" } else { ", " }).expect("a String takes everything");
    }
    FieldError { field: path.text(), cause: Cause::NotSupported, value: new.to_string(), detail }
}
