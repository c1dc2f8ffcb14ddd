//! Whether a custom object is as its schema wants it, in upstream's words and order.
//!
//! On an update what has not changed is not looked at again: a stricter schema does not lock old objects up.

use std::fmt::Write;

use serde_json::{Map, Value};

use super::{Additional, Bound, Structural, formats};
use crate::field::{Cause, FieldError};

/// All that is wrong. `base` is the field that `new` is in (empty at the root).
pub(crate) fn validate(new: &Value, old: Option<&Value>, schema: &Structural, base: &str) -> Vec<FieldError> {
    let errors = value(new, old, schema, "").errors;
    let place = |field: String| match (base, field.strip_prefix('.').unwrap_or(&field)) {
        (base, "") => base.to_owned(),
        ("", field) => field.to_owned(),
        (base, field) => format!("{base}.{field}"),
    };
    errors
        .into_iter()
        .map(|e| if e.field == COMPOSITE { e } else { FieldError { field: place(e.field), ..e } })
        .collect()
}

/// Upstream's path of errors that say no more than that one of several schemas did not fit.
const COMPOSITE: &str = "<nil>";

/// What came of one schema: its errors, and how many checks it took, by which upstream picks the best of several.
#[derive(Default)]
struct Outcome {
    errors: Vec<FieldError>,
    checks: usize,
}

// === impl Outcome ===

impl Outcome {
    fn add(&mut self, error: FieldError) {
        if !self.errors.contains(&error) {
            self.errors.push(error);
        }
    }

    fn merge(&mut self, other: Outcome) {
        self.checks += other.checks;
        other.errors.into_iter().for_each(|e| self.add(e));
    }

    fn is_valid(&self) -> bool {
        self.errors.is_empty()
    }

    fn invalid(&mut self, path: &str, value: &Value, what: &str) {
        self.add(FieldError::invalid(path, value, format!("{path} in body {what}")));
    }
}

fn value(new: &Value, old: Option<&Value>, schema: &Structural, path: &str) -> Outcome {
    let mut outcome = Outcome::default();
    if old == Some(new) {
        return outcome;
    }
    if let Some(error) = wrong_type(new, schema, path) {
        outcome.add(error);
    }
    outcome.checks += 1;
    if !new.is_null() {
        several(new, schema, path, &mut outcome);
    }
    match new {
        Value::String(text) => string(text, schema, path, &mut outcome),
        Value::Number(_) => number(new, schema, path, &mut outcome),
        Value::Array(items) => array(items, old, schema, path, &mut outcome),
        Value::Null | Value::Bool(_) | Value::Object(_) => {}
    }
    if let Some(values) = &schema.limits.values {
        match values.contains(new) {
            true => outcome.checks += 1,
            false => outcome.add(unsupported(new, values, path)),
        }
    }
    if let Value::Object(map) = new {
        object(map, old, schema, path, &mut outcome);
    }
    outcome
}

/// The JSON type of a value, and the number format that goes with it.
fn type_of(value: &Value) -> (&'static str, &'static str) {
    match value {
        Value::Null => ("null", ""),
        Value::Bool(_) => ("boolean", ""),
        Value::String(_) => ("string", ""),
        Value::Array(_) => ("array", ""),
        Value::Object(_) => ("object", ""),
        Value::Number(n) if n.is_f64() => ("number", "double"),
        Value::Number(_) => ("integer", "int64"),
    }
}

