//! What the plan does with pods and statuses upstream's controller is known to meet.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use super::plan::{Plan, Slot, plan};
use super::{FINALIZER, template};

const NOW: i64 = 1_800_000_000;

#[allow(clippy::needless_pass_by_value, reason = "a literal reads best as the argument")]
fn job(spec: Value) -> Job {
    let mut job = json!({"metadata": {"name": "j", "namespace": "ns", "uid": "j"},
        "spec": {"parallelism": 2, "completions": 2, "backoffLimit": 6, "template": {"spec": {"containers": [{"name": "c"}]}}}});
    for (key, value) in spec.as_object().unwrap() {
        job["spec"][key] = value.clone();
    }
    serde_json::from_value(job).unwrap()
}

fn pod(uid: &str, phase: &str, tracked: bool, index: Option<i32>) -> Arc<Pod> {
    let finalizers = if tracked { vec![FINALIZER] } else { vec![] };
    let annotations =
        index.map(|ix| json!({super::indexes::INDEX: ix.to_string(), super::indexes::FAILURES: "0"}));
    let finished = Timestamp::from_second(NOW - 4).unwrap().to_string();
    let state = if phase == "Running" {
        json!({})
    } else {
        json!({"terminated": {"exitCode": 1, "finishedAt": finished}})
    };
    Arc::new(
        serde_json::from_value(json!({
            "metadata": {"name": uid, "uid": uid, "finalizers": finalizers, "annotations": annotations},
            "spec": {"containers": [], "nodeName": "n"},
            "status": {"phase": phase, "containerStatuses": [
                {"name": "c", "ready": false, "image": "", "imageID": "", "restartCount": 0, "state": state}]},
        }))
        .unwrap(),
    )
}

fn run(job: &Job, pods: &[Arc<Pod>]) -> Plan {
    plan(job, pods, Timestamp::from_second(NOW).unwrap())
}

fn uncounted(status: &JobStatus) -> Value {
    serde_json::to_value(&status.uncounted_terminated_pods).unwrap()
}

fn conditions(status: &JobStatus) -> Vec<(&str, &str)> {
    let all = status.conditions.iter().flatten();
    all.map(|c| (c.type_.as_str(), c.reason.as_deref().unwrap())).collect()
}

#[test]
fn a_new_job_starts_as_many_pods_as_may_run() {
    let first = run(&job(json!({"completions": 5})), &[]);
    assert_eq!(first.create.len(), 2);
    assert_eq!(
        (first.status.active, first.status.ready, first.status.terminating),
        (Some(2), Some(0), Some(0))
    );
    assert!(first.status.start_time.is_some());
    assert_eq!(uncounted(&first.status), json!({}));
}

#[test]
fn a_job_ends_in_steps_that_count_each_pod_once() {
    let mut job = job(json!({}));
    let ended = |tracked| vec![pod("a", "Succeeded", tracked, None), pod("b", "Succeeded", tracked, None)];
    let noted = run(&job, &ended(true));
    assert_eq!(uncounted(&noted.status), json!({"succeeded": ["a", "b"]}));
    assert_eq!(noted.status.succeeded, Some(0));
    assert_eq!(noted.untrack.len(), 2);
    assert_eq!(conditions(&noted.status), [("SuccessCriteriaMet", "CompletionsReached")]);
    job.status = Some(noted.status);
    let complete = run(&job, &ended(false));
    assert_eq!(complete.status.succeeded, Some(2));
    assert_eq!(uncounted(&complete.status), json!({}));
    assert_eq!(conditions(&complete.status)[1], ("Complete", "CompletionsReached"));
    assert!(complete.status.completion_time.is_some());
    assert_eq!(complete.events[0].reason, "Completed");
}

