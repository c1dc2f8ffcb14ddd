//! What pods ask for: effective requests and limits, and the quality-of-service class.
//!
//! The rules are upstream's: sidecars (init containers that restart) count beside the containers, other init containers
//! one at a time on top of the sidecars started before them, what a pod asks as a whole wins, and `overhead` comes on top.
//! They are said over [`Demand`], into which the forms of a pod (typed, JSON) are read once.

mod read;

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use crate::quantity::Quantity;

pub use read::{is_sidecar, list, list_of};

/// Resource name to amount.
pub type ResourceList = BTreeMap<String, Quantity>;

/// Quality of service, from who is killed last to first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum QosClass {
    Guaranteed,
    Burstable,
    BestEffort,
}

/// Requests and limits of a container, or of a pod as a whole.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Asked {
    pub requests: ResourceList,
    pub limits: ResourceList,
}

/// What a pod asks for, part by part.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Demand<'a> {
    containers: Vec<Part<'a>>,
    /// In the order in which they start.
    init: Vec<Part<'a>>,
    whole: Option<Asked>,
    overhead: ResourceList,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Part<'a> {
    name: &'a str,
    /// Of init containers: it keeps running beside the containers.
    sidecar: bool,
    asked: Asked,
}

/// What a pod that is being resized has already, as its status tells.
#[derive(Debug, Default)]
struct Held<'a> {
    /// The wish can never be granted, and does not count.
    infeasible: bool,
    parts: HashMap<&'a str, Holding>,
    whole: Option<Holding>,
}

#[derive(Debug, Default)]
struct Holding {
    actual: Asked,
    allocated: ResourceList,
}

/// One of the two lists.
type Side = fn(&Asked) -> &ResourceList;

// === impl QosClass ===

impl QosClass {
    pub fn name(self) -> &'static str {
        match self {
            QosClass::Guaranteed => "Guaranteed",
            QosClass::Burstable => "Burstable",
            QosClass::BestEffort => "BestEffort",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        let all = [QosClass::Guaranteed, QosClass::Burstable, QosClass::BestEffort];
        all.into_iter().find(|class| class.name() == name)
    }
}

// === impl Demand ===

