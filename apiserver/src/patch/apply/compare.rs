//! What differs between two states of an object: one walk over both.

use std::collections::BTreeMap;

use serde_json::Value;

use super::element;
use super::place::{Place, Rule};
use super::set::{Set, Tree, exclude, nothing};

/// The paths that two objects do not share.
#[derive(Default)]
pub(super) struct Difference {
    /// Added or with another value.
    pub(super) changed: Set,
    pub(super) removed: Set,
}

/// What differs at and below one place.
#[derive(Default)]
struct Differing {
    changed: Tree,
    removed: Tree,
}

// === impl Difference ===

impl Difference {
    pub(super) fn between(root: Place<'_>, old: &Value, new: &Value) -> Self {
        let found = compare(root, Some(old), Some(new));
        Difference { changed: found.changed.below, removed: found.removed.below }
    }

    /// Forgets all that an endpoint does not write.
    pub(super) fn exclude(&mut self, resets: &[&[&str]]) {
        for path in resets {
            exclude(&mut self.changed, path);
            exclude(&mut self.removed, path);
        }
    }
}

// === impl Differing ===

impl Differing {
    /// A place that is taken as one value.
    fn whole(old: Option<&Value>, new: Option<&Value>) -> Self {
        let mut this = Differing::default();
        match (old, new) {
            (Some(_), None) => this.removed.member = true,
            (old, new) => this.changed.member = old != new,
        }
        this
    }

    fn hang(&mut self, element: impl Fn() -> String, below: Differing) {
        self.changed.hang(&element, below.changed);
        self.removed.hang(&element, below.removed);
    }
}

fn compare(place: Place<'_>, old: Option<&Value>, new: Option<&Value>) -> Differing {
    let rule = place.rule([old, new]);
    if rule == Rule::Whole || (is_bare(old) && is_bare(new)) {
        return Differing::whole(old, new);
    }
    let mut found = match rule {
        Rule::Fields => by_field(place, old, new),
        Rule::Whole | Rule::Keyed(_) | Rule::Set => by_item(place.item(), rule, old, new),
    };
    found.changed.member |= old.is_none();
    found.removed.member |= new.is_none();
    found
}

/// Nothing to walk into: then the difference between absent, null and empty counts.
pub(super) fn is_bare(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(Value::Object(map)) => map.is_empty(),
        Some(Value::Array(items)) => items.is_empty(),
        Some(_) => false,
    }
}

fn by_field(place: Place<'_>, old: Option<&Value>, new: Option<&Value>) -> Differing {
    let before = old.and_then(Value::as_object).unwrap_or(nothing());
    let after = new.and_then(Value::as_object).unwrap_or(nothing());
    let mut found = Differing::default();
    for (name, value) in after {
        found.hang(|| element::field(name), compare(place.child(name), before.get(name), Some(value)));
    }
    for (name, value) in before.iter().filter(|(name, _)| !after.contains_key(*name)) {
        found.hang(|| element::field(name), compare(place.child(name), Some(value), None));
    }
    found
}

/// The items of both sides with the same element; several where an element is not unique.
type Items<'a> = BTreeMap<String, [Vec<&'a Value>; 2]>;

fn by_item(item: Place<'_>, rule: Rule<'_>, old: Option<&Value>, new: Option<&Value>) -> Differing {
    if old == new {
        return Differing::default();
    }
    let mut items = Items::new();
    for (side, list) in [old, new].into_iter().enumerate() {
        for value in list.and_then(Value::as_array).into_iter().flatten() {
            // An item that cannot be named cannot be owned.
            if let Ok(element) = rule.element(value, item) {
                items.entry(element).or_default()[side].push(value);
            }
        }
    }
    let mut found = Differing::default();
    for (element, [before, after]) in items {
        found.hang(|| element.clone(), same_element(item, &before, &after));
    }
    found
}

/// Items that are not unique are taken together, as one value.
fn same_element(item: Place<'_>, before: &[&Value], after: &[&Value]) -> Differing {
    match (before, after) {
        ([] | [_], [] | [_]) => compare(item, before.first().copied(), after.first().copied()),
        ([_, _, ..], [_, _, ..]) => {
            let mut found = Differing::default();
            found.changed.member = before != after;
            found
        }
        ([_, _, ..], one) => {
            let mut found = one.first().map(|v| compare(item, None, Some(v))).unwrap_or_default();
            found.removed.member = true;
            found
        }
        (one, _) => {
            let mut found = one.first().map(|v| compare(item, Some(v), None)).unwrap_or_default();
            found.changed.member = true;
            found
        }
    }
}
