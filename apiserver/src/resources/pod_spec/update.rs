//! What may change in a pod after its creation: images, deadlines that shrink, tolerations that grow, gates that open.

use std::collections::{BTreeMap, HashMap, HashSet};

use coracle_api::Object;
use serde_json::{Value, json};

use super::super::located::Located;
use super::super::validation::Errors;
use super::validation::{host_sysctls, items, trimmed_image, whole_pod};
use crate::field::FieldError;

const RULE: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

pub(in super::super) fn validate_pod_update(new: &Object, old: &Object) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let empty = json!({});
    let (is, was) = (new.at(&["spec"]).unwrap_or(&empty), old.at(&["spec"]).unwrap_or(&empty));
    whole_pod(new, is, Some(was), &mut errors);
    // A pod may be older than this rule.
    let mut known = Errors::default();
    host_sysctls("spec", was, &mut known);
    if known.0.is_empty() {
        host_sysctls("spec", is, &mut errors);
    }
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
    if items(was, "schedulingGates").next().is_some() {
        gated(is, was, &mut errors);
    }
    if without_mutable(is, was) != *was {
        errors.forbidden("spec", RULE);
    }
    errors.0
}

/// Containers for looking into a running pod are added, never changed or removed.
pub(in super::super) fn validate_ephemeral_update(new: &Object, old: &Object) -> Vec<FieldError> {
    const AT: &str = "spec.ephemeralContainers";
    let mut errors = Errors::default();
    let empty = json!({});
    let (is, was) = (new.at(&["spec"]).unwrap_or(&empty), old.at(&["spec"]).unwrap_or(&empty));
    whole_pod(new, is, Some(was), &mut errors);
    if old.annotation("kubernetes.io/config.mirror").is_some() {
        errors.forbidden("", "static pods do not support ephemeral containers");
        return errors.0;
    }
    fn name(container: &Value) -> &str {
        container["name"].as_str().unwrap_or_default()
    }
    let there: HashMap<&str, &Value> = items(is, "ephemeralContainers").map(|c| (name(c), c)).collect();
    for known in items(was, "ephemeralContainers") {
        let name = name(known);
        let done = match there.get(name) {
            None => "removed",
            Some(same) if *same == known => continue,
            Some(_) => "changed",
        };
        errors.forbidden(AT, format!("existing ephemeral containers {name:?} may not be {done}\n"));
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
    fn parts(t: &Value) -> [Option<&str>; 4] {
        ["key", "operator", "value", "effect"].map(|part| t[part].as_str())
    }
    let there: HashSet<_> = items(is, "tolerations").map(parts).collect();
    if !items(was, "tolerations").all(|old| there.contains(&parts(old))) {
        let detail = "existing toleration can not be modified except its tolerationSeconds";
        return errors.forbidden("spec.tolerations", detail);
    }
    for (i, t) in items(is, "tolerations").enumerate() {
        super::scheduling::toleration(&format!("spec.tolerations[{i}]"), t, errors);
    }
}

/// Gates only go.
fn gates(is: &Value, was: &Value, errors: &mut Errors) {
    fn name(gate: &Value) -> &str {
        gate["name"].as_str().unwrap_or_default()
    }
    let before: HashSet<&str> = items(was, "schedulingGates").map(name).collect();
    // Of gates of one name, upstream tells of the last.
    let added: BTreeMap<&str, usize> = items(is, "schedulingGates")
        .enumerate()
        .map(|(i, gate)| (name(gate), i))
        .filter(|(name, _)| !before.contains(name))
        .collect();
    for (name, i) in added {
        let detail = format!("only deletion is allowed, but found new scheduling gate '{name}'");
        errors.forbidden(format!("spec.schedulingGates[{i}].name"), detail);
    }
}

/// While gates hold a pod it may be narrowed to fewer nodes, not sent to others.
fn gated(is: &Value, was: &Value, errors: &mut Errors) {
    let kept = was["nodeSelector"].as_object().into_iter().flatten();
    if kept.into_iter().any(|(key, value)| is["nodeSelector"].get(key) != Some(value)) {
        let why = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
        errors.invalid("spec.nodeSelector", is["nodeSelector"].clone(), why);
    }
    const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
    let terms = |of: &Value| {
        let terms = &of["affinity"]["nodeAffinity"][REQUIRED]["nodeSelectorTerms"];
        terms.as_array().cloned().unwrap_or_default()
    };
    let (new, old) = (terms(is), terms(was));
    let pod = Object(json!({"apiVersion": "v1", "kind": "Pod", "spec": is}));
    let affinity = Located::root(&pod).at("spec").at("affinity").at("nodeAffinity");
    let shown = affinity.at(REQUIRED).at("nodeSelectorTerms");
    if !old.is_empty() && old.len() != new.len() {
        let why = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        return shown.wrong(why, errors);
    }
    for (new, old) in shown.each().zip(&old) {
        if !only_adds(new.value(), old) {
            new.wrong("only additions are allowed (no mutations or deletions)", errors);
        }
    }
}

fn only_adds(new: &Value, old: &Value) -> bool {
    let list = |of: &Value, key: &str| of[key].as_array().cloned().unwrap_or_default();
    let both = ["matchExpressions", "matchFields"].map(|key| (list(new, key), list(old, key)));
    let (was_empty, is_empty) =
        (both.iter().all(|(_, old)| old.is_empty()), both.iter().all(|(new, _)| new.is_empty()));
    (is_empty || !was_empty) && both.iter().all(|(new, old)| new.starts_with(old))
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
        restore.push("nodeSelector");
        restore_node_affinity(&mut spec, was);
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

fn restore_node_affinity(spec: &mut Value, was: &Value) {
    const NODE: &str = "nodeAffinity";
    let before = was["affinity"].get(NODE).cloned();
    let Some(map) = spec.as_object_mut() else { return };
    let affinity = map.entry("affinity").or_insert_with(|| json!({}));
    if let Some(affinity) = affinity.as_object_mut() {
        match before {
            Some(node) => drop(affinity.insert(NODE.to_owned(), node)),
            None => drop(affinity.remove(NODE)),
        }
    }
    if map.get("affinity") == Some(&json!({})) && was["affinity"].is_null() {
        map.remove("affinity");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(ephemeral: &Value) -> Object {
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "default"},
            "spec": {"restartPolicy": "Always", "dnsPolicy": "ClusterFirst", "volumes": [{"name": "v", "emptyDir": {}}],
                "containers": [{"name": "main", "image": "a", "terminationMessagePolicy": "File",
                    "imagePullPolicy": "Always"}]}});
        if !ephemeral.is_null() {
            pod["spec"]["ephemeralContainers"] = ephemeral.clone();
        }
        Object(pod)
    }

    fn debugger(extra: &Value) -> Value {
        let mut c = json!({"name": "debug", "image": "b", "terminationMessagePolicy": "File",
            "imagePullPolicy": "Always", "targetContainerName": "main"});
        for (key, value) in extra.as_object().into_iter().flatten() {
            c[key] = value.clone();
        }
        c
    }

    #[test]
    fn ephemeral_containers_are_added_and_nothing_else() {
        let plain = debugger(&json!({}));
        let other = debugger(&json!({"name": "other"}));
        let not_for = "cannot be set for an Ephemeral Container";
        let with = |extra: Value| json!([debugger(&extra)]);
        let cases = [
            (json!(null), json!([plain]), ""),
            (json!([plain]), json!([plain, other]), ""),
            (json!([plain]), json!([other, plain]), ""),
            (json!([plain]), json!([plain]), ""),
            (json!([plain]), json!([]), "existing ephemeral containers \"debug\" may not be removed"),
            (json!([plain]), json!(null), "existing ephemeral containers \"debug\" may not be removed"),
            (json!([plain]), json!([other]), "existing ephemeral containers \"debug\" may not be removed"),
            (
                json!([plain]),
                with(json!({"image": "c"})),
                "existing ephemeral containers \"debug\" may not be changed",
            ),
            (json!(null), with(json!({"ports": [{"containerPort": 1, "protocol": "TCP"}]})), not_for),
            (json!(null), with(json!({"ports": []})), ""),
            (json!(null), with(json!({"livenessProbe": {"exec": {"command": ["x"]}}})), not_for),
            (json!(null), with(json!({"lifecycle": {}})), not_for),
            (json!(null), with(json!({"restartPolicy": "Always"})), not_for),
            (json!(null), with(json!({"resources": {"limits": {"cpu": "1"}}})), not_for),
            (
                json!(null),
                with(json!({"volumeMounts": [{"name": "v", "mountPath": "/v", "subPath": "s"}]})),
                not_for,
            ),
            (json!(null), with(json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]})), ""),
            (json!(null), with(json!({"volumeMounts": [{"name": "x", "mountPath": "/v"}]})), "x"),
            (json!(null), with(json!({"targetContainerName": "nobody"})), "nobody"),
            (json!(null), with(json!({"name": "main"})), "main"),
            (json!(null), with(json!({"image": ""})), ""),
        ];
        for (was, is, want) in cases {
            let errors = validate_ephemeral_update(&pod(&is), &pod(&was));
            let told = format!("{errors:?}");
            let refused = !want.is_empty() || is[0]["image"] == "";
            assert_eq!(!errors.is_empty(), refused, "{was} -> {is}: {told}");
            assert!(told.replace("\\\"", "\"").contains(want), "{was} -> {is}: {told}");
        }
        let mut mirror = pod(&json!(null));
        mirror.set(&["metadata", "annotations"], json!({"kubernetes.io/config.mirror": "x"}));
        let errors = validate_ephemeral_update(&pod(&json!([plain])), &mirror);
        assert_eq!(errors.len(), 1, "{errors:?}");
    }

    #[test]
    fn sysctls_of_shared_namespaces_are_refused_in_new_pods_only() {
        for (name, host, refused) in [
            ("net.ipv4.tcp_syncookies", "hostNetwork", true),
            ("net/ipv4/tcp_syncookies", "hostNetwork", true),
            ("net.ipv4.tcp_syncookies", "hostIPC", false),
            ("kernel.shm_rmid_forced", "hostIPC", true),
            ("kernel/sem", "hostIPC", true),
            ("kernel.sem", "hostNetwork", false),
            ("fs.mqueue.msg_max", "hostIPC", true),
        ] {
            let mut pod = pod(&json!(null));
            pod.set(&["spec", host], json!(true));
            pod.set(&["spec", "securityContext"], json!({"sysctls": [{"name": name, "value": "1"}]}));
            let told = format!("{:?}", super::super::validate_pod(&pod));
            let words = format!("may not be specified when '{host}' is true");
            assert_eq!(told.contains(&words), refused, "{name} {host}: {told}");
            assert!(validate_pod_update(&pod, &pod).is_empty(), "an old pod goes on: {name}");
        }
    }

    #[test]
    fn a_pod_with_users_of_its_own_has_no_other_namespace_of_the_host() {
        for (key, value, told) in [
            ("hostNetwork", json!(true), "spec.hostNetwork"),
            ("hostPID", json!(true), "spec.HostPID"),
            ("hostIPC", json!(true), "spec.HostIPC"),
            ("hostPID", json!(false), ""),
            ("shareProcessNamespace", json!(true), ""),
        ] {
            for host_users in [json!(false), json!(true), json!(null)] {
                let mut pod = pod(&json!(null));
                pod.set(&["spec", "hostUsers"], host_users.clone());
                pod.set(&["spec", key], value.clone());
                let errors = format!("{:?}", super::super::validate_pod(&pod));
                let refused = !told.is_empty() && host_users == json!(false);
                let has = errors.contains(told) && errors.contains("when `hostUsers` is false");
                assert_eq!(has, refused, "{key} {host_users}: {errors}");
                assert!(validate_pod_update(&pod, &pod).is_empty(), "an old pod goes on: {key}");
            }
        }
        let mut pod = pod(&json!(null));
        pod.set(&["spec", "hostUsers"], json!(false));
        let device =
            json!([{"name": "c", "image": "i", "volumeDevices": [{"name": "v", "devicePath": "/d"}]}]);
        pod.set(&["spec", "containers"], device);
        let errors = format!("{:?}", super::super::validate_pod(&pod));
        assert!(errors.contains("spec.containers[0].volumeDevices"), "{errors}");
    }
}
