//! What a Job says about the ends of its pods: which failures count, and which successes are enough.

use k8s_openapi::api::batch::v1::{
    Job, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyOnPodConditionsPattern, PodFailurePolicyRule,
};
use k8s_openapi::api::core::v1::Pod;

use super::indexes::{self, Indexes};
use crate::claims::{name, namespace};
use crate::pods;

/// What the first matching rule makes of a failed pod.
#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    Counts,
    Ignored,
    FailsIndex,
    FailsJob(String),
}

pub(super) fn judge(job: &Job, pod: &Pod) -> Verdict {
    let policy = job.spec.as_ref().and_then(|s| s.pod_failure_policy.as_ref());
    for (index, rule) in policy.iter().flat_map(|p| &p.rules).enumerate() {
        let Some(cause) = cause(rule, pod) else { continue };
        match rule.action.as_str() {
            "Ignore" => return Verdict::Ignored,
            "FailIndex" if limits_per_index(job) => return Verdict::FailsIndex,
            "Count" => return Verdict::Counts,
            "FailJob" => {
                return Verdict::FailsJob(format!("{cause} matching FailJob rule at index {index}"));
            }
            _ => {}
        }
    }
    Verdict::Counts
}

pub(super) fn limits_per_index(job: &Job) -> bool {
    job.spec.as_ref().is_some_and(|s| s.backoff_limit_per_index.is_some())
}

/// In what way a rule matches a pod.
fn cause(rule: &PodFailurePolicyRule, pod: &Pod) -> Option<String> {
    let exit = rule.on_exit_codes.as_ref().and_then(|wanted| on_exit_codes(wanted, pod));
    exit.or_else(|| on_conditions(rule.on_pod_conditions.as_deref().unwrap_or_default(), pod))
}

fn on_exit_codes(wanted: &PodFailurePolicyOnExitCodesRequirement, pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let all = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
    let named = all.filter(|c| wanted.container_name.as_ref().is_none_or(|name| *name == c.name));
    named.into_iter().find_map(|container| {
        let code = container.state.as_ref()?.terminated.as_ref()?.exit_code;
        let listed = wanted.values.contains(&code);
        let matches = code != 0 && if wanted.operator == "In" { listed } else { !listed };
        let place = format!("{}/{}", namespace(pod), name(pod));
        matches.then(|| format!("Container {} for pod {place} failed with exit code {code}", container.name))
    })
}

fn on_conditions(patterns: &[PodFailurePolicyOnPodConditionsPattern], pod: &Pod) -> Option<String> {
    let conditions = pod.status.as_ref()?.conditions.as_deref().unwrap_or_default();
    let wanted = |type_: &str, status: &str| {
        patterns.iter().any(|p| p.type_ == type_ && p.status.as_deref().unwrap_or("True") == status)
    };
    let found = conditions.iter().find(|c| wanted(&c.type_, &c.status))?;
    Some(format!("Pod {}/{} has condition {}", namespace(pod), name(pod), found.type_))
}

/// The words of the success rule that the succeeded indexes fulfil.
pub(super) fn enough(job: &Job, succeeded: &Indexes) -> Option<String> {
    let spec = job.spec.as_ref()?;
    let completions = spec.completions.unwrap_or(0);
    let rules = &spec.success_policy.as_ref()?.rules;
    let met = rules.iter().position(|rule| {
        let listed = rule.succeeded_indexes.as_ref().map(|text| indexes::parse(text, completions));
        let have = listed.as_ref().map_or(succeeded.len(), |listed| listed.common(succeeded));
        let want = rule.succeeded_count.and_then(|count| usize::try_from(count).ok());
        want.or(listed.map(|listed| listed.len())).is_some_and(|want| have >= want)
    })?;
    Some(format!("Matched rules at index {met}"))
}

/// Pods restarted in place count against the limit as well.
pub(super) fn too_many_restarts(job: &Job, pods: &[&Pod]) -> bool {
    let Some(spec) = &job.spec else { return false };
    if spec.template.spec.as_ref().and_then(|s| s.restart_policy.as_deref()) != Some("OnFailure") {
        return false;
    }
    let alive = pods.iter().filter(|p| matches!(pods::phase(p), "Running" | "Pending"));
    let restarts: i32 = alive
        .filter_map(|pod| pod.status.as_ref())
        .flat_map(|s| s.init_container_statuses.iter().chain(&s.container_statuses).flatten())
        .map(|c| c.restart_count)
        .sum();
    match spec.backoff_limit.unwrap_or(6) {
        0 => restarts > 0,
        limit => restarts >= limit,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_first_matching_rule_decides() {
        let job: Job = serde_json::from_value(
            json!({"spec": {"backoffLimitPerIndex": 1, "podFailurePolicy": {"rules": [
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]},
            {"action": "FailJob", "onExitCodes": {"containerName": "main", "operator": "In", "values": [42]}},
            {"action": "FailIndex", "onExitCodes": {"operator": "NotIn", "values": [1, 42]}},
        ]}, "template": {}}}),
        )
        .unwrap();
        let verdict = |condition: &str, container: &str, code: i32| {
            let pod =
                serde_json::from_value(json!({"metadata": {"namespace": "ns", "name": "p"}, "status": {
                "conditions": [{"type": condition, "status": "True"}],
                "containerStatuses": [{"name": container, "ready": false, "image": "", "imageID": "",
                    "restartCount": 0, "state": {"terminated": {"exitCode": code}}}]}}))
                .unwrap();
            judge(&job, &pod)
        };
        assert_eq!(verdict("DisruptionTarget", "main", 42), Verdict::Ignored);
        let message = "Container main for pod ns/p failed with exit code 42 matching FailJob rule at index 1";
        assert_eq!(verdict("Ready", "main", 42), Verdict::FailsJob(message.to_owned()));
        assert_eq!(verdict("Ready", "side", 42), Verdict::Counts);
        assert_eq!(verdict("Ready", "side", 3), Verdict::FailsIndex);
        assert_eq!(verdict("Ready", "side", 0), Verdict::Counts);
    }

    #[test]
    fn success_rules_count_listed_indexes() {
        let met = |rule: serde_json::Value, succeeded: &[i32]| {
            let job = json!({"spec": {"completions": 5, "successPolicy": {"rules": [rule]}, "template": {}}});
            enough(&serde_json::from_value(job).unwrap(), &succeeded.iter().copied().collect()).is_some()
        };
        assert!(met(json!({"succeededIndexes": "0,2"}), &[0, 1, 2]));
        assert!(!met(json!({"succeededIndexes": "0,2"}), &[0, 1]));
        assert!(met(json!({"succeededIndexes": "0-3", "succeededCount": 1}), &[3]));
        assert!(!met(json!({"succeededCount": 2}), &[3]));
    }
}