fn wrong_type(new: &Value, schema: &Structural, path: &str) -> Option<FieldError> {
    let wanted: &[&str] = match &*schema.kind {
        _ if schema.int_or_string => &["integer", "string"],
        "" => &[],
        kind => &[kind],
    };
    let wrong = |wanted: &str, found: &str| {
        let detail = format!("{path} in body must be of type {wanted}: {found:?}");
        Some(FieldError {
            field: path.into(),
            cause: Cause::TypeInvalid,
            value: format!("{found:?}"),
            detail,
        })
    };
    let (found, format) = type_of(new);
    if new.is_null() {
        return if wanted.is_empty() || schema.nullable { None } else { wrong(&wanted.join(","), "null") };
    }
    let is_whole = new.as_f64().is_some_and(|f| f.fract() == 0.0);
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

/// `anyOf`, `oneOf`, `allOf`, `not`. What is inside is judged whole: there is nothing to compare it with.
fn several(new: &Value, schema: &Structural, path: &str, outcome: &mut Outcome) {
    let judge = |schema: &Structural| value(new, None, schema, path);
    let composite = |what: String| FieldError {
        field: COMPOSITE.into(),
        cause: Cause::Invalid,
        value: "\"\"".into(),
        detail: format!("{path:?} must {what}"),
    };
    if !schema.any_of.is_empty() {
        let outcomes: Vec<Outcome> = schema.any_of.iter().map(judge).collect();
        match outcomes.iter().position(Outcome::is_valid) {
            Some(at) => outcomes.into_iter().nth(at).into_iter().for_each(|o| outcome.merge(o)),
            None => {
                outcome.add(composite("validate at least one schema (anyOf)".into()));
                best(outcomes).into_iter().for_each(|o| outcome.merge(o));
            }
        }
    }
    if !schema.one_of.is_empty() {
        let outcomes: Vec<Outcome> = schema.one_of.iter().map(judge).collect();
        let valid = outcomes.iter().filter(|o| o.is_valid()).count();
        if valid == 1 {
            outcomes.into_iter().filter(Outcome::is_valid).for_each(|o| outcome.merge(o));
        } else {
            let why = match valid {
                0 => "Found none valid".to_owned(),
                n => format!("Found {n} valid alternatives"),
            };
            outcome.add(composite(format!("validate one and only one schema (oneOf). {why}")));
            if valid == 0 {
                best(outcomes).into_iter().for_each(|o| outcome.merge(o));
            }
        }
    }
    if !schema.all_of.is_empty() {
        let outcomes: Vec<Outcome> = schema.all_of.iter().map(judge).collect();
        let valid = outcomes.iter().filter(|o| o.is_valid()).count();
        let all = outcomes.len();
        outcomes.into_iter().for_each(|o| outcome.merge(o));
        if valid != all {
            let none = if valid == 0 { ". None validated" } else { "" };
            outcome.add(composite(format!("validate all the schemas (allOf){none}")));
        }
    }
    if schema.not.as_ref().is_some_and(|not| judge(not).is_valid()) {
        outcome.add(composite("not validate the schema (not)".into()));
    }
}

/// The first of those that took the most checks.
fn best(outcomes: Vec<Outcome>) -> Option<Outcome> {
    outcomes.into_iter().reduce(|best, next| if next.checks > best.checks { next } else { best })
}

fn string(text: &str, schema: &Structural, path: &str, outcome: &mut Outcome) {
    let (limits, shown) = (&schema.limits, Value::from(text));
    let length = text.chars().count() as u64;
    if let Some(max) = limits.max_length.filter(|max| length > *max) {
        let detail = format!("may not be more than {max} bytes");
        outcome.add(FieldError { field: path.into(), cause: Cause::TooLong, value: String::new(), detail });
    } else if let Some(min) = limits.min_length.filter(|min| length < *min) {
        outcome.invalid(path, &shown, &format!("should be at least {min} chars long"));
    } else if let Some(pattern) = &limits.pattern
        && pattern.regex.as_ref().is_some_and(|r| !r.is_match(text))
    {
        outcome.invalid(path, &shown, &format!("should match '{}'", pattern.text));
    }
    if !limits.format.is_empty() && !formats::fits(&limits.format, text) {
        outcome.add(FieldError {
            field: path.into(),
            cause: Cause::TypeInvalid,
            value: shown.to_string(),
            detail: format!("{path} in body must be of type {}: {text:?}", limits.format),
        });
    }
    outcome.checks += 1;
}

fn number(new: &Value, schema: &Structural, path: &str, outcome: &mut Outcome) {
    let limits = &schema.limits;
    let at = new.as_f64().unwrap_or_default();
    let whole = &*schema.kind == "integer";
    if whole && &*limits.format == "int32" && !(f64::from(i32::MIN)..=f64::from(i32::MAX)).contains(&at) {
        let why = format!("Checked value must be of type integer with format int32 in {path}");
        outcome.add(FieldError::invalid(path, new, why));
    }
    if let Some(factor) = limits.multiple_of.filter(|f| *f > 0.0 && (at / f).fract() != 0.0) {
        outcome.invalid(path, new, &format!("should be a multiple of {}", go_float(factor)));
    }
    let broken = |bound: Option<Bound>, beyond: fn(f64, f64) -> bool| {
        bound.filter(|b| beyond(at, b.at) || (b.exclusive && at.total_cmp(&b.at).is_eq()))
    };
    if let Some(min) = broken(limits.minimum, |a, b| a < b) {
        let words = if min.exclusive { "greater than" } else { "greater than or equal to" };
        outcome.invalid(path, new, &format!("should be {words} {}", go_float(min.at)));
    }
    if let Some(max) = broken(limits.maximum, |a, b| a > b) {
        let words = if max.exclusive { "less than" } else { "less than or equal to" };
        outcome.invalid(path, new, &format!("should be {words} {}", go_float(max.at)));
    }
    outcome.checks += 1;
}

/// Go's `%v` of a bound: an integer without a fraction.
fn go_float(f: f64) -> String {
    f.to_string()
}

fn array(items: &[Value], old: Option<&Value>, schema: &Structural, path: &str, outcome: &mut Outcome) {
    let before = old.and_then(Value::as_array);
    if let Some(of) = &schema.items {
        for (i, item) in items.iter().enumerate() {
            let old = before.and_then(|before| counterpart(item, before, schema));
            outcome.merge(value(item, old, of, &format!("{path}[{i}]")));
        }
    }
    let size = items.len() as u64;
    if let Some(min) = schema.limits.min_items.filter(|min| size < *min) {
        outcome.invalid(path, &size.into(), &format!("should have at least {min} items"));
    }
    if let Some(max) = schema.limits.max_items.filter(|max| size > *max) {
        outcome.add(too_many(path, size, max));
    }
    outcome.checks += 1;
}

/// The item of the old list that a new one stands for: lists that are maps have keys to tell.
fn counterpart<'a>(item: &Value, before: &'a [Value], schema: &Structural) -> Option<&'a Value> {
    if &*schema.list_type != "map" {
        return None;
    }
    before.iter().find(|b| schema.list_keys.iter().all(|k| b.get(&**k) == item.get(&**k)))
}

