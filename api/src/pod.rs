//! What a pod's state means, said once for scheduler, controllers, kubelet and API server.

use crate::Object;
use crate::conditions;

/// Whether all containers ended and none will start again.
pub fn is_terminal(pod: &Object) -> bool {
    matches!(pod.str_at(&["status", "phase"]), "Succeeded" | "Failed")
}

/// Whether the pod counts for its owner: not over and not being deleted.
pub fn is_active(pod: &Object) -> bool {
    !is_terminal(pod) && !pod.is_being_deleted()
}

/// Whether the pod's `Ready` condition is true.
pub fn is_ready(pod: &Object) -> bool {
    conditions::is_true(pod.items_at(&["status", "conditions"]), "Ready")
}

/// Whether the pod has been ready for `min_ready_seconds`.
pub fn is_available(pod: &Object, min_ready_seconds: i64, now: jiff::Timestamp) -> bool {
    let Some(ready) = conditions::find(pod.items_at(&["status", "conditions"]), "Ready") else {
        return false;
    };
    if ready["status"] != "True" {
        return false;
    }
    let since = crate::time::parse(&ready["lastTransitionTime"]);
    min_ready_seconds == 0
        || since.is_some_and(|since| now.duration_since(since).as_secs() >= min_ready_seconds)
}

/// The node the pod is bound to; empty while unscheduled.
pub fn node_name(pod: &Object) -> &str {
    pod.str_at(&["spec", "nodeName"])
}

/// Whether an init container of this name is a sidecar.
pub fn is_sidecar(pod: &Object, name: &str) -> bool {
    let init = pod.items_at(&["spec", "initContainers"]);
    init.iter().any(|c| c["name"] == name && crate::resources::is_sidecar(c["restartPolicy"].as_str()))
}
