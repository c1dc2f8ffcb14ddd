//! Amounts of resources that pods ask for and nodes offer, in the units decisions are made in.

use std::collections::BTreeMap;

use coracle_api::quantity::Quantity;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, PodStatus};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as WireQuantity;

/// What upstream assumes for the score when a container asks for nothing.
const DEFAULT_MILLI_CPU: i64 = 100;
const DEFAULT_MEMORY: i64 = 200 * 1024 * 1024;

type Amounts = BTreeMap<String, WireQuantity>;

/// CPU in thousandths, the rest in whole units (bytes, devices).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    pub milli_cpu: i64,
    pub memory: i64,
    pub ephemeral_storage: i64,
    /// Extended resources and huge pages. Small: most pods and nodes have none.
    pub scalar: BTreeMap<String, i64>,
}

// === impl Resources ===

impl Resources {
    pub fn parse(amounts: Option<&Amounts>) -> Resources {
        let mut out = Resources::default();
        for (name, amount) in amounts.into_iter().flatten() {
            // The API server admits only valid quantities.
            let Ok(quantity) = amount.0.parse::<Quantity>() else { continue };
            match name.as_str() {
                "cpu" => out.milli_cpu = quantity.milli_value(),
                "memory" => out.memory = quantity.value(),
                "ephemeral-storage" => out.ephemeral_storage = quantity.value(),
                "pods" => {}
                _ => drop(out.scalar.insert(name.clone(), quantity.value())),
            }
        }
        out
    }

    pub fn add(&mut self, other: &Resources) {
        self.milli_cpu += other.milli_cpu;
        self.memory += other.memory;
        self.ephemeral_storage += other.ephemeral_storage;
        for (name, amount) in &other.scalar {
            *self.scalar.entry(name.clone()).or_default() += amount;
        }
    }

    pub fn sub(&mut self, other: &Resources) {
        self.milli_cpu -= other.milli_cpu;
        self.memory -= other.memory;
        self.ephemeral_storage -= other.ephemeral_storage;
        for (name, amount) in &other.scalar {
            *self.scalar.entry(name.clone()).or_default() -= amount;
        }
    }

    fn max(&mut self, other: &Resources) {
        self.milli_cpu = self.milli_cpu.max(other.milli_cpu);
        self.memory = self.memory.max(other.memory);
        self.ephemeral_storage = self.ephemeral_storage.max(other.ephemeral_storage);
        for (name, amount) in &other.scalar {
            let have = self.scalar.entry(name.clone()).or_default();
            *have = (*have).max(*amount);
        }
    }
}

/// What the pod asks for: its containers and sidecars together, or the hungriest moment of its start.
pub fn requests_of(pod: &Pod) -> Resources {
    pod_total(pod, |_, _| {})
}

/// As `requests_of`, with upstream's defaults for containers that ask for nothing: only for scores.
pub fn nonzero_requests_of(pod: &Pod) -> Resources {
    pod_total(pod, |container, amounts| {
        let asked = |name| requests(container).is_some_and(|r| r.contains_key(name));
        if !asked("cpu") {
            amounts.milli_cpu = DEFAULT_MILLI_CPU;
        }
        if !asked("memory") {
            amounts.memory = DEFAULT_MEMORY;
        }
    })
}

fn pod_total(pod: &Pod, complete: impl Fn(&Container, &mut Resources)) -> Resources {
    let Some(spec) = &pod.spec else { return Resources::default() };
    let status = pod.status.as_ref();
    let mut total = pod_sum(spec, |container| {
        let mut amounts = effective(container, status);
        complete(container, &mut amounts);
        amounts
    });
    if let Some(pod_level) = spec.resources.as_ref().and_then(|r| r.requests.as_ref()) {
        override_with(&mut total, pod_level);
    }
    total.add(&Resources::parse(spec.overhead.as_ref()));
    total
}

/// A container that is being resized takes the most of what it wishes, was granted and has; a wish that can never be
/// granted does not count.
fn effective(container: &Container, status: Option<&PodStatus>) -> Resources {
    let wish = || Resources::parse(requests(container));
    let lists = status.map(|s| [&s.container_statuses, &s.init_container_statuses]);
    let mut statuses = lists.into_iter().flatten().flatten().flatten();
    let known = statuses.find(|s| s.name == container.name);
    let Some((known, has)) = known.and_then(|s| Some((s, s.resources.as_ref()?))) else { return wish() };
    let conditions = status.and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let pending = conditions.iter().find(|c| c.type_ == "PodResizePending");
    let infeasible = pending.is_some_and(|c| c.reason.as_deref() == Some("Infeasible"));
    let mut most = if infeasible { Resources::default() } else { wish() };
    most.max(&Resources::parse(has.requests.as_ref()));
    most.max(&Resources::parse(known.allocated_resources.as_ref()));
    most
}

fn pod_sum(spec: &PodSpec, of: impl Fn(&Container) -> Resources) -> Resources {
    let mut total = Resources::default();
    for container in &spec.containers {
        total.add(&of(container));
    }
    let (mut sidecars, mut start) = (Resources::default(), Resources::default());
    for container in spec.init_containers.iter().flatten() {
        let mut moment = of(container);
        if container.restart_policy.as_deref() == Some("Always") {
            total.add(&moment);
            sidecars.add(&moment);
            moment = sidecars.clone();
        } else {
            moment.add(&sidecars);
        }
        start.max(&moment);
    }
    total.max(&start);
    total
}

fn override_with(total: &mut Resources, pod_level: &Amounts) {
    let parsed = Resources::parse(Some(pod_level));
    if pod_level.contains_key("cpu") {
        total.milli_cpu = parsed.milli_cpu;
    }
    if pod_level.contains_key("memory") {
        total.memory = parsed.memory;
    }
    for (name, amount) in parsed.scalar {
        total.scalar.insert(name, amount);
    }
}

fn requests(container: &Container) -> Option<&Amounts> {
    container.resources.as_ref()?.requests.as_ref()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_that_is_resized_holds_the_most_of_wish_and_grant() {
        for (status, reason, cpu) in [
            (json!(null), "", 2000),
            (
                json!({"allocatedResources": {"cpu": "1"}, "resources": {"requests": {"cpu": "1"}}}),
                "Deferred",
                2000,
            ),
            (json!({"allocatedResources": {"cpu": "1"}, "resources": {"requests": {"cpu": "3"}}}), "", 3000),
            (
                json!({"allocatedResources": {"cpu": "1"}, "resources": {"requests": {"cpu": "1"}}}),
                "Infeasible",
                1000,
            ),
        ] {
            let mut shown =
                json!({"name": "c", "image": "", "imageID": "", "ready": true, "restartCount": 0});
            for (key, value) in status.as_object().into_iter().flatten() {
                shown[key] = value.clone();
            }
            let pod: Pod = serde_json::from_value(json!({
                "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "2"}}}]},
                "status": {"containerStatuses": [shown],
                    "conditions": [{"type": "PodResizePending", "status": "True", "reason": reason}]},
            }))
            .unwrap();
            assert_eq!(requests_of(&pod).milli_cpu, cpu, "{status} {reason}");
        }
    }
}
