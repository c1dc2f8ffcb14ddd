//! Takes the paths of a set out of an object.

use serde_json::{Map, Value};

use super::element;
use super::place::{Place, Rule};
use super::set::{Set, is_member, under};

/// The object without the paths of `set`. A place of which nothing remains is null.
pub(super) fn without(place: Place<'_>, value: &Value, set: &Set) -> Value {
    match (place.rule([Some(value), None]), value) {
        (Rule::Fields, Value::Object(map)) => {
            let mut kept = Map::new();
            for (name, value) in map {
                let element = element::field(name);
                match set.get(&element) {
                    Some(node) if is_member(node) => {}
                    Some(_) => {
                        kept.insert(name.clone(), without(place.child(name), value, under(set, &element)));
                    }
                    None => drop(kept.insert(name.clone(), value.clone())),
                }
            }
            if kept.is_empty() { Value::Null } else { Value::Object(kept) }
        }
        (rule @ (Rule::Keyed(_) | Rule::Set), Value::Array(items)) => {
            let item = place.item();
            let keep = |value: &Value| {
                let element = rule.element(value, item).unwrap_or_default();
                match set.get(&element) {
                    Some(node) if is_member(node) => None,
                    Some(_) => Some(without(item, value, under(set, &element))),
                    None => Some(value.clone()),
                }
            };
            let kept: Vec<Value> = items.iter().filter_map(keep).collect();
            if kept.is_empty() { Value::Null } else { Value::Array(kept) }
        }
        // What is merged as a whole is removed as a whole.
        (_, Value::Object(_) | Value::Array(_)) => Value::Null,
        (_, scalar) => scalar.clone(),
    }
}
