//! The status of a Deployment: counts, and the conditions Available, Progressing and ReplicaFailure.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::view::{View, available, bounds, current, desired, replicas};
use crate::claims::name;

const AVAILABLE: &str = "Available";
const PROGRESSING: &str = "Progressing";
const REPLICA_FAILURE: &str = "ReplicaFailure";
const NEW_SET_AVAILABLE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const PAUSED: &str = "DeploymentPaused";

/// Upstream's way to say "no deadline".
const NO_DEADLINE: i32 = i32::MAX;

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Progress {
    /// Paused, being scaled or deleted: the Progressing condition stays.
    Unchanged,
    Judged,
}

type Conditions = Vec<DeploymentCondition>;

pub(super) fn observe(view: &View, progress: Progress, now: Timestamp) -> DeploymentStatus {
    let mut status = count(view, now);
    if progress == Progress::Judged {
        let mut conditions = status.conditions.take().unwrap_or_default();
        judge(view, &status, &mut conditions, now);
        match failure(view) {
            Some(failure) => set(&mut conditions, failure),
            None => conditions.retain(|c| c.type_ != REPLICA_FAILURE),
        }
        status.conditions = Some(conditions);
    }
    status
}

fn count(view: &View, now: Timestamp) -> DeploymentStatus {
    let sum = |of: &dyn Fn(&ReplicaSet) -> i32| view.all().map(of).sum::<i32>();
    let ready = |set: &ReplicaSet| set.status.as_ref().and_then(|s| s.ready_replicas).unwrap_or(0);
    let going = |set: &ReplicaSet| set.status.as_ref().and_then(|s| s.terminating_replicas).unwrap_or(0);
    let up = sum(&available);
    let mut conditions = view.status().conditions.clone().unwrap_or_default();
    let least = view.replicas() - bounds(&view.deployment).1;
    set(&mut conditions, availability(up >= least, now));
    let nonzero = |n: i32| (n != 0).then_some(n);
    DeploymentStatus {
        observed_generation: view.deployment.metadata.generation,
        replicas: nonzero(sum(&current)),
        updated_replicas: nonzero(view.new.as_ref().map_or(0, current)),
        ready_replicas: nonzero(sum(&ready)),
        available_replicas: nonzero(up),
        unavailable_replicas: nonzero((sum(&desired) - up).max(0)),
        terminating_replicas: Some(sum(&going)),
        collision_count: view.status().collision_count,
        conditions: Some(conditions),
    }
}

fn availability(enough: bool, now: Timestamp) -> DeploymentCondition {
    let (status, reason, message) = if enough {
        ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    } else {
        ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
    };
    condition(AVAILABLE, status, reason, message.to_owned(), now)
}

fn judge(view: &View, status: &DeploymentStatus, conditions: &mut Conditions, now: Timestamp) {
    if !has_deadline(&view.deployment) {
        conditions.retain(|c| c.type_ != PROGRESSING);
        return;
    }
    let before = progressing(conditions).cloned();
    let settled = status.replicas == status.updated_replicas
        && before.as_ref().is_some_and(|c| c.reason.as_deref() == Some(NEW_SET_AVAILABLE));
    if settled {
        return;
    }
    let whom = match &view.new {
        Some(new) => format!("ReplicaSet \"{}\"", name(new)),
        None => format!("Deployment \"{}\"", name(&view.deployment)),
    };
    if is_complete(&view.deployment, status) {
        let text = format!("{whom} has successfully progressed.");
        set(conditions, condition(PROGRESSING, "True", NEW_SET_AVAILABLE, text, now));
    } else if has_progressed(view.status(), status) {
        let text = format!("{whom} is progressing.");
        let mut new = condition(PROGRESSING, "True", "ReplicaSetUpdated", text, now);
        // Each step forward renews the time of the update, hence the deadline, though status and reason stay.
        if let Some(before) = before.filter(|c| c.status == "True") {
            new.last_transition_time = before.last_transition_time;
        }
        conditions.retain(|c| c.type_ != PROGRESSING);
        conditions.push(new);
    } else if is_timed_out(&view.deployment, before.as_ref(), now) {
        let text = format!("{whom} has timed out progressing.");
        set(conditions, condition(PROGRESSING, "False", TIMED_OUT, text, now));
    }
}

