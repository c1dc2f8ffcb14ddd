//! What is said of an eviction, in upstream's words. Pure.

use coracle_api::quantity::Quantity;
use k8s_openapi::api::core::v1::Pod;

use super::{
    ranking::Usage,
    state::Observations,
    thresholds::{Condition, Resource, Signal, Threshold},
};
use crate::pods::view::{init_containers, spec_of};

/// The reason of the event and of the pod's status.
pub(crate) const REASON: &str = "Evicted";

/// A message, and the annotations of its event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) message: String,
    pub(crate) annotations: Vec<(&'static str, String)>,
}

/// Why a pod goes: what the node lacks, and which of its containers use more of it than they asked for.
pub(crate) fn pressure(
    resource: Resource,
    pod: &Pod,
    usage: Option<&Usage>,
    due: &[Threshold],
    observed: &Observations,
) -> Told {
    let name = resource.name();
    let mut message = format!("The node was low on resource: {name}. ");
    let threshold = due.iter().find(|t| t.signal.resource() == resource);
    if let Some((threshold, seen)) = threshold.and_then(|t| Some((t, observed.get(&t.signal)?))) {
        let amount = amount_of(threshold.signal);
        let (quantity, available) = (amount(threshold.value.of(seen.capacity)), amount(seen.available));
        message += &format!("Threshold quantity: {quantity}, available: {available}. ");
    }
    let Some(usage) = usage else { return Told { message, annotations: Vec::new() } };
    let (mut offenders, mut amounts) = (Vec::new(), Vec::new());
    let spec = spec_of(pod);
    for c in &usage.containers {
        let known = spec.containers.iter().chain(init_containers(spec)).find(|known| known.name == c.name);
        let Some(known) = known else { continue };
        let used = match resource {
            Resource::Memory => c.memory,
            Resource::EphemeralStorage => c.rootfs.bytes + c.logs.bytes,
            Resource::Inodes | Resource::Pids => continue,
        };
        let requests = known.resources.as_ref().and_then(|r| r.requests.as_ref());
        let request = requests.and_then(|r| Quantity::try_from(r.get(name)?).ok()).unwrap_or_default();
        let used = Quantity::from_bytes(used);
        if used > request {
            message += &format!(
                "Container {} was using {used}, request is {request}, has larger consumption of {name}. ",
                c.name
            );
            offenders.push(c.name.clone());
            amounts.push(used.to_string());
        }
    }
    let annotations = vec![
        ("offending_containers", offenders.join(",")),
        ("offending_containers_usage", amounts.join(",")),
        ("starved_resource", name.to_owned()),
    ];
    Told { message, annotations }
}

fn amount_of(signal: Signal) -> fn(i64) -> Quantity {
    match signal.resource() {
        Resource::Memory | Resource::EphemeralStorage => Quantity::from_bytes,
        Resource::Inodes | Resource::Pids => Quantity::from_units,
    }
}

/// Why a pod is not taken while the node is short of something.
pub(crate) fn refused<'a>(conditions: impl Iterator<Item = &'a Condition>) -> String {
    let names: Vec<&str> = conditions.map(|c| c.name()).collect();
    format!("The node had condition: [{}]. ", names.join(" "))
}

pub(crate) fn empty_dir(volume: &str, limit: &Quantity) -> String {
    format!("Usage of EmptyDir volume {volume:?} exceeds the limit {:?}. ", limit.to_string())
}

pub(crate) fn pod_storage(limit: &Quantity) -> String {
    format!("Pod ephemeral local storage usage exceeds the total limit of containers {limit}. ")
}

