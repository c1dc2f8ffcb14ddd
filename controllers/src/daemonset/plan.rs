//! The decision about one DaemonSet: which nodes get a pod, which pods go, and what the status says.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetSpec, DaemonSetStatus};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::placement::{Fit, fit, node_of};
use crate::claims::{name, namespace};
use crate::deployment::resolve;
use crate::pods;
use crate::revisions;

#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) delete: Vec<Arc<Pod>>,
    /// Names of the nodes to get a pod.
    pub(super) create: Vec<String>,
    /// Failed pods among those to delete: (node, message).
    pub(super) failed: Vec<(String, String)>,
    pub(super) succeeded: Vec<String>,
    pub(super) again: Option<Duration>,
}

/// The new and the old pod of a node.
type Pair<'a> = (Option<&'a Arc<Pod>>, Option<&'a Arc<Pod>>);

pub(super) struct View<'a> {
    set: &'a DaemonSet,
    spec: &'a DaemonSetSpec,
    fits: BTreeMap<&'a str, Fit>,
    pods: BTreeMap<&'a str, Vec<Arc<Pod>>>,
    hash: &'a str,
    now: Timestamp,
}

impl<'a> View<'a> {
    /// Pods of nodes that are not there are left out, except in `homeless`.
    pub(super) fn new(
        set: &'a DaemonSet,
        spec: &'a DaemonSetSpec,
        nodes: &'a [Arc<Node>],
        claimed: &'a [Arc<Pod>],
        hash: &'a str,
        now: Timestamp,
    ) -> Self {
        let mut by_node: BTreeMap<&str, Vec<Arc<Pod>>> = BTreeMap::new();
        let alive = claimed.iter().filter(|p| !(pods::is_terminating(p) && pods::is_finished(p)));
        for pod in alive {
            if let Some(node) = node_of(pod) {
                by_node.entry(node).or_default().push(pod.clone());
            }
        }
        for pods in by_node.values_mut() {
            pods.sort_by_key(|p| {
                (pods::node_name(p).is_none(), p.metadata.creation_timestamp.clone().map(|t| t.0))
            });
        }
        let fits = nodes.iter().map(|node| (name(&**node), fit(set, node))).collect();
        View { set, spec, fits, pods: by_node, hash, now }
    }

    /// First every node as it should be, then, if nothing is to be done for that, the next step of an update.
    /// `held` tells how long the failed pod of a node is still to be kept.
    pub(super) fn plan(&self, held: impl Fn(&str) -> Option<Duration>) -> Plan {
        let mut plan = Plan::default();
        for (node, fit) in &self.fits {
            self.manage_node(node, *fit, &held, &mut plan);
        }
        let homeless = self.pods.iter().filter(|(node, _)| !self.fits.contains_key(*node));
        let unbound = homeless.flat_map(|(_, pods)| pods).filter(|p| pods::node_name(p).is_none());
        plan.delete.extend(unbound.filter(|p| !pods::is_terminating(p)).cloned());
        let on_delete =
            self.spec.update_strategy.as_ref().and_then(|s| s.type_.as_deref()) == Some("OnDelete");
        if plan.delete.is_empty() && plan.create.is_empty() && !on_delete {
            match self.surge() {
                0 => self.replace_old(&mut plan),
                surge => self.surge_over_old(surge, &mut plan),
            }
        }
        plan
    }

    fn manage_node(&self, node: &str, fit: Fit, held: &impl Fn(&str) -> Option<Duration>, plan: &mut Plan) {
        let present = self.pods.get(node).map(Vec::as_slice).unwrap_or_default();
        let alive = present.iter().filter(|p| !pods::is_terminating(p));
        if fit == Fit::No {
            plan.delete.extend(alive.cloned());
            return;
        }
        if fit == Fit::Runs && present.is_empty() {
            plan.create.push(node.to_owned());
            return;
        }
        let mut running = Vec::new();
        for pod in alive {
            let place = format!("daemon pod {}/{} on node {node}", namespace(&**pod), name(&**pod));
            match pods::phase(pod) {
                "Failed" => match held(node) {
                    Some(left) => plan.again = Some(plan.again.map_or(left, |again| again.min(left))),
                    None => {
                        let text = format!("Found failed {place}, will try to kill it");
                        plan.failed.push((node.to_owned(), text));
                        plan.delete.push(pod.clone());
                    }
                },
                "Succeeded" => {
                    plan.succeeded.push(format!("Found succeeded {place}, will try to delete it"));
                    plan.delete.push(pod.clone());
                }
                _ => running.push(pod),
            }
        }
        if self.surge() == 0 {
            plan.delete.extend(running.into_iter().skip(1).cloned());
        } else if running.is_empty() && fit == Fit::Runs {
            plan.create.push(node.to_owned());
        } else {
            self.prune_surged(&running, plan);
        }
    }

    /// With surge a node may hold one old and one new pod, until the new one is available.
    fn prune_surged(&self, running: &[&Arc<Pod>], plan: &mut Plan) {
        let (new, old): (Vec<_>, Vec<_>) = running.iter().copied().partition(|p| self.is_new(p));
        plan.delete.extend(
            new.iter().chain(&old).filter(|p| !is_first(&new, p) && !is_first(&old, p)).map(|p| (*p).clone()),
        );
        if let (Some(new), Some(old)) = (new.first(), old.first())
            && (!pods::is_ready(old) || self.is_available(new))
        {
            plan.delete.push((*old).clone());
        }
    }

