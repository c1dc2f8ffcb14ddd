//! The resize of a running pod: what differs, what must be restarted, in which order the cgroups are set. Pure.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, PodSpec, ResourceRequirements};
use serde::Serialize;

use super::{
    resources::{ResourceList, container_resources, milli, value},
    view::{ContainerView, PodView, init_containers, spec_of},
};
use crate::cri::Resources;

/// How long a resize that failed rests, as upstream's pods do after an error.
pub(crate) const RETRY_SECONDS: i64 = 10;

/// A granted resize on its way to the cgroups: the condition `PodResizeInProgress`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Progress {
    /// Why the last try failed.
    pub(crate) error: Option<String>,
    pub(crate) generation: Option<i64>,
    pub(crate) since: Timestamp,
    pub(crate) retry_at: Option<Timestamp>,
    /// The pod's own cgroup has not been looked at since the grant.
    pub(crate) fresh: bool,
}

/// What can be resized of a container, in 1/1000 CPU and bytes; 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Compute {
    cpu: [i64; 2],
    memory: [i64; 2],
}

impl Compute {
    fn of(resources: Option<&ResourceRequirements>) -> Self {
        let lists = |r: &ResourceRequirements| [r.requests.clone(), r.limits.clone()];
        let Some([requests, limits]) = resources.map(lists) else { return Self::default() };
        let both = |read: fn(Option<&ResourceList>, &str) -> Option<i64>, name: &str| {
            [read(requests.as_ref(), name).unwrap_or(0), read(limits.as_ref(), name).unwrap_or(0)]
        };
        Self { cpu: both(milli, "cpu"), memory: both(value, "memory") }
    }
}

fn resizable(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    init_containers(spec).iter().chain(&spec.containers)
}

/// Whether two versions of a pod ask for the same CPU and memory.
pub(crate) fn same_resources(a: &Pod, b: &Pod) -> bool {
    let (a, b) = (spec_of(a), spec_of(b));
    let same = |a: &Option<ResourceRequirements>, b: &Option<ResourceRequirements>| {
        Compute::of(a.as_ref()) == Compute::of(b.as_ref())
    };
    same(&a.resources, &b.resources)
        && resizable(a).zip(resizable(b)).all(|(a, b)| same(&a.resources, &b.resources))
}

/// The pod with the resources that another version of it has.
pub(crate) fn with_resources_of(mut pod: Pod, other: &Pod) -> Pod {
    let other = spec_of(other);
    let Some(spec) = &mut pod.spec else { return pod };
    spec.resources.clone_from(&other.resources);
    for c in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
        if let Some(known) = resizable(other).find(|known| known.name == c.name) {
            c.resources.clone_from(&known.resources);
        }
    }
    pod
}

/// What a pod was granted before this process saw it, as its status tells.
pub(crate) fn granted_before(pod: &Pod) -> Pod {
    let mut granted = pod.clone();
    let Some(spec) = &mut granted.spec else { return granted };
    let status = pod.status.as_ref();
    let lists = status.map(|s| [&s.init_container_statuses, &s.container_statuses]);
    let statuses: Vec<&ContainerStatus> = lists.into_iter().flatten().flatten().flatten().collect();
    for c in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
        let known = statuses.iter().find(|s| s.name == c.name);
        let Some((requests, shown)) =
            known.and_then(|s| s.allocated_resources.as_ref().zip(s.resources.as_ref()))
        else {
            continue;
        };
        let before = ResourceRequirements {
            requests: Some(requests.clone()),
            limits: shown.limits.clone(),
            ..c.resources.clone().unwrap_or_default()
        };
        if Compute::of(Some(&before)) != Compute::of(c.resources.as_ref()) {
            c.resources = Some(before);
        }
    }
    granted
}

/// Whether a running container has other resources than it was granted.
fn differs(c: &Container, v: &ContainerView) -> bool {
    let known = v.actual.as_ref().filter(|_| v.is_running());
    known.is_some_and(|actual| Compute::of(Some(actual)) != Compute::of(c.resources.as_ref()))
}

