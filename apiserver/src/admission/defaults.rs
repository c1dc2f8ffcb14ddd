//! Plugins that fill one thing in: tolerations, default classes, protection finalizers, the first taint of a node.

use coracle_api::Object;
use coracle_api::names::{TAINT_NOT_READY, TAINT_UNREACHABLE};
use serde_json::{Value, json};

use super::{Attributes, gvr};
use crate::Server;
use crate::cluster::Cluster;
use crate::status::{Result, Status};

/// TaintNodesByCondition: a new node takes no pods before it is known to be ready.
pub(super) fn taint_new_node(
    _: &dyn Cluster,
    what: &Attributes<'_>,
    node: &mut Object,
    _: Option<&Object>,
) -> Result<()> {
    if what.creates("", "nodes") {
        let there = node
            .items_at(&["spec", "taints"])
            .iter()
            .any(|t| t["key"] == TAINT_NOT_READY && t["effect"] == "NoSchedule");
        if !there {
            push(node, &["spec", "taints"], json!({"key": TAINT_NOT_READY, "effect": "NoSchedule"}));
        }
    }
    Ok(())
}

/// DefaultTolerationSeconds: a pod stays five minutes on a node that went away, unless it says otherwise.
pub(super) fn toleration_seconds(
    _: &dyn Cluster,
    what: &Attributes<'_>,
    pod: &mut Object,
    _: Option<&Object>,
) -> Result<()> {
    if !what.is("", "pods") {
        return Ok(());
    }
    for key in [TAINT_NOT_READY, TAINT_UNREACHABLE] {
        let tolerated = pod.items_at(&["spec", "tolerations"]).iter().any(|t| {
            let text = |field: &str| t.get(field).and_then(Value::as_str).unwrap_or_default();
            (text("key") == key || text("key").is_empty()) && matches!(text("effect"), "" | "NoExecute")
        });
        if !tolerated {
            let toleration =
                json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300});
            push(pod, &["spec", "tolerations"], toleration);
        }
    }
    Ok(())
}

/// DefaultStorageClass: a claim that names no class gets the default one, where there is one.
pub(super) fn storage_class(
    cluster: &dyn Cluster,
    what: &Attributes<'_>,
    claim: &mut Object,
    _: Option<&Object>,
) -> Result<()> {
    if !what.creates("", "persistentvolumeclaims")
        || claim.at(&["spec", "storageClassName"]).is_some()
        || claim.annotation("volume.beta.kubernetes.io/storage-class").is_some()
    {
        return Ok(());
    }
    let marks =
        ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
    if let Some(class) = newest_default(cluster, ("storage.k8s.io", "storageclasses"), &marks) {
        claim.set(&["spec", "storageClassName"], class.name());
    }
    Ok(())
}

/// StorageObjectInUseProtection: what may be in use carries a finalizer, which a controller takes off when it is not.
pub(super) fn protect_storage(
    _: &dyn Cluster,
    what: &Attributes<'_>,
    object: &mut Object,
    _: Option<&Object>,
) -> Result<()> {
    const PROTECTED: [(&str, &str, &str); 3] = [
        ("", "persistentvolumeclaims", "kubernetes.io/pvc-protection"),
        ("", "persistentvolumes", "kubernetes.io/pv-protection"),
        ("storage.k8s.io", "volumeattributesclasses", "kubernetes.io/vac-protection"),
    ];
    for (group, plural, finalizer) in PROTECTED {
        let path = ["metadata", "finalizers"];
        if what.creates(group, plural) && !object.items_at(&path).iter().any(|f| f == finalizer) {
            push(object, &path, json!(finalizer));
        }
    }
    Ok(())
}

/// DefaultIngressClass, likewise.
pub(super) fn ingress_class(
    cluster: &dyn Cluster,
    what: &Attributes<'_>,
    ingress: &mut Object,
    _: Option<&Object>,
) -> Result<()> {
    if !what.creates("networking.k8s.io", "ingresses")
        || ingress.at(&["spec", "ingressClassName"]).is_some()
        || ingress.annotation("kubernetes.io/ingress.class").is_some()
    {
        return Ok(());
    }
    let marks = ["ingressclass.kubernetes.io/is-default-class"];
    if let Some(class) = newest_default(cluster, ("networking.k8s.io", "ingressclasses"), &marks) {
        ingress.set(&["spec", "ingressClassName"], class.name());
    }
    Ok(())
}

/// RuntimeClass: the class says what its pods cost and where they run.
pub(super) fn runtime_class(
    cluster: &dyn Cluster,
    what: &Attributes<'_>,
    pod: &mut Object,
    _: Option<&Object>,
) -> Result<()> {
    if !what.creates("", "pods") {
        return Ok(());
    }
    let Some(name) = pod.at(&["spec", "runtimeClassName"]).and_then(Value::as_str).map(str::to_owned) else {
        return Ok(());
    };
    if name.is_empty() {
        return Err(Status::new(500, "", "resource name may not be empty"));
    }
    let Some(class) = cluster.get(&gvr("node.k8s.io", "v1", "runtimeclasses"), "", &name) else {
        return Err(what.refuse(format!("pod rejected: RuntimeClass {name:?} not found")));
    };
    if let Some(overhead) = class.at(&["overhead", "podFixed"]) {
        if pod.at(&["spec", "overhead"]).is_some_and(|own| own != overhead) {
            return Err(
                what.refuse("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead")
            );
        }
        pod.set(&["spec", "overhead"], overhead.clone());
    }
    let selector = class.at(&["scheduling", "nodeSelector"]).and_then(Value::as_object);
    for (key, value) in selector.into_iter().flatten() {
        let slot = pod.entry(&["spec", "nodeSelector", key]);
        if !slot.is_null() && slot != value {
            return Err(what.refuse("conflict: runtimeClass.scheduling.nodeSelector and pod.spec.nodeSelector have conflicting values"));
        }
        *slot = value.clone();
    }
    for toleration in class.items_at(&["scheduling", "tolerations"]) {
        if !pod.items_at(&["spec", "tolerations"]).contains(toleration) {
            push(pod, &["spec", "tolerations"], toleration.clone());
        }
    }
    Ok(())
}

/// RuntimeClass: what a pod costs beyond its containers is for a class to say.
pub(super) fn overhead(
    _: &Server,
    what: &Attributes<'_>,
    pod: Option<&Object>,
    _: Option<&Object>,
) -> Result<()> {
    let Some(pod) = pod.filter(|_| what.creates("", "pods")) else { return Ok(()) };
    if pod.at(&["spec", "overhead"]).is_some() && pod.str_at(&["spec", "runtimeClassName"]).is_empty() {
        let why = "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead";
        return Err(what.refuse(why));
    }
    Ok(())
}

/// The default class that was made last; of those made at once, the first by name.
fn newest_default(cluster: &dyn Cluster, (group, plural): (&str, &str), marks: &[&str]) -> Option<Object> {
    let mut found = cluster.list(&gvr(group, "v1", plural), "");
    found.retain(|class| marks.iter().any(|mark| class.annotation(mark) == Some("true")));
    found.sort_by(|a, b| {
        b.creation_timestamp().cmp(a.creation_timestamp()).then_with(|| a.name().cmp(b.name()))
    });
    found.into_iter().next()
}

fn push(object: &mut Object, path: &[&str], value: Value) {
    let list = object.entry(path);
    if !list.is_array() {
        *list = json!([]);
    }
    if let Some(list) = list.as_array_mut() {
        list.push(value);
    }
}
