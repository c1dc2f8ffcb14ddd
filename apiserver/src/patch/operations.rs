//! JSON patches (RFC 6902) as upstream's library carries them out: `replace` of a field that is not there adds it, a list's
//! `-1` is its end, what is absent and null are one. Work and growth are bounded: by operations, by the bytes that copies
//! add, by steps, and by the depth of the result, so that no walk over it can exhaust the stack.

use std::io::{self, Write};

use serde_json::{Map, Value};

use crate::limits;

/// A patch, read but not judged: what is wrong with an operation shows when its turn comes.
#[derive(Debug, Default)]
pub(crate) struct Operations(Vec<Value>);

/// Why a patch was not applied.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unapplied {
    /// A `test` does not hold.
    Test(String),
    Other(String),
}

type Step<T = ()> = Result<T, Unapplied>;

// === impl Unapplied ===

impl std::fmt::Display for Unapplied {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Unapplied::Test(why) | Unapplied::Other(why) => f.write_str(why),
        }
    }
}

fn fail<T>(why: impl Into<String>) -> Step<T> {
    Err(Unapplied::Other(why.into()))
}

// === impl Operations ===

impl Operations {
    /// The operations of a patch; the error names what stands in their place.
    pub(crate) fn read(patch: Value) -> Result<Self, &'static str> {
        match patch {
            Value::Array(list) => Ok(Operations(list)),
            Value::Null => Ok(Operations::default()),
            other => Err(crate::schema::describe(&other)),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Carries the operations out, one after the other. After an error the document is of no use.
    pub(crate) fn apply(&self, document: &mut Value) -> Step {
        self.apply_counted(document).map(drop)
    }

    /// The same; answers the steps that it took.
    fn apply_counted(&self, document: &mut Value) -> Step<usize> {
        let mut budget = Budget { steps: limits::PATCH_STEPS, copied: limits::PATCH_COPIED_BYTES };
        for operation in &self.0 {
            let Value::Object(operation) = operation else { return fail("an operation is no object") };
            one(document, operation, &mut budget)?;
        }
        Ok(limits::PATCH_STEPS - budget.steps)
    }
}

/// What a patch may still cost.
struct Budget {
    steps: usize,
    copied: usize,
}

// === impl Budget ===

impl Budget {
    fn take(&mut self, steps: usize) -> Step {
        match self.steps.checked_sub(steps + 1) {
            Some(left) => self.steps = left,
            None => return fail("the patch is too much work"),
        }
        Ok(())
    }

