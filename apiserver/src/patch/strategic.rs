//! Strategic merge patch: a merge patch that knows from the schema which lists are merged, and by which key.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use crate::schema::{Field, Node};
use crate::status::{Result, Status};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM_LIST: &str = "$deleteFromPrimitiveList";
const SET_ORDER: &str = "$setElementOrder";

const BAD_PRIMITIVE_LIST: &str = "invalid patch format of primitive list";
const BAD_RETAIN_KEYS: &str = "invalid patch format of retainKeys";
const BAD_SET_ORDER: &str = "invalid patch format of setElementOrder list";

/// Merges a patch into an object of the schema at `node`.
pub(super) fn merge(
    original: &mut Map<String, Value>,
    patch: Map<String, Value>,
    node: Node<'_>,
) -> Result<()> {
    merge_map(original, patch, Some(node))
}

fn merge_map(
    original: &mut Map<String, Value>,
    mut patch: Map<String, Value>,
    node: Option<Node<'_>>,
) -> Result<()> {
    match patch.get(DIRECTIVE) {
        None => {}
        Some(directive) if directive == "replace" => {
            patch.remove(DIRECTIVE);
            *original = patch;
            return Ok(());
        }
        Some(directive) if directive == "delete" => {
            original.clear();
            return Ok(());
        }
        Some(other) => return Err(unknown_directive(other, &patch)),
    }
    retain_keys(original, &mut patch)?;
    set_orders(original, &mut patch, node)?;
    for (key, value) in patch {
        merge_field(original, &key, value, node)?;
    }
    Ok(())
}

fn merge_field(
    original: &mut Map<String, Value>,
    key: &str,
    value: Value,
    node: Option<Node<'_>>,
) -> Result<()> {
    let (key, deletes) = match key.strip_prefix(DELETE_FROM_LIST) {
        Some(rest) => (rest.strip_prefix('/').ok_or_else(|| Status::bad_request(BAD_PRIMITIVE_LIST))?, true),
        None => (key, false),
    };
    if value.is_null() {
        original.remove(key);
        return Ok(());
    }
    let field = node.and_then(|n| n.field(key));
    let child = node.and_then(|n| n.child(key));
    match (original.get_mut(key), value) {
        (Some(Value::Object(old)), Value::Object(new)) => {
            if field.is_some_and(|f| f.merge.replace) {
                *old = new;
                return Ok(());
            }
            merge_map(old, new, child)
        }
        (Some(Value::Array(old)), Value::Array(new)) => {
            if !deletes && !field.is_some_and(|f| f.merge.merge) {
                *old = new;
                return Ok(());
            }
            *old = merge_list(std::mem::take(old), new, List::of(field, child), deletes)?;
            Ok(())
        }
        (_, _) if deletes => Ok(()),
        (_, mut value) => {
            discard_nulls(&mut value);
            match remove_directives(value) {
                Some(value) => original.insert(key.to_owned(), value),
                None => original.remove(key),
            };
            Ok(())
        }
    }
}

/// What the schema says of a list that is merged.
#[derive(Clone, Copy)]
struct List<'a> {
    /// Empty for lists of scalars.
    key: &'a str,
    item: Option<Node<'a>>,
}

impl<'a> List<'a> {
    fn of(field: Option<&'a Field>, list: Option<Node<'a>>) -> Self {
        List { key: field.map_or("", |f| &*f.merge.key), item: list.and_then(Node::item) }
    }

    /// What tells items apart: the merge key's value, or the scalar itself.
    fn identity<'v>(&self, item: &'v Value) -> Option<&'v Value> {
        if item.is_object() { item.get(self.key) } else { Some(item) }
    }

    /// Where each of the items comes first.
    fn places(&self, items: &[Value]) -> Places {
        let mut places = HashMap::with_capacity(items.len());
        for (at, item) in items.iter().enumerate() {
            if let Some(identity) = self.identity(item) {
                places.entry(text(identity)).or_insert(at);
            }
        }
        Places(places)
    }

    fn place(&self, places: &Places, item: &Value) -> Option<usize> {
        places.0.get(&text(self.identity(item)?)).copied()
    }
}

/// Places in a list by what tells its items apart: a list of n items is merged in n steps, not in n * n.
struct Places(HashMap<String, usize>);

/// A value as a key.
fn text(value: &Value) -> String {
    value.to_string()
}

fn texts(values: &[Value]) -> HashSet<String> {
    values.iter().map(text).collect()
}

