//! Which parts of a pod's status the kubelet writes. All else belongs to other components and is kept as they left it. Pure.

use coracle_api::pod::is_over;
use k8s_openapi::api::core::v1::{PodCondition, PodStatus};

use super::conditions::OF_RESIZE;

/// The fields the kubelet writes, and may take back.
pub(crate) const FIELDS: [&str; 16] = [
    "allocatedResources",
    "conditions",
    "containerStatuses",
    "ephemeralContainerStatuses",
    "hostIP",
    "hostIPs",
    "initContainerStatuses",
    "message",
    "observedGeneration",
    "phase",
    "podIP",
    "podIPs",
    "qosClass",
    "reason",
    "resources",
    "startTime",
];

/// Conditions that the kubelet alone writes.
fn is_own(kind: &str) -> bool {
    matches!(kind, "PodReadyToStartContainers" | "Initialized" | "Ready" | "ContainersReady" | "PodScheduled")
        || OF_RESIZE.contains(&kind)
}

/// The condition that the kubelet writes for its own evictions only, and others for theirs.
const SHARED: &str = "DisruptionTarget";

/// What the kubelet would write of a status.
pub(crate) fn own(status: &PodStatus) -> PodStatus {
    let ours = |c: &&PodCondition| {
        is_own(&c.type_) || c.type_ == SHARED && c.reason.as_deref() == Some("TerminationByKubelet")
    };
    let conditions = status.conditions.as_ref().map(|all| all.iter().filter(ours).cloned().collect());
    PodStatus { conditions, ..merged(status.clone(), &PodStatus::default()) }
}

/// The pod's status as this node is to know it: `ours` by the kubelet, of which the API may be behind, and `theirs`, as the
/// API has it. A pod that somebody else has ended is over, in their words.
pub(crate) fn merged(ours: PodStatus, theirs: &PodStatus) -> PodStatus {
    let over = |s: &PodStatus| s.phase.as_deref().is_some_and(is_over);
    let ended_by_others = over(theirs) && !over(&ours);
    // Each field by name: one that a new version adds has to be given to somebody.
    let PodStatus {
        allocated_resources,
        conditions,
        container_statuses,
        ephemeral_container_statuses,
        extended_resource_claim_status: _,
        host_ip,
        host_ips,
        init_container_statuses,
        message,
        node_allocatable_resource_claim_statuses: _,
        nominated_node_name: _,
        observed_generation,
        phase,
        pod_ip,
        pod_ips,
        qos_class,
        reason,
        resize: _,
        resource_claim_statuses: _,
        resources,
        start_time,
    } = ours;
    let same_phase = phase == theirs.phase;
    let (phase, reason, message) = if ended_by_others {
        (theirs.phase.clone(), theirs.reason.clone(), theirs.message.clone())
    } else if same_phase && reason.is_none() && message.is_none() {
        // A reason goes with its phase, whoever gave it.
        (phase, theirs.reason.clone(), theirs.message.clone())
    } else {
        (phase, reason, message)
    };
    PodStatus {
        allocated_resources,
        conditions: Some(merged_conditions(conditions.unwrap_or_default(), theirs)),
        container_statuses,
        ephemeral_container_statuses,
        extended_resource_claim_status: theirs.extended_resource_claim_status.clone(),
        host_ip,
        host_ips,
        init_container_statuses,
        message,
        node_allocatable_resource_claim_statuses: theirs.node_allocatable_resource_claim_statuses.clone(),
        nominated_node_name: theirs.nominated_node_name.clone(),
        observed_generation,
        phase,
        pod_ip,
        pod_ips,
        qos_class,
        reason,
        resize: theirs.resize.clone(),
        resource_claim_statuses: theirs.resource_claim_statuses.clone(),
        resources,
        start_time,
    }
}

