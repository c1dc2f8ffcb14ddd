//! What may change in a pod after its creation: images, deadlines that shrink, tolerations that grow, gates that open.

use coracle_api::Object;
use serde_json::{Value, json};

use super::super::validation::Errors;
use super::validation::{items, trimmed_image, whole_pod};
use crate::field::FieldError;

const RULE: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

pub(in super::super) fn validate_pod_update(new: &Object, old: &Object) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let empty = json!({});
    let (is, was) = (new.at(&["spec"]).unwrap_or(&empty), old.at(&["spec"]).unwrap_or(&empty));
    whole_pod(new, is, &mut errors);
    for list in ["containers", "initContainers"] {
        if items(is, list).count() != items(was, list).count() {
            let at = format!("spec.{list}");
            errors.forbidden(at, "pod updates may not add or remove containers");
            return errors.0;
        }
        for (i, c) in items(is, list).enumerate() {
            let image = c["image"].as_str().unwrap_or_default();
            let at = format!("spec.{list}[{i}].image");
            if image.is_empty() {
                errors.required(at, "");
            }
            trimmed_image(&format!("spec.{list}[{i}]"), c, &mut errors);
        }
    }
    if !deadline(is, was, &mut errors) {
        return errors.0;
    }
    tolerations(is, was, &mut errors);
    gates(is, was, &mut errors);
    if without_mutable(is, was) != *was {
        errors.forbidden("spec", RULE);
    }
    errors.0
}

/// An active deadline may be set, or brought nearer.
/// Whether anything else is worth looking at.
fn deadline(is: &Value, was: &Value, errors: &mut Errors) -> bool {
    let at = "spec.activeDeadlineSeconds";
    match (is["activeDeadlineSeconds"].as_i64(), was["activeDeadlineSeconds"].as_i64()) {
        (Some(new), _) if !(0..=i64::from(i32::MAX)).contains(&new) => {
            errors.invalid(at, new, format!("must be between 0 and {}, inclusive", i32::MAX));
            return false;
        }
        (Some(new), Some(old)) if new > old => {
            errors.invalid(at, new, "must be less than or equal to previous value");
            return false;
        }
        (None, Some(_)) => {
            errors.invalid(at, Value::Null, "must not update from a positive integer to nil value");
        }
        _ => {}
    }
    true
}

fn tolerations(is: &Value, was: &Value, errors: &mut Errors) {
    let same = |a: &Value, b: &Value| ["key", "operator", "value", "effect"].iter().all(|k| a[*k] == b[*k]);
    let kept = items(was, "tolerations").all(|old| items(is, "tolerations").any(|new| same(old, new)));
    if !kept {
        let detail = "existing toleration can not be modified except its tolerationSeconds";
        errors.forbidden("spec.tolerations", detail);
    }
}

/// Gates only go.
fn gates(is: &Value, was: &Value, errors: &mut Errors) {
    let before: Vec<&Value> = items(was, "schedulingGates").collect();
    for gate in items(is, "schedulingGates").filter(|g| !before.contains(g)) {
        let name = gate["name"].as_str().unwrap_or_default();
        let detail = format!("only deletion is allowed, but found new scheduling gate '{name}'");
        errors.forbidden("spec.schedulingGates", detail);
    }
}

/// The new spec with every field that may change set back.
fn without_mutable(is: &Value, was: &Value) -> Value {
    let mut spec = is.clone();
    for list in ["containers", "initContainers"] {
        let images: Vec<Value> = items(was, list).map(|c| c["image"].clone()).collect();
        for (c, image) in spec[list].as_array_mut().into_iter().flatten().zip(images) {
            c["image"] = image;
        }
    }
    let mut restore = vec!["activeDeadlineSeconds", "tolerations", "schedulingGates"];
    let negative = was["terminationGracePeriodSeconds"].as_i64().is_some_and(|s| s < 0);
    if negative && is["terminationGracePeriodSeconds"] == 1 {
        restore.push("terminationGracePeriodSeconds");
    }
    if items(was, "schedulingGates").next().is_some() {
        // While gates hold the pod, it may be narrowed to fewer nodes.
        restore.extend(["nodeSelector", "affinity"]);
    }
    if let Some(map) = spec.as_object_mut() {
        for list in ["containers", "initContainers"] {
            if map.get(list).is_some_and(Value::is_null) {
                map.remove(list);
            }
        }
        for key in restore {
            match was.get(key) {
                Some(value) => drop(map.insert(key.to_owned(), value.clone())),
                None => drop(map.remove(key)),
            }
        }
    }
    spec
}
