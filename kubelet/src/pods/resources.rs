//! Requests and limits as cgroup values. Pure.

use std::collections::BTreeMap;

use coracle_api::priority::{NODE_CRITICAL, is_critical};
use coracle_api::quantity::Quantity as Amount;
use coracle_api::resources::{Demand, QosClass, ResourceList as Amounts, is_sidecar};
use k8s_openapi::{
    api::core::v1::{Container, Pod, ResourceRequirements},
    apimachinery::pkg::api::resource::Quantity,
};

use super::resize;
use super::view::spec_of;
use crate::{
    cri::Resources,
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

/// What the pod asks for in total.
pub(crate) fn requests_of(pod: &Pod) -> Amounts {
    Demand::of_spec(spec_of(pod)).requests()
}

pub(crate) fn cpu_shares(milli: i64) -> u64 {
    u64::try_from(milli.saturating_mul(1024) / 1000).unwrap_or(2).clamp(2, 262_144)
}

fn cpu_quota(milli: i64) -> i64 {
    (milli * 100).max(1000)
}

/// The cgroup values of one container.
pub(crate) fn container_resources(pod: &Pod, c: &Container, node_memory: i64) -> Resources {
    let request = milli(requests(c), "cpu").or_else(|| milli(limits(c), "cpu"));
    Resources {
        cpu_shares: Some(cpu_shares(request.unwrap_or(0))),
        cpu_quota: milli(limits(c), "cpu").filter(|m| *m > 0).map(cpu_quota),
        cpu_period: 100_000,
        memory_limit: value(limits(c), "memory").filter(|m| *m > 0),
        pids_limit: None,
        oom_score_adj: oom_score_adj(pod, c, node_memory),
        kill_together: true,
        huge_pages: huge_pages(limits(c), &no_huge_pages()),
    }
}

fn memory_request(c: &Container) -> i64 {
    value(requests(c), "memory").or_else(|| value(limits(c), "memory")).unwrap_or(0)
}

/// -997 for what the node cannot do without and for Guaranteed, 1000 for BestEffort, in between by the share of memory asked
/// for. A sidecar is no likelier to end than the containers it serves.
fn oom_score_adj(pod: &Pod, c: &Container, node_memory: i64) -> i32 {
    const LAST: i32 = -997;
    let spec = spec_of(pod);
    if is_critical(spec.priority) && spec.priority_class_name.as_deref() == Some(NODE_CRITICAL.name) {
        return LAST;
    }
    match QosClass::of_pod(pod) {
        QosClass::Guaranteed => LAST,
        QosClass::BestEffort => 1000,
        QosClass::Burstable => {
            let own = memory_request(c);
            let asked = match is_sidecar(c.restart_policy.as_deref()) {
                true => own.max(spec.containers.iter().map(memory_request).min().unwrap_or(0)),
                false => own,
            };
            let adj = 1000 - 1000 * asked.saturating_add(share_of_pod(pod)) / node_memory.max(1);
            i32::try_from(adj.clamp(3, 999)).unwrap_or(999)
        }
    }
}

/// What each container has of the memory that the pod as a whole asks for beyond its containers: equal parts.
fn share_of_pod(pod: &Pod) -> i64 {
    let spec = spec_of(pod);
    let whole = spec.resources.as_ref().and_then(|all| value(all.requests.as_ref(), "memory")).unwrap_or(0);
    if whole == 0 {
        return 0;
    }
    let of_containers = Demand::of_spec(spec).sum_of_containers();
    let count = spec.containers.len() + spec.init_containers.as_ref().map_or(0, Vec::len);
    let left = whole - of_containers.get("memory").map_or(0, Amount::value);
    left / i64::try_from(count.max(1)).unwrap_or(1)
}

/// The limits of the pod's cgroup. A pod of the class BestEffort has what others leave, whatever its containers say.
pub(crate) fn pod_resources(pod: &Pod) -> Resources {
    let demand = Demand::of_spec(spec_of(pod));
    let counts = QosClass::of_pod(pod) != QosClass::BestEffort;
    let (requests, limits) = (demand.requests(), demand.limits());
    let limit = |name: &str| limits.get(name).filter(|_| counts && demand.is_limited(name));
    Resources {
        cpu_shares: Some(cpu_shares(requests.get("cpu").filter(|_| counts).map_or(0, Amount::milli_value))),
        cpu_quota: limit("cpu").map(|limit| cpu_quota(limit.milli_value())),
        cpu_period: 100_000,
        memory_limit: limit("memory").map(Amount::value),
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// Upstream's `GetContainerOOMScoreAdjust`, on a node of 1000 bytes.
    #[test]
    fn scores_follow_class_memory_and_the_nodes_own() {
        let asks = |bytes: u64| json!({"requests": {"memory": bytes.to_string()}});
        let main = |bytes: u64| json!({"name": "c", "resources": asks(bytes)});
        let all = json!({"cpu": "1", "memory": "10"});
        let sidecar = |bytes: u64| json!({"name": "s", "restartPolicy": "Always", "resources": asks(bytes)});
        let rows: [(Value, i32); 11] = [
            (json!({"containers": [{"name": "c"}]}), 1000),
            (json!({"containers": [{"name": "c", "resources": {"requests": all, "limits": all}}]}), -997),
            (json!({"containers": [main(100)]}), 900),
            (json!({"containers": [main(1)]}), 999),
            (json!({"containers": [main(5000)]}), 3),
            (json!({"containers": [{"name": "c", "resources": {"limits": {"memory": "200"}}}]}), 800),
            (
                json!({"containers": [main(100)], "priority": 2_000_001_000, "priorityClassName": "system-node-critical"}),
                -997,
            ),
            (
                json!({"containers": [main(100)], "priority": 2_000_000_000, "priorityClassName": "system-cluster-critical"}),
                900,
            ),
            // 500 of 600 bytes are nobody's yet.
            (json!({"containers": [main(100)], "resources": asks(600)}), 400),
            (json!({"containers": [main(300)], "initContainers": [sidecar(100)]}), 700),
            (json!({"containers": [main(100), main(300)], "initContainers": [sidecar(200)]}), 800),
        ];
        for (spec, score) in rows {
            let pod: Pod = serde_json::from_value(json!({"spec": spec})).unwrap();
            let spec = spec_of(&pod);
            let c = spec.init_containers.iter().flatten().chain(&spec.containers).next().unwrap();
            assert_eq!(oom_score_adj(&pod, c, 1000), score, "{spec:?}");
        }
    }
}
