//! What pods ask for: sums of requests and limits over containers, and the quality-of-service class.
//!
//! The rules are upstream's: sidecars (init containers that restart) count beside the containers, other init containers
//! one at a time on top of the sidecars started before them, `overhead` comes on top, and what a pod asks as a whole wins.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::quantity::Quantity;

/// Resource name to amount.
pub type ResourceList = BTreeMap<String, Quantity>;

/// Quality of service, from who is killed last to first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QosClass {
    Guaranteed,
    Burstable,
    BestEffort,
}

// === impl QosClass ===

impl QosClass {
    pub fn name(self) -> &'static str {
        match self {
            QosClass::Guaranteed => "Guaranteed",
            QosClass::Burstable => "Burstable",
            QosClass::BestEffort => "BestEffort",
        }
    }
}

/// Reads a resource list; amounts that do not parse are left out (validation has refused them before).
pub fn list(value: &Value) -> ResourceList {
    let entries = value.as_object().into_iter().flatten();
    entries.filter_map(|(name, q)| Some((name.clone(), Quantity::from_json(q).ok()?))).collect()
}

/// The effective requests of a pod spec: what the scheduler must find room for.
pub fn requests(spec: &Value) -> ResourceList {
    effective(spec, "requests")
}

/// The effective limits of a pod spec.
pub fn limits(spec: &Value) -> ResourceList {
    effective(spec, "limits")
}

/// The requests of all containers together, without overhead and pod-level resources.
pub fn sum_of_containers(spec: &Value) -> ResourceList {
    aggregate(spec, "requests")
}

/// The limits of all containers together, without overhead and pod-level resources.
pub fn sum_of_limits(spec: &Value) -> ResourceList {
    aggregate(spec, "limits")
}

/// Adds every amount of `more`.
pub fn add(total: &mut ResourceList, more: &ResourceList) {
    for (name, amount) in more {
        *total.entry(name.clone()).or_default() += *amount;
    }
}

/// Raises every amount to at least that of `other`.
pub fn raise(total: &mut ResourceList, other: &ResourceList) {
    for (name, amount) in other {
        let slot = total.entry(name.clone()).or_insert(*amount);
        *slot = (*slot).max(*amount);
    }
}

/// Whether an init container keeps running beside the containers.
pub fn is_sidecar(init_container: &Value) -> bool {
    init_container["restartPolicy"] == "Always"
}

/// The class of a pod spec: over CPU and memory, `Guaranteed` where every limit is set and equals its request,
/// `BestEffort` where nothing is asked at all. A pod that has resources as a whole is judged by them alone, be they empty.
pub fn qos_class(spec: &Value) -> QosClass {
    let pod_level = &spec["resources"];
    if pod_level.is_object() {
        return qos_of(std::iter::once(pod_level));
    }
    let all = ["containers", "initContainers"].into_iter().flat_map(|key| items(spec, key));
    qos_of(all.map(|c| &c["resources"]))
}

fn qos_of<'a>(all: impl Iterator<Item = &'a Value>) -> QosClass {
    let (mut asked, mut guaranteed) = (false, true);
    let (mut requests, mut limits) = (ResourceList::new(), ResourceList::new());
    for resources in all {
        let compute = |key: &str| {
            let mut list = list(&resources[key]);
            list.retain(|name, q| matches!(name.as_str(), "cpu" | "memory") && *q > Quantity::ZERO);
            list
        };
        let (own_requests, own_limits) = (compute("requests"), compute("limits"));
        asked |= !own_requests.is_empty() || !own_limits.is_empty();
        guaranteed &= own_limits.len() == 2;
        add(&mut requests, &own_requests);
        add(&mut limits, &own_limits);
    }
    match (asked, guaranteed && requests == limits) {
        (false, _) => QosClass::BestEffort,
        (true, true) => QosClass::Guaranteed,
        (true, false) => QosClass::Burstable,
    }
}

fn effective(spec: &Value, key: &str) -> ResourceList {
    let mut total = aggregate(spec, key);
    for (name, amount) in list(&spec["resources"][key]) {
        total.insert(name, amount);
    }
    for (name, amount) in list(&spec["overhead"]) {
        // An overhead limits only what is limited at all.
        if key == "requests" || total.contains_key(&name) {
            *total.entry(name).or_default() += amount;
        }
    }
    total
}

fn aggregate(spec: &Value, key: &str) -> ResourceList {
    let mut total = ResourceList::new();
    for container in items(spec, "containers") {
        add(&mut total, &list(&container["resources"][key]));
    }
    let (mut sidecars, mut peak) = (ResourceList::new(), ResourceList::new());
    for container in items(spec, "initContainers") {
        let own = list(&container["resources"][key]);
        let mut now = sidecars.clone();
        add(&mut now, &own);
        if is_sidecar(container) {
            add(&mut total, &own);
            sidecars.clone_from(&now);
        }
        raise(&mut peak, &now);
    }
    raise(&mut total, &peak);
    total
}

fn items<'a>(spec: &'a Value, key: &str) -> &'a [Value] {
    spec[key].as_array().map(Vec::as_slice).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn init_containers_run_one_at_a_time_on_top_of_earlier_sidecars() {
        let c = |cpu: &str| json!({"resources": {"requests": {"cpu": cpu}}});
        let sidecar = |cpu: &str| {
            let mut c = c(cpu);
            c["restartPolicy"] = json!("Always");
            c
        };
        for (name, spec, cpu) in [
            ("containers add up", json!({"containers": [c("1"), c("500m")]}), "1500m"),
            (
                "a big init container wins",
                json!({"containers": [c("1")], "initContainers": [c("3"), c("2")]}),
                "3",
            ),
            (
                "sidecars add",
                json!({"containers": [c("1")], "initContainers": [sidecar("1"), c("500m")]}),
                "2",
            ),
            (
                "init after sidecar",
                json!({"containers": [c("1")], "initContainers": [sidecar("1"), c("3")]}),
                "4",
            ),
            ("overhead comes on top", json!({"containers": [c("1")], "overhead": {"cpu": "250m"}}), "1250m"),
            (
                "the pod's own request wins",
                json!({"containers": [c("1")], "resources": {"requests": {"cpu": "2"}}}),
                "2",
            ),
        ] {
            assert_eq!(requests(&spec)["cpu"].to_string(), cpu, "{name}");
        }
    }

    #[test]
    fn qos_needs_both_limits_on_every_container_to_be_guaranteed() {
        let full = json!({"resources": {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "1", "memory": "1Gi"}}});
        let half = json!({"resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "1"}}});
        for (spec, class) in [
            (json!({"containers": [{}]}), QosClass::BestEffort),
            (json!({"containers": [full]}), QosClass::Guaranteed),
            (json!({"containers": [half]}), QosClass::Burstable),
            (json!({"containers": [full, {}]}), QosClass::Burstable),
            (json!({"containers": [full], "resources": {}}), QosClass::BestEffort),
            (json!({"containers": [full], "resources": null}), QosClass::Guaranteed),
            (json!({"containers": [{}], "resources": {"limits": {"cpu": "1"}}}), QosClass::Burstable),
            (
                json!({"containers": [{"resources": {"limits": {"nvidia.com/gpu": "1"}}}]}),
                QosClass::BestEffort,
            ),
        ] {
            assert_eq!(qos_class(&spec), class, "{spec}");
        }
    }
}