    /// The new and the old pod of a node; None if there are more of either.
    fn pair(&self, node: &str) -> Option<Pair<'_>> {
        let present = self.pods.get(node).map(Vec::as_slice).unwrap_or_default();
        let alive = present.iter().filter(|p| !pods::is_terminating(p));
        let (new, old): (Vec<_>, Vec<_>) = alive.partition(|p| self.is_new(p));
        (new.len() <= 1 && old.len() <= 1).then(|| (new.first().copied(), old.first().copied()))
    }

    /// Without surge: deletes old pods as far as enough stay available; the next run makes new ones.
    fn replace_old(&self, plan: &mut Plan) {
        let (mut unavailable, mut candidates) = (0, Vec::new());
        for node in self.concerned() {
            match self.pair(node) {
                Some((Some(new), None)) => unavailable += usize::from(!self.is_available(new)),
                Some((None, Some(old))) if !self.is_available(old) => {
                    plan.delete.push(old.clone());
                    unavailable += 1;
                }
                Some((None, Some(old))) => candidates.push(old.clone()),
                Some((None, None) | (Some(_), Some(_))) | None => unavailable += 1,
            }
        }
        let room = self.max_unavailable().saturating_sub(unavailable);
        plan.delete.extend(candidates.into_iter().take(room));
    }

    /// With surge: makes new pods beside old ones, and deletes the old when the new are available.
    fn surge_over_old(&self, surge: usize, plan: &mut Plan) {
        let (mut surging, mut available) = (0, 0);
        let (mut candidates, mut misplaced) = (Vec::new(), Vec::new());
        for node in self.concerned() {
            let Some((new, old)) = self.pair(node) else {
                surging += 1;
                continue;
            };
            available += usize::from(old.or(new).is_some_and(|p| self.is_available(p)));
            let runs = self.fits.get(node) == Some(&Fit::Runs);
            match (new, old) {
                (_, None) => {}
                (Some(new), Some(old)) if self.is_available(new) => plan.delete.push(old.clone()),
                (Some(_), Some(_)) => surging += 1,
                (None, Some(old)) if !self.is_available(old) && runs => plan.create.push(node.to_owned()),
                (None, Some(old)) if !self.is_available(old) => plan.delete.push(old.clone()),
                (None, Some(_)) if runs => candidates.push(node.to_owned()),
                (None, Some(old)) => misplaced.push(old.clone()),
            }
        }
        let spare = available.saturating_sub(self.desired());
        plan.delete.extend(misplaced.into_iter().take(spare));
        plan.create.extend(candidates.into_iter().take(surge.saturating_sub(surging)));
    }

    /// Nodes that have or should have a pod.
    fn concerned(&self) -> Vec<&str> {
        let wanted = self.fits.iter().filter(|(_, fit)| **fit == Fit::Runs).map(|(node, _)| *node);
        let mut nodes: Vec<&str> = wanted.chain(self.pods.keys().copied()).collect();
        nodes.sort_unstable();
        nodes.dedup();
        nodes
    }

    pub(super) fn status(&self, collisions: Option<i32>) -> DaemonSetStatus {
        let mut status = DaemonSetStatus {
            observed_generation: self.set.metadata.generation,
            collision_count: collisions,
            conditions: self.set.status.as_ref().and_then(|s| s.conditions.clone()),
            ..DaemonSetStatus::default()
        };
        let (mut updated, mut available) = (0, 0);
        for (node, fit) in &self.fits {
            let first = self.pods.get(node).and_then(|pods| pods.first());
            if *fit != Fit::Runs {
                status.number_misscheduled += i32::from(first.is_some());
                continue;
            }
            status.desired_number_scheduled += 1;
            let Some(pod) = first else { continue };
            status.current_number_scheduled += 1;
            status.number_ready += i32::from(pods::is_ready(pod));
            available += i32::from(self.is_available(pod));
            updated += i32::from(self.is_new(pod));
        }
        let some = |number: i32| (number != 0).then_some(number);
        status.updated_number_scheduled = some(updated);
        status.number_available = some(available);
        status.number_unavailable = some(status.desired_number_scheduled - available);
        status
    }

    /// When the next pod becomes available: no event tells.
    pub(super) fn next_check(&self) -> Option<Duration> {
        let min_ready = self.spec.min_ready_seconds.unwrap_or(0);
        self.pods.values().flatten().filter_map(|p| pods::until_available(p, min_ready, self.now)).min()
    }

    fn is_new(&self, pod: &Pod) -> bool {
        revisions::of_pod(pod) == Some(self.hash)
    }

    fn is_available(&self, pod: &Pod) -> bool {
        pods::is_available(pod, self.spec.min_ready_seconds.unwrap_or(0), self.now)
    }

    fn desired(&self) -> usize {
        self.fits.values().filter(|fit| **fit == Fit::Runs).count()
    }

    fn surge(&self) -> usize {
        self.limit(self.rolling().and_then(|r| r.max_surge.as_ref()))
    }

    fn max_unavailable(&self) -> usize {
        let one = IntOrString::Int(1);
        self.limit(self.rolling().and_then(|r| r.max_unavailable.as_ref()).or(Some(&one))).max(1)
    }

    fn rolling(&self) -> Option<&k8s_openapi::api::apps::v1::RollingUpdateDaemonSet> {
        self.spec.update_strategy.as_ref()?.rolling_update.as_ref()
    }

    fn limit(&self, value: Option<&IntOrString>) -> usize {
        let total = i32::try_from(self.desired()).unwrap_or(i32::MAX);
        usize::try_from(resolve(value, total, true)).unwrap_or(0)
    }
}

fn is_first(pods: &[&Arc<Pod>], pod: &Arc<Pod>) -> bool {
    pods.first().is_some_and(|first| Arc::ptr_eq(first, pod))
}
