//! Order, updates and claims as upstream's controller has them.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, PodTemplateSpec};
use serde_json::{Value, json};

use super::identity;
use super::plan::{Action, Revision, View};
use crate::revisions::REVISION_HASH;

#[allow(clippy::needless_pass_by_value, reason = "a literal reads best as the argument")]
fn set(spec: Value) -> StatefulSet {
    let mut set = json!({"metadata": {"name": "s", "namespace": "ns", "uid": "s", "generation": 1}, "spec": {
        "replicas": 3, "serviceName": "svc", "selector": {"matchLabels": {"app": "x"}}, "template": {},
        "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {}}]}});
    for (key, value) in spec.as_object().unwrap() {
        set["spec"][key] = value.clone();
    }
    serde_json::from_value(set).unwrap()
}

fn pod(ordinal: i32, revision: &str, ready: bool) -> Arc<Pod> {
    let status = if ready { "True" } else { "False" };
    Arc::new(
        serde_json::from_value(json!({
            "metadata": {"name": format!("s-{ordinal}"), "uid": format!("p{ordinal}"), "labels": {REVISION_HASH: revision}},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": status}]},
        }))
        .unwrap(),
    )
}

/// The changes planned, such as `+0 -2`, and the status.
fn run(set: &StatefulSet, pods: &[Arc<Pod>]) -> (String, Value) {
    let revision = |name: &str| Revision { name: name.to_owned(), template: PodTemplateSpec::default() };
    let now = Timestamp::from_second(0).unwrap();
    let (current, update) = (revision("old"), revision("new"));
    let view = View { set, spec: set.spec.as_ref().unwrap(), pods, current: &current, update: &update, now };
    let text = |action: &Action| match action {
        Action::Create(ordinal, _) => Some(format!("+{ordinal}")),
        Action::Delete(pod) => Some(format!("-{}", identity::ordinal(set, pod).unwrap())),
        Action::CreateClaims(_) | Action::Restore(..) => None,
    };
    let changes: Vec<_> = view.plan().iter().filter_map(text).collect();
    (changes.join(" "), serde_json::to_value(view.status(0)).unwrap())
}

#[test]
fn ordinals_come_one_by_one_or_together() {
    let ordered = set(json!({}));
    assert_eq!(run(&ordered, &[]).0, "+0");
    assert_eq!(run(&ordered, &[pod(0, "new", false)]).0, "");
    assert_eq!(run(&ordered, &[pod(0, "new", true)]).0, "+1");
    assert_eq!(run(&ordered, &[pod(1, "new", true)]).0, "+0");
    let parallel = set(json!({"podManagementPolicy": "Parallel"}));
    assert_eq!(run(&parallel, &[]).0, "+0 +1 +2");
    assert_eq!(run(&set(json!({"ordinals": {"start": 5}})), &[]).0, "+5");
}

#[test]
fn scaling_down_takes_the_highest_first_and_waits_for_health() {
    let small = set(json!({"replicas": 1}));
    let pods = |ready_0| [pod(0, "new", ready_0), pod(1, "new", true), pod(2, "new", true)];
    assert_eq!(run(&small, &pods(true)).0, "-2");
    assert_eq!(run(&small, &pods(false)).0, "");
    let parallel = set(json!({"replicas": 1, "podManagementPolicy": "Parallel"}));
    assert_eq!(run(&parallel, &pods(false)).0, "-2 -1");
}

#[test]
fn an_update_goes_from_the_highest_down_to_the_partition() {
    let rolling = |partition: i32| {
        set(json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": partition}}}))
    };
    let pods = |r1, r2, ready| [pod(0, "old", true), pod(1, r1, true), pod(2, r2, ready)];
    assert_eq!(run(&rolling(0), &pods("old", "old", true)).0, "-2");
    assert_eq!(run(&rolling(0), &pods("old", "new", false)).0, "", "the new one is not ready yet");
    assert_eq!(run(&rolling(0), &pods("old", "new", true)).0, "-1");
    assert_eq!(run(&rolling(2), &pods("old", "new", true)).0, "");
    assert_eq!(run(&set(json!({"updateStrategy": {"type": "OnDelete"}})), &pods("old", "old", true)).0, "");
    let ignored = json!({"updateStrategy": {"rollingUpdate": {"maxUnavailable": 3}}});
    assert_eq!(
        run(&set(ignored), &pods("old", "old", true)).0,
        "-2",
        "maxUnavailable has a gate that is off"
    );
    let (_, status) = run(&rolling(0), &pods("old", "new", true));
    let expected = json!({"replicas": 3, "readyReplicas": 3, "availableReplicas": 3, "currentReplicas": 2,
        "updatedReplicas": 1, "currentRevision": "old", "updateRevision": "new", "collisionCount": 0,
        "observedGeneration": 1});
    assert_eq!(status, expected);
    let (_, status) = run(&rolling(0), &[pod(0, "new", true), pod(1, "new", true), pod(2, "new", true)]);
    assert_eq!((&status["currentRevision"], &status["currentReplicas"]), (&json!("new"), &json!(3)));
}

#[test]
fn in_parallel_a_new_template_mends_what_is_broken() {
    // Management policy, then revision and readiness of the pods 0 to 2, and what happens.
    let cases = [
        ("Parallel", [("old", false), ("old", false), ("old", false)], "-2"),
        ("Parallel", [("old", false), ("old", false), ("new", false)], ""),
        ("Parallel", [("old", false), ("old", false), ("new", true)], "-1"),
        ("Parallel", [("old", false), ("new", true), ("new", true)], "-0"),
        ("OrderedReady", [("old", false), ("old", false), ("old", false)], ""),
        ("OrderedReady", [("old", true), ("old", true), ("old", false)], ""),
        ("OrderedReady", [("old", true), ("old", true), ("new", true)], "-1"),
    ];
    for (policy, pods, expected) in cases {
        let set = set(json!({"podManagementPolicy": policy}));
        let pods: Vec<_> =
            (0..).zip(pods).map(|(ordinal, (revision, ready))| pod(ordinal, revision, ready)).collect();
        assert_eq!(run(&set, &pods).0, expected, "{policy} {pods:?}");
    }
    // What has ended is made anew, what is above the range goes, and an update waits for neither.
    let parallel = set(json!({"podManagementPolicy": "Parallel", "replicas": 2}));
    let mut ended = (*pod(0, "new", false)).clone();
    ended.status.as_mut().unwrap().phase = Some("Failed".to_owned());
    let pods = [Arc::new(ended), pod(1, "old", false), pod(2, "old", true)];
    assert_eq!(run(&parallel, &pods).0, "-0 -2 -1");
}

#[test]
fn a_pod_has_its_own_name_and_claim() {
    let pod = identity::pod(&set(json!({})), &PodTemplateSpec::default(), "rev", 2);
    let pod = serde_json::to_value(pod).unwrap();
    assert_eq!(pod["metadata"]["name"], "s-2");
    assert_eq!(pod["metadata"]["generateName"], "s-");
    assert_eq!(pod["spec"]["hostname"], "s-2");
    assert_eq!(pod["spec"]["subdomain"], "svc");
    assert_eq!(pod["metadata"]["labels"]["apps.kubernetes.io/pod-index"], "2");
    assert_eq!(pod["metadata"]["labels"]["statefulset.kubernetes.io/pod-name"], "s-2");
    assert_eq!(pod["metadata"]["labels"][REVISION_HASH], "rev");
    assert_eq!(pod["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"], "data-s-2");
}

#[test]
fn the_retention_policy_makes_owners_of_claims() {
    let owners = |scaled: &str, deleted: &str, ordinal: i32| {
        let set = set(
            json!({"persistentVolumeClaimRetentionPolicy": {"whenScaled": scaled, "whenDeleted": deleted}}),
        );
        let claim = PersistentVolumeClaim::default();
        identity::claim_owners(&set, &pod(ordinal, "new", true), ordinal, &claim)
            .map(|owners| owners[0].name.clone())
    };
    assert_eq!(owners("Retain", "Retain", 0), None);
    assert_eq!(owners("Retain", "Delete", 0).as_deref(), Some("s"));
    assert_eq!(owners("Delete", "Retain", 0), None);
    assert_eq!(owners("Delete", "Retain", 7).as_deref(), Some("s-7"));
    assert_eq!(owners("Delete", "Delete", 7).as_deref(), Some("s-7"));
    assert_eq!(owners("Delete", "Delete", 0).as_deref(), Some("s"));
}
