//! What objects count against a ResourceQuota: which names of the quota they touch, whether its scopes cover them, and how
//! much they use. Admission charges by it, the quota controller counts by it.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::pod::is_terminal;
use crate::resources::{Demand, QosClass, ResourceList};
use crate::selector::Operator;
use crate::{Object, Quantity};

const STORAGE_CLASS: &str = ".storageclass.storage.k8s.io/";
const DEVICE_CLASS: &str = "deviceclass.resource.kubernetes.io/";
const HUGE_PAGES: &str = "hugepages-";
const REQUESTS: &str = "requests.";
const COMPUTE: &[&str] = &["cpu", "memory", "ephemeral-storage"];
/// Where a quota tracks one of these, every container must say what it needs of it.
const DEMANDED: &[&str] =
    &["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];
/// Kinds that counted under their bare name before `count/` came.
const BARE_COUNTS: &[&str] = &["configmaps", "resourcequotas", "replicationcontrollers", "secrets"];

/// A kind as quotas know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted<'a> {
    pub group: &'a str,
    pub plural: &'a str,
}

// === impl Counted ===

impl Counted<'_> {
    fn core(self) -> &'static str {
        let special = ["pods", "services", "persistentvolumeclaims"];
        special.into_iter().find(|p| self.group.is_empty() && *p == self.plural).unwrap_or_default()
    }

    fn is_bare(self) -> bool {
        self.group.is_empty() && BARE_COUNTS.contains(&self.plural)
    }

    /// `count/pods`, `count/deployments.apps`
    pub fn count_name(self) -> String {
        match self.group {
            "" => format!("count/{}", self.plural),
            group => format!("count/{}.{group}", self.plural),
        }
    }

    /// Whether objects of this kind can use a resource a quota names.
    pub fn touches(self, name: &str) -> bool {
        if name == self.count_name() {
            return true;
        }
        match self.core() {
            "pods" => is_of_pods(name),
            "services" => matches!(name, "services" | "services.nodeports" | "services.loadbalancers"),
            "persistentvolumeclaims" => {
                let bare = name.split_once(STORAGE_CLASS).map_or(name, |(_, rest)| rest);
                matches!(bare, "persistentvolumeclaims" | "requests.storage")
            }
            _ => self.is_bare() && name == self.plural,
        }
    }

    /// What one object uses.
    pub fn usage(self, object: &Object, now: Timestamp) -> ResourceList {
        let mut used = ResourceList::from([(self.count_name(), Quantity::from_units(1))]);
        match self.core() {
            "pods" => pod_usage(object, now, &mut used),
            "services" => service_usage(object, &mut used),
            "persistentvolumeclaims" => claim_usage(object, &mut used),
            _ if self.is_bare() => drop(used.insert(self.plural.to_owned(), Quantity::from_units(1))),
            _ => {}
        }
        used
    }

    /// Whether a quota is about an object: it names something the kind uses, and all its scopes cover the object.
    pub fn matches(self, quota: &Object, hard: &ResourceList, object: &Object) -> bool {
        hard.keys().any(|name| self.touches(name)) && self.in_scopes(quota, object)
    }

    fn in_scopes(self, quota: &Object, object: &Object) -> bool {
        let plain = quota.items_at(&["spec", "scopes"]).iter().filter_map(Value::as_str);
        let terms = quota.items_at(&["spec", "scopeSelector", "matchExpressions"]);
        plain.map(|scope| (scope, "Exists", &Value::Null)).all(|term| self.in_scope(term, object))
            && terms.iter().all(|t| {
                let text = |field: &str| t[field].as_str().unwrap_or_default();
                self.in_scope((text("scopeName"), text("operator"), &t["values"]), object)
            })
    }

    fn in_scope(self, (scope, operator, values): (&str, &str, &Value), object: &Object) -> bool {
        let spec = object.at(&["spec"]).unwrap_or(&Value::Null);
        let terminating = || spec["activeDeadlineSeconds"].as_i64().is_some_and(|s| s >= 0);
        match (self.core(), scope) {
            ("pods", "Terminating") => terminating(),
            ("pods", "NotTerminating") => !terminating(),
            ("pods", "BestEffort") => QosClass::of_object(object) == QosClass::BestEffort,
            ("pods", "NotBestEffort") => QosClass::of_object(object) != QosClass::BestEffort,
            ("pods", "PriorityClass") => {
                selected(operator, values, &[object.str_at(&["spec", "priorityClassName"])])
            }
            ("pods", "CrossNamespacePodAffinity") => looks_across_namespaces(spec),
            ("persistentvolumeclaims", "VolumeAttributesClass") => {
                let names = [
                    object.str_at(&["spec", "volumeAttributesClassName"]),
                    object.str_at(&["status", "currentVolumeAttributesClassName"]),
                    object.str_at(&["status", "modifyVolumeStatus", "targetVolumeAttributesClassName"]),
                ];
                selected(operator, values, &names)
            }
            _ => false,
        }
    }

    /// What a pod's containers leave unsaid although a quota demands it: `cpu for: a,b; memory for: a`.
    pub fn unspecified(self, hard: &ResourceList, object: &Object) -> Option<String> {
        let spec = object.at(&["spec"])?;
        if self.core() != "pods" || Demand::of_json(spec).is_pod_level() {
            return None;
        }
        let all = || {
            ["containers", "initContainers"]
                .into_iter()
                .flat_map(|l| spec[l].as_array().into_iter().flatten())
        };
        let mut missing = vec![];
        for name in hard.keys().filter(|name| DEMANDED.contains(&name.as_str())) {
            let (field, bare) = match name.split_once('.') {
                Some((field, bare)) => (field, bare),
                None => ("requests", name.as_str()),
            };
            let without = all().filter(|c| c["resources"][field].get(bare).is_none());
            let names: BTreeSet<&str> = without.filter_map(|c| c["name"].as_str()).collect();
            if !names.is_empty() {
                missing.push(format!("{name} for: {}", names.into_iter().collect::<Vec<_>>().join(",")));
            }
        }
        (!missing.is_empty()).then(|| missing.join("; "))
    }
}

