//! Amounts of resources that pods ask for and nodes offer, in the units decisions are made in.

use std::collections::BTreeMap;

use coracle_api::quantity::Quantity;
use k8s_openapi::api::core::v1::{Container, PodSpec};
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
pub fn requests_of(spec: &PodSpec) -> Resources {
    let mut total = pod_sum(spec, |c| Resources::parse(requests(c)));
    if let Some(pod_level) = spec.resources.as_ref().and_then(|r| r.requests.as_ref()) {
        override_with(&mut total, pod_level);
    }
    total.add(&Resources::parse(spec.overhead.as_ref()));
    total
}

/// As `requests_of`, with upstream's defaults for containers that ask for nothing: only for scores.
pub fn nonzero_requests_of(spec: &PodSpec) -> Resources {
    let mut total = pod_sum(spec, |c| {
        let mut amounts = Resources::parse(requests(c));
        let asked = |name| requests(c).is_some_and(|r| r.contains_key(name));
        if !asked("cpu") {
            amounts.milli_cpu = DEFAULT_MILLI_CPU;
        }
        if !asked("memory") {
            amounts.memory = DEFAULT_MEMORY;
        }
        amounts
    });
    if let Some(pod_level) = spec.resources.as_ref().and_then(|r| r.requests.as_ref()) {
        override_with(&mut total, pod_level);
    }
    total.add(&Resources::parse(spec.overhead.as_ref()));
    total
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
