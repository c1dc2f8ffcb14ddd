//! Status conditions: lists of `{type, status, reason, ...}`, one of each type.

use serde_json::Value;

/// The condition of a type.
pub fn find<'a>(conditions: &'a [Value], kind: &str) -> Option<&'a Value> {
    conditions.iter().find(|c| c["type"] == kind)
}

/// Whether the condition of a type is there and `True`.
pub fn is_true(conditions: &[Value], kind: &str) -> bool {
    find(conditions, kind).is_some_and(|c| c["status"] == "True")
}

/// Puts a condition in its place. `lastTransitionTime` is kept unless `status` changed. Answers whether anything but
/// times changed.
pub fn set(conditions: &mut Vec<Value>, mut new: Value) -> bool {
    let Some(old) = conditions.iter_mut().find(|c| c["type"] == new["type"]) else {
        conditions.push(new);
        return true;
    };
    if old["status"] == new["status"] && !old["lastTransitionTime"].is_null() {
        new["lastTransitionTime"] = old["lastTransitionTime"].clone();
    }
    let changed = ["status", "reason", "message"].iter().any(|key| old[*key] != new[*key]);
    *old = new;
    changed
}
