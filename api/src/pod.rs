//! What a pod's state means, said once for scheduler, controllers, kubelet and API server.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;

use crate::Object;
use crate::{conditions, resources, time};

/// What the rules look at of a pod, whatever its form.
pub trait State {
    fn phase(&self) -> &str;
    /// Somebody has asked for its end.
    fn is_terminating(&self) -> bool;
    /// Whether the condition of a type is true, and since when it is as it is; `None`: there is no such condition.
    fn condition(&self, kind: &str) -> Option<(bool, Option<Timestamp>)>;
}

impl State for Object {
    fn phase(&self) -> &str {
        self.str_at(&["status", "phase"])
    }

    fn is_terminating(&self) -> bool {
        self.is_being_deleted()
    }

    fn condition(&self, kind: &str) -> Option<(bool, Option<Timestamp>)> {
        let found = conditions::find(self.items_at(&["status", "conditions"]), kind)?;
        Some((found["status"] == "True", time::parse(&found["lastTransitionTime"])))
    }
}

impl State for Pod {
    fn phase(&self) -> &str {
        self.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default()
    }

    fn is_terminating(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }

    fn condition(&self, kind: &str) -> Option<(bool, Option<Timestamp>)> {
        let found = self.status.as_ref()?.conditions.iter().flatten().find(|c| c.type_ == kind)?;
        Some((found.status == "True", found.last_transition_time.as_ref().map(|t| t.0)))
    }
}

impl<P: State + ?Sized> State for &P {
    fn phase(&self) -> &str {
        (**self).phase()
    }

    fn is_terminating(&self) -> bool {
        (**self).is_terminating()
    }

    fn condition(&self, kind: &str) -> Option<(bool, Option<Timestamp>)> {
        (**self).condition(kind)
    }
}

impl<P: State + ?Sized> State for Arc<P> {
    fn phase(&self) -> &str {
        (**self).phase()
    }

    fn is_terminating(&self) -> bool {
        (**self).is_terminating()
    }

    fn condition(&self, kind: &str) -> Option<(bool, Option<Timestamp>)> {
        (**self).condition(kind)
    }
}

/// Whether in this phase all containers have ended and none will start again.
pub fn is_over(phase: &str) -> bool {
    matches!(phase, "Succeeded" | "Failed")
}

/// Whether the pod is in such a phase.
pub fn is_terminal(pod: &impl State) -> bool {
    is_over(pod.phase())
}

/// Whether the pod counts for its owner: not over and not being deleted.
pub fn is_active(pod: &impl State) -> bool {
    !is_terminal(pod) && !pod.is_terminating()
}

/// Whether the pod's `Ready` condition is true.
pub fn is_ready(pod: &impl State) -> bool {
    pod.condition("Ready").is_some_and(|(ready, _)| ready)
}

/// Since when the pod has been ready, if it is.
pub fn ready_since(pod: &impl State) -> Option<Timestamp> {
    pod.condition("Ready").filter(|(ready, _)| *ready)?.1
}

/// Whether the pod has been ready for so long.
pub fn is_available(pod: &impl State, min_ready_seconds: i32, now: Timestamp) -> bool {
    let long_enough = || ready_since(pod).is_some_and(|since| left(since, min_ready_seconds, now).is_none());
    is_ready(pod) && (min_ready_seconds == 0 || long_enough())
}

/// How long a ready pod has still to stay so before it counts as available.
pub fn until_available(pod: &impl State, min_ready_seconds: i32, now: Timestamp) -> Option<Duration> {
    left(ready_since(pod)?, min_ready_seconds, now)
}

fn left(since: Timestamp, min_ready_seconds: i32, now: Timestamp) -> Option<Duration> {
    let wait = SignedDuration::from_secs(min_ready_seconds.into()) - now.duration_since(since);
    Duration::try_from(wait).ok().filter(|wait| !wait.is_zero())
}

/// The node the pod is bound to; empty while unscheduled.
pub fn node_name(pod: &Object) -> &str {
    pod.str_at(&["spec", "nodeName"])
}

/// Whether an init container of this name is a sidecar.
pub fn is_sidecar(pod: &Object, name: &str) -> bool {
    let init = pod.items_at(&["spec", "initContainers"]);
    init.iter().any(|c| c["name"] == name && resources::is_sidecar(c["restartPolicy"].as_str()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_is_available_once_it_has_been_ready_long_enough() {
        let now: Timestamp = "2026-01-01T00:00:10.5Z".parse().unwrap();
        let ready = |status: &str, since: Option<&str>| json!({"phase": "Running", "conditions": [{"type": "Ready", "status": status, "lastTransitionTime": since}]});
        let at = |second: u8| format!("2026-01-01T00:00:{second:02}Z");
        for (status, seconds, is_available_now, wait) in [
            (json!({"phase": "Running"}), 0, false, None),
            (ready("False", Some(&at(0))), 0, false, None),
            (ready("True", Some(&at(10))), 0, true, None),
            (ready("True", None), 0, true, None),
            (ready("True", None), 5, false, None),
            (ready("True", Some(&at(5))), 5, true, None),
            (ready("True", Some(&at(6))), 5, false, Some(500)),
            (ready("True", Some(&at(10))), 5, false, Some(4500)),
        ] {
            let pod = json!({"status": status});
            let typed: Pod = serde_json::from_value(pod.clone()).unwrap();
            let object = Object(pod);
            let wait = wait.map(Duration::from_millis);
            assert_eq!(is_available(&typed, seconds, now), is_available_now, "{status} {seconds}");
            assert_eq!(is_available(&object, seconds, now), is_available_now, "{status} {seconds}");
            assert_eq!(until_available(&typed, seconds, now), wait, "{status} {seconds}");
            assert_eq!(until_available(&object, seconds, now), wait, "{status} {seconds}");
        }
    }

    #[test]
    fn a_pod_counts_until_it_is_over_or_going() {
        let gone = "2026-01-01T00:00:00Z";
        for (phase, deleted, active) in [
            ("Pending", None, true),
            ("Running", None, true),
            ("Unknown", None, true),
            ("Succeeded", None, false),
            ("Failed", None, false),
            ("Running", Some(gone), false),
        ] {
            let pod = json!({"metadata": {"deletionTimestamp": deleted}, "status": {"phase": phase}});
            let typed: Pod = serde_json::from_value(pod.clone()).unwrap();
            assert_eq!((is_active(&Arc::new(typed)), is_active(&&Object(pod))), (active, active), "{phase}");
        }
    }
}
