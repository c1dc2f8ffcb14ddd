//! Sets of field paths in their wire form (`FieldsV1`): a tree of objects keyed by path elements.
//!
//! Below the root an empty object, or one with the key `.`, stands for the path itself; other keys lead further down.

use std::sync::LazyLock;

use serde_json::{Map, Value};

/// The paths below some place.
pub(super) type Set = Map<String, Value>;

const SELF: &str = ".";

/// What is in a set at and below one path, while the set is made.
#[derive(Default)]
pub(super) struct Tree {
    /// Whether the path itself is in the set.
    pub(super) member: bool,
    pub(super) below: Set,
}

// === impl Tree ===

impl Tree {
    pub(super) fn leaf() -> Self {
        Tree { member: true, below: Set::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        !self.member && self.below.is_empty()
    }

    /// Hangs a tree under this one; the element is made only when there is something to hang.
    pub(super) fn hang(&mut self, element: impl FnOnce() -> String, tree: Tree) {
        if let Some(node) = tree.into_node() {
            self.below.insert(element(), node);
        }
    }

    fn into_node(mut self) -> Option<Value> {
        if self.is_empty() {
            return None;
        }
        if self.member && !self.below.is_empty() {
            self.below.insert(SELF.to_owned(), Value::Object(Map::new()));
        }
        Some(Value::Object(self.below))
    }
}

/// Whether a node of the tree stands for its own path.
pub(super) fn is_member(node: &Value) -> bool {
    node.as_object().is_none_or(|below| below.is_empty() || below.contains_key(SELF))
}

/// The nodes of a set, by element.
pub(super) fn elements(set: &Set) -> impl Iterator<Item = (&String, &Value)> {
    set.iter().filter(|(element, _)| *element != SELF)
}

static EMPTY: LazyLock<Set> = LazyLock::new(Set::new);

/// What is in nothing.
pub(super) fn nothing() -> &'static Set {
    &EMPTY
}

/// The set below an element; empty where there is none.
pub(super) fn under<'a>(set: &'a Set, element: &str) -> &'a Set {
    set.get(element).and_then(Value::as_object).unwrap_or(nothing())
}

/// Whether a path is in the set.
pub(super) fn contains(set: &Set, path: &[String]) -> bool {
    let Some((last, parents)) = path.split_last() else { return false };
    let parent = parents.iter().fold(set, |set, element| under(set, element));
    parent.get(last).is_some_and(is_member)
}

pub(super) fn union(set: &mut Set, other: &Set) {
    for (element, theirs) in elements(other) {
        match set.get_mut(element) {
            None => drop(set.insert(element.clone(), theirs.clone())),
            Some(ours) => {
                let mut tree = split(ours);
                tree.member |= is_member(theirs);
                union(&mut tree.below, theirs.as_object().unwrap_or(nothing()));
                *ours = tree.into_node().expect("it was not empty before");
            }
        }
    }
}

/// The elements that two sets share, found from the smaller one: many managers of few fields each are compared with one large
/// difference.
fn shared<'a>(one: &'a Set, other: &'a Set) -> impl Iterator<Item = &'a String> {
    let (few, many) = if one.len() < other.len() { (one, other) } else { (other, one) };
    few.keys().filter(|element| *element != SELF && many.contains_key(*element))
}

/// Takes the paths of `other` out; what lies below them stays.
pub(super) fn subtract(set: &mut Set, other: &Set) {
    let elements: Vec<String> = shared(set, other).cloned().collect();
    for element in elements {
        let (Some(ours), Some(theirs)) = (set.get_mut(&element), other.get(&element)) else { continue };
        let mut tree = split(ours);
        tree.member &= !is_member(theirs);
        subtract(&mut tree.below, theirs.as_object().unwrap_or(nothing()));
        match tree.into_node() {
            Some(node) => *ours = node,
            None => drop(set.remove(&element)),
        }
    }
}

/// Takes a path of field names out and all that lies below it.
pub(super) fn exclude(set: &mut Set, path: &[&str]) {
    let Some((first, rest)) = path.split_first() else { return };
    let element = super::element::field(first);
    if rest.is_empty() {
        set.remove(&element);
        return;
    }
    // A member without paths below it has none to take out.
    let Some(Value::Object(below)) =
        set.get_mut(&element).filter(|n| n.as_object().is_some_and(|m| !m.is_empty()))
    else {
        return;
    };
    exclude(below, rest);
    if below.is_empty() {
        set.remove(&element);
    } else if below.keys().eq([SELF]) {
        below.clear();
    }
}

pub(super) fn intersection(set: &Set, other: &Set) -> Set {
    let mut common = Tree::default();
    for element in shared(set, other) {
        let (Some(ours), Some(theirs)) = (set.get(element), other.get(element)) else { continue };
        let (Some(a), Some(b)) = (ours.as_object(), theirs.as_object()) else { continue };
        let tree = Tree { member: is_member(ours) && is_member(theirs), below: intersection(a, b) };
        common.hang(|| element.clone(), tree);
    }
    common.below
}

/// All paths: first those that end here, then those that go on. A path may be long, and its beginning is in each of those
/// below it: `room` is how many bytes there may be, and what is left of it.
pub(super) fn paths(set: &Set, room: &mut usize) -> Vec<Vec<String>> {
    let mut all = vec![];
    collect(set, &mut vec![], &mut all, room);
    all
}

fn collect(set: &Set, here: &mut Vec<String>, all: &mut Vec<Vec<String>>, room: &mut usize) {
    for (element, _) in elements(set).filter(|(_, node)| is_member(node)) {
        if *room == 0 {
            return;
        }
        let path: Vec<String> = here.iter().chain([element]).cloned().collect();
        *room = room.saturating_sub(path.iter().map(|e| size_of::<String>() + e.len()).sum());
        all.push(path);
    }
    for (element, node) in elements(set) {
        here.push(element.clone());
        collect(node.as_object().unwrap_or(nothing()), here, all, room);
        here.pop();
    }
}

/// The set of one path of field names.
pub(super) fn of_fields(path: &[&str]) -> Set {
    let mut set = Set::new();
    for name in path.iter().rev() {
        let below = Value::Object(std::mem::take(&mut set));
        set.insert(super::element::field(name), below);
    }
    set
}

/// Takes a node apart; what remains in its place is of no use.
fn split(node: &mut Value) -> Tree {
    let member = is_member(node);
    let Value::Object(mut below) = node.take() else { return Tree { member, below: Set::new() } };
    below.remove(SELF);
    Tree { member, below }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The beginning of a path is in every path below it: all of them together could be as long as the square of an object.
    #[test]
    fn paths_are_listed_in_bounds() {
        let below: Set = (0..10_000).map(|i| (format!("f:{i}"), Value::Object(Map::new()))).collect();
        let set: Set = [(format!("f:{}", "k".repeat(1000)), Value::Object(below))].into_iter().collect();
        let mut room = 100_000;
        assert!((90..100).contains(&paths(&set, &mut room).len()) && room == 0);
        let mut room = usize::MAX;
        assert_eq!(paths(&set, &mut room).len(), 10_000);
    }
}
