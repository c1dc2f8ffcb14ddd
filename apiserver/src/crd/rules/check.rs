//! Whether the rules of a definition can be what they are: their expressions compile, and `oldSelf` has a meaning.

use serde_json::{Value as Json, json};

use super::compile::{self, SELF};
use super::{extent, types};
use crate::field::{Cause, FieldError};

/// What one rule may cost by estimate over all places where it holds, and all rules of a schema together: upstream's limits.
const RULE_COST: u64 = 10_000_000;
const SCHEMA_COST: u64 = 100_000_000;
/// How many rules are told of that cost most, and from which part of the limit on.
const TOLD: usize = 4;
const TOLD_FROM: u64 = SCHEMA_COST / 100;

/// Where a schema is.
#[derive(Clone, Copy)]
struct Place<'a> {
    at: &'a str,
    name: &'a str,
    root: bool,
    /// The first list around it whose items are not known by keys.
    uncorrelated: Option<&'a str>,
    /// How often it can be there, by the bounds of what it is in; `None` where these do not say.
    cardinality: Option<u64>,
}

/// What a walk over a schema finds.
struct Judged<'a> {
    errors: Vec<FieldError>,
    found: &'a [FieldError],
    /// Whether the schema was there before: then no single rule costs too much.
    known: bool,
    total: u64,
    /// The rules that cost most, by where they stand.
    costly: Vec<(u64, String)>,
}

/// All that is wrong, the innermost first. Where `found` has something of a schema, its rules are not looked at. `known`: the
/// schema is that of the definition before.
pub(in crate::crd) fn check(at: &str, schema: &Json, known: bool, found: &[FieldError]) -> Vec<FieldError> {
    let mut judged = Judged { errors: vec![], found, known, total: 0, costly: vec![] };
    let place = Place { at, name: SELF, root: true, uncorrelated: None, cardinality: Some(1) };
    below(place, schema, &mut judged);
    judged.finish(at)
}

fn below(place: Place<'_>, schema: &Json, judged: &mut Judged<'_>) {
    let Place { at, name, uncorrelated, .. } = place;
    let times = place.cardinality.zip(repeats(schema)).map(|(all, each)| all.saturating_mul(each));
    let mut go = |at: String, name: String, uncorrelated: Option<&str>, schema: &Json| {
        let root = types::is_embedded(schema);
        below(Place { at: &at, name: &name, root, uncorrelated, cardinality: times }, schema, judged);
    };
    if schema["additionalProperties"].is_object() {
        let at = format!("{at}.additionalProperties");
        go(at, format!("{name}.@values"), uncorrelated, &schema["additionalProperties"]);
    }
    for (key, field) in schema["properties"].as_object().into_iter().flatten() {
        go(format!("{at}.properties[{key}]"), format!("{name}.{key}"), uncorrelated, field);
    }
    if schema["items"].is_object() {
        let known = schema["x-kubernetes-list-type"] == "map";
        let uncorrelated = if known { uncorrelated } else { Some(at) };
        go(format!("{at}.items"), format!("{name}.@items"), uncorrelated, &schema["items"]);
    }
    if !judged.found.iter().any(|e| e.field.starts_with(at)) {
        rules(place, schema, judged);
    }
}

/// How often what is below a schema can be there for each time that it is there itself; `None` without a bound.
fn repeats(schema: &Json) -> Option<u64> {
    let bound = |key: &str| schema[key].as_i64().map(|bound| u64::try_from(bound).unwrap_or(0));
    match schema["type"].as_str() {
        Some("object") if !schema["additionalProperties"].is_null() => bound("maxProperties"),
        Some("array") => bound("maxItems"),
        _ => Some(1),
    }
}