fn merge_list(original: Vec<Value>, patch: Vec<Value>, list: List<'_>, deletes: bool) -> Result<Vec<Value>> {
    if original.is_empty() && patch.is_empty() {
        return Ok(original);
    }
    if !holds_maps(&original, &patch)? {
        if deletes {
            let gone = texts(&patch);
            return Ok(original.into_iter().filter(|item| !gone.contains(&text(item))).collect());
        }
        let mut merged: Vec<Value> = Vec::with_capacity(original.len() + patch.len());
        let mut seen = HashSet::new();
        for item in original.iter().chain(&patch) {
            if seen.insert(text(item)) {
                merged.push(item.clone());
            }
        }
        return Ok(order(merged, &patch, &original, list));
    }
    if list.key.is_empty() {
        let name = list.item.and_then(Node::as_struct).map_or("", |s| &s.go);
        return Err(failed(format!("cannot merge lists without merge key for {name}")));
    }
    let (original, patch) = directed_items(original, patch, list)?;
    let live = original.clone();
    let mut merged = original;
    let mut places = list.places(&merged);
    for item in &patch {
        let Some(identity) = list.identity(item) else { return Err(no_merge_key(item, list.key)) };
        let at = list.place(&places, item);
        match (at.and_then(|at| merged.get_mut(at)), item) {
            (Some(Value::Object(old)), Value::Object(new)) => merge_map(old, new.clone(), list.item)?,
            _ => {
                places.0.entry(text(identity)).or_insert(merged.len());
                merged.push(item.clone());
            }
        }
    }
    Ok(order(merged, &patch, &live, list))
}

/// Whether the items are objects; mixed lists and lists of lists are refused.
fn holds_maps(original: &[Value], patch: &[Value]) -> Result<bool> {
    let mut kinds = original.iter().chain(patch).map(crate::schema::describe);
    let first = kinds.next().unwrap_or("null");
    if first == "array" {
        return Err(Status::new(422, "Invalid", "lists of lists are not supported"));
    }
    match kinds.find(|kind| *kind != first) {
        Some(other) => Err(failed(format!("list element types are not identical: {first}, {other}"))),
        None => Ok(first == "object"),
    }
}

/// Carries out the `$patch` directives among a list's items.
fn directed_items(
    mut original: Vec<Value>,
    patch: Vec<Value>,
    list: List<'_>,
) -> Result<(Vec<Value>, Vec<Value>)> {
    let mut plain = Vec::with_capacity(patch.len());
    let (mut replaces, mut gone) = (false, HashSet::new());
    for item in patch {
        match item.get(DIRECTIVE).map(|d| d.as_str().unwrap_or_default()) {
            None => plain.push(item),
            Some("delete") => {
                let Some(wanted) = item.get(list.key) else { return Err(no_merge_key(&item, list.key)) };
                gone.insert(text(wanted));
            }
            Some("replace") => replaces = true,
            Some("merge") => {
                return Err(failed("merging lists cannot yet be specified in the patch".to_owned()));
            }
            Some(_) => {
                let map = item.as_object().cloned().unwrap_or_default();
                return Err(unknown_directive(&item[DIRECTIVE], &map));
            }
        }
    }
    if !gone.is_empty() {
        original.retain(|other| other.get(list.key).is_none_or(|key| !gone.contains(&text(key))));
    }
    Ok(if replaces { (plain, vec![]) } else { (original, plain) })
}

/// The order upstream gives a merged list: items that `wanted` names in its order, the others in that of the live list,
/// each of them before the first named item that the live list has behind it.
fn order(merged: Vec<Value>, wanted: &[Value], live: &[Value], list: List<'_>) -> Vec<Value> {
    let (wanted, live) = (list.places(wanted), list.places(live));
    let place = |places: &Places, item: &Value| list.place(places, item);
    // Each item with its place among the wanted and in the live list.
    let placed = merged.into_iter().map(|item| (place(&wanted, &item), place(&live, &item), item));
    let (mut named, mut others): (Vec<_>, Vec<_>) = placed.partition(|(wanted, ..)| wanted.is_some());
    named.sort_by_key(|(wanted, ..)| *wanted);
    others.sort_by_key(|(_, live, _)| live.unwrap_or(usize::MAX));
    let mut result = Vec::with_capacity(named.len() + others.len());
    let (mut left, mut right) = (others.into_iter().peekable(), named.into_iter().peekable());
    while let (Some(l), Some(r)) = (left.peek(), right.peek()) {
        let before = matches!((l.1, r.1), (Some(l), Some(r)) if l < r);
        result.extend(if before { left.next() } else { right.next() });
    }
    result.extend(right);
    result.extend(left);
    result.into_iter().map(|(_, _, item)| item).collect()
}