#[test]
fn too_many_failures_end_the_job_and_its_pods() {
    let mut job = job(json!({"backoffLimit": 0}));
    let failed = run(&job, &[pod("a", "Failed", true, None), pod("b", "Running", true, None)]);
    assert_eq!(conditions(&failed.status), [("FailureTarget", "BackoffLimitExceeded")]);
    assert_eq!(failed.delete.len(), 1);
    assert_eq!(uncounted(&failed.status), json!({"failed": ["a", "b"]}));
    assert_eq!((failed.status.active, failed.status.terminating), (Some(0), Some(1)));
    job.status = Some(failed.status);
    let end = run(&job, &[]);
    assert_eq!(end.status.failed, Some(2));
    assert_eq!(conditions(&end.status)[1], ("Failed", "BackoffLimitExceeded"));
    assert_eq!(end.events[0].message, "Job has reached the specified backoff limit");
}

#[test]
fn a_failed_pod_is_replaced_after_the_backoff() {
    let waiting = run(&job(json!({"completions": 1})), &[pod("a", "Failed", true, None)]);
    assert!(waiting.create.is_empty());
    assert_eq!(waiting.again.map(|d| d.as_secs()), Some(6));
}

#[test]
fn the_deadline_counts_from_the_start_and_rests_while_suspended() {
    let mut job = job(json!({"activeDeadlineSeconds": 10}));
    let started = Timestamp::from_second(NOW - 11).unwrap().to_string();
    job.status = Some(serde_json::from_value(json!({"startTime": started})).unwrap());
    assert_eq!(conditions(&run(&job, &[]).status), [("FailureTarget", "DeadlineExceeded")]);
    job.spec.as_mut().unwrap().suspend = Some(true);
    let suspended = run(&job, &[pod("a", "Running", true, None)]);
    assert_eq!(conditions(&suspended.status), [("Suspended", "JobSuspended")]);
    assert_eq!((suspended.dismiss.len(), suspended.status.active), (1, Some(0)));
    job.status = Some(suspended.status);
    job.spec.as_mut().unwrap().suspend = Some(false);
    let resumed = run(&job, &[]);
    assert_eq!(conditions(&resumed.status), [("Suspended", "JobResumed")]);
    assert_eq!(resumed.status.start_time.unwrap().0.as_second(), NOW);
    assert_eq!(resumed.create.len(), 2);
}

#[test]
fn pods_that_the_job_ends_itself_lose_their_finalizer_first_and_are_no_failures() {
    let indexed = json!({"completionMode": "Indexed", "completions": 3, "parallelism": 3, "backoffLimit": 0,
        "successPolicy": {"rules": [{"succeededIndexes": "0"}]}});
    // Why pods go, what the spec says, how many are dismissed, how many are ended as a failure.
    let cases = [
        ("suspended", json!({"backoffLimit": 0, "suspend": true}), 2, 0),
        ("fewer at once", json!({"backoffLimit": 0, "parallelism": 1}), 1, 0),
        ("none at once", json!({"backoffLimit": 0, "parallelism": 0}), 2, 0),
        ("the success policy is met", indexed, 2, 0),
        ("the deadline has passed", json!({"backoffLimit": 0, "activeDeadlineSeconds": 10}), 0, 2),
    ];
    for (why, spec, dismissed, ended) in cases {
        let mut job = job(spec);
        let started = Timestamp::from_second(NOW - 11).unwrap().to_string();
        job.status = Some(serde_json::from_value(json!({"startTime": started})).unwrap());
        let alive = [pod("b", "Running", true, Some(1)), pod("c", "Pending", true, Some(2))];
        let done = pod("a", "Succeeded", true, Some(0));
        let pods: Vec<_> =
            if why.contains("policy") { [&[done], &alive[..]].concat() } else { alive.to_vec() };
        let first = run(&job, &pods);
        assert_eq!((first.dismiss.len(), first.delete.len()), (dismissed, ended), "{why}");
        assert_eq!(first.status.terminating, Some(2.min(i32::try_from(dismissed + ended).unwrap())), "{why}");
        assert!(!first.dismiss.iter().any(|p| first.untrack.contains(p)), "{why}: let go once");
        // The next look: what was dismissed has no finalizer and is on its way out.
        job.status = Some(first.status);
        let going = |uid: &str| {
            let mut pod = (*pod(uid, "Running", false, Some(1))).clone();
            pod.metadata.deletion_timestamp = Some(Time(Timestamp::from_second(NOW).unwrap()));
            Arc::new(pod)
        };
        let left: Vec<_> = first.dismiss.iter().map(|p| going(p.metadata.uid.as_deref().unwrap())).collect();
        let second = run(&job, &left);
        let failed = second.status.failed.unwrap_or(0);
        let lost = conditions(&second.status).iter().any(|(type_, _)| *type_ == "FailureTarget");
        assert_eq!((failed > 0, lost), (ended > 0, ended > 0), "{why}");
    }
}

