//! Lays an applied configuration over an object: what it does not name stays.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::compare::is_bare;
use super::place::{Place, Rule};
use super::set::nothing;

/// The merged value; `None` where nothing is left of it.
pub(super) fn merge(place: Place<'_>, live: Option<&Value>, applied: Option<&Value>) -> Option<Value> {
    let rule = place.rule([live, applied]);
    if rule == Rule::Whole || (is_bare(live) && is_bare(applied)) {
        return applied.or(live).cloned();
    }
    match rule {
        Rule::Whole => None,
        Rule::Fields => {
            let live = live.and_then(Value::as_object).unwrap_or(nothing());
            let applied = applied.and_then(Value::as_object).unwrap_or(nothing());
            let names = live.keys().chain(applied.keys().filter(|name| !live.contains_key(*name)));
            let merged: Map<String, Value> = names
                .filter_map(|name| {
                    Some((name.clone(), merge(place.child(name), live.get(name), applied.get(name))?))
                })
                .collect();
            (!merged.is_empty()).then_some(Value::Object(merged))
        }
        Rule::Keyed(_) | Rule::Set => {
            let items = |value: Option<&'_ Value>| -> Vec<Value> {
                value.and_then(Value::as_array).cloned().unwrap_or_default()
            };
            let (live, applied) = (items(live), items(applied));
            let merged = Lists::new(place.item(), rule, &live, &applied).merge();
            (!merged.is_empty()).then_some(Value::Array(merged))
        }
    }
}

/// Two lists of items that have names, on the way to one.
struct Lists<'a> {
    item: Place<'a>,
    live: Vec<(String, &'a Value)>,
    applied: Vec<(String, &'a Value)>,
    /// By element; `None` for live items that are not unique: those are not merged with.
    by_element: HashMap<String, Option<&'a Value>>,
}

// === impl Lists ===

impl<'a> Lists<'a> {
    fn new(item: Place<'a>, rule: Rule<'a>, live: &'a [Value], applied: &'a [Value]) -> Self {
        let named = |items: &'a [Value]| -> Vec<(String, &'a Value)> {
            items.iter().filter_map(|v| Some((rule.element(v, item).ok()?, v))).collect()
        };
        let (live, applied) = (named(live), named(applied));
        let mut by_element: HashMap<String, Option<&Value>> = HashMap::new();
        for (element, value) in &live {
            by_element.entry(element.clone()).and_modify(|v| *v = None).or_insert(Some(*value));
        }
        Lists { item, live, applied, by_element }
    }

    /// Applied items in their own order; the live ones that are not applied stay behind those they follow now.
    fn merge(&self) -> Vec<Value> {
        let wanted: HashSet<&str> = self.applied.iter().map(|(e, _)| &**e).collect();
        let mut shared =
            self.applied.iter().map(|(e, _)| &**e).filter(|e| self.by_element.contains_key(*e)).peekable();
        let mut done: HashSet<&str> = HashSet::new();
        let mut merged = vec![];
        let (mut l, mut r) = (0, 0);
        while l < self.live.len() || r < self.applied.len() {
            let (next_live, next) = (self.live.get(l), self.applied.get(r));
            if let (Some((here, _)), Some((there, value))) = (next_live, next) {
                if here == there {
                    done.insert(here);
                    merged.extend(self.item(here, value));
                    (l, r) = (l + 1, r + 1);
                    shared.next();
                    continue;
                }
                if wanted.contains(&**here) && shared.peek().is_some_and(|s| *s != &**here) {
                    // Shared, but its turn is later.
                    l += 1;
                    continue;
                }
            }
            if let Some((here, value)) = next_live {
                if !wanted.contains(&**here) {
                    merged.extend(merge(self.item, Some(value), None));
                    l += 1;
                    continue;
                }
                if done.contains(&**here) {
                    l += 1;
                }
            }
            if let Some((there, value)) = next {
                done.insert(there);
                merged.extend(self.item(there, value));
                r += 1;
                if shared.peek() == Some(&&**there) {
                    shared.next();
                }
            }
        }
        merged
    }

    fn item(&self, element: &str, applied: &Value) -> Option<Value> {
        let live = self.by_element.get(element).copied().flatten();
        merge(self.item, live, Some(applied))
    }
}