pub(super) fn is_complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let wanted = replicas(deployment);
    [status.updated_replicas, status.replicas, status.available_replicas]
        .into_iter()
        .all(|count| count.unwrap_or(0) == wanted)
        && status.observed_generation.unwrap_or(0) >= deployment.metadata.generation.unwrap_or(0)
}

fn has_progressed(before: &DeploymentStatus, after: &DeploymentStatus) -> bool {
    let old = |s: &DeploymentStatus| s.replicas.unwrap_or(0) - s.updated_replicas.unwrap_or(0);
    after.updated_replicas.unwrap_or(0) > before.updated_replicas.unwrap_or(0)
        || old(after) < old(before)
        || after.ready_replicas.unwrap_or(0) > before.ready_replicas.unwrap_or(0)
        || after.available_replicas.unwrap_or(0) > before.available_replicas.unwrap_or(0)
}

fn is_timed_out(deployment: &Deployment, progressing: Option<&DeploymentCondition>, now: Timestamp) -> bool {
    let Some(condition) = progressing else { return false };
    match condition.reason.as_deref() {
        Some(NEW_SET_AVAILABLE) => false,
        Some(TIMED_OUT) => true,
        _ => due(deployment, condition).is_some_and(|due| due < now.as_second()),
    }
}

/// When a rollout that does not move has to be looked at again.
pub(super) fn deadline(
    deployment: &Deployment,
    status: &DeploymentStatus,
    now: Timestamp,
) -> Option<Duration> {
    let condition = progressing(status.conditions.as_ref()?)?;
    let over = is_complete(deployment, status) || condition.reason.as_deref() == Some(TIMED_OUT);
    if over || !has_deadline(deployment) {
        return None;
    }
    let left = due(deployment, condition)? - now.as_second();
    Some(Duration::from_secs(u64::try_from(left).unwrap_or(0) + 1))
}

fn due(deployment: &Deployment, condition: &DeploymentCondition) -> Option<i64> {
    let seconds = deployment.spec.as_ref()?.progress_deadline_seconds?;
    Some(condition.last_update_time.as_ref()?.0.as_second() + i64::from(seconds))
}

fn has_deadline(deployment: &Deployment) -> bool {
    let seconds = deployment.spec.as_ref().and_then(|s| s.progress_deadline_seconds);
    seconds.is_some_and(|s| s != NO_DEADLINE)
}

// === single conditions ===

/// Marks that a rollout was paused or resumed, so that a pause does not count against the deadline.
pub(super) fn pause(deployment: &Deployment, now: Timestamp) -> Option<Conditions> {
    if !has_deadline(deployment) {
        return None;
    }
    let mut conditions = conditions_of(deployment);
    let reason = progressing(&conditions).and_then(|c| c.reason.clone());
    if reason.as_deref() == Some(TIMED_OUT) {
        return None;
    }
    let paused = deployment.spec.as_ref().and_then(|s| s.paused).unwrap_or(false);
    let marked = reason.as_deref() == Some(PAUSED);
    let (reason, message) = match (paused, marked) {
        (true, false) => (PAUSED, "Deployment is paused"),
        (false, true) => ("DeploymentResumed", "Deployment is resumed"),
        _ => return None,
    };
    set(&mut conditions, condition(PROGRESSING, "Unknown", reason, message.to_owned(), now));
    Some(conditions)
}

/// A ReplicaSet of the template was there already.
pub(super) fn found_new(deployment: &Deployment, new: &ReplicaSet, now: Timestamp) -> Option<Conditions> {
    let mut conditions = conditions_of(deployment);
    if !has_deadline(deployment) || progressing(&conditions).is_some() {
        return None;
    }
    let text = format!("Found new replica set \"{}\"", name(new));
    set(&mut conditions, condition(PROGRESSING, "True", "FoundNewReplicaSet", text, now));
    Some(conditions)
}

pub(super) fn created_new(deployment: &Deployment, new: &ReplicaSet, now: Timestamp) -> Option<Conditions> {
    let text = format!("Created new replica set \"{}\"", name(new));
    with_progressing(deployment, condition(PROGRESSING, "True", "NewReplicaSetCreated", text, now))
}

pub(super) fn not_created(deployment: &Deployment, text: String, now: Timestamp) -> Option<Conditions> {
    with_progressing(deployment, condition(PROGRESSING, "False", "ReplicaSetCreateError", text, now))
}