fn is_of_pods(name: &str) -> bool {
    let bare = name.strip_prefix(REQUESTS).or_else(|| name.strip_prefix("limits.")).unwrap_or(name);
    if name == "pods" || COMPUTE.contains(&bare) {
        return true;
    }
    let Some(requested) = name.strip_prefix(REQUESTS) else { return name.starts_with(HUGE_PAGES) };
    requested.starts_with(HUGE_PAGES) || is_extended(requested)
}

fn is_extended(name: &str) -> bool {
    name.starts_with(DEVICE_CLASS) || (name.contains('/') && !name.contains("kubernetes.io/"))
}

/// Pods that have ended, or should have, use nothing but their place in storage.
fn pod_usage(pod: &Object, now: Timestamp, used: &mut ResourceList) {
    let deleted = pod.deletion_timestamp().and_then(|t| t.parse::<Timestamp>().ok());
    let overdue = deleted.zip(pod.deletion_grace_period_seconds()).is_some_and(|(at, grace)| {
        at.checked_add(SignedDuration::from_secs(grace)).is_ok_and(|end| now > end)
    });
    if is_terminal(pod) || overdue {
        return;
    }
    used.insert("pods".to_owned(), Quantity::from_units(1));
    let demand = Demand::of_object(pod);
    for (name, amount) in demand.requests() {
        let requested = format!("{REQUESTS}{name}");
        if COMPUTE.contains(&name.as_str()) || name.starts_with(HUGE_PAGES) {
            used.insert(requested, amount);
            used.insert(name, amount);
        } else if is_extended(&name) {
            used.insert(requested, amount);
        }
    }
    for (name, amount) in demand.limits() {
        if COMPUTE.contains(&name.as_str()) {
            used.insert(format!("limits.{name}"), amount);
        }
    }
}

fn service_usage(service: &Object, used: &mut ResourceList) {
    let ports = service.items_at(&["spec", "ports"]);
    let explicit = || ports.iter().filter(|p| p["nodePort"].as_i64().unwrap_or(0) != 0).count();
    let (node_ports, balancers) = match service.str_at(&["spec", "type"]) {
        "NodePort" => (ports.len(), 0),
        "LoadBalancer" if service.bool_at(&["spec", "allocateLoadBalancerNodePorts"]) == Some(false) => {
            (explicit(), 1)
        }
        "LoadBalancer" => (ports.len(), 1),
        _ => (0, 0),
    };
    let counts = [("services", 1), ("services.nodeports", node_ports), ("services.loadbalancers", balancers)];
    for (name, count) in counts {
        used.insert(name.to_owned(), Quantity::from_units(i64::try_from(count).unwrap_or(i64::MAX)));
    }
}

fn claim_usage(claim: &Object, used: &mut ResourceList) {
    let annotated = claim.annotation("volume.beta.kubernetes.io/storage-class");
    let class = annotated.unwrap_or_else(|| claim.str_at(&["spec", "storageClassName"]));
    let mut add = |name: &str, amount: Quantity| {
        used.insert(name.to_owned(), amount);
        if !class.is_empty() {
            used.insert(format!("{class}{STORAGE_CLASS}{name}"), amount);
        }
    };
    add("persistentvolumeclaims", Quantity::from_units(1));
    let at = |path: &[&str]| claim.at(path).and_then(|q| Quantity::from_json(q).ok());
    if let Some(asked) = at(&["spec", "resources", "requests", "storage"]) {
        let allocated = at(&["status", "allocatedResources", "storage"]).unwrap_or(asked);
        let amount = asked.max(allocated);
        // Whole bytes, as a quota's status must be.
        let whole = if amount.is_integer() { amount } else { Quantity::new(amount.value(), amount.format()) };
        add("requests.storage", whole);
    }
}