/// Keeps only the fields that `$retainKeys` lists.
fn retain_keys(original: &mut Map<String, Value>, patch: &mut Map<String, Value>) -> Result<()> {
    let Some(keys) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    let Value::Array(keys) = keys else { return Err(Status::bad_request(BAD_RETAIN_KEYS)) };
    let keys: HashSet<&str> = keys.iter().filter_map(Value::as_str).collect();
    let listed = |key: &str| keys.contains(key);
    let directive = |key: &str| key.starts_with(DELETE_FROM_LIST) || key.starts_with(SET_ORDER);
    if patch.iter().any(|(key, value)| !value.is_null() && !directive(key) && !listed(key)) {
        return Err(Status::bad_request(BAD_RETAIN_KEYS));
    }
    original.retain(|key, _| listed(key));
    Ok(())
}

/// Carries out the `$setElementOrder` directives: merges the lists they are about, then orders them.
fn set_orders(
    original: &mut Map<String, Value>,
    patch: &mut Map<String, Value>,
    node: Option<Node<'_>>,
) -> Result<()> {
    let directives: Vec<String> = patch.keys().filter(|key| key.starts_with(SET_ORDER)).cloned().collect();
    for directive in directives {
        let wanted = patch.remove(&directive).unwrap_or_default();
        let Value::Array(wanted) = wanted else {
            return Err(failed(format!(
                "expected a slice, but received a {}",
                crate::schema::describe(&wanted)
            )));
        };
        let key = directive[SET_ORDER.len()..]
            .strip_prefix('/')
            .ok_or_else(|| Status::bad_request(BAD_SET_ORDER))?;
        let field = node.and_then(|n| n.field(key));
        let list = List::of(field, node.and_then(|n| n.child(key)));
        let live = match original.get(key) {
            Some(Value::Array(items)) => items.clone(),
            Some(Value::Null) | None => vec![],
            Some(other) => {
                return Err(failed(format!(
                    "expected a slice, but received a {}",
                    crate::schema::describe(other)
                )));
            }
        };
        let merged = match (original.contains_key(key), patch.remove(key)) {
            (_, Some(Value::Array(items))) => {
                check_order(&items, &wanted, list)?;
                if !original.contains_key(key) {
                    items.into_iter().filter_map(remove_directives).collect()
                } else if field.is_some_and(|f| f.merge.merge) {
                    merge_list(live.clone(), items, list, false)?
                } else {
                    items
                }
            }
            // The patch drops the list.
            (_, Some(Value::Null)) => {
                original.remove(key);
                continue;
            }
            (_, Some(_)) => return Err(Status::bad_request(BAD_SET_ORDER)),
            (true, None) => live.clone(),
            (false, None) => continue,
        };
        original.insert(key.to_owned(), order(merged, &wanted, &live, list).into());
    }
    Ok(())
}

/// The patch's items must come in the order the directive gives.
fn check_order(items: &[Value], wanted: &[Value], list: List<'_>) -> Result<()> {
    if wanted.is_empty() {
        return Ok(());
    }
    let mut rest = wanted.iter();
    for item in items.iter().filter(|item| item.get(DIRECTIVE).is_none()) {
        if item.is_object() && list.identity(item).is_none() {
            return Err(no_merge_key(item, list.key));
        }
        if !rest.any(|w| list.identity(w) == list.identity(item)) {
            let shown = |list: &[Value]| go_value(&Value::Array(list.to_vec()));
            let (items, wanted) = (shown(items), shown(wanted));
            return Err(failed(format!(
                "The order in patch list:\n{items}\n doesn't match {SET_ORDER} list:\n{wanted}\n"
            )));
        }
    }
    Ok(())
}

fn discard_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, v| !v.is_null());
            map.values_mut().for_each(discard_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(discard_nulls),
        _ => {}
    }
}

/// A value as it is without directives; `None` where it is one itself.
fn remove_directives(value: Value) -> Option<Value> {
    match value {
        Value::Object(map) if map.contains_key(DIRECTIVE) => None,
        Value::Object(map) => {
            let kept = map.into_iter().filter_map(|(k, v)| Some((k, remove_directives(v)?)));
            Some(Value::Object(kept.collect()))
        }
        Value::Array(items) => Some(items.into_iter().filter_map(remove_directives).collect()),
        other => Some(other),
    }
}

/// A value as Go's `%v` prints it.
pub(super) fn go_value(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(s) => s.clone(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::Array(items) => format!("[{}]", items.iter().map(go_value).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => {
            let entries = map.iter().map(|(k, v)| format!("{k}:{}", go_value(v)));
            format!("map[{}]", entries.collect::<Vec<_>>().join(" "))
        }
    }
}

/// Upstream answers most malformed patches with a bare 500.
fn failed(message: String) -> Status {
    Status::new(500, "", message)
}

fn no_merge_key(item: &Value, key: &str) -> Status {
    failed(format!("map: {} does not contain declared merge key: {key}", go_value(item)))
}

fn unknown_directive(directive: &Value, patch: &Map<String, Value>) -> Status {
    let map = go_value(&Value::Object(patch.clone()));
    failed(format!("unknown patch type: {} in map: {map}", go_value(directive)))
}
