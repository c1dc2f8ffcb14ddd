//! Updates: a manager owns what it adds or changes, and loses what others change.

use coracle_api::Object;
use serde_json::{Value, json};

use super::compare::Difference;
use super::managers::{Managers, Operation};
use super::place::Place;
use super::set::{Set, intersection, subtract};
use super::{MANAGED_FIELDS, Writing};

/// Metadata that nobody owns: the identity of an object and what the server keeps there.
const UNOWNED_METADATA: [&str; 10] = [
    ".",
    "f:clusterName",
    "f:creationTimestamp",
    "f:generation",
    "f:managedFields",
    "f:name",
    "f:namespace",
    "f:resourceVersion",
    "f:selfLink",
    "f:uid",
];

/// Takes `managedFields` out of the new object of a create (`old` is `None`) or an update, and gives what they become.
pub fn track(w: &Writing<'_>, old: Option<&Object>, new: &mut Object) -> Option<Value> {
    let given = new.remove(&MANAGED_FIELDS);
    let mut managers = known(w, old, given);
    let existing = old.is_some_and(|old| !old.uid().is_empty());
    // Where nobody owns anything, only an apply makes a beginning.
    if existing && managers.0.is_empty() {
        return None;
    }
    match old {
        Some(old) => update(w, w.manager, &mut managers, &old.0, &new.0),
        None => update(w, w.manager, &mut managers, &w.empty().0, &new.0),
    }
    managers.write()
}

/// The entries that hold before a write: those the client gives where it may and they can be read, else the old ones.
fn known(w: &Writing<'_>, old: Option<&Object>, given: Option<Value>) -> Managers {
    let before = old.and_then(|old| old.at(&MANAGED_FIELDS));
    let kept = || Managers::read(before.cloned(), true).unwrap_or_default();
    if !w.subresource.is_empty() || given.as_ref() == before {
        return kept();
    }
    match given {
        None => kept(),
        Some(reset) if reset == json!([{}]) => Managers::default(),
        Some(given) => match Managers::read(Some(given), false) {
            Ok(managers) if !managers.0.is_empty() => managers,
            _ => kept(),
        },
    }
}

/// Gives the differences to `manager`, and takes them from the others.
pub(super) fn update(w: &Writing<'_>, manager: &str, managers: &mut Managers, old: &Value, new: &Value) {
    let api_version = w.gvk.api_version();
    w.forget_unserved(managers, &api_version);
    let mut difference = Difference::between(Place::root(w.schema), old, new);
    difference.exclude(w.resets);
    disown(managers, None, &difference);
    let mut fields = difference.changed;
    strip(&mut fields);
    let by = Writing { manager, ..*w };
    managers.add(by.writer(Operation::Update, &api_version), fields, w.now);
    managers.cap();
}

/// Takes what changed and what is gone from all managers but one.
pub(super) fn disown(managers: &mut Managers, but: Option<usize>, difference: &Difference) {
    for (i, entry) in managers.0.iter_mut().enumerate() {
        if Some(i) != but {
            subtract(&mut entry.fields, &difference.changed);
            subtract(&mut entry.fields, &difference.removed);
        }
    }
    managers.0.retain(|e| !e.fields.is_empty());
}

/// What the other managers own of what changed, by their place.
pub(super) fn conflicts(
    managers: &Managers,
    but: Option<usize>,
    difference: &Difference,
) -> Vec<(usize, Set)> {
    let others = managers.0.iter().enumerate().filter(|(i, _)| Some(*i) != but);
    others
        .map(|(i, entry)| (i, intersection(&entry.fields, &difference.changed)))
        .filter(|(_, fields)| !fields.is_empty())
        .collect()
}

/// Takes out what nobody owns.
pub(super) fn strip(fields: &mut Set) {
    fields.remove("f:apiVersion");
    fields.remove("f:kind");
    let Some(Value::Object(metadata)) = fields.get_mut("f:metadata") else { return };
    metadata.retain(|element, _| !UNOWNED_METADATA.contains(&element.as_str()));
    if metadata.is_empty() {
        fields.remove("f:metadata");
    }
}
