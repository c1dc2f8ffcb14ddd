//! Path elements in their wire form: `f:name`, `k:{"name":"x"}`, `v:"x"`, and how messages show them.

use std::fmt::Write;

use serde_json::{Map, Value};

use super::place::Place;
use crate::codec::html_safe;

pub(super) fn field(name: &str) -> String {
    let mut element = String::with_capacity(name.len() + 2);
    element.push_str("f:");
    element.push_str(name);
    element
}

/// The item of a set.
pub(super) fn value(item: &Value) -> Result<String, String> {
    let why = match item {
        Value::Object(_) => "associative list without keys has an element that's a map type",
        Value::Array(_) => "not supported: associative list with lists as elements",
        Value::Null => "associative list without keys has an element that's an explicit null",
        Value::Bool(_) | Value::Number(_) | Value::String(_) => return Ok(format!("v:{}", json(item))),
    };
    Err(why.to_owned())
}

/// The item of a list that is a map by `keys`; an absent key may have a default.
pub(super) fn keyed(keys: &[Box<str>], item: &Value, place: Place<'_>) -> Result<String, String> {
    let Value::Object(fields) = item else {
        let what = if item.is_null() { "a null element" } else { "non-map elements" };
        return Err(format!("associative list with keys may not have {what}"));
    };
    let mut found: Vec<(&str, &Value)> =
        keys.iter().filter_map(|k| Some((&**k, fields.get(&**k).or_else(|| place.default_of(k))?))).collect();
    if found.is_empty() {
        let names: Vec<String> = keys.iter().map(|k| format!("{k:?}")).collect();
        return Err(format!(
            "associative list with keys has an element that omits all key fields [{}] (and doesn't have default values for \
             any key fields)",
            names.join(" ")
        ));
    }
    found.sort_unstable_by_key(|(name, _)| *name);
    let mut text = "k:{".to_owned();
    for (i, (name, value)) in found.into_iter().enumerate() {
        let comma = if i == 0 { "" } else { "," };
        write!(text, "{comma}{name:?}:{}", json(value)).expect("a String takes everything");
    }
    text.push('}');
    Ok(text)
}

/// JSON as Go writes it by default, which is safe inside HTML.
pub(super) fn json(value: &Value) -> String {
    html_safe(&value.to_string()).into_owned()
}

/// The form the server writes of an element that a client wrote: `None` for a sort of element that nobody knows.
pub(super) fn canonical(text: &str) -> Result<Option<String>, String> {
    let Some((sort, rest)) = text.split_once(':').filter(|(sort, _)| sort.len() == 1) else {
        return Err(format!("missing colon: {text}"));
    };
    let parsed = || serde_json::from_str::<Value>(rest).map_err(|e| e.to_string());
    Ok(match sort {
        "f" => Some(text.to_owned()),
        "v" => Some(format!("v:{}", json(&parsed()?))),
        "k" => match parsed()? {
            Value::Object(fields) => Some(format!("k:{}", json(&Value::Object(fields)))),
            other => return Err(format!("expected an object, got {other}")),
        },
        "i" => Some(format!("i:{}", rest.parse::<i64>().map_err(|e| e.to_string())?)),
        _ => None,
    })
}

/// `.spec.containers[name="x"].image`
pub(super) fn shown<'a>(path: impl IntoIterator<Item = &'a String>) -> String {
    let mut text = String::new();
    for element in path {
        show(element, &mut text);
    }
    text
}

/// One element of a path as messages show it.
pub(super) fn show(element: &str, text: &mut String) {
    let (sort, rest) = element.split_once(':').unwrap_or(("f", element));
    let parsed = || serde_json::from_str::<Value>(rest).unwrap_or_default();
    let written = match sort {
        "f" => write!(text, ".{rest}"),
        "v" => write!(text, "[={}]", parsed()),
        "k" => {
            let Value::Object(fields) = parsed() else { return };
            write!(text, "[{}]", keys(&fields))
        }
        _ => write!(text, "[{rest}]"),
    };
    written.expect("a String takes everything");
}

fn keys(fields: &Map<String, Value>) -> String {
    fields.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(",")
}
