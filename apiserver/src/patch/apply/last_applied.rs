//! The way from client-side to server-side apply: what `kubectl apply` noted in an annotation is no conflict for it.

use coracle_api::Object;
use serde_json::Value;

use super::Writing;
use super::compare::Difference;
use super::configuration::Conflict;
use super::element::json;
use super::owned::fields_of;
use super::place::Place;
use super::set::subtract;
use crate::limits::ANNOTATION_BYTES;

/// The only manager that is treated so.
pub(super) const MANAGER: &str = "kubectl";

const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";
const PATH: [&str; 3] = ["metadata", "annotations", ANNOTATION];

/// The conflicts that the annotation does not settle: it settles what stands in the object as it was applied.
pub(super) fn open_conflicts(w: &Writing<'_>, live: &Object, conflicts: Vec<Conflict>) -> Vec<Conflict> {
    let root = Place::root(w.schema);
    let Some(Ok(last)) = live.annotation(ANNOTATION).map(serde_json::from_str::<Value>) else {
        return conflicts;
    };
    if last.get("apiVersion").and_then(Value::as_str) != Some(&w.gvk.api_version()) {
        return conflicts;
    }
    let mut allowed = fields_of(root, &last);
    let difference = Difference::between(root, &last, &live.0);
    subtract(&mut allowed, &difference.changed);
    subtract(&mut allowed, &difference.removed);
    conflicts.into_iter().filter(|c| !c.is_in(&allowed)).collect()
}

/// Brings an annotation that is there up to date, as long as it fits.
pub(super) fn refresh(merged: &mut Object, applied: &Object) {
    if merged.str_at(&PATH).is_empty() {
        return;
    }
    let mut applied = applied.clone();
    applied.remove(&PATH);
    if applied.at(&PATH[..2]).is_some_and(Value::is_null) {
        applied.remove(&PATH[..2]);
    }
    merged.set(&PATH, format!("{}\n", json(&applied.0)));
    let bytes = |(key, value): (&String, &Value)| key.len() + value.as_str().map_or(0, str::len);
    if merged.annotations().into_iter().flatten().map(bytes).sum::<usize>() > ANNOTATION_BYTES {
        merged.remove(&PATH);
    }
}
