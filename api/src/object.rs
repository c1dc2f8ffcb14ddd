//! A Kubernetes object of any kind: JSON with typed access to what all kinds share.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::Gvk;

/// One object, exactly as on the wire. Unknown fields are kept: the server must be able to see and refuse them.
///
/// The value is always a JSON object once it has passed the codec; accessors on anything else answer "absent".
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Object(pub Value);

// === impl Object ===

impl Object {
    pub fn api_version(&self) -> &str {
        self.str_at(&["apiVersion"])
    }

    pub fn kind(&self) -> &str {
        self.str_at(&["kind"])
    }

    pub fn gvk(&self) -> Gvk {
        Gvk::from_api_version(self.api_version(), self.kind())
    }

    pub fn set_gvk(&mut self, gvk: &Gvk) {
        self.set(&["apiVersion"], gvk.api_version());
        self.set(&["kind"], gvk.kind.clone());
    }

    pub fn name(&self) -> &str {
        self.str_at(&["metadata", "name"])
    }

    pub fn namespace(&self) -> &str {
        self.str_at(&["metadata", "namespace"])
    }

    pub fn generate_name(&self) -> &str {
        self.str_at(&["metadata", "generateName"])
    }

    pub fn uid(&self) -> &str {
        self.str_at(&["metadata", "uid"])
    }

    /// The revision of the store that wrote this object; 0 where it has none or is not a number.
    pub fn revision(&self) -> u64 {
        self.str_at(&["metadata", "resourceVersion"]).parse().unwrap_or(0)
    }

    pub fn generation(&self) -> i64 {
        self.i64_at(&["metadata", "generation"]).unwrap_or(0)
    }

    pub fn creation_timestamp(&self) -> &str {
        self.str_at(&["metadata", "creationTimestamp"])
    }

    pub fn deletion_timestamp(&self) -> Option<&str> {
        self.at(&["metadata", "deletionTimestamp"]).and_then(Value::as_str)
    }

    pub fn is_being_deleted(&self) -> bool {
        self.deletion_timestamp().is_some()
    }

    pub fn deletion_grace_period_seconds(&self) -> Option<i64> {
        self.i64_at(&["metadata", "deletionGracePeriodSeconds"])
    }

    pub fn finalizers(&self) -> impl Iterator<Item = &str> {
        self.items_at(&["metadata", "finalizers"]).iter().filter_map(Value::as_str)
    }

    pub fn owner_references(&self) -> &[Value] {
        self.items_at(&["metadata", "ownerReferences"])
    }

    pub fn labels(&self) -> Option<&Map<String, Value>> {
        self.at(&["metadata", "labels"]).and_then(Value::as_object)
    }

    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels()?.get(key)?.as_str()
    }

    pub fn annotations(&self) -> Option<&Map<String, Value>> {
        self.at(&["metadata", "annotations"]).and_then(Value::as_object)
    }

    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations()?.get(key)?.as_str()
    }

    /// The value at a path of field names. A missing field and an explicit `null` are both `None`.
    pub fn at(&self, path: &[&str]) -> Option<&Value> {
        path.iter().try_fold(&self.0, |v, key| v.get(key)).filter(|v| !v.is_null())
    }

    /// The string at a path, or `""`.
    pub fn str_at(&self, path: &[&str]) -> &str {
        self.at(path).and_then(Value::as_str).unwrap_or_default()
    }

    pub fn i64_at(&self, path: &[&str]) -> Option<i64> {
        self.at(path).and_then(Value::as_i64)
    }

    pub fn bool_at(&self, path: &[&str]) -> Option<bool> {
        self.at(path).and_then(Value::as_bool)
    }

    /// The array at a path, or an empty slice.
    pub fn items_at(&self, path: &[&str]) -> &[Value] {
        self.at(path).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
    }

    /// Mutable access, creating objects on the way; whatever is no object on the way is replaced by one.
    pub fn entry(&mut self, path: &[&str]) -> &mut Value {
        path.iter().fold(&mut self.0, |v, key| {
            if !v.is_object() {
                *v = json!({});
            }
            v.as_object_mut().expect("made an object above").entry(*key).or_insert(Value::Null)
        })
    }

    pub fn set(&mut self, path: &[&str], value: impl Into<Value>) {
        *self.entry(path) = value.into();
    }

    /// Sets a field unless it is already there (a `null` counts as absent).
    pub fn set_default(&mut self, path: &[&str], value: impl Into<Value>) {
        let slot = self.entry(path);
        if slot.is_null() {
            *slot = value.into();
        }
    }

    /// Removes a field; its parents stay.
    pub fn remove(&mut self, path: &[&str]) -> Option<Value> {
        let (last, parents) = path.split_last()?;
        let parent = parents.iter().try_fold(&mut self.0, |v, key| v.get_mut(key))?;
        parent.as_object_mut()?.remove(*last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_read_write_and_remove() {
        let mut o = Object(json!({"metadata": {"name": "a", "labels": {"x": "y"}, "uid": null}}));
        assert_eq!((o.name(), o.label("x"), o.uid(), o.revision()), ("a", Some("y"), "", 0));
        o.set(&["metadata", "resourceVersion"], "7");
        o.set_default(&["metadata", "uid"], "u");
        o.set_default(&["metadata", "name"], "other");
        assert_eq!((o.revision(), o.uid(), o.name()), (7, "u", "a"));
        assert_eq!(o.remove(&["metadata", "labels", "x"]), Some(json!("y")));
        assert_eq!(o.remove(&["spec", "nothing"]), None);
    }
}
