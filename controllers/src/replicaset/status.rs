//! The status as the pods show it.

use std::sync::Arc;
use std::time::Duration;

use coracle_api::selector::typed::contains;
use coracle_client::errors::message_of;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::Failure;
use super::kinds::Replicas;
use crate::pods;

const REPLICA_FAILURE: &str = "ReplicaFailure";

/// The status of either kind.
#[derive(Clone, Debug, PartialEq, Default)]
pub(crate) struct Status {
    pub(super) replicas: i32,
    pub(super) fully_labeled: i32,
    pub(super) ready: i32,
    pub(super) available: i32,
    /// ReplicationControllers do not count these.
    pub(super) terminating: Option<i32>,
    pub(super) observed_generation: i64,
    pub(super) conditions: Vec<Condition>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Condition {
    pub(super) type_: String,
    pub(super) status: String,
    pub(super) reason: String,
    pub(super) message: String,
    pub(super) since: Option<Time>,
}

pub(super) fn observe<R: Replicas>(
    owner: &R,
    active: &[Arc<Pod>],
    terminating: usize,
    failure: Option<&Failure>,
    now: Timestamp,
) -> Status {
    let min_ready = owner.min_ready_seconds();
    let labels = owner.template().and_then(|t| t.metadata.as_ref()?.labels.clone()).unwrap_or_default();
    let count = |test: &dyn Fn(&Pod) -> bool| number(active.iter().filter(|p| test(p)).count());
    Status {
        replicas: number(active.len()),
        fully_labeled: count(&|p| contains(p.metadata.labels.as_ref(), &labels)),
        ready: count(&|p| pods::is_ready(p)),
        available: count(&|p| pods::is_available(p, min_ready, now)),
        terminating: Some(number(terminating)),
        observed_generation: owner.meta().generation.unwrap_or(0),
        conditions: conditions(owner.status().conditions, failure, now),
    }
}

fn conditions(mut conditions: Vec<Condition>, failure: Option<&Failure>, now: Timestamp) -> Vec<Condition> {
    let failing = conditions.iter().any(|c| c.type_ == REPLICA_FAILURE);
    match failure {
        Some(failure) if !failing => conditions.push(Condition {
            type_: REPLICA_FAILURE.to_owned(),
            status: "True".to_owned(),
            reason: failure.reason.to_owned(),
            message: message_of(&failure.error),
            since: Some(Time(now)),
        }),
        Some(_) => {}
        None => conditions.retain(|c| c.type_ != REPLICA_FAILURE),
    }
    conditions
}

/// When the next ready pod becomes available: no event tells.
pub(super) fn next_check<R: Replicas>(owner: &R, active: &[Arc<Pod>], now: Timestamp) -> Option<Duration> {
    let min_ready = owner.min_ready_seconds();
    active.iter().filter_map(|pod| pods::until_available(pod, min_ready, now)).min()
}

fn number(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}