    /// Counts the values of a tree, and refuses one that would be too deep in its new place.
    fn place(&mut self, value: &Value, most: usize) -> Step {
        self.take(0)?;
        if most == 0 && (value.is_object() || value.is_array()) {
            return fail("exceeded max depth");
        }
        match value {
            Value::Array(items) => items.iter().try_for_each(|item| self.place(item, most - 1)),
            Value::Object(map) => map.values().try_for_each(|value| self.place(value, most - 1)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(()),
        }
    }

    fn copy(&mut self, value: &Value) -> Step {
        if serde_json::to_writer(Counter(&mut self.copied), value).is_err() {
            let limit = limits::PATCH_COPIED_BYTES;
            return fail(format!(
                "Unable to complete the copy, the accumulated size increase of copy is above the limit {limit}"
            ));
        }
        Ok(())
    }
}

/// Counts what would be written, and fails when it is too much.
struct Counter<'a>(&'a mut usize);

impl Write for Counter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        *self.0 = self.0.checked_sub(bytes.len()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn one(document: &mut Value, operation: &Map<String, Value>, budget: &mut Budget) -> Step {
    let value = || operation.get("value").unwrap_or(&Value::Null);
    match operation.get("op").and_then(Value::as_str).unwrap_or_default() {
        "add" => {
            let path = Pointer::of(operation, "path")?;
            budget.place(value(), path.room()?)?;
            path.within(document)?.add(&path.last, value().clone(), budget)
        }
        "remove" => {
            let path = Pointer::of(operation, "path")?;
            path.within(document)?.remove(&path.last, budget).map(drop)
        }
        "replace" if operation.get("path").is_some_and(|path| path == "") => {
            if !value().is_object() && !value().is_array() {
                return fail("replace operation value must be object or array");
            }
            budget.place(value(), limits::BODY_DEPTH)?;
            *document = value().clone();
            Ok(())
        }
        "replace" => {
            let path = Pointer::of(operation, "path")?;
            budget.place(value(), path.room()?)?;
            path.within(document)?.set(&path.last, value().clone())
        }
        "move" => {
            let (from, to) = (Pointer::of(operation, "from")?, Pointer::of(operation, "path")?);
            let moved = from.within(document)?.remove(&from.last, budget)?;
            budget.place(&moved, to.room()?)?;
            to.within(document)?.add(&to.last, moved, budget)
        }
        "copy" => {
            let (from, to) = (Pointer::of(operation, "from")?, Pointer::of(operation, "path")?);
            let source = from.within(document)?.get(&from.last)?.unwrap_or(&Value::Null);
            budget.copy(source)?;
            budget.place(source, to.room()?)?;
            let copy = source.clone();
            to.within(document)?.add(&to.last, copy, budget)
        }
        "test" => test(document, operation, value()),
        other => fail(format!("Unexpected kind: {other}")),
    }
}

fn test(document: &mut Value, operation: &Map<String, Value>, wanted: &Value) -> Step {
    let holds = match operation.get("path").and_then(Value::as_str) {
        Some("") => *document == *wanted,
        _ => {
            let path = Pointer::of(operation, "path")?;
            path.within(document)?.get(&path.last)?.unwrap_or(&Value::Null) == wanted
        }
    };
    let path = operation.get("path").and_then(Value::as_str).unwrap_or_default();
    if holds { Ok(()) } else { Err(Unapplied::Test(format!("testing value {path} failed: test failed"))) }
}

/// A path (RFC 6901): the way to what holds the value, and the value's name there. What is before the first slash is
/// not looked at.
struct Pointer {
    way: Vec<String>,
    last: String,
}

// === impl Pointer ===

impl Pointer {
    fn of(operation: &Map<String, Value>, key: &str) -> Step<Pointer> {
        let Some(text) = operation.get(key).and_then(Value::as_str) else {
            return fail(format!("operation failed to decode {key}: missing value"));
        };
        let Some((_, path)) = text.split_once('/') else {
            return fail(format!("operation does not apply: doc is missing {key}: {text}: missing value"));
        };
        let mut way: Vec<String> =
            path.split('/').map(|name| name.replace("~1", "/").replace("~0", "~")).collect();
        let last = way.pop().unwrap_or_default();
        Ok(Pointer { way, last })
    }

    /// How deep a value may be in this place.
    fn room(&self) -> Step<usize> {
        match limits::BODY_DEPTH.checked_sub(self.way.len() + 1) {
            Some(room) => Ok(room),
            None => fail("exceeded max depth"),
        }
    }

    /// The object or list that the path leads into.
    fn within<'a>(&self, document: &'a mut Value) -> Step<Container<'a>> {
        let mut at = document;
        for name in &self.way {
            let next = match at {
                Value::Object(map) => map.get_mut(name),
                Value::Array(items) => {
                    index(name).ok().and_then(|i| wrap(i, items.len())).and_then(|i| items.get_mut(i))
                }
                _ => None,
            };
            match next {
                Some(next) => at = next,
                None => return fail(format!("doc is missing path: {name:?}: missing value")),
            }
        }
        match at {
            Value::Object(map) => Ok(Container::Fields(map)),
            Value::Array(items) => Ok(Container::Items(items)),
            _ => fail(format!("doc is missing path: {:?}: missing value", self.last)),
        }
    }
}