fn with_progressing(deployment: &Deployment, new: DeploymentCondition) -> Option<Conditions> {
    let mut conditions = conditions_of(deployment);
    set(&mut conditions, new);
    (has_deadline(deployment) && conditions != conditions_of(deployment)).then_some(conditions)
}

fn conditions_of(deployment: &Deployment) -> Conditions {
    deployment.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default()
}

/// What keeps a ReplicaSet from making pods; the new one's trouble comes first.
fn failure(view: &View) -> Option<DeploymentCondition> {
    let of = |set: &ReplicaSet| {
        let conditions = set.status.as_ref()?.conditions.as_ref()?;
        conditions.iter().find(|c| c.type_ == REPLICA_FAILURE).cloned()
    };
    let found = view.new.iter().chain(&view.old).find_map(of)?;
    Some(DeploymentCondition {
        type_: REPLICA_FAILURE.to_owned(),
        status: found.status,
        reason: found.reason,
        message: found.message,
        last_transition_time: found.last_transition_time.clone(),
        last_update_time: found.last_transition_time,
    })
}

fn progressing(conditions: &Conditions) -> Option<&DeploymentCondition> {
    conditions.iter().find(|c| c.type_ == PROGRESSING)
}

fn condition(
    type_: &str,
    status: &str,
    reason: &str,
    message: String,
    now: Timestamp,
) -> DeploymentCondition {
    DeploymentCondition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_transition_time: Some(Time(now)),
        last_update_time: Some(Time(now)),
    }
}

/// Replaces the condition of that type unless status and reason are as before.
fn set(conditions: &mut Conditions, mut new: DeploymentCondition) {
    if let Some(old) = conditions.iter().find(|c| c.type_ == new.type_) {
        if old.status == new.status && old.reason == new.reason {
            return;
        }
        if old.status == new.status {
            new.last_transition_time = old.last_transition_time.clone();
        }
    }
    conditions.retain(|c| c.type_ != new.type_);
    conditions.push(new);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn view(updated: i32, available: i32, condition_age: i64, reason: &str) -> View {
        let now = Timestamp::from_second(10_000).unwrap();
        let then = Timestamp::from_second(10_000 - condition_age).unwrap().to_string();
        let deployment = json!({
            "metadata": {"name": "d", "generation": 2},
            "spec": {"replicas": 3, "progressDeadlineSeconds": 600, "selector": {}, "template": {}},
            "status": {"replicas": updated, "updatedReplicas": updated, "observedGeneration": 2, "conditions": [
                {"type": "Progressing", "status": "True", "reason": reason, "message": "",
                    "lastUpdateTime": then, "lastTransitionTime": then}]},
        });
        let set = json!({
            "metadata": {"name": "d-1", "uid": "1", "creationTimestamp": now.to_string()},
            "spec": {"replicas": 3, "selector": {}, "template": {}},
            "status": {"replicas": updated, "availableReplicas": available},
        });
        View::new(serde_json::from_value(deployment).unwrap(), vec![serde_json::from_value(set).unwrap()])
    }

    fn judged(view: &View) -> (String, String) {
        let now = Timestamp::from_second(10_000).unwrap();
        let status = observe(view, Progress::Judged, now);
        let conditions = status.conditions.unwrap();
        let progressing = progressing(&conditions).unwrap();
        (progressing.reason.clone().unwrap(), progressing.message.clone().unwrap())
    }

    #[test]
    fn progressing_says_updated_complete_or_timed_out() {
        let is = |reason: &str, message: &str| (reason.to_owned(), message.to_owned());
        let complete = is(NEW_SET_AVAILABLE, "ReplicaSet \"d-1\" has successfully progressed.");
        assert_eq!(judged(&view(3, 3, 5, "ReplicaSetUpdated")), complete);
        let step = is("ReplicaSetUpdated", "ReplicaSet \"d-1\" is progressing.");
        assert_eq!(judged(&view(3, 1, 700, "NewReplicaSetCreated")), step);
        let late = is(TIMED_OUT, "ReplicaSet \"d-1\" has timed out progressing.");
        assert_eq!(judged(&view(3, 0, 700, "ReplicaSetUpdated")), late);
        assert_eq!(judged(&view(3, 0, 500, "ReplicaSetUpdated")), is("ReplicaSetUpdated", ""));
    }
}
