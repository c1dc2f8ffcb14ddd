//! Requests and limits: QoS class, cgroup values, sums. Pure.

use std::collections::BTreeMap;

use coracle_api::quantity::Quantity as Amount;
use k8s_openapi::{
    api::core::v1::{Container, PodSpec, ResourceRequirements},
    apimachinery::pkg::api::resource::Quantity,
};

use super::resize;
use super::view::{Role, init_containers, role_of_init};
use crate::{
    cri::{Qos, Resources},
    runtime::limits::{no_huge_pages, size_name},
};

pub(crate) type ResourceList = BTreeMap<String, Quantity>;

/// 1/1000 units of a resource in a list.
pub(crate) fn milli(list: Option<&ResourceList>, name: &str) -> Option<i64> {
    list?.get(name).and_then(|q| Amount::try_from(q).ok()).map(|a| a.milli_value())
}

pub(crate) fn value(list: Option<&ResourceList>, name: &str) -> Option<i64> {
    list?.get(name).and_then(|q| Amount::try_from(q).ok()).map(|a| a.value())
}

pub(crate) fn parse_bytes(q: &Quantity) -> Option<i64> {
    Amount::try_from(q).ok().map(|a| a.value())
}

fn requests(c: &Container) -> Option<&ResourceList> {
    c.resources.as_ref()?.requests.as_ref()
}

fn limits(c: &Container) -> Option<&ResourceList> {
    c.resources.as_ref()?.limits.as_ref()
}

pub(crate) fn qos(spec: &PodSpec) -> Qos {
    if let Some(pod) = &spec.resources {
        return qos_of(std::iter::once((pod.requests.as_ref(), pod.limits.as_ref())));
    }
    qos_of(init_containers(spec).iter().chain(&spec.containers).map(|c| (requests(c), limits(c))))
}

fn qos_of<'a>(all: impl Iterator<Item = (Option<&'a ResourceList>, Option<&'a ResourceList>)>) -> Qos {
    let (mut any, mut guaranteed) = (false, true);
    for (requests, limits) in all {
        for name in ["cpu", "memory"] {
            let request = milli(requests, name).filter(|v| *v > 0);
            let limit = milli(limits, name).filter(|v| *v > 0);
            any |= request.is_some() || limit.is_some();
            guaranteed &= limit.is_some() && (request.is_none() || request == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => Qos::BestEffort,
        (true, true) => Qos::Guaranteed,
        (true, false) => Qos::Burstable,
    }
}

pub(crate) fn qos_name(qos: Qos) -> &'static str {
    match qos {
        Qos::Guaranteed => "Guaranteed",
        Qos::Burstable => "Burstable",
        Qos::BestEffort => "BestEffort",
    }
}

pub(crate) fn cpu_shares(milli: i64) -> u64 {
    u64::try_from(milli.saturating_mul(1024) / 1000).unwrap_or(2).clamp(2, 262_144)
}

fn cpu_quota(milli: i64) -> i64 {
    (milli * 100).max(1000)
}

/// The cgroup values of one container.
pub(crate) fn container_resources(spec: &PodSpec, c: &Container, node_memory: i64) -> Resources {
    let request = milli(requests(c), "cpu").or_else(|| milli(limits(c), "cpu"));
    let memory_request = value(requests(c), "memory").or_else(|| value(limits(c), "memory")).unwrap_or(0);
    Resources {
        cpu_shares: Some(cpu_shares(request.unwrap_or(0))),
        cpu_quota: milli(limits(c), "cpu").filter(|m| *m > 0).map(cpu_quota),
        cpu_period: 100_000,
        memory_limit: value(limits(c), "memory").filter(|m| *m > 0),
        pids_limit: None,
        oom_score_adj: oom_score_adj(spec, memory_request, node_memory),
        kill_together: true,
        huge_pages: huge_pages(limits(c), &no_huge_pages()),
    }
}

/// -997 Guaranteed, 1000 BestEffort, in between by the share of memory asked for.
fn oom_score_adj(spec: &PodSpec, memory_request: i64, node_memory: i64) -> i32 {
    if spec.priority.unwrap_or(0) >= 2_000_000_000 {
        return -997;
    }
    match qos(spec) {
        Qos::Guaranteed => -997,
        Qos::BestEffort => 1000,
        Qos::Burstable => {
            let adj = 1000 - 1000 * memory_request / node_memory.max(1);
            i32::try_from(adj.clamp(3, 999)).unwrap_or(999)
        }
    }
}

/// The limits of the pod's cgroup.
pub(crate) fn pod_resources(spec: &PodSpec) -> Resources {
    let request = total(spec, "cpu", requests);
    let all_limited = |name| {
        init_containers(spec)
            .iter()
            .chain(&spec.containers)
            .all(|c| milli(limits(c), name).is_some_and(|v| v > 0))
    };
    let own = spec.resources.as_ref().and_then(|r| r.limits.as_ref());
    let quota = milli(own, "cpu").or_else(|| all_limited("cpu").then(|| total(spec, "cpu", limits)));
    let memory =
        value(own, "memory").or_else(|| all_limited("memory").then(|| total(spec, "memory", limits) / 1000));
    Resources {
        cpu_shares: Some(cpu_shares(request)),
        cpu_quota: quota.map(cpu_quota),
        cpu_period: 100_000,
        memory_limit: memory,
        pids_limit: None,
        oom_score_adj: 0,
        kill_together: false,
        huge_pages: Vec::new(),
    }
}

/// What a container may have of each size that the node knows: what it is limited to, else nothing.
fn huge_pages(limits: Option<&ResourceList>, sizes: &[(String, u64)]) -> Vec<(String, u64)> {
    let mut all = sizes.to_vec();
    for (name, amount) in limits.into_iter().flatten() {
        let size = name.strip_prefix("hugepages-").and_then(|size| parse_bytes(&Quantity(size.to_owned())));
        let size = size.and_then(|bytes| u64::try_from(bytes).ok()).map(size_name);
        if let Some(own) = all.iter_mut().find(|(known, _)| Some(known) == size.as_ref()) {
            own.1 = parse_bytes(amount).and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0);
        }
    }
    all
}

/// What a pod asks for in total, in 1/1000 units: the larger of the main containers with sidecars and the init peak.
pub(crate) fn total(spec: &PodSpec, name: &str, list: fn(&Container) -> Option<&ResourceList>) -> i64 {
    let of = |c: &Container| milli(list(c), name).unwrap_or(0);
    let (mut sidecars, mut peak) = (0, 0);
    for c in init_containers(spec) {
        if role_of_init(c) == Role::Sidecar {
            sidecars += of(c);
            peak = peak.max(sidecars);
        } else {
            peak = peak.max(sidecars + of(c));
        }
    }
    let main: i64 = spec.containers.iter().map(of).sum();
    peak.max(main + sidecars)
}

pub(crate) fn pod_request(spec: &PodSpec, name: &str) -> i64 {
    let own = milli(spec.resources.as_ref().and_then(|r| r.requests.as_ref()), name);
    own.unwrap_or_else(|| total(spec, name, requests)) + milli(spec.overhead.as_ref(), name).unwrap_or(0)
}

/// `allocatedResources` and `resources` of a container status.
pub(crate) fn container_status_resources(
    c: &Container,
    actual: Option<&ResourceRequirements>,
    running: bool,
) -> (Option<ResourceList>, ResourceRequirements) {
    let all = c.resources.clone().unwrap_or_default();
    let allocated = all.requests.clone().filter(|_| running);
    (allocated, resize::shown(all, actual.filter(|_| running)))
}