fn object(
    map: &Map<String, Value>,
    old: Option<&Value>,
    schema: &Structural,
    path: &str,
    outcome: &mut Outcome,
) {
    let limits = &schema.limits;
    let size = map.len() as u64;
    if let Some(min) = limits.min_properties.filter(|min| size < *min) {
        outcome.invalid(path, &size.into(), &format!("should have at least {min} properties"));
    }
    if let Some(max) = limits.max_properties.filter(|max| size > *max) {
        outcome.add(too_many(path, size, max));
    }
    for (key, item) in map.iter().filter(|(k, _)| !schema.properties.contains_key(&***k)) {
        match &schema.additional {
            Additional::Of(of) => {
                outcome.merge(value(item, old.and_then(|o| o.get(key)), of, &format!("{path}.{key}")));
            }
            Additional::None => {
                let detail = format!("{path}.{key} in body is a forbidden property");
                outcome.add(FieldError::invalid(path, &key.as_str().into(), detail));
            }
            Additional::Any | Additional::Unsaid => {}
        }
    }
    for (name, field) in &schema.properties {
        if let Some(item) = map.get(&**name) {
            let mut here = path.to_owned();
            if !here.is_empty() {
                here.push('.');
            }
            here.push_str(name);
            outcome.merge(value(item, old.and_then(|o| o.get(&**name)), field, &here));
        }
    }
    for name in limits.required.iter().filter(|name| !map.contains_key(&***name)) {
        outcome.add(FieldError::required(format!("{path}.{name}"), ""));
    }
    outcome.checks += 1;
}

fn too_many(path: &str, size: u64, max: u64) -> FieldError {
    let mut detail = format!("must have at most {max} item");
    if max != 1 {
        detail.push('s');
    }
    FieldError { field: path.into(), cause: Cause::TooMany, value: size.to_string(), detail }
}

fn unsupported(new: &Value, values: &[Value], path: &str) -> FieldError {
    let mut detail = "supported values: ".to_owned();
    for (i, value) in values.iter().enumerate() {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        write!(detail, "{}{text:?}", if i == 0 { "" } else { ", " }).expect("a String takes everything");
    }
    FieldError { field: path.into(), cause: Cause::NotSupported, value: new.to_string(), detail }
}
