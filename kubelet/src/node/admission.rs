//! Whether a pod bound to this node may run here: upstream's general predicates, asked once, at its arrival. Pure.

use std::sync::Arc;

use coracle_api::quantity::Quantity;
use coracle_api::resources::{ResourceList as Amounts, add, list_of};
use coracle_api::taint::tolerated;
use k8s_openapi::api::core::v1::{ContainerPort, Node, Pod};

use crate::pods::{
    resources::{ResourceList, requests_of},
    view::{Role, init_containers, role_of_init, spec_of, uid_of},
};

/// Why not: the reason and message of the event; the pod's status has `Pod was rejected: ` before the message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rejection {
    pub(crate) reason: String,
    pub(crate) message: String,
}

/// `others` are the pods of this node that have not ended; the pod itself among them does no harm.
pub(crate) fn admit(pod: &Pod, others: &[Arc<Pod>], node: &Node) -> Result<(), Rejection> {
    let others: Vec<&Pod> = others.iter().map(|p| &**p).filter(|p| uid_of(p) != uid_of(pod)).collect();
    right_system(pod)?;
    fits(pod, &others, node.status.as_ref().and_then(|s| s.allocatable.as_ref()))?;
    let name = node.metadata.name.as_deref().unwrap_or_default();
    if !coracle_api::node_affinity::wants(spec_of(pod), name, node.metadata.labels.as_ref()) {
        return Err(failed("NodeAffinity", "node(s) didn't match Pod's node affinity/selector"));
    }
    let taken: Vec<_> = others.iter().flat_map(|p| host_ports(p)).collect();
    if host_ports(pod).any(|port| taken.iter().any(|other| port.conflicts(other))) {
        return Err(failed("NodePorts", "node(s) didn't have free ports for the requested pod ports"));
    }
    let taints = node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default();
    if taints.iter().any(|t| t.effect == "NoExecute" && !tolerated(spec_of(pod).tolerations.as_deref(), t)) {
        return Err(failed("TaintToleration", "node(s) had untolerated taint(s)"));
    }
    Ok(())
}

fn failed(predicate: &str, why: &str) -> Rejection {
    Rejection { reason: predicate.to_owned(), message: format!("Predicate {predicate} failed: {why}") }
}

fn right_system(pod: &Pod) -> Result<(), Rejection> {
    let refuse = |reason: &str, message: &str| {
        Err(Rejection { reason: reason.to_owned(), message: message.to_owned() })
    };
    let label = pod.metadata.labels.as_ref().and_then(|l| l.get("kubernetes.io/os"));
    if label.is_some_and(|os| os != "linux") {
        let message = "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label";
        return refuse("PodOSSelectorNodeLabelDoesNotMatch", message);
    }
    if spec_of(pod).os.as_ref().is_some_and(|os| os.name != "linux") {
        return refuse("PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS");
    }
    Ok(())
}

/// What is looked at first, in upstream's order; the others come by name.
const COMMON: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];

/// Pods first, then what the pod asks for, as upstream orders its answers.
pub(crate) fn fits(pod: &Pod, others: &[&Pod], allocatable: Option<&ResourceList>) -> Result<(), Rejection> {
    let count = i64::try_from(others.len()).unwrap_or(i64::MAX);
    let lacks = |name: &str, requested: i64, used: i64, capacity: i64| {
        let message = format!(
            "Node didn't have enough resource: {name}, requested: {requested}, used: {used}, capacity: {capacity}"
        );
        Err(Rejection { reason: format!("OutOf{name}"), message })
    };
    let (wanted, has) = (requests_of(pod), list_of(allocatable));
    let mut used = Amounts::new();
    for other in others {
        add(&mut used, &requests_of(other));
    }
    let pods = has.get("pods").map_or(0, Quantity::value);
    if count + 1 > pods {
        return lacks("pods", 1, count, pods);
    }
    let named = wanted.keys().map(String::as_str).filter(|name| !COMMON.contains(name));
    for name in COMMON.into_iter().chain(named) {
        // What the node does not know is somebody else's to count.
        if is_extended(name) && !has.contains_key(name) {
            continue;
        }
        let of = |list: &Amounts| list.get(name).copied().unwrap_or_default();
        let (wanted, used, capacity) = (of(&wanted), of(&used), of(&has));
        if wanted > Quantity::ZERO && wanted > capacity - used {
            let shown = |a: Quantity| if name == "cpu" { a.milli_value() } else { a.value() };
            return lacks(name, shown(wanted), shown(used), shown(capacity));
        }
    }
    Ok(())
}

fn is_extended(name: &str) -> bool {
    name.split_once('/')
        .is_some_and(|(domain, _)| domain != "kubernetes.io" && !domain.ends_with(".kubernetes.io"))
}

struct HostPort<'a> {
    protocol: &'a str,
    ip: &'a str,
    port: i32,
}

// === impl HostPort ===

impl HostPort<'_> {
    fn conflicts(&self, other: &HostPort<'_>) -> bool {
        let any = |ip: &str| ip.is_empty() || ip == "0.0.0.0";
        self.port == other.port
            && self.protocol == other.protocol
            && (any(self.ip) || any(other.ip) || self.ip == other.ip)
    }
}

