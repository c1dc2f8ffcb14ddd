//! What pods may write to the node's disk, and who has gone beyond it. Pure.

use coracle_api::quantity::Quantity;
use coracle_api::resources::Demand;
use k8s_openapi::{
    api::core::v1::{Container, Pod},
    apimachinery::pkg::api::resource::Quantity as Wire,
};

use super::{ranking::Usage, words};
use crate::pods::view::spec_of;

/// Which limit was exceeded, as `kubelet_evictions` labels it, and what is said of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Excess {
    pub(crate) signal: &'static str,
    pub(crate) message: String,
}

/// The volumes whose size is limited, with their limits.
fn limited_volumes(pod: &Pod) -> impl Iterator<Item = (&str, Quantity)> {
    spec_of(pod).volumes.iter().flatten().filter_map(|v| {
        let limit = Quantity::try_from(v.empty_dir.as_ref()?.size_limit.as_ref()?).ok()?;
        (limit > Quantity::ZERO).then_some((v.name.as_str(), limit))
    })
}

fn limit(c: &Container) -> Option<Quantity> {
    let limits = c.resources.as_ref()?.limits.as_ref()?;
    limits.get("ephemeral-storage").and_then(|q: &Wire| Quantity::try_from(q).ok())
}

/// The limit of the whole pod, where any container has one.
fn pod_limit(pod: &Pod) -> Option<Quantity> {
    Demand::of_spec(spec_of(pod)).limits().remove("ephemeral-storage")
}

/// Whether there is anything to measure for.
pub(crate) fn has_limits(pod: &Pod) -> bool {
    limited_volumes(pod).next().is_some() || pod_limit(pod).is_some()
}

/// The first limit that the pod has exceeded, in upstream's order.
pub(crate) fn excess(pod: &Pod, usage: &Usage) -> Option<Excess> {
    for (volume, limit) in limited_volumes(pod) {
        let used = usage.volumes.get(volume).map_or(0, |disk| disk.bytes);
        if Quantity::from_bytes(used) > limit {
            return Some(Excess { signal: "emptydirfs.limit", message: words::empty_dir(volume, &limit) });
        }
    }
    if let Some(limit) = pod_limit(pod)
        && Quantity::from_bytes(usage.ephemeral().bytes) > limit
    {
        return Some(Excess { signal: "ephemeralpodfs.limit", message: words::pod_storage(&limit) });
    }
    for c in &usage.containers {
        let known = spec_of(pod).containers.iter().find(|known| known.name == c.name);
        let Some(limit) = known.and_then(limit).filter(|limit| !limit.is_zero()) else { continue };
        if Quantity::from_bytes(c.logs.bytes + c.rootfs.bytes) > limit {
            let message = words::container_storage(&c.name, &limit);
            return Some(Excess { signal: "ephemeralcontainerfs.limit", message });
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{Value, json};

    use super::*;
    use crate::eviction::ranking::{ContainerUsage, Disk};

    fn mib(n: i64) -> Disk {
        Disk { bytes: n << 20, inodes: 1 }
    }

    fn pod(spec: &Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap()
    }

    fn container(name: &str, limit: &str) -> Value {
        match limit {
            "" => json!({"name": name}),
            limit => json!({"name": name, "resources": {"limits": {"ephemeral-storage": limit}}}),
        }
    }

    #[test]
    fn limits_of_volumes_pods_and_containers_are_held_in_upstream_order() {
        let used = |layer: i64, logs: i64, volume: i64| Usage {
            containers: vec![
                ContainerUsage { name: "a".into(), rootfs: mib(layer), logs: mib(logs), memory: 0 },
                ContainerUsage { name: "b".into(), ..ContainerUsage::default() },
            ],
            volumes: BTreeMap::from([("v".to_owned(), mib(volume))]),
            ..Usage::default()
        };
        let volume = |limit: &str| json!([{"name": "v", "emptyDir": {"sizeLimit": limit}}]);
        let both = |a: &str, b: &str| json!([container("a", a), container("b", b)]);
        let volume_message = "Usage of EmptyDir volume \"v\" exceeds the limit \"10Mi\". ";
        let pod_message = |limit: &str| {
            format!("Pod ephemeral local storage usage exceeds the total limit of containers {limit}. ")
        };
        let container_message =
            "Container a exceeded its local ephemeral storage limit \"10Mi\". ".to_owned();
        for (volumes, containers, usage, want) in [
            (volume("10Mi"), both("", ""), used(0, 0, 10), None),
            (
                volume("10Mi"),
                both("", ""),
                used(0, 0, 11),
                Some(("emptydirfs.limit", volume_message.to_owned())),
            ),
            (volume("0"), both("", ""), used(0, 0, 11), None),
            (json!([{"name": "v", "emptyDir": {}}]), both("", ""), used(50, 50, 50), None),
            (
                volume("10Mi"),
                both("1Mi", ""),
                used(5, 0, 11),
                Some(("emptydirfs.limit", volume_message.to_owned())),
            ),
            // All that the pod writes counts against the sum of the limits, also of containers that have none.
            (
                volume("1Gi"),
                both("10Mi", ""),
                used(0, 0, 11),
                Some(("ephemeralpodfs.limit", pod_message("10Mi"))),
            ),
            (
                volume("1Gi"),
                both("10Mi", "10Mi"),
                used(9, 2, 0),
                Some(("ephemeralcontainerfs.limit", container_message.clone())),
            ),
            (volume("1Gi"), both("10Mi", "10Mi"), used(4, 5, 0), None),
            (
                volume("1Gi"),
                both("10Mi", "10Mi"),
                used(9, 9, 9),
                Some(("ephemeralpodfs.limit", pod_message("20Mi"))),
            ),
        ] {
            let pod = pod(&json!({"volumes": volumes, "containers": containers}));
            let got = excess(&pod, &usage).map(|e| (e.signal, e.message));
            assert_eq!(got, want, "{volumes} {containers}");
        }
    }

    #[test]
    fn only_pods_with_limits_are_measured() {
        let init = |limit: &str, policy: Value| {
            let mut init = container("i", limit);
            init["restartPolicy"] = policy;
            pod(&json!({"initContainers": [init], "containers": [container("a", "10Mi")]}))
        };
        for (pod, limit) in [
            (pod(&json!({"containers": [container("a", "")]})), None),
            (pod(&json!({"containers": [container("a", "10Mi")]})), Some("10Mi")),
            (init("30Mi", Value::Null), Some("30Mi")),
            (init("5Mi", Value::Null), Some("10Mi")),
            (init("5Mi", json!("Always")), Some("15Mi")),
        ] {
            assert_eq!(pod_limit(&pod).map(|l| l.to_string()).as_deref(), limit);
            assert_eq!(has_limits(&pod), limit.is_some());
        }
    }
}