fn rules(place: Place<'_>, schema: &Json, judged: &mut Judged<'_>) {
    let rules = schema["x-kubernetes-validations"].as_array().map(Vec::as_slice).unwrap_or_default();
    if rules.is_empty() {
        return;
    }
    let typed = types::of(schema, place.name, place.root).zip(extent::of(schema, place.root));
    let Some((typed, declared)) = typed else {
        let field = format!("{}.x-kubernetes-validations", place.at);
        let why = "internal error: failed to retrieve type information for x-kubernetes-validations";
        let (cause, value) = (Cause::Internal, String::new());
        return judged.errors.push(FieldError { field, cause, value, detail: why.to_owned() });
    };
    let times = place.cardinality.unwrap_or_else(|| declared.cardinality());
    for (i, rule) in rules.iter().enumerate() {
        let at = |key: &str| format!("{}.x-kubernetes-validations[{i}].{key}", place.at);
        let compiled = compile::compile(rule, &typed.ty);
        match &compiled.program {
            Ok(program) => {
                let cost = program.most(&declared.extent).saturating_mul(times);
                judged.spend(at("rule"), "estimated rule cost", cost);
            }
            Err(why) => judged.errors.push(shown(at("rule"), rule, why)),
        }
        match &compiled.made {
            Some(Ok(made)) => {
                let cost = made.most(&declared.extent);
                judged.spend(at("messageExpression"), "estimated messageExpression cost", cost);
            }
            Some(Err(why)) => judged.errors.push(shown(at("messageExpression"), rule, why)),
            None => {}
        }
        match (compiled.uses_old, place.uncorrelated) {
            (true, Some(list)) => {
                let why = format!(
                    "oldSelf cannot be used on the uncorrelatable portion of the schema within {list}"
                );
                judged.errors.push(FieldError::invalid(at("rule"), &rule["rule"], why));
            }
            (false, _) if !rule["optionalOldSelf"].is_null() => {
                let why = "may not be set if oldSelf is not used in rule";
                judged.errors.push(FieldError::invalid(at("optionalOldSelf"), &rule["optionalOldSelf"], why));
            }
            _ => {}
        }
    }
}

// === impl Judged ===

impl Judged<'_> {
    fn spend(&mut self, at: String, what: &str, cost: u64) {
        self.total = self.total.saturating_add(cost);
        if !self.known && cost > RULE_COST {
            self.errors.push(FieldError::forbidden(&*at, exceeded(what, cost, RULE_COST)));
        }
        if cost >= TOLD_FROM {
            self.costly.push((cost, at));
            self.costly.sort_by_key(|(cost, _)| std::cmp::Reverse(*cost));
            self.costly.truncate(TOLD);
        }
    }

    fn finish(mut self, at: &str) -> Vec<FieldError> {
        if self.total > SCHEMA_COST {
            let why =
                "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema";
            self.errors.extend(self.costly.into_iter().map(|(_, at)| FieldError::forbidden(at, why)));
            let what = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema";
            self.errors.push(FieldError::forbidden(at, exceeded(what, self.total, SCHEMA_COST)));
        }
        self.errors
    }
}

/// By how much, in upstream's words.
#[allow(clippy::cast_precision_loss, reason = "a factor for people")]
fn exceeded(what: &str, cost: u64, limit: u64) -> String {
    let factor = cost as f64 / limit as f64;
    let factor = match factor {
        _ if factor > 100.0 => "more than 100x".to_owned(),
        _ if factor < 1.5 => format!("{factor:.6}x"),
        _ => format!("{factor:.1}x"),
    };
    format!(
        "{what} exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, maxProperties, and \
         maxLength where arrays, maps, and strings are declared)"
    )
}

/// A rule in upstream's internal form.
fn shown(field: String, rule: &Json, why: &str) -> FieldError {
    let text = |key: &str| json!(rule[key].as_str().unwrap_or_default());
    let value = format!(
        r#"{{"Rule":{},"Message":{},"MessageExpression":{},"Reason":{},"FieldPath":{},"OptionalOldSelf":{}}}"#,
        text("rule"),
        text("message"),
        text("messageExpression"),
        rule["reason"],
        text("fieldPath"),
        rule["optionalOldSelf"]
    );
    FieldError { field, cause: Cause::Invalid, value, detail: why.to_owned() }
}