enum Container<'a> {
    Fields(&'a mut Map<String, Value>),
    Items(&'a mut Vec<Value>),
}

// === impl Container ===

impl<'a> Container<'a> {
    fn add(self, name: &str, value: Value, budget: &mut Budget) -> Step {
        match self {
            Container::Fields(map) => drop(map.insert(name.to_owned(), value)),
            Container::Items(items) if name == "-" => items.push(value),
            Container::Items(items) => {
                let at = wrap(index(name)?, items.len() + 1).filter(|at| *at <= items.len());
                let Some(at) = at else { return out_of_range(name) };
                budget.take((items.len() - at) / 2)?;
                items.insert(at, value);
            }
        }
        Ok(())
    }

    fn remove(self, name: &str, budget: &mut Budget) -> Step<Value> {
        match self {
            Container::Fields(map) => match map.remove(name) {
                Some(value) => Ok(value),
                None => fail(format!("Unable to remove nonexistent key: {name}: missing value")),
            },
            Container::Items(items) => {
                let at = wrap(index(name)?, items.len()).filter(|at| *at < items.len());
                let Some(at) = at else { return out_of_range(name) };
                budget.take((items.len() - at) / 2)?;
                Ok(items.remove(at))
            }
        }
    }

    fn set(self, name: &str, value: Value) -> Step {
        match self {
            Container::Fields(map) => drop(map.insert(name.to_owned(), value)),
            Container::Items(items) => {
                let item = wrap(index(name)?, items.len()).and_then(|at| items.get_mut(at));
                let Some(item) = item else { return out_of_range(name) };
                *item = value;
            }
        }
        Ok(())
    }

    /// `None` where an object has no such field.
    fn get(self, name: &str) -> Step<Option<&'a Value>> {
        match self {
            Container::Fields(map) => Ok(map.get(name)),
            Container::Items(items) => match wrap(index(name)?, items.len()).and_then(|at| items.get(at)) {
                Some(item) => Ok(Some(item)),
                None => out_of_range(name),
            },
        }
    }
}

/// Go's `strconv.Atoi`.
fn index(name: &str) -> Step<i64> {
    name.parse().or_else(|_| fail(format!("value was not a proper array index: '{name}'")))
}

/// The place that an index means, where negative ones count from the end; `None` before the beginning.
fn wrap(index: i64, length: usize) -> Option<usize> {
    match usize::try_from(index) {
        Ok(at) => Some(at),
        Err(_) => length.checked_sub(usize::try_from(index.unsigned_abs()).ok()?),
    }
}

