//! Lays what an admission policy has made over an object: merged as server-side apply merges, and owned by nobody.

use std::fmt::Write;

use coracle_api::Object;
use serde_json::Value;

use super::element;
use super::merge::merge;
use super::place::{Place, Rule};
use super::validate::validate;
use crate::schema::{Schema, Type};

/// The object with the configuration laid over it; the error is upstream's text.
pub fn overlay(schema: &Schema, live: &Object, configuration: Value) -> Result<Object, String> {
    let mut configuration = Object(configuration);
    configuration.set_gvk(&live.gvk());
    let root = Place::root(schema);
    if let Some(why) = validate(root, &configuration.0) {
        return Err(format!("failed to convert patch object to typed object: {why}"));
    }
    let mut wholes = vec![];
    find_wholes(root, &configuration.0, &mut String::new(), &mut wholes);
    if !wholes.is_empty() {
        let list = wholes.join(", ");
        return Err(format!(
            "invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: {list}"
        ));
    }
    Ok(Object(merge(root, Some(&live.0), Some(&configuration.0)).unwrap_or_default()))
}

/// Lists, maps and structs that are only ever written as a whole: to name a part of one would drop the rest.
fn find_wholes(place: Place<'_>, value: &Value, path: &mut String, found: &mut Vec<String>) {
    let declared = matches!(place.ty(), Some(Type::Struct(_) | Type::Map(_) | Type::List(_)));
    if declared && place.rule([Some(value), None]) == Rule::Whole {
        found.push(path.clone());
    }
    let end = path.len();
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                element::show(&element::field(name), path);
                find_wholes(place.child(name), value, path, found);
                path.truncate(end);
            }
        }
        Value::Array(items) => {
            for (i, item) in items.iter().enumerate() {
                write!(path, "[{i}]").expect("a String takes everything");
                find_wholes(place.item(), item, path, found);
                path.truncate(end);
            }
        }
        _ => {}
    }
}
