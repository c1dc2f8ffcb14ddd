//! What a resize may change: CPU and memory of the containers a pod has, of the pod as a whole, and how that is done.

use coracle_api::Object;
use coracle_api::resources::{self, Demand, QosClass, is_sidecar};
use serde_json::{Value, json};

use super::super::validation::Errors;
use super::validation::{items, whole_pod};
use crate::field::FieldError;

const LISTS: [&str; 2] = ["containers", "initContainers"];
const RULE: &str = "only cpu and memory resources are mutable";

/// The old spec with the wanted resources. Containers that were added, renamed or moved stay as they are wanted: that is
/// for the validation to refuse.
pub(in super::super) fn resized_spec(wanted: &Value, old: &Value) -> Value {
    if LISTS.iter().any(|list| items(wanted, list).count() != items(old, list).count()) {
        return wanted.clone();
    }
    let mut spec = old.clone();
    take(&mut spec, wanted, "resources");
    for list in LISTS {
        if items(wanted, list).zip(items(old, list)).any(|(new, old)| new["name"] != old["name"]) {
            spec[list] = wanted[list].clone();
            continue;
        }
        let containers = spec[list].as_array_mut().into_iter().flatten();
        for (container, wanted) in containers.zip(items(wanted, list)) {
            take(container, wanted, "resources");
            take(container, wanted, "resizePolicy");
        }
        if spec[list].is_null() {
            spec.as_object_mut().map(|spec| spec.remove(list));
        }
    }
    spec
}

fn take(to: &mut Value, from: &Value, key: &str) {
    let Some(to) = to.as_object_mut() else { return };
    match from.get(key) {
        Some(value) => drop(to.insert(key.to_owned(), value.clone())),
        None => drop(to.remove(key)),
    }
}

pub(in super::super) fn validate_pod_resize(new: &Object, old: &Object) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let empty = json!({});
    let (is, was) = (new.at(&["spec"]).unwrap_or(&empty), old.at(&["spec"]).unwrap_or(&empty));
    whole_pod(new, is, Some(was), &mut errors);
    let never = |kind: &str| vec![FieldError::forbidden("", format!("{kind} pods cannot be resized"))];
    if old.annotation("kubernetes.io/config.mirror").is_some() {
        return never("static");
    }
    if was["os"]["name"] == "windows" {
        return never("windows");
    }
    if QosClass::of_object(old) != Demand::of_json(is).qos_class() {
        let value = new.str_at(&["status", "qosClass"]);
        errors.invalid("spec", value, "Pod QOS Class may not change as a result of resizing");
    }
    let running =
        old.items_at(&["status", "containerStatuses"]).iter().find(|s| s["state"]["running"].is_object());
    if running.is_some_and(|status| status["resources"].is_null()) {
        errors.forbidden("spec", "Pod running on node without support for resize");
    }
    pod_level(&is["resources"], &was["resources"], &mut errors);
    if !old.items_at(&["status", "nodeAllocatableResourceClaimStatuses"]).is_empty() {
        errors.forbidden("spec", "pods with node allocatable resource claims cannot be resized");
    }
    if same_containers(is, was, &mut errors) {
        for list in ["initContainers", "containers"] {
            for (i, (new, old)) in items(is, list).zip(items(was, list)).enumerate() {
                let at = format!("spec.{list}[{i}].resources");
                nothing_removed(&at, "resource", &new["resources"], &old["resources"], &mut errors);
            }
        }
        rest_unchanged(is, was, &mut errors);
    }
    errors.0
}

/// The resources of the pod as a whole.
fn pod_level(is: &Value, was: &Value, errors: &mut Errors) {
    if is.is_null() {
        if !was.is_null() {
            errors.forbidden("spec.resources", "pod-level resources cannot be removed");
        }
        return;
    }
    nothing_removed("spec.resources", "pod-level resource", is, was, errors);
    if !same_but_compute(is, was) {
        errors.forbidden("spec", "only cpu and memory resources are mutable at pod-level");
    }
}

fn nothing_removed(at: &str, what: &str, is: &Value, was: &Value, errors: &mut Errors) {
    for key in ["requests", "limits"] {
        let (is, was) = (resources::list(&is[key]), resources::list(&was[key]));
        if was.keys().any(|name| !is.contains_key(name)) {
            errors.forbidden(format!("{at}.{key}"), format!("{what} {key} cannot be removed"));
        }
    }
}

fn same_containers(is: &Value, was: &Value, errors: &mut Errors) -> bool {
    let before = errors.0.len();
    for list in LISTS {
        if items(is, list).count() != items(was, list).count() {
            errors.forbidden(format!("spec.{list}"), format!("{list} may not be added or removed on resize"));
            continue;
        }
        for (i, (new, old)) in items(is, list).zip(items(was, list)).enumerate() {
            if new["name"] != old["name"] {
                let detail = format!("{list} may not be renamed or reordered on resize");
                errors.forbidden(format!("spec.{list}[{i}].name"), detail);
            }
        }
    }
    errors.0.len() == before
}

