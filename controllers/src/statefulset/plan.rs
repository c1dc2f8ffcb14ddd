//! The decision about one StatefulSet: ordinals come and go in order, unless they may go in parallel.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec, StatefulSetStatus};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};

use super::identity::{self, in_range, ordinal};
use crate::pods;
use crate::revisions;

/// In the order in which they are to be done.
#[derive(Debug)]
pub(super) enum Action {
    /// The pod, after its claims.
    Create(i32, Box<Pod>),
    /// The claims of a pod that waits for them.
    CreateClaims(i32),
    /// Labels and claims of a pod that is not quite itself.
    Restore(i32, Arc<Pod>),
    Delete(Arc<Pod>),
}

/// A template and the name of its revision.
pub(super) struct Revision {
    pub(super) name: String,
    pub(super) template: PodTemplateSpec,
}

pub(super) struct View<'a> {
    pub(super) set: &'a StatefulSet,
    pub(super) spec: &'a StatefulSetSpec,
    pub(super) pods: &'a [Arc<Pod>],
    pub(super) current: &'a Revision,
    pub(super) update: &'a Revision,
    pub(super) now: Timestamp,
}

impl View<'_> {
    pub(super) fn plan(&self) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.set.metadata.deletion_timestamp.is_some() {
            return actions;
        }
        let mut replicas = BTreeMap::new();
        let mut condemned = BTreeMap::new();
        for pod in self.pods {
            if let Some(ordinal) = ordinal(self.set, pod) {
                if in_range(self.set, ordinal) { &mut replicas } else { &mut condemned }.insert(ordinal, pod);
            }
        }
        let settled = self.fill(&replicas, &mut actions) && self.shrink(&replicas, &condemned, &mut actions);
        let strategy = self.spec.update_strategy.as_ref().and_then(|s| s.type_.as_deref());
        if settled && strategy != Some("OnDelete") {
            self.roll(&replicas, &mut actions);
        }
        actions
    }

    /// Makes every ordinal a healthy pod; returns whether the next stage may begin. In parallel it always may: a pod
    /// that is not well must not keep a new template from mending it.
    fn fill(&self, replicas: &BTreeMap<i32, &Arc<Pod>>, actions: &mut Vec<Action>) -> bool {
        let first = identity::start(self.set);
        for ordinal in first..first + identity::replicas(self.set) {
            let Some(pod) = replicas.get(&ordinal).copied() else {
                actions.push(Action::Create(ordinal, Box::new(self.new_pod(ordinal))));
                if self.in_order() {
                    return false;
                }
                continue;
            };
            if pods::is_finished(pod) {
                if !pods::is_terminating(pod) {
                    actions.push(Action::Delete(pod.clone()));
                }
                if self.in_order() {
                    return false;
                }
                continue;
            }
            if pods::phase(pod) == "Pending" {
                actions.push(Action::CreateClaims(ordinal));
            }
            if self.in_order() && (pods::is_terminating(pod) || !self.is_available(pod)) {
                return false;
            }
            actions.push(Action::Restore(ordinal, pod.clone()));
        }
        true
    }

    /// Removes what is above the range, highest first.
    fn shrink(
        &self,
        replicas: &BTreeMap<i32, &Arc<Pod>>,
        condemned: &BTreeMap<i32, &Arc<Pod>>,
        actions: &mut Vec<Action>,
    ) -> bool {
        for (ordinal, pod) in condemned {
            actions.push(Action::Restore(*ordinal, (*pod).clone()));
        }
        let mut all = replicas.values().chain(condemned.values());
        let first_unavailable = all.find(|p| pods::is_terminating(p) || !self.is_available(p)).copied();
        for pod in condemned.values().rev().copied() {
            let terminating = pods::is_terminating(pod);
            let sick =
                !self.is_available(pod) && !first_unavailable.is_some_and(|first| Arc::ptr_eq(first, pod));
            if self.in_order() && (terminating || sick) {
                return false;
            }
            if !terminating {
                actions.push(Action::Delete(pod.clone()));
                if self.in_order() {
                    return false;
                }
            }
        }
        true
    }

    /// Deletes the highest pod of an old revision that is not below the partition, well or not, once all above it are
    /// available.
    fn roll(&self, replicas: &BTreeMap<i32, &Arc<Pod>>, actions: &mut Vec<Action>) {
        let rolling = self.spec.update_strategy.as_ref().and_then(|s| s.rolling_update.as_ref());
        let partition = rolling.and_then(|r| r.partition).unwrap_or(0);
        let first = identity::start(self.set);
        for ordinal in (first + partition..first + identity::replicas(self.set)).rev() {
            let Some(pod) = replicas.get(&ordinal).filter(|pod| !pods::is_finished(pod)) else { return };
            if revisions::of_pod(pod) != Some(&self.update.name) && !pods::is_terminating(pod) {
                return actions.push(Action::Delete((*pod).clone()));
            }
            if pods::is_terminating(pod) || !self.is_available(pod) {
                return;
            }
        }
    }

    /// Below the partition, or before the update has come so far, a lost pod comes back as it was.
    fn new_pod(&self, ordinal: i32) -> Pod {
        let strategy = self.spec.update_strategy.as_ref();
        let rolling = strategy.is_none_or(|s| s.type_.as_deref() != Some("OnDelete"));
        let kept = match strategy.and_then(|s| s.rolling_update.as_ref()) {
            Some(rolling) => rolling.partition.unwrap_or(0),
            None if rolling => self.set.status.as_ref().and_then(|s| s.current_replicas).unwrap_or(0),
            None => 0,
        };
        let old = ordinal < identity::start(self.set) + kept;
        let revision = if old { self.current } else { self.update };
        identity::pod(self.set, &revision.template, &revision.name, ordinal)
    }

    pub(super) fn status(&self, collisions: i32) -> StatefulSetStatus {
        let count = |test: &dyn Fn(&Pod) -> bool| {
            i32::try_from(self.pods.iter().filter(|p| test(p)).count()).unwrap_or(i32::MAX)
        };
        let created = |p: &Pod| !pods::phase(p).is_empty();
        let of = |p: &Pod, revision: &Revision| {
            created(p) && !pods::is_terminating(p) && revisions::of_pod(p) == Some(&revision.name)
        };
        let running = |p: &Pod| pods::phase(p) == "Running" && pods::is_ready(p);
        let mut status = StatefulSetStatus {
            observed_generation: self.set.metadata.generation,
            collision_count: Some(collisions),
            conditions: self.set.status.as_ref().and_then(|s| s.conditions.clone()),
            replicas: count(&created),
            ready_replicas: Some(count(&running)).filter(|n| *n != 0),
            available_replicas: Some(count(&|p| self.is_available(p))),
            current_replicas: Some(count(&|p| of(p, self.current))).filter(|n| *n != 0),
            updated_replicas: Some(count(&|p| of(p, self.update))).filter(|n| *n != 0),
            current_revision: Some(self.current.name.clone()),
            update_revision: Some(self.update.name.clone()),
        };
        let wanted = identity::replicas(self.set);
        let all = |n: Option<i32>| n.unwrap_or(0) == wanted;
        let strategy = self.spec.update_strategy.as_ref().and_then(|s| s.type_.as_deref());
        let done = all(status.updated_replicas) && all(status.ready_replicas) && status.replicas == wanted;
        if done && strategy != Some("OnDelete") {
            status.current_replicas = status.updated_replicas;
            status.current_revision.clone_from(&status.update_revision);
        }
        status
    }

    /// When the next pod becomes available: no event tells.
    pub(super) fn next_check(&self) -> Option<Duration> {
        let min_ready = self.spec.min_ready_seconds.unwrap_or(0);
        self.pods.iter().filter_map(|p| pods::until_available(p, min_ready, self.now)).min()
    }

    fn in_order(&self) -> bool {
        self.spec.pod_management_policy.as_deref() != Some("Parallel")
    }

    fn is_available(&self, pod: &Pod) -> bool {
        pods::phase(pod) == "Running"
            && pods::is_available(pod, self.spec.min_ready_seconds.unwrap_or(0), self.now)
    }
}
