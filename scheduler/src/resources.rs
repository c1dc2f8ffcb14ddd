//! Amounts of resources that pods ask for and nodes offer, in the units decisions are made in.

use std::collections::BTreeMap;

use coracle_api::Quantity;
use coracle_api::resources::{Demand, ResourceList};
use k8s_openapi::api::core::v1::Pod;

/// What upstream assumes for the score when a container asks for nothing.
const DEFAULT_MILLI_CPU: i64 = 100;
const DEFAULT_MEMORY: i64 = 200 * 1024 * 1024;

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
    pub fn of(amounts: &ResourceList) -> Resources {
        let mut out = Resources::default();
        for (name, amount) in amounts {
            match name.as_str() {
                "cpu" => out.milli_cpu = amount.milli_value(),
                "memory" => out.memory = amount.value(),
                "ephemeral-storage" => out.ephemeral_storage = amount.value(),
                "pods" => {}
                _ => drop(out.scalar.insert(name.clone(), amount.value())),
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
}

/// What the pod asks for, and the same with upstream's defaults for containers that ask for nothing: only for scores.
pub fn requests_of(pod: &Pod) -> (Resources, Resources) {
    let defaults = ResourceList::from([
        ("cpu".to_owned(), Quantity::from_millis(DEFAULT_MILLI_CPU)),
        ("memory".to_owned(), Quantity::from_bytes(DEFAULT_MEMORY)),
    ]);
    let demand = Demand::of_pod(pod);
    (Resources::of(&demand.requests()), Resources::of(&demand.or_at_least(&defaults).requests()))
}