fn rest_unchanged(is: &Value, was: &Value, errors: &mut Errors) {
    for (new, old) in items(is, "containers").zip(items(was, "containers")) {
        if !same_but_resources(new, old) {
            errors.forbidden("spec", RULE);
        }
    }
    for (i, (new, old)) in items(is, "initContainers").zip(items(was, "initContainers")).enumerate() {
        let at = format!("spec.initContainers[{i}]");
        if !same_but_resources(new, old) {
            let detail = "only cpu and memory resources for init or sidecar containers are mutable";
            errors.forbidden(at.as_str(), detail);
        }
        if new == old || is_sidecar(new["restartPolicy"].as_str()) {
            continue;
        }
        for _ in items(new, "resizePolicy").filter(|p| p["restartPolicy"] == "RestartContainer") {
            let detail =
                "non-sidecar init containers with a resize policy of RestartContainer cannot be resized";
            errors.forbidden(at.as_str(), detail);
        }
    }
}

fn same_but_resources(new: &Value, old: &Value) -> bool {
    const EMPTY: &[Value] = &[];
    let own = |c: &Value| {
        let mut c = c.clone();
        if let Some(c) = c.as_object_mut() {
            c.remove("resources");
            c.retain(|key, value| key != "resizePolicy" || value.as_array().is_some_and(|p| p != EMPTY));
        }
        c
    };
    // Claims do not go with a resize.
    own(new) == own(old)
        && same_but_compute(&new["resources"], &old["resources"])
        && items(&old["resources"], "claims").next().is_none()
}

/// Whether two sets of requests and limits differ in CPU and memory only.
fn same_but_compute(is: &Value, was: &Value) -> bool {
    ["requests", "limits"].iter().all(|key| {
        let others = |value: &Value| {
            let mut list = resources::list(&value[*key]);
            list.retain(|name, _| !matches!(name.as_str(), "cpu" | "memory"));
            list
        };
        others(is) == others(was)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Object {
        let list = json!({"cpu": "1", "memory": "1Gi", "example.com/gpu": "1"});
        let container = |name: &str| {
            json!({"name": name, "image": "i", "imagePullPolicy": "Always", "terminationMessagePolicy": "File",
                "terminationMessagePath": "/t", "resources": {"requests": list, "limits": list}})
        };
        Object(json!({"metadata": {"name": "p", "namespace": "n"},
            "spec": {"containers": [container("a"), container("b")], "initContainers": [container("i")],
                "restartPolicy": "Always", "dnsPolicy": "Default", "enableServiceLinks": true,
                "terminationGracePeriodSeconds": 30, "schedulerName": "s", "securityContext": {}},
            "status": {"qosClass": "Guaranteed"}}))
    }

    #[test]
    fn resizes_are_judged_in_upstreams_words() {
        let both = |to: &mut Value, name: &str, value: &str| {
            for key in ["requests", "limits"] {
                to["resources"][key][name] = json!(value);
            }
        };
        type Change<'a> = &'a dyn Fn(&mut Value);
        let cases: [(Change<'_>, &[&str]); 10] = [
            (&|spec| both(&mut spec["containers"][0], "cpu", "2"), &[]),
            (&|spec| both(&mut spec["initContainers"][0], "memory", "2Gi"), &[]),
            (&|spec| spec["containers"][0]["image"] = json!("other"), &[]),
            (
                &|spec| spec["containers"][0]["resources"]["limits"]["cpu"] = json!("2"),
                &["spec Pod QOS Class may not change as a result of resizing"],
            ),
            (
                &|spec| both(&mut spec["containers"][1], "example.com/gpu", "2"),
                &["spec only cpu and memory resources are mutable"],
            ),
            (
                &|spec| both(&mut spec["initContainers"][0], "example.com/gpu", "2"),
                &[
                    "spec.initContainers[0] only cpu and memory resources for init or sidecar containers are mutable",
                ],
            ),
            (
                &|spec| {
                    spec["containers"][0]["resources"]["requests"] =
                        json!({"cpu": "1", "example.com/gpu": "1"})
                },
                &[
                    "spec Pod QOS Class may not change as a result of resizing",
                    "spec.containers[0].resources.requests resource requests cannot be removed",
                ],
            ),
            (
                &|spec| spec["containers"].as_array_mut().unwrap().truncate(1),
                &["spec.containers containers may not be added or removed on resize"],
            ),
            (
                &|spec| spec["containers"].as_array_mut().unwrap().swap(0, 1),
                &[
                    "spec.containers[0].name containers may not be renamed or reordered on resize",
                    "spec.containers[1].name containers may not be renamed or reordered on resize",
                ],
            ),
            (
                &|spec| {
                    spec["containers"][0]["resizePolicy"] =
                        json!([{"resourceName": "cpu", "restartPolicy": "NotRequired"}])
                },
                &["spec only cpu and memory resources are mutable"],
            ),
        ];
        for (change, want) in cases {
            let old = pod();
            let mut wanted = old.at(&["spec"]).unwrap().clone();
            change(&mut wanted);
            let mut new = old.clone();
            new.set(&["spec"], resized_spec(&wanted, old.at(&["spec"]).unwrap()));
            let errors = validate_pod_resize(&new, &old);
            let told: Vec<String> = errors.iter().map(|e| format!("{} {}", e.field, e.detail)).collect();
            assert_eq!(told, want, "{wanted}");
        }
    }
}