impl Demand<'_> {
    /// The effective requests: what the scheduler must find room for.
    pub fn requests(&self) -> ResourceList {
        let mut total = self.with_whole(|asked| &asked.requests);
        add(&mut total, &self.overhead);
        total
    }

    /// The effective limits. An overhead limits only what is limited at all.
    pub fn limits(&self) -> ResourceList {
        let mut total = self.with_whole(|asked| &asked.limits);
        for (name, amount) in &self.overhead {
            if let Some(limit) = total.get_mut(name).filter(|limit| !limit.is_zero()) {
                *limit += *amount;
            }
        }
        total
    }

    /// The requests of all containers together, without overhead and what the pod asks as a whole.
    pub fn sum_of_containers(&self) -> ResourceList {
        self.sum(|asked| &asked.requests)
    }

    /// The limits of all containers together, in the same way.
    pub fn sum_of_limits(&self) -> ResourceList {
        self.sum(|asked| &asked.limits)
    }

    /// Whether the pod as a whole is limited in this: by its own word, or by that of every container.
    pub fn is_limited(&self, name: &str) -> bool {
        let limited = |asked: &Asked| asked.limits.get(name).is_some_and(|limit| !limit.is_zero());
        let mut sidecars = false;
        let mut init = self.init.iter().map(|part| {
            // The sidecars before it are counted with an init container.
            let here = sidecars || limited(&part.asked);
            sidecars |= part.sidecar && here;
            here
        });
        self.whole.as_ref().is_some_and(limited)
            || init.all(|here| here) && self.containers.iter().all(|part| limited(&part.asked))
    }

    /// Whether the pod asks for anything as a whole.
    pub fn is_pod_level(&self) -> bool {
        let names = |asked: &Asked| asked.requests.keys().chain(asked.limits.keys()).any(|n| is_of_pods(n));
        self.whole.as_ref().is_some_and(names)
    }

    /// Over CPU and memory: `Guaranteed` where every limit is set and equals its request, `BestEffort` where nothing is
    /// asked at all. A pod that has resources as a whole is judged by them alone, be they empty.
    pub fn qos_class(&self) -> QosClass {
        match &self.whole {
            Some(whole) => class_of(std::iter::once(whole)),
            None => class_of(self.containers.iter().chain(&self.init).map(|part| &part.asked)),
        }
    }

    /// The same without what the pod's runtime class costs: what its author asked.
    pub fn without_overhead(self) -> Self {
        Self { overhead: ResourceList::new(), ..self }
    }

    /// Lets containers that say nothing of a resource ask for this much, unless the pod has requests as a whole and knows
    /// the resource. Upstream's scheduler scores by it.
    pub fn or_at_least(mut self, defaults: &ResourceList) -> Self {
        let whole = self.whole.as_ref().is_some_and(|whole| whole.requests.keys().any(|n| is_of_pods(n)));
        let known = if whole { self.requests() } else { ResourceList::new() };
        for part in self.containers.iter_mut().chain(&mut self.init) {
            for (name, amount) in defaults.iter().filter(|(name, _)| !known.contains_key(*name)) {
                part.asked.requests.entry(name.clone()).or_insert(*amount);
            }
        }
        self
    }

    /// Takes the most of what containers wish, were granted and have.
    fn holding(mut self, held: &Held<'_>) -> Self {
        let sidecars = self.init.iter_mut().filter(|part| part.sidecar);
        for part in self.containers.iter_mut().chain(sidecars) {
            if let Some(holding) = held.parts.get(part.name) {
                part.asked = holding.most(&part.asked, held.infeasible);
            }
        }
        if let (Some(whole), Some(holding)) = (&mut self.whole, &held.whole) {
            // It has no more names than it wishes.
            let most = holding.most(whole, held.infeasible);
            let of = |most: &ResourceList, wish: &ResourceList| {
                wish.keys().map(|n| (n.clone(), most.get(n).copied().unwrap_or_default())).collect()
            };
            *whole = Asked {
                requests: of(&most.requests, &whole.requests),
                limits: of(&most.limits, &whole.limits),
            };
        }
        self
    }

    fn with_whole(&self, side: Side) -> ResourceList {
        let mut total = self.sum(side);
        let whole = self.whole.iter().flat_map(side).filter(|(name, _)| is_of_pods(name));
        total.extend(whole.map(|(name, amount)| (name.clone(), *amount)));
        total
    }

    fn sum(&self, side: Side) -> ResourceList {
        let mut total = ResourceList::new();
        for part in &self.containers {
            add(&mut total, side(&part.asked));
        }
        let (mut sidecars, mut peak) = (ResourceList::new(), ResourceList::new());
        for part in &self.init {
            for (name, amount) in side(&part.asked) {
                let now = sidecars.get(name).copied().unwrap_or_default() + *amount;
                let most = peak.entry(name.clone()).or_insert(now);
                *most = (*most).max(now);
                if part.sidecar {
                    sidecars.insert(name.clone(), now);
                }
            }
        }
        add(&mut total, &sidecars);
        raise(&mut total, &peak);
        total
    }
}

// === impl Holding ===

