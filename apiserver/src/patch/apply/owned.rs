//! The paths that an applied configuration names: its leaves, and the items of its lists.

use std::collections::HashMap;

use serde_json::Value;

use super::element;
use super::place::{Place, Rule};
use super::set::{Set, Tree, elements};

/// Every leaf and item of an object.
pub(super) fn fields_of(root: Place<'_>, object: &Value) -> Set {
    fields(root, object).below
}

fn fields(place: Place<'_>, value: &Value) -> Tree {
    let rule = place.rule([Some(value), None]);
    match (rule, value) {
        (Rule::Whole, _) => Tree::leaf(),
        (Rule::Fields, Value::Object(map)) => {
            let mut tree = Tree::default();
            for (name, value) in map {
                let mut child = fields(place.child(name), value);
                let bare = value.is_null() || value.as_object().is_some_and(serde_json::Map::is_empty);
                child.member |= bare || !place.declares(name);
                tree.hang(|| element::field(name), child);
            }
            tree
        }
        (Rule::Keyed(_) | Rule::Set, Value::Array(items)) => listed(place.item(), rule, items),
        (Rule::Fields | Rule::Keyed(_) | Rule::Set, _) => Tree::default(),
    }
}

fn listed(item: Place<'_>, rule: Rule<'_>, items: &[Value]) -> Tree {
    let named = || items.iter().filter_map(|value| Some((rule.element(value, item).ok()?, value)));
    let mut times: HashMap<String, usize> = HashMap::new();
    for (element, _) in named() {
        *times.entry(element).or_default() += 1;
    }
    let mut tree = Tree::default();
    for (element, value) in named() {
        // Of items that are not unique only the element is owned.
        let mut child = if times[&element] > 1 { Tree::default() } else { fields(item, value) };
        child.member = true;
        tree.hang(|| element, child);
    }
    tree
}

/// The set with every declared field on the way to its paths as a member of its own.
pub(super) fn with_named_fields(place: Place<'_>, set: &Set) -> Set {
    let mut tree = Tree::default();
    for (element, node) in elements(set) {
        let below = node.as_object().map(|below| with_named_fields(place.under(element), below));
        let below = below.unwrap_or_default();
        let named = element.strip_prefix("f:").is_some_and(|name| place.declares(name));
        let member = super::set::is_member(node) || (named && !below.is_empty());
        tree.hang(|| element.clone(), Tree { member, below });
    }
    tree.below
}