fn merged_conditions(mut ours: Vec<PodCondition>, theirs: &PodStatus) -> Vec<PodCondition> {
    ours.retain(|c| is_own(&c.type_) || c.type_ == SHARED);
    let told = ours.iter().any(|c| c.type_ == SHARED);
    let replaced = |c: &PodCondition| is_own(&c.type_) || told && c.type_ == SHARED;
    ours.extend(theirs.conditions.iter().flatten().filter(|c| !replaced(c)).cloned());
    ours
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::{Value, json};

    use super::*;
    use crate::pods::{status::status, view::ProbeView};

    fn parse(status: Value) -> PodStatus {
        serde_json::from_value(status).unwrap()
    }

    fn condition_of<'a>(status: &'a PodStatus, kind: &str) -> Option<&'a PodCondition> {
        status.conditions.iter().flatten().find(|c| c.type_ == kind)
    }

    /// Every field by its JSON name, each set.
    fn full(word: &str) -> Value {
        let container =
            json!([{"name": word, "image": "i", "imageID": "", "ready": true, "restartCount": 0}]);
        json!({
            "allocatedResources": {"cpu": "1"}, "conditions": [], "containerStatuses": container,
            "ephemeralContainerStatuses": container, "extendedResourceClaimStatus":
                {"requestMappings": [], "resourceClaimName": word},
            "hostIP": word, "hostIPs": [{"ip": word}], "initContainerStatuses": container, "message": word,
            "nodeAllocatableResourceClaimStatuses": [], "nominatedNodeName": word, "observedGeneration": word.len(),
            "phase": word, "podIP": word, "podIPs": [{"ip": word}], "qosClass": word, "reason": word, "resize": word,
            "resourceClaimStatuses": [{"name": word}], "resources": {"limits": {"cpu": word}},
            "startTime": "2026-01-01T00:00:00Z",
        })
    }

    #[test]
    fn fields_of_other_components_are_neither_lost_nor_written() {
        let theirs = parse(full("theirs"));
        let ours = parse(full("ours"));
        let got = serde_json::to_value(merged(ours.clone(), &theirs)).unwrap();
        let (ours, theirs) = (serde_json::to_value(ours).unwrap(), serde_json::to_value(theirs).unwrap());
        for (key, value) in got.as_object().unwrap() {
            let owner = if FIELDS.contains(&&**key) { &ours } else { &theirs };
            assert_eq!(Some(value), owner.get(key), "{key}");
        }
        let written = serde_json::to_value(own(&parse(full("ours")))).unwrap();
        let keys: Vec<&str> = written.as_object().unwrap().keys().map(String::as_str).collect();
        let mut fields = FIELDS.to_vec();
        fields.sort_unstable();
        let mut keys = keys;
        keys.sort_unstable();
        assert_eq!(keys, fields);
    }

    #[test]
    fn a_pod_is_ready_as_soon_as_its_gates_are_and_stays_so() {
        let mut pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "uid": "u"},
            "spec": {"containers": [{"name": "c"}], "readinessGates": [{"conditionType": "example.com/lb"}]},
        }))
        .unwrap();
        let mut view = crate::pods::plan::tests::view("c=run");
        for v in view.containers.values_mut() {
            v.probe = ProbeView { started: true, ready: true };
        }
        let now = jiff::Timestamp::from_second(1000).unwrap();
        // What the API has, as others write it between our own looks.
        let gate = |status: &str| json!({"conditions": [{"type": "example.com/lb", "status": status}]});
        let missing = "corresponding condition of pod readiness gate \"example.com/lb\" does not exist.";
        let unmet = "the status of pod readiness gate \"example.com/lb\" is not \"True\", but False";
        for (theirs, ready, message) in [
            (json!({}), "False", Some(missing)),
            (gate("False"), "False", Some(unmet)),
            (gate("True"), "True", None),
            (gate("True"), "True", None),
            (gate("False"), "False", Some(unmet)),
        ] {
            let known = pod.status.clone().unwrap_or_default();
            pod.status = Some(merged(known, &parse(theirs.clone())));
            // Two rounds: the second starts from the first one's own result.
            for _ in 0..2 {
                let report = status(&pod, &view, &[], now);
                assert!(condition_of(&report, "example.com/lb").is_none(), "the kubelet writes its own only");
                let condition = condition_of(&report, "Ready").unwrap();
                assert_eq!((&*condition.status, condition.message.as_deref()), (ready, message), "{theirs}");
                pod.status = Some(merged(report, pod.status.as_ref().unwrap()));
            }
        }
    }

    #[test]
    fn a_pod_that_others_have_ended_is_over_in_their_words() {
        let running = json!({"phase": "Running"});
        let failed = json!({"phase": "Failed", "reason": "NodeLost", "message": "gone"});
        let evicted = json!({"phase": "Failed", "reason": "Evicted", "message": "low"});
        let lost = json!({"phase": "Running", "reason": "NodeLost"});
        for (ours, theirs, want) in [
            (&running, &failed, ("Failed", Some("NodeLost"), Some("gone"))),
            (&evicted, &running, ("Failed", Some("Evicted"), Some("low"))),
            (&evicted, &failed, ("Failed", Some("Evicted"), Some("low"))),
            (&json!({"phase": "Failed"}), &failed, ("Failed", Some("NodeLost"), Some("gone"))),
            (&json!({"phase": "Succeeded"}), &failed, ("Succeeded", None, None)),
            (&running, &lost, ("Running", Some("NodeLost"), None)),
        ] {
            let got = merged(parse(ours.clone()), &parse(theirs.clone()));
            let got = (got.phase.as_deref().unwrap(), got.reason.as_deref(), got.message.as_deref());
            assert_eq!(got, want, "{ours} {theirs}");
        }
    }

    #[test]
    fn a_disruption_is_told_by_whoever_disrupts() {
        let target = |reason: &str| json!({"conditions": [{"type": "DisruptionTarget", "status": "True", "reason": reason}]});
        let reason = |s: &PodStatus| condition_of(s, "DisruptionTarget").and_then(|c| c.reason.clone());
        let (api, kubelet) = (target("EvictionByEvictionAPI"), target("TerminationByKubelet"));
        let both = merged(parse(kubelet.clone()), &parse(api.clone()));
        assert_eq!(reason(&both).as_deref(), Some("TerminationByKubelet"));
        let foreign = merged(PodStatus::default(), &parse(api.clone()));
        assert_eq!(reason(&foreign).as_deref(), Some("EvictionByEvictionAPI"));
        assert_eq!(reason(&own(&parse(api))), None);
        assert_eq!(reason(&own(&parse(kubelet))).as_deref(), Some("TerminationByKubelet"));
    }
}