/// A scope's term over the names an object has; empty names are none.
fn selected(operator: &str, values: &Value, names: &[&str]) -> bool {
    let Some(operator) = Operator::named(operator) else { return false };
    let values: Vec<String> =
        values.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
    let mut named = names.iter().filter(|n| !n.is_empty()).peekable();
    match named.peek() {
        None => operator.holds(None, &values),
        Some(_) => named.any(|name| operator.holds(Some(name), &values)),
    }
}

fn looks_across_namespaces(spec: &Value) -> bool {
    let across = |term: &Value| {
        term["namespaces"].as_array().is_some_and(|n| !n.is_empty()) || !term["namespaceSelector"].is_null()
    };
    ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
        let of = |field: &str| spec["affinity"][kind][field].as_array().into_iter().flatten();
        of("requiredDuringSchedulingIgnoredDuringExecution").any(across)
            || of("preferredDuringSchedulingIgnoredDuringExecution").any(|t| across(&t["podAffinityTerm"]))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const PODS: Counted<'_> = Counted { group: "", plural: "pods" };

    fn shown(list: &ResourceList) -> String {
        list.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(",")
    }

    #[test]
    fn usage_has_every_name_a_quota_may_track() {
        let now = Timestamp::from_second(1_000).unwrap();
        let pod = json!({"spec": {"containers": [{"name": "a", "resources": {
            "requests": {"cpu": "500m", "example.com/dongle": "2"}, "limits": {"cpu": "1", "example.com/dongle": "2"}}}]}});
        let claim =
            json!({"spec": {"storageClassName": "gold", "resources": {"requests": {"storage": "1Gi"}}}});
        let balancer = json!({"spec": {"type": "LoadBalancer", "ports": [{"port": 1}, {"port": 2}]}});
        for (group, plural, object, expected) in [
            (
                "",
                "pods",
                pod,
                "count/pods=1,cpu=500m,limits.cpu=1,pods=1,requests.cpu=500m,requests.example.com/dongle=2",
            ),
            ("", "pods", json!({"status": {"phase": "Failed"}}), "count/pods=1"),
            (
                "",
                "persistentvolumeclaims",
                claim,
                "count/persistentvolumeclaims=1,gold.storageclass.storage.k8s.io/persistentvolumeclaims=1,\
                 gold.storageclass.storage.k8s.io/requests.storage=1Gi,persistentvolumeclaims=1,requests.storage=1Gi",
            ),
            (
                "",
                "services",
                balancer,
                "count/services=1,services=1,services.loadbalancers=1,services.nodeports=2",
            ),
            ("", "secrets", json!({}), "count/secrets=1,secrets=1"),
            ("apps", "deployments", json!({}), "count/deployments.apps=1"),
        ] {
            let kind = Counted { group, plural };
            let used = kind.usage(&Object(object), now);
            assert_eq!(shown(&used), expected);
            assert!(used.keys().all(|name| kind.touches(name)), "{plural}: {}", shown(&used));
        }
        assert!(
            !PODS.touches("services")
                && PODS.touches("requests.hugepages-2Mi")
                && !PODS.touches("requests.storage")
        );
    }

    #[test]
    fn scopes_cover_pods_by_deadline_quality_and_priority() {
        let hard = ResourceList::from([("pods".to_owned(), Quantity::from_units(5))]);
        let pod = Object(
            json!({"spec": {"activeDeadlineSeconds": 5, "priorityClassName": "high", "containers": [{}]}}),
        );
        for (scope, covered) in
            [("Terminating", true), ("NotTerminating", false), ("BestEffort", true), ("NotBestEffort", false)]
        {
            let quota = Object(json!({"spec": {"scopes": [scope]}}));
            assert_eq!(PODS.matches(&quota, &hard, &pod), covered, "{scope}");
        }
        for (operator, values, covered) in [
            ("In", json!(["high"]), true),
            ("NotIn", json!(["high"]), false),
            ("DoesNotExist", json!([]), false),
        ] {
            let term = json!({"scopeName": "PriorityClass", "operator": operator, "values": values});
            let quota = Object(json!({"spec": {"scopeSelector": {"matchExpressions": [term]}}}));
            assert_eq!(PODS.matches(&quota, &hard, &pod), covered, "{operator}");
        }
    }

    #[test]
    fn a_quota_on_cpu_demands_that_every_container_says_what_it_needs() {
        let hard: ResourceList =
            ["requests.cpu", "limits.memory", "pods"].map(|n| (n.to_owned(), Quantity::from_units(1))).into();
        let pod = Object(
            json!({"spec": {"containers": [{"name": "b"}, {"name": "a", "resources": {"requests": {"cpu": 1}}}]}}),
        );
        assert_eq!(PODS.unspecified(&hard, &pod).unwrap(), "limits.memory for: a,b; requests.cpu for: b");
    }
}
