//! A Deployment with its ReplicaSets, as one reconcile sees them.

use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use std::sync::LazyLock;

use super::revision;
use crate::claims::uid;

static NO_STATUS: LazyLock<DeploymentStatus> = LazyLock::new(DeploymentStatus::default);

pub(super) struct View {
    pub(super) deployment: Deployment,
    /// The ReplicaSet of the present template.
    pub(super) new: Option<ReplicaSet>,
    /// The others, oldest first.
    pub(super) old: Vec<ReplicaSet>,
}

// === impl View ===

impl View {
    /// Where two ReplicaSets have the present template the older is the new one, whatever its name.
    pub(super) fn new(deployment: Deployment, mut sets: Vec<ReplicaSet>) -> Self {
        sets.sort_by(|a, b| age(a).cmp(&age(b)));
        let mut view = View { deployment, new: None, old: Vec::new() };
        let position = sets.iter().position(|set| view.is_of_present_template(set));
        view.new = position.map(|at| sets.remove(at));
        view.old = sets;
        view
    }

    pub(super) fn is_of_present_template(&self, set: &ReplicaSet) -> bool {
        let wanted = self.deployment.spec.as_ref().map(|s| &s.template);
        let found = set.spec.as_ref().and_then(|s| s.template.as_ref());
        match (wanted, found) {
            (Some(wanted), Some(found)) => without_hash(wanted) == without_hash(found),
            _ => false,
        }
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &ReplicaSet> {
        self.old.iter().chain(&self.new)
    }

    pub(super) fn find_mut(&mut self, set_uid: &str) -> Option<&mut ReplicaSet> {
        self.old.iter_mut().chain(&mut self.new).find(|set| uid(*set) == set_uid)
    }

    pub(super) fn status(&self) -> &DeploymentStatus {
        self.deployment.status.as_ref().unwrap_or(&NO_STATUS)
    }

    pub(super) fn replicas(&self) -> i32 {
        replicas(&self.deployment)
    }

    pub(super) fn is_paused(&self) -> bool {
        self.deployment.spec.as_ref().and_then(|s| s.paused).unwrap_or(false)
    }

    pub(super) fn is_recreate(&self) -> bool {
        is_recreate(&self.deployment)
    }

    /// The size of the Deployment is not the one its running ReplicaSets were last fitted to.
    pub(super) fn is_scaling(&self) -> bool {
        let active = self.all().filter(|set| desired(set) > 0);
        let fitted = active.filter_map(|set| revision::number(set, revision::DESIRED_REPLICAS));
        fitted.into_iter().any(|fitted| fitted != i64::from(self.replicas()))
    }
}

pub(super) fn replicas(deployment: &Deployment) -> i32 {
    deployment.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
}

pub(super) fn is_recreate(deployment: &Deployment) -> bool {
    let strategy = deployment.spec.as_ref().and_then(|s| s.strategy.as_ref());
    strategy.and_then(|s| s.type_.as_deref()) == Some("Recreate")
}

/// The size a ReplicaSet is told to have.
pub(super) fn desired(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
}

/// The number of pods it has.
pub(super) fn current(set: &ReplicaSet) -> i32 {
    set.status.as_ref().map_or(0, |s| s.replicas)
}

pub(super) fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|s| s.available_replicas).unwrap_or(0)
}

/// Pods above and below the wanted number during a rollout. Both zero would stand still: then one may be missing.
pub(super) fn bounds(deployment: &Deployment) -> (i32, i32) {
    let rolling = deployment.spec.as_ref().and_then(|s| s.strategy.as_ref()?.rolling_update.as_ref());
    let Some(rolling) = rolling.filter(|_| !is_recreate(deployment)) else { return (0, 0) };
    let total = replicas(deployment);
    let surge = resolve(rolling.max_surge.as_ref(), total, true);
    let unavailable = resolve(rolling.max_unavailable.as_ref(), total, false);
    let unavailable = if surge == 0 && unavailable == 0 { 1 } else { unavailable };
    (surge, unavailable.min(total))
}

/// A number as it is, a percentage of the total; surge rounds up, unavailable down.
pub(crate) fn resolve(value: Option<&IntOrString>, total: i32, up: bool) -> i32 {
    match value {
        None => 0,
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(text)) => {
            let percent: i64 = text.trim_end_matches('%').parse().unwrap_or(0);
            let hundredfold = i64::from(total) * percent;
            let share = if up { (hundredfold + 99).div_euclid(100) } else { hundredfold.div_euclid(100) };
            i32::try_from(share).unwrap_or(i32::MAX)
        }
    }
}

fn age(set: &ReplicaSet) -> (Option<jiff::Timestamp>, Option<&str>) {
    (set.metadata.creation_timestamp.as_ref().map(|t| t.0), set.metadata.name.as_deref())
}

fn without_hash(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut template = template.clone();
    let meta = template.metadata.get_or_insert_default();
    if let Some(labels) = &mut meta.labels {
        labels.remove(coracle_api::names::LABEL_POD_TEMPLATE_HASH);
    }
    meta.labels = meta.labels.take().filter(|l| !l.is_empty());
    meta.annotations = meta.annotations.take().filter(|a| !a.is_empty());
    meta.creation_timestamp = None;
    template
}