#[test]
fn indexes_that_are_free_are_filled_and_doubles_removed() {
    let job = job(json!({"completionMode": "Indexed", "completions": 4, "parallelism": 4}));
    let pods = [pod("a", "Succeeded", true, Some(1)), pod("b", "Running", true, Some(2))];
    let filled = run(&job, &pods);
    let indexes: Vec<_> = filled.create.iter().map(|slot| slot.index.unwrap()).collect();
    assert_eq!(indexes, [0, 3]);
    assert_eq!(filled.status.completed_indexes.as_deref(), Some("1"));
    assert_eq!((filled.status.succeeded, uncounted(&filled.status)), (Some(1), json!({})));
    let doubled = run(&job, &[pod("a", "Running", true, Some(2)), pod("b", "Running", true, Some(2))]);
    assert_eq!((doubled.dismiss.len(), doubled.create.len()), (1, 0));
}

#[test]
fn failures_per_index_are_carried_on_by_the_replacement() {
    let job = job(json!({"completionMode": "Indexed", "backoffLimit": 100, "backoffLimitPerIndex": 1,
        "podReplacementPolicy": "Failed"}));
    let failed = pod("a", "Failed", true, Some(0));
    let running = pod("b", "Running", true, Some(1));
    let waiting = run(&job, &[failed.clone(), running.clone()]);
    assert!(waiting.create.is_empty() && waiting.untrack.is_empty(), "back-off; the pod holds the count");
    let later = plan(&job, &[failed.clone(), running], Timestamp::from_second(NOW + 60).unwrap());
    assert_eq!(later.create, [Slot { index: Some(0), failures: Some((1, 0)) }]);
    let mut replacement = (*pod("c", "Failed", true, Some(0))).clone();
    replacement
        .metadata
        .annotations
        .as_mut()
        .unwrap()
        .insert(super::indexes::FAILURES.to_owned(), "1".to_owned());
    let lost = run(&job, &[Arc::new(replacement), pod("b", "Succeeded", true, Some(1))]);
    assert_eq!(lost.status.failed_indexes.as_deref(), Some("0"));
    assert_eq!(conditions(&lost.status), [("FailureTarget", "FailedIndexes")]);
}

#[test]
fn an_indexed_pod_knows_its_index() {
    let job = job(json!({"completionMode": "Indexed"}));
    let pod = template::pod(&job, &Slot { index: Some(3), failures: Some((2, 0)) });
    let pod = serde_json::to_value(pod).unwrap();
    assert_eq!(pod["metadata"]["generateName"], "j-3-");
    assert_eq!(pod["metadata"]["finalizers"], json!([FINALIZER]));
    assert_eq!(pod["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"], "3");
    assert_eq!(pod["metadata"]["annotations"]["batch.kubernetes.io/job-index-failure-count"], "2");
    assert_eq!(pod["spec"]["hostname"], "j-3");
    assert_eq!(pod["spec"]["containers"][0]["env"][0]["name"], "JOB_COMPLETION_INDEX");
}
