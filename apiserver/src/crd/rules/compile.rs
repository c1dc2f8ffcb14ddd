//! From a schema to its rules.

use serde_json::Value as Json;

use super::types::{self, Typed};
use super::{Rule, Rules};
use crate::cel::{Environment, Program, Type};

/// The type of a whole object's `self`.
pub(super) const SELF: &str = "selfType";

/// What is wrong with a rule's expressions.
pub(super) struct Compiled {
    pub(super) program: Result<Program, String>,
    pub(super) uses_old: bool,
    pub(super) made: Option<Result<Program, String>>,
}

// === impl Rules ===

impl Rules {
    /// The rules of a version's schema; `None` where it has none.
    pub(in crate::crd) fn new(schema: &Json) -> Option<Rules> {
        Rules::of(schema, SELF, true)
    }

    fn of(schema: &Json, name: &str, root: bool) -> Option<Rules> {
        let field = |schema: &Json, suffix: &str| {
            Rules::of(schema, &format!("{name}.{suffix}"), types::is_embedded(schema))
        };
        let below = |key: &str, suffix: &str| {
            Some(&schema[key]).filter(|s| s.is_object()).and_then(|s| field(s, suffix)).map(Box::new)
        };
        let text = |value: &Json| -> Box<str> { value.as_str().unwrap_or_default().into() };
        let properties = schema["properties"].as_object().into_iter().flatten();
        let own = schema["x-kubernetes-validations"].as_array().map(Vec::as_slice).unwrap_or_default();
        let is_map = schema["x-kubernetes-list-type"] == "map";
        let keys = schema["x-kubernetes-list-map-keys"].as_array().into_iter().flatten().filter(|_| is_map);
        let typed = if own.is_empty() { None } else { types::of(schema, name, root) };
        let rules = Rules {
            kind: text(&schema["type"]),
            own: own.iter().map(|rule| Rule::new(rule, schema, typed.as_ref())).collect(),
            properties: properties.filter_map(|(k, v)| Some((k.as_str().into(), field(v, k)?))).collect(),
            additional: below("additionalProperties", "@values"),
            items: below("items", "@items"),
            keys: keys.map(text).collect(),
            typed,
        };
        let some = !rules.own.is_empty()
            || !rules.properties.is_empty()
            || rules.additional.is_some()
            || rules.items.is_some();
        some.then_some(rules)
    }
}

/// Compiles a rule against the type of its place.
pub(super) fn compile(rule: &Json, ty: &Type) -> Compiled {
    let optional = rule["optionalOldSelf"] == true;
    let alone = Environment::default().with("self", ty.clone());
    let old = if optional { Type::optional(ty.clone()) } else { ty.clone() };
    let both = alone.clone().with("oldSelf", old);
    let text = rule["rule"].as_str().unwrap_or_default();
    let program = both.compile(text).map_err(|why| format!("compilation failed: {why}"));
    let program = program.and_then(|program| match program.output {
        Type::Bool => Ok(program),
        _ => Err("cel expression must evaluate to a bool".to_owned()),
    });
    let uses_old = program.is_ok() && alone.compile(text).is_err();
    let made = rule["messageExpression"].as_str().filter(|text| !text.is_empty() && program.is_ok());
    let made = made.map(|text| {
        let made =
            both.compile(text).map_err(|why| format!("messageExpression compilation failed: {why}"))?;
        match made.output {
            Type::String => Ok(made),
            _ => Err("messageExpression must evaluate to a string".to_owned()),
        }
    });
    Compiled { program, uses_old, made }
}

// === impl Rule ===

impl Rule {
    fn new(rule: &Json, schema: &Json, typed: Option<&Typed>) -> Self {
        let text = |key: &str| -> Box<str> { rule[key].as_str().unwrap_or_default().trim().into() };
        let compiled = match typed {
            Some(typed) => compile(rule, &typed.ty),
            None => Compiled {
                program: Err("failed to convert to declType for CEL validation rules".to_owned()),
                uses_old: false,
                made: None,
            },
        };
        Rule {
            text: text("rule"),
            program: compiled.program,
            uses_old: compiled.uses_old,
            optional_old: rule["optionalOldSelf"] == true,
            message: text("message"),
            made: compiled.made.and_then(Result::ok),
            made_text: text("messageExpression"),
            reason: text("reason"),
            path: field_path(schema, &text("fieldPath")).unwrap_or_default().into(),
        }
    }
}

/// The path `.spec['a b']` as errors show it, if it leads through a schema.
pub(in crate::crd) fn field_path(mut schema: &Json, path: &str) -> Option<String> {
    let (mut rest, mut shown) = (path, String::new());
    while !rest.is_empty() {
        let name;
        (name, rest) = step(rest)?;
        if schema["properties"].is_object() {
            schema = schema["properties"].get(&name)?;
            shown = super::child(&shown, &name);
        } else if schema["additionalProperties"].is_object() {
            schema = &schema["additionalProperties"];
            shown = format!("{shown}[{name}]");
        } else {
            return None;
        }
    }
    Some(shown)
}

/// The first name of a path, and what follows it.
fn step(path: &str) -> Option<(String, &str)> {
    if let Some(rest) = path.strip_prefix('.') {
        let end = rest.find(['.', '[', ']']).unwrap_or(rest.len());
        return Some((rest[..end].to_owned(), &rest[end..])).filter(|(name, _)| !name.is_empty());
    }
    let rest = path.strip_prefix("['")?;
    let mut name = String::new();
    let mut chars = rest.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\'' => return Some((name, rest[at..].strip_prefix("']")?)),
            '\\' => name.push(chars.next()?.1),
            c => name.push(c),
        }
    }
    None
}