fn out_of_range<T>(name: &str) -> Step<T> {
    fail(format!("Unable to access invalid index: {name}: invalid index referenced"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn patched(document: &Value, patch: Value) -> Step<Value> {
        let mut document = document.clone();
        Operations::read(patch).unwrap().apply(&mut document).map(|()| document)
    }

    #[test]
    fn operations_are_those_of_upstreams_library() {
        let document = json!({"a": [1, 2, 3], "m": {"k": "v", "nil": null}});
        let table = [
            (json!({"op": "add", "path": "/a/-", "value": 4}), "/a", json!([1, 2, 3, 4])),
            (json!({"op": "add", "path": "/a/-1", "value": 4}), "/a", json!([1, 2, 3, 4])),
            (json!({"op": "add", "path": "/a/-2", "value": 4}), "/a", json!([1, 2, 4, 3])),
            (json!({"op": "add", "path": "/a/+1", "value": 4}), "/a", json!([1, 4, 2, 3])),
            (json!({"op": "add", "path": "/m/new"}), "/m/new", Value::Null),
            (json!({"op": "remove", "path": "/a/-1"}), "/a", json!([1, 2])),
            (json!({"op": "replace", "path": "/a/-3", "value": 9}), "/a", json!([9, 2, 3])),
            (json!({"op": "replace", "path": "/m/other", "value": 9}), "/m/other", json!(9)),
            (json!({"op": "move", "from": "/a/0", "path": "/m/first"}), "/m/first", json!(1)),
            (json!({"op": "copy", "from": "/m/absent", "path": "/m/copy"}), "/m/copy", Value::Null),
            (json!({"op": "copy", "from": "/a", "path": "/m/k"}), "/m/k", json!([1, 2, 3])),
            (json!({"op": "test", "path": "/m/absent", "value": null}), "/m/k", json!("v")),
            (json!({"op": "test", "path": "/m/nil"}), "/m/k", json!("v")),
            (json!({"op": "test", "path": "/a/-1", "value": 3}), "/m/k", json!("v")),
        ];
        for (operation, at, wanted) in table {
            let result = patched(&document, json!([operation])).unwrap();
            assert_eq!(result.pointer(at), Some(&wanted), "{operation}");
        }
        for refused in [
            json!({"op": "add", "path": "/a/4", "value": 1}),
            json!({"op": "add", "path": "/a/-5", "value": 1}),
            json!({"op": "add", "path": "/a/x", "value": 1}),
            json!({"op": "add", "path": "", "value": {}}),
            json!({"op": "remove", "path": "/m/absent"}),
            json!({"op": "remove", "path": "/a/3"}),
            json!({"op": "replace", "path": "/a/3", "value": 1}),
            json!({"op": "replace", "path": "", "value": 1}),
            json!({"op": "move", "from": "/m", "path": "/m/k"}),
            json!({"op": "move", "from": "/m/absent", "path": "/x"}),
            json!({"op": "add", "path": "/m/k/x", "value": 1}),
            json!({"op": "foo", "path": "/m/k"}),
            json!({"path": "/m/k"}),
            json!({"op": "remove"}),
            json!(1),
        ] {
            assert!(matches!(patched(&document, json!([refused])), Err(Unapplied::Other(_))), "{refused}");
        }
        let test = patched(&document, json!([{"op": "test", "path": "/m/k", "value": "w"}]));
        assert!(matches!(test, Err(Unapplied::Test(_))));
    }

    /// Each copy of a document into itself doubles it and makes it deeper.
    #[test]
    fn copies_can_neither_explode_nor_nest_without_end() {
        let doubling: Vec<Value> =
            (0..30).map(|i| json!({"op": "copy", "from": "/a", "path": format!("/a/{i}")})).collect();
        let big = json!({"a": {"x": "x".repeat(1000)}});
        assert!(patched(&big, doubling.into()).is_err());
        let nesting: Vec<Value> = (0..1000)
            .flat_map(|_| {
                [
                    json!({"op": "move", "from": "/a", "path": "/b"}),
                    json!({"op": "add", "path": "/a", "value": {}}),
                    json!({"op": "move", "from": "/b", "path": "/a/a"}),
                ]
            })
            .collect();
        let refused = patched(&json!({"a": {}}), nesting.into());
        assert_eq!(refused, Err(Unapplied::Other("exceeded max depth".to_owned())));
        let deep = format!("/{}", vec!["a"; 5000].join("/"));
        assert!(patched(&json!({}), json!([{"op": "add", "path": deep, "value": {}}])).is_err());
    }

    #[test]
    fn moves_in_long_lists_are_bounded_work() {
        let long = json!({"a": vec![0; 200_000]});
        let shifting = vec![json!({"op": "add", "path": "/a/0", "value": 1}); limits::PATCH_OPERATIONS];
        assert!(patched(&long, shifting.into()).is_err());
        // At the end of a list every step costs the same.
        let appending = Operations(vec![json!({"op": "add", "path": "/a/-", "value": 1}); 10_000]);
        let steps = appending.apply_counted(&mut long.clone()).unwrap();
        assert!(steps < 100_000, "{steps}");
    }
}