/// Whether a running container must be started anew to get what it was granted.
pub(crate) fn requires_restart(c: &Container, v: &ContainerView) -> bool {
    if !differs(c, v) {
        return false;
    }
    let (from, to) = (Compute::of(v.actual.as_ref()), Compute::of(c.resources.as_ref()));
    let restarts = |name: &str| {
        let policies = c.resize_policy.as_deref().unwrap_or_default();
        policies.iter().any(|p| p.resource_name == name && p.restart_policy == "RestartContainer")
    };
    from.cpu != to.cpu && restarts("cpu") || from.memory != to.memory && restarts("memory")
}

/// Whether anything of the grant is still to be done.
pub(crate) fn in_progress(spec: &PodSpec, view: &PodView) -> bool {
    view.progress.as_ref().is_some_and(|p| p.fresh)
        || view.containers.values().any(|v| v.renewing.is_some())
        || resizable(spec).any(|c| differs(c, view.container(&c.name)))
}

/// When the cgroups may be set: not before containers that are to be started anew have ended, nor soon after a failure.
pub(crate) fn actuate_at(spec: &PodSpec, view: &PodView) -> Option<Timestamp> {
    let left = |p: &&Progress| p.fresh || resizable(spec).any(|c| differs(c, view.container(&c.name)));
    let progress = view.progress.as_ref().filter(left)?;
    let stopping = view.containers.values().any(|v| v.is_running() && v.is_renewing());
    (!stopping).then(|| progress.retry_at.unwrap_or(Timestamp::MIN))
}

/// A container whose cgroup is to be changed in place.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Change {
    pub(crate) name: String,
    pub(crate) id: String,
    from: Compute,
    to: Compute,
    wanted: Resources,
}

pub(crate) fn changes(pod: &Pod, view: &PodView, node_memory: i64) -> Vec<Change> {
    let change = |c: &Container| {
        let v = view.container(&c.name);
        let id = v.current.as_ref().filter(|_| differs(c, v))?.id.clone();
        let (from, to) = (Compute::of(v.actual.as_ref()), Compute::of(c.resources.as_ref()));
        Some(Change { name: c.name.clone(), id, from, to, wanted: container_resources(pod, c, node_memory) })
    };
    resizable(spec_of(pod)).filter_map(change).collect()
}

/// One write: to the pod's cgroup, or to a container's.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Step {
    pub(crate) container: Option<String>,
    pub(crate) set: Resources,
}

/// Memory before CPU; the pod's limit goes up before those of its containers and down after them; what shrinks makes
/// room for what grows.
pub(crate) fn steps(current: &Resources, wanted: &Resources, changes: &[Change]) -> Vec<Step> {
    let memory = |r: &Resources| Resources { memory_limit: r.memory_limit, ..Resources::default() };
    let quota = |r: &Resources| Resources {
        cpu_quota: r.cpu_quota,
        cpu_period: r.cpu_period,
        ..Resources::default()
    };
    let cpu = |r: &Resources| Resources { cpu_shares: r.cpu_shares, ..quota(r) };
    let shares = Resources { cpu_shares: wanted.cpu_shares, ..Resources::default() };
    let mut all = around(
        (current.memory_limit, wanted.memory_limit, memory(wanted)),
        ordered(changes, |c| c.memory).map(|c| own(c, memory(&c.wanted))).collect(),
    );
    all.push(Step { container: None, set: shares });
    all.extend(around(
        (current.cpu_quota, wanted.cpu_quota, quota(wanted)),
        ordered(changes, |c| c.cpu).map(|c| own(c, cpu(&c.wanted))).collect(),
    ));
    all
}

fn own(change: &Change, set: Resources) -> Step {
    Step { container: Some(change.id.clone()), set }
}

/// The containers' steps with the pod's before or after them; an absent limit is above every other.
fn around((from, to, set): (Option<i64>, Option<i64>, Resources), containers: Vec<Step>) -> Vec<Step> {
    let height = |limit: Option<i64>| limit.filter(|l| *l >= 0).unwrap_or(i64::MAX);
    let pod = |wanted: bool| wanted.then(|| Step { container: None, set: set.clone() });
    let (before, after) = (height(to) > height(from), height(to) < height(from));
    pod(before && to.is_some()).into_iter().chain(containers).chain(pod(after)).collect()
}