pub(crate) fn container_storage(container: &str, limit: &Quantity) -> String {
    format!("Container {container} exceeded its local ephemeral storage limit {:?}. ", limit.to_string())
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use serde_json::json;

    use super::*;
    use crate::eviction::{
        ranking::{ContainerUsage, Disk},
        state::Observation,
        thresholds::Amount,
    };

    fn threshold(signal: Signal, value: Amount) -> Threshold {
        Threshold { signal, value, grace: Duration::ZERO, minimum_reclaim: None }
    }

    #[test]
    fn pressure_is_told_with_its_threshold_and_the_containers_above_their_requests() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {
            "initContainers": [{"name": "side", "restartPolicy": "Always"}],
            "containers": [
                {"name": "hog", "resources": {"requests": {"memory": "100Mi", "ephemeral-storage": "1Gi"}}},
                {"name": "meek", "resources": {"requests": {"memory": "1Gi"}}},
            ],
        }}))
        .unwrap();
        let container = |name: &str, memory: i64, disk: i64| ContainerUsage {
            name: name.to_owned(),
            memory,
            rootfs: Disk { bytes: disk, inodes: 1 },
            logs: Disk { bytes: 1 << 20, inodes: 1 },
        };
        let usage = Usage {
            containers: vec![
                container("hog", 300 << 20, 100),
                container("meek", 12345, 3 << 20),
                container("side", 1025, 0),
                container("debugger", 1 << 30, 1 << 30),
            ],
            ..Usage::default()
        };
        let seen =
            |signal, available, capacity| BTreeMap::from([(signal, Observation { available, capacity })]);
        let mib = |n: i64| Amount::Quantity(Quantity::from_bytes(n << 20));
        let cases = [
            (
                threshold(Signal::MemoryAvailable, mib(100)),
                seen(Signal::MemoryAvailable, 98_308 << 10, 4 << 30),
                "The node was low on resource: memory. Threshold quantity: 100Mi, available: 98308Ki. \
                 Container hog was using 300Mi, request is 100Mi, has larger consumption of memory. \
                 Container side was using 1025, request is 0, has larger consumption of memory. ",
                ["hog,side", "300Mi,1025", "memory"],
            ),
            (
                threshold(Signal::NodefsAvailable, Amount::Fraction(0.1)),
                seen(Signal::NodefsAvailable, 5000, 100_000),
                "The node was low on resource: ephemeral-storage. Threshold quantity: 10000, available: 5000. \
                 Container meek was using 4Mi, request is 0, has larger consumption of ephemeral-storage. \
                 Container side was using 1Mi, request is 0, has larger consumption of ephemeral-storage. ",
                ["meek,side", "4Mi,1Mi", "ephemeral-storage"],
            ),
            (
                threshold(Signal::NodefsInodesFree, Amount::Fraction(0.05)),
                seen(Signal::NodefsInodesFree, 1234, 100_000),
                "The node was low on resource: inodes. Threshold quantity: 5k, available: 1234. ",
                ["", "", "inodes"],
            ),
        ];
        for (threshold, observed, message, annotations) in cases {
            let resource = threshold.signal.resource();
            let told = pressure(resource, &pod, Some(&usage), &[threshold], &observed);
            assert_eq!(told.message, message);
            assert_eq!(told.annotations.iter().map(|(_, v)| v.as_str()).collect::<Vec<_>>(), annotations);
        }
        let unknown = pressure(Resource::Memory, &pod, None, &[], &Observations::new());
        assert_eq!(unknown.message, "The node was low on resource: memory. ");
    }

    #[test]
    fn limits_and_conditions_are_told_in_upstream_words() {
        let limit: Quantity = "10Mi".parse().unwrap();
        assert_eq!(
            empty_dir("cache", &limit),
            "Usage of EmptyDir volume \"cache\" exceeds the limit \"10Mi\". "
        );
        let pod = "Pod ephemeral local storage usage exceeds the total limit of containers 10Mi. ";
        assert_eq!(pod_storage(&limit), pod);
        assert_eq!(
            container_storage("c", &limit),
            "Container c exceeded its local ephemeral storage limit \"10Mi\". "
        );
        let both = [Condition::Disk, Condition::Memory];
        assert_eq!(refused(both.iter()), "The node had condition: [DiskPressure MemoryPressure]. ");
    }
}