fn host_ports(pod: &Pod) -> impl Iterator<Item = HostPort<'_>> {
    let spec = spec_of(pod);
    let sidecars = init_containers(spec).iter().filter(|c| role_of_init(c) == Role::Sidecar);
    let port = |p: &'_ ContainerPort| p.host_port.filter(|port| *port > 0).is_some();
    sidecars.chain(&spec.containers).flat_map(|c| c.ports.iter().flatten()).filter(move |p| port(p)).map(
        |p| HostPort {
            protocol: p.protocol.as_deref().unwrap_or("TCP"),
            ip: p.host_ip.as_deref().unwrap_or_default(),
            port: p.host_port.unwrap_or(0),
        },
    )
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(uid: &str, spec: Value) -> Pod {
        let mut spec = spec;
        if spec.get("containers").is_none() {
            spec["containers"] = json!([{"name": "c"}]);
        }
        serde_json::from_value(json!({"metadata": {"name": uid, "uid": uid}, "spec": spec})).unwrap()
    }

    fn asking(requests: &Value) -> Value {
        json!({"containers": [{"name": "c", "resources": {"requests": requests}}]})
    }

    fn on_port(port: &Value) -> Value {
        json!({"containers": [{"name": "c", "ports": [port]}]})
    }

    #[test]
    fn pods_are_refused_in_upstream_words() {
        let node: Node = serde_json::from_value(json!({
            "metadata": {"name": "n1", "labels": {"zone": "a", "size": "5"}},
            "spec": {"taints": [{"key": "gone", "effect": "NoExecute"}, {"key": "soft", "effect": "NoSchedule"}]},
            "status": {"allocatable": {"cpu": "2", "memory": "1Gi", "ephemeral-storage": "10Gi", "pods": "3", "example.com/gpu": "1"}},
        }))
        .unwrap();
        let used = json!({"cpu": "1500m", "memory": "512Mi"});
        let mut running = asking(&used);
        running["containers"][0]["ports"] =
            json!([{"containerPort": 80, "hostPort": 8080, "protocol": "TCP"}]);
        let others = [Arc::new(pod("running", running))];
        let affinity = |operator: &str, values: Value| {
            let expression = json!({"key": "size", "operator": operator, "values": values});
            json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
                {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}}}})
        };
        let affine = "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector";
        let ports = "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";
        for (spec, reason, message) in [
            (json!({}), "", ""),
            (asking(&json!({"cpu": "500m"})), "", ""),
            (
                asking(&json!({"cpu": "501m"})),
                "OutOfcpu",
                "Node didn't have enough resource: cpu, requested: 501, used: 1500, capacity: 2000",
            ),
            (
                asking(&json!({"memory": "1Gi"})),
                "OutOfmemory",
                "Node didn't have enough resource: memory, requested: 1073741824, used: 536870912, capacity: 1073741824",
            ),
            (
                asking(&json!({"example.com/gpu": "2"})),
                "OutOfexample.com/gpu",
                "Node didn't have enough resource: example.com/gpu, requested: 2, used: 0, capacity: 1",
            ),
            (asking(&json!({"example.com/unknown": "2"})), "", ""),
            (json!({"nodeSelector": {"zone": "a"}}), "", ""),
            (json!({"nodeSelector": {"zone": "b"}}), "NodeAffinity", affine),
            (affinity("Gt", json!(["4"])), "", ""),
            (affinity("Gt", json!(["5"])), "NodeAffinity", affine),
            (affinity("NotIn", json!(["5"])), "NodeAffinity", affine),
            (on_port(&json!({"containerPort": 1, "hostPort": 8080})), "NodePorts", ports),
            (
                on_port(&json!({"containerPort": 1, "hostPort": 8080, "hostIP": "127.0.0.1"})),
                "NodePorts",
                ports,
            ),
            (on_port(&json!({"containerPort": 1, "hostPort": 8080, "protocol": "UDP"})), "", ""),
            (on_port(&json!({"containerPort": 8080})), "", ""),
            (
                json!({"os": {"name": "windows"}}),
                "PodOSNotSupported",
                "Failed to admit pod as the OS field doesn't match node OS",
            ),
        ] {
            let mut spec = spec;
            spec["tolerations"] = json!([{"key": "gone", "operator": "Exists"}]);
            let got = admit(&pod("new", spec.clone()), &others, &node).err();
            let got = got.map(|r| (r.reason, r.message)).unwrap_or_default();
            assert_eq!((got.0.as_str(), got.1.as_str()), (reason, message), "{spec}");
        }
        let untolerated = admit(&pod("new", json!({})), &others, &node).unwrap_err();
        assert_eq!(untolerated.message, "Predicate TaintToleration failed: node(s) had untolerated taint(s)");
        let full: Vec<_> = ["a", "b", "c"].map(|uid| Arc::new(pod(uid, json!({})))).into();
        let message = "Node didn't have enough resource: pods, requested: 1, used: 3, capacity: 3";
        assert_eq!(admit(&pod("new", json!({})), &full, &node).unwrap_err().message, message);
    }
}
