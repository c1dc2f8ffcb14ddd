//! Ownership seen through the `scale` subresource: there only the replicas have owners.

use coracle_api::{Gvk, Object};
use serde_json::Value;

use super::MANAGED_FIELDS;
use super::managers::{Entry, Managers, Operation};
use super::set::{Set, contains, of_fields, subtract};

const REPLICAS: [&str; 2] = ["spec", "replicas"];

/// The `managedFields` of the view of an object whose replicas stand at `path`.
pub fn to_scale(object: &Object, path: &[&str], scale: &Gvk) -> Option<Value> {
    let mut managers = Managers::read(object.at(&MANAGED_FIELDS).cloned(), true).ok()?;
    let (parent, _) = one(path);
    managers.0.retain(|e| contains(&e.fields, &parent));
    for entry in &mut managers.0 {
        entry.api_version = scale.api_version();
        entry.fields = one(&REPLICAS).1;
    }
    managers.write()
}

/// The `managedFields` of the object once its view has been written: who lost the replicas there loses them here.
pub fn from_scale(object: &Object, path: &[&str], gvk: &Gvk, view: Option<&Value>) -> Option<Value> {
    let mut parent = Managers::read(object.at(&MANAGED_FIELDS).cloned(), true).ok()?;
    let mut view = Managers::read(view.cloned(), true).ok()?;
    let ((here, fields), (there, _)) = (one(path), one(&REPLICAS));
    view.0.retain(|e| contains(&e.fields, &there));
    for entry in &mut parent.0 {
        if !contains(&entry.fields, &here) {
            continue;
        }
        // Appliers are the same in both; updates are made anew, as their version differs.
        let same = |e: &Entry| {
            e.operation == Operation::Apply
                && entry.operation == Operation::Apply
                && (&e.manager, &e.subresource) == (&entry.manager, &entry.subresource)
        };
        match view.0.iter().position(same) {
            Some(at) => drop(view.0.remove(at)),
            None => subtract(&mut entry.fields, &fields),
        }
    }
    parent.0.retain(|e| !e.fields.is_empty());
    parent.0.extend(view.0.into_iter().map(|e| Entry {
        api_version: gvk.api_version(),
        time: None,
        fields: fields.clone(),
        ..e
    }));
    parent.write()
}

/// A path of field names as elements, and the set of it.
fn one(path: &[&str]) -> (Vec<String>, Set) {
    (path.iter().map(|name| super::element::field(name)).collect(), of_fields(path))
}
