//! The forms of a pod, read into a [`Demand`]. Amounts that do not parse are left out: validation has refused them before.

use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Wire;
use serde_json::Value;
use std::collections::BTreeMap;

use super::{Asked, Demand, Held, Holding, Part, QosClass, ResourceList};
use crate::conditions;
use crate::{Object, Quantity};

const RESIZE_PENDING: &str = "PodResizePending";
const INFEASIBLE: &str = "Infeasible";
const NONE: &Value = &Value::Null;

/// Whether an init container with this restart policy keeps running beside the containers.
pub fn is_sidecar(restart_policy: Option<&str>) -> bool {
    restart_policy == Some("Always")
}

/// A resource list of JSON.
pub fn list(value: &Value) -> ResourceList {
    let entries = value.as_object().into_iter().flatten();
    entries.filter_map(|(name, q)| Some((name.clone(), Quantity::from_json(q).ok()?))).collect()
}

/// A typed resource list.
pub fn list_of(wire: Option<&BTreeMap<String, Wire>>) -> ResourceList {
    let entries = wire.into_iter().flatten();
    entries.filter_map(|(name, q)| Some((name.clone(), Quantity::try_from(q).ok()?))).collect()
}

// === impl QosClass ===

impl QosClass {
    /// The class a pod was given when it came, or that of its spec.
    pub fn of_pod(pod: &Pod) -> Self {
        let given = pod.status.as_ref().and_then(|s| s.qos_class.as_deref());
        let of_spec = || pod.spec.as_ref().map_or(QosClass::BestEffort, |s| Demand::of_spec(s).qos_class());
        given.and_then(QosClass::named).unwrap_or_else(of_spec)
    }

    /// The same of JSON.
    pub fn of_object(pod: &Object) -> Self {
        let given = QosClass::named(pod.str_at(&["status", "qosClass"]));
        given.unwrap_or_else(|| Demand::of_json(pod.at(&["spec"]).unwrap_or(NONE)).qos_class())
    }
}

// === impl Demand ===

impl<'a> Demand<'a> {
    pub fn of_spec(spec: &'a PodSpec) -> Self {
        let part = |c: &'a Container| Part {
            name: &c.name,
            sidecar: is_sidecar(c.restart_policy.as_deref()),
            asked: asked(c.resources.as_ref()),
        };
        Demand {
            containers: spec.containers.iter().map(part).collect(),
            init: spec.init_containers.iter().flatten().map(part).collect(),
            whole: spec.resources.as_ref().map(|whole| asked(Some(whole))),
            overhead: list_of(spec.overhead.as_ref()),
        }
    }

    pub fn of_json(spec: &'a Value) -> Self {
        let part = |c: &'a Value| Part {
            name: c["name"].as_str().unwrap_or_default(),
            sidecar: is_sidecar(c["restartPolicy"].as_str()),
            asked: asked_in(&c["resources"]),
        };
        let parts = |key: &str| spec[key].as_array().into_iter().flatten().map(part).collect();
        let whole = &spec["resources"];
        Demand {
            containers: parts("containers"),
            init: parts("initContainers"),
            whole: whole.is_object().then(|| asked_in(whole)),
            overhead: list(&spec["overhead"]),
        }
    }

    /// What a pod holds while it is resized: the most of what it wishes, was granted and has.
    pub fn of_pod(pod: &'a Pod) -> Self {
        let Some(spec) = &pod.spec else { return Demand::default() };
        let demand = Demand::of_spec(spec);
        let Some(status) = &pod.status else { return demand };
        let known = |s: &'a ContainerStatus| {
            let actual = asked(Some(s.resources.as_ref()?));
            Some((&*s.name, Holding { actual, allocated: list_of(s.allocated_resources.as_ref()) }))
        };
        let pending = status.conditions.iter().flatten().find(|c| c.type_ == RESIZE_PENDING);
        let statuses = [&status.container_statuses, &status.init_container_statuses];
        demand.holding(&Held {
            infeasible: pending.is_some_and(|c| c.reason.as_deref() == Some(INFEASIBLE)),
            parts: statuses.into_iter().flatten().flatten().filter_map(known).collect(),
            whole: status.resources.as_ref().map(|actual| Holding {
                actual: asked(Some(actual)),
                allocated: list_of(status.allocated_resources.as_ref()),
            }),
        })
    }

    /// The same of JSON, as quotas count it: what the pod holds as a whole is not looked at.
    pub fn of_object(pod: &'a Object) -> Self {
        let demand = Demand::of_json(pod.at(&["spec"]).unwrap_or(NONE));
        let known = |s: &'a Value| {
            let actual = s.get("resources").filter(|r| r.is_object())?;
            let allocated = list(&s["allocatedResources"]);
            Some((s["name"].as_str()?, Holding { actual: asked_in(actual), allocated }))
        };
        let pending = conditions::find(pod.items_at(&["status", "conditions"]), RESIZE_PENDING);
        let statuses = ["containerStatuses", "initContainerStatuses"];
        let statuses = statuses.into_iter().flat_map(|key| pod.items_at(&["status", key]));
        demand.holding(&Held {
            infeasible: pending.is_some_and(|c| c["reason"] == INFEASIBLE),
            parts: statuses.filter_map(known).collect(),
            whole: None,
        })
    }
}

fn asked(resources: Option<&ResourceRequirements>) -> Asked {
    let Some(resources) = resources else { return Asked::default() };
    Asked { requests: list_of(resources.requests.as_ref()), limits: list_of(resources.limits.as_ref()) }
}

fn asked_in(resources: &Value) -> Asked {
    Asked { requests: list(&resources["requests"]), limits: list(&resources["limits"]) }
}