impl Holding {
    fn most(&self, wish: &Asked, infeasible: bool) -> Asked {
        let mut most = if infeasible { Asked::default() } else { wish.clone() };
        raise(&mut most.requests, &self.actual.requests);
        raise(&mut most.requests, &self.allocated);
        raise(&mut most.limits, &self.actual.limits);
        most
    }
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

/// Whether a pod can ask for this as a whole; what else is written there counts for nothing.
fn is_of_pods(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || name.starts_with("hugepages-")
}

fn class_of<'a>(all: impl Iterator<Item = &'a Asked>) -> QosClass {
    let (mut guaranteed, mut requests, mut limits) = (true, ResourceList::new(), ResourceList::new());
    let compute = |list: &ResourceList| {
        let mut list = list.clone();
        list.retain(|name, q| matches!(name.as_str(), "cpu" | "memory") && *q > Quantity::ZERO);
        list
    };
    for asked in all {
        let own = compute(&asked.limits);
        guaranteed &= own.len() == 2;
        add(&mut limits, &own);
        add(&mut requests, &compute(&asked.requests));
    }
    match (requests.is_empty() && limits.is_empty(), guaranteed && requests == limits) {
        (true, _) => QosClass::BestEffort,
        (false, true) => QosClass::Guaranteed,
        (false, false) => QosClass::Burstable,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::Object;

    fn shown(list: &ResourceList) -> String {
        list.iter().map(|(name, amount)| format!("{name}={amount}")).collect::<Vec<_>>().join(" ")
    }

    /// Both forms of a pod are read alike.
    fn requests(pod: &Value) -> String {
        let mut pod = pod.clone();
        for list in ["containers", "initContainers"] {
            for (i, c) in pod["spec"][list].as_array_mut().into_iter().flatten().enumerate() {
                c["name"] = json!(format!("{list}{i}"));
            }
        }
        let typed: k8s_openapi::api::core::v1::Pod = serde_json::from_value(pod.clone()).unwrap();
        let object = Object(pod);
        assert_eq!(Demand::of_object(&object), Demand::of_pod(&typed));
        shown(&Demand::of_pod(&typed).requests())
    }

    #[test]
    fn init_containers_run_one_at_a_time_on_top_of_earlier_sidecars() {
        let c = |cpu: &str| json!({"resources": {"requests": {"cpu": cpu}}});
        let sidecar = |cpu: &str| {
            let mut c = c(cpu);
            c["restartPolicy"] = json!("Always");
            c
        };
        for (name, spec, want) in [
            ("containers add up", json!({"containers": [c("1"), c("500m")]}), "cpu=1500m"),
            (
                "a big init container wins",
                json!({"containers": [c("1")], "initContainers": [c("3"), c("2")]}),
                "cpu=3",
            ),
            (
                "sidecars add",
                json!({"containers": [c("1")], "initContainers": [sidecar("1"), c("500m")]}),
                "cpu=2",
            ),
            (
                "init after sidecar",
                json!({"containers": [c("1")], "initContainers": [sidecar("1"), c("3")]}),
                "cpu=4",
            ),
            (
                "overhead comes on top",
                json!({"containers": [c("1")], "overhead": {"cpu": "250m", "memory": "1Mi"}}),
                "cpu=1250m memory=1Mi",
            ),
            (
                "the pod's own request wins",
                json!({"containers": [c("1")], "resources": {"requests": {"cpu": "2", "example.com/gpu": "1"}}}),
                "cpu=2",
            ),
        ] {
            assert_eq!(requests(&json!({"spec": spec})), want, "{name}");
        }
    }

    #[test]
    fn an_overhead_limits_only_what_is_limited() {
        let limits = json!({"cpu": "1", "memory": "0"});
        let spec = json!({"containers": [{"resources": {"limits": limits}}],
            "overhead": {"cpu": "250m", "memory": "1Mi", "ephemeral-storage": "1Mi"}});
        assert_eq!(shown(&Demand::of_json(&spec).limits()), "cpu=1250m memory=0");
        assert_eq!(shown(&Demand::of_json(&spec).without_overhead().limits()), "cpu=1 memory=0");
    }

    #[test]
    fn a_pod_that_is_resized_holds_the_most_of_wish_and_grant() {
        let wish = json!({"resources": {"requests": {"cpu": "2"}}});
        for (status, reason, want) in [
            (json!({}), "", "cpu=2"),
            (json!({"allocatedResources": {"cpu": "9"}}), "", "cpu=2"),
            (
                json!({"allocatedResources": {"cpu": "1"}, "resources": {"requests": {"cpu": "1"}}}),
                "Deferred",
                "cpu=2",
            ),
            (
                json!({"allocatedResources": {"cpu": "1"}, "resources": {"requests": {"cpu": "3"}}}),
                "",
                "cpu=3",
            ),
            (
                json!({"allocatedResources": {"cpu": "1"}, "resources": {"requests": {"cpu": "1"}}}),
                "Infeasible",
                "cpu=1",
            ),
        ] {
            let known = |name: &str| {
                let mut known =
                    json!({"name": name, "image": "", "imageID": "", "ready": true, "restartCount": 0});
                known.as_object_mut().unwrap().extend(status.as_object().unwrap().clone());
                known
            };
            let conditions = json!([{"type": "PodResizePending", "status": "True", "reason": reason}]);
            let of_containers =
                json!({"containerStatuses": [known("containers0")], "conditions": conditions});
            let pod = json!({"spec": {"containers": [wish]}, "status": of_containers});
            assert_eq!(requests(&pod), want, "{status} {reason}");
            let of_init =
                json!({"initContainerStatuses": [known("initContainers0")], "conditions": conditions});
            let mut pod = json!({"spec": {"containers": [{}], "initContainers": [wish]}, "status": of_init});
            assert_eq!(requests(&pod), "cpu=2", "an init container is not resized: {status} {reason}");
            pod["spec"]["initContainers"][0]["restartPolicy"] = json!("Always");
            assert_eq!(requests(&pod), want, "a sidecar is: {status} {reason}");
        }
    }

    #[test]
    fn what_a_pod_holds_as_a_whole_counts_for_the_scheduler() {
        let pod = json!({"spec": {"containers": [], "resources": {"requests": {"cpu": "2"}}},
            "status": {"resources": {"requests": {"cpu": "3", "memory": "1Gi"}}, "allocatedResources": {"cpu": "1"}}});
        let typed = serde_json::from_value(pod.clone()).unwrap();
        assert_eq!(shown(&Demand::of_pod(&typed).requests()), "cpu=3");
        assert_eq!(shown(&Demand::of_object(&Object(pod)).requests()), "cpu=2");
    }

    #[test]
    fn containers_that_say_nothing_are_scored_as_if_they_asked() {
        let defaults = ResourceList::from([("cpu".to_owned(), "100m".parse().unwrap())]);
        let asking = json!({"resources": {"requests": {"cpu": "1"}}});
        for (whole, want) in [
            (json!(null), "cpu=1100m"),
            (json!({"requests": {"memory": "1Gi"}}), "cpu=1 memory=1Gi"),
            (json!({"requests": {"cpu": "2"}}), "cpu=2"),
            (json!({"limits": {"memory": "1Gi"}}), "cpu=1100m"),
        ] {
            let spec = json!({"containers": [asking, {}], "resources": whole});
            let scored = Demand::of_json(&spec).or_at_least(&defaults);
            assert_eq!(shown(&scored.requests()), want, "{whole}");
        }
    }

    #[test]
    fn a_pod_is_limited_by_its_own_word_or_by_that_of_all() {
        let (limited, sidecar) = (
            json!({"resources": {"limits": {"cpu": "1"}}}),
            json!({"resources": {"limits": {"cpu": "1"}}, "restartPolicy": "Always"}),
        );
        for (spec, want) in [
            (json!({"containers": [limited]}), true),
            (json!({"containers": [limited, {}]}), false),
            (json!({"containers": [{"resources": {"limits": {"cpu": "0"}}}]}), false),
            (json!({"containers": [{}], "resources": {"limits": {"cpu": "1"}}}), true),
            (json!({"containers": [limited], "initContainers": [{}]}), false),
            (json!({"containers": [limited], "initContainers": [sidecar, {}]}), true),
        ] {
            assert_eq!(Demand::of_json(&spec).is_limited("cpu"), want, "{spec}");
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
            (json!({"containers": [full], "initContainers": [{}]}), QosClass::Burstable),
            (json!({"containers": [full], "resources": {}}), QosClass::BestEffort),
            (json!({"containers": [full], "resources": null}), QosClass::Guaranteed),
            (json!({"containers": [{}], "resources": full["resources"]}), QosClass::Guaranteed),
            (json!({"containers": [{}], "resources": {"limits": {"cpu": "1"}}}), QosClass::Burstable),
            (
                json!({"containers": [{"resources": {"limits": {"nvidia.com/gpu": "1"}}}]}),
                QosClass::BestEffort,
            ),
        ] {
            assert_eq!(Demand::of_json(&spec).qos_class(), class, "{spec}");
            let given = Object(json!({"spec": spec, "status": {"qosClass": "Burstable"}}));
            assert_eq!(QosClass::of_object(&given), QosClass::Burstable, "what it was given stays: {spec}");
            let new = Object(json!({"spec": spec, "status": {"qosClass": ""}}));
            assert_eq!(QosClass::of_object(&new), class, "{spec}");
        }
    }
}