/// The changes of one resource, decreases first.
fn ordered(changes: &[Change], of: fn(&Compute) -> [i64; 2]) -> impl Iterator<Item = &Change> {
    let mut all: Vec<&Change> = changes.iter().filter(|c| of(&c.from) != of(&c.to)).collect();
    // The limit counts; where it stays, the request does.
    let key = |c: &Compute| {
        let [request, limit] = of(c);
        (limit, request)
    };
    all.sort_by_key(|c| key(&c.to) > key(&c.from));
    all.into_iter()
}

/// The memory limits that would fall, as (container, limit); `None` for the pod itself.
pub(crate) fn falling_limits<'a>(
    current: &Resources,
    wanted: &Resources,
    changes: &'a [Change],
) -> Vec<(Option<&'a Change>, i64)> {
    let falls = |from: Option<i64>, to: i64| from.is_none_or(|from| from <= 0 || to < from);
    let pod = wanted.memory_limit.filter(|to| falls(current.memory_limit, *to)).map(|to| (None, to));
    let own = changes.iter().filter_map(|c| {
        let [from, to] = [c.from.memory[1], c.to.memory[1]];
        (to > 0 && falls(Some(from), to)).then_some((Some(c), to))
    });
    pod.into_iter().chain(own).collect()
}

/// Upstream's words for limits below what is in use; `None` when there is nothing to complain of.
pub(crate) fn memory_complaint(falling: &[(Option<&Change>, i64)], usage: &[u64]) -> Option<String> {
    let below = falling.iter().zip(usage).filter(|((_, limit), used)| **used >= limit.unsigned_abs());
    let told: Vec<String> = below
        .map(|((change, limit), used)| {
            let whose = change.map_or_else(|| "pod".to_owned(), |c| format!("container {:?}", c.name));
            format!("attempting to set {whose} memory limit ({limit}) below current usage ({used})")
        })
        .collect();
    match &told[..] {
        [] => None,
        [one] => Some(format!("cannot decrease memory limits: {one}")),
        many => Some(format!("cannot decrease memory limits: [{}]", many.join(", "))),
    }
}

/// The resources of a container's status: what it was granted, with what it has where that is known.
pub(crate) fn shown(
    granted: ResourceRequirements,
    actual: Option<&ResourceRequirements>,
) -> ResourceRequirements {
    let merge = |granted: Option<ResourceList>, actual: Option<&ResourceList>| {
        let mut list = granted?;
        for name in ["cpu", "memory"] {
            if let Some(amount) = actual.and_then(|a| a.get(name)) {
                list.insert(name.to_owned(), amount.clone());
            }
        }
        Some(list)
    };
    ResourceRequirements {
        limits: merge(granted.limits, actual.and_then(|a| a.limits.as_ref())),
        requests: merge(granted.requests, actual.and_then(|a| a.requests.as_ref())),
        ..ResourceRequirements::default()
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    init_containers: Vec<Part<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    containers: Vec<Part<'a>>,
    generation: i64,
    #[serde(skip_serializing_if = "str::is_empty")]
    error: &'a str,
}

#[derive(Serialize)]
struct Part<'a> {
    name: &'a str,
    resources: ResourceRequirements,
}

/// The message of an event about a resize: `what`, and the resources of all containers as JSON.
pub(crate) fn event_message(what: &str, pod: &Pod, generation: Option<i64>, error: &str) -> String {
    fn parts(list: &[Container]) -> Vec<Part<'_>> {
        list.iter()
            .map(|c| Part { name: &c.name, resources: c.resources.clone().unwrap_or_default() })
            .collect()
    }
    let spec = spec_of(pod);
    let summary = Summary {
        init_containers: parts(init_containers(spec)),
        containers: parts(&spec.containers),
        generation: generation.unwrap_or(0),
        error,
    };
    match serde_json::to_string(&summary) {
        Ok(text) => format!("Pod resize {what}: {text}"),
        Err(_) => format!("Pod resize {what}"),
    }
}

#[cfg(test)]
mod tests;
