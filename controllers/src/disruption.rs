//! Computes how many of the pods of a PodDisruptionBudget may be evicted. The eviction itself is the API server's.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use coracle_api::selector::typed as selector;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::Config;
use crate::claims::{controller_of, name, namespace};
use crate::deployment::resolve;
use crate::pods;
use crate::runtime::{Cache, Key, Next, Queue, Reconcile, Recorder, Runtime, Writer};

/// An evicted pod counts as gone for so long; if it is still there then, it was not deleted after all.
const DELETION_TIMEOUT: i64 = 120;

struct Controller {
    budgets: Arc<Cache<PodDisruptionBudget>>,
    pods: Arc<Cache<Pod>>,
    scales: Scales,
    recorder: Recorder,
}

/// The kinds whose number of replicas is known.
struct Scales {
    deployments: Arc<Cache<Deployment>>,
    sets: Arc<Cache<ReplicaSet>>,
    stateful: Arc<Cache<StatefulSet>>,
    controllers: Arc<Cache<ReplicationController>>,
}

/// How many pods there should be.
#[derive(Debug, PartialEq)]
struct Expected {
    pods: i32,
    healthy: i32,
    unmanaged: Vec<String>,
}

pub(crate) fn start(runtime: &mut Runtime, _config: &Config) {
    let (budgets, pods) = (runtime.cache::<PodDisruptionBudget>(), runtime.cache::<Pod>());
    let scales = Scales {
        deployments: runtime.cache(),
        sets: runtime.cache(),
        stateful: runtime.cache(),
        controllers: runtime.cache(),
    };
    let queue = Queue::default();
    budgets.queue_each(&queue);
    let (all, changed) = (budgets.clone(), queue.clone());
    pods.on_change(move |old, new| {
        let state = |p: &Arc<Pod>| {
            (
                pods::is_ready(p),
                pods::is_terminating(p),
                p.metadata.labels.clone(),
                controller_of(&**p).cloned(),
            )
        };
        if old.map(state) == new.map(state) {
            return;
        }
        let Some(namespace) = new.or(old).map(|p| namespace(&**p)) else { return };
        for budget in all.in_namespace(namespace) {
            if [old, new].into_iter().flatten().any(|pod| selects(&budget, pod)) {
                changed.add(Key::of(&*budget));
            }
        }
    });
    on_scale(&scales.deployments, &budgets, &queue, |d| d.spec.as_ref().and_then(|s| s.replicas));
    on_scale(&scales.sets, &budgets, &queue, |s| s.spec.as_ref().and_then(|s| s.replicas));
    on_scale(&scales.stateful, &budgets, &queue, |s| s.spec.as_ref().and_then(|s| s.replicas));
    on_scale(&scales.controllers, &budgets, &queue, |c| c.spec.as_ref().and_then(|s| s.replicas));
    let recorder = runtime.recorder("controllermanager");
    runtime.work("disruption-controller", queue, 5, Controller { budgets, pods, scales, recorder });
}

/// A scale that changes matters to the budgets of its namespace, of which there are few.
fn on_scale<K: crate::runtime::Kind>(
    owners: &Cache<K>,
    budgets: &Arc<Cache<PodDisruptionBudget>>,
    queue: &Queue,
    replicas: impl Fn(&K) -> Option<i32> + Send + Sync + 'static,
) {
    let (budgets, queue) = (budgets.clone(), queue.clone());
    owners.on_change(move |old, new| {
        let (Some(old), Some(new)) = (old, new) else { return };
        if replicas(old) != replicas(new) {
            for budget in budgets.in_namespace(namespace(&**new)) {
                queue.add(Key::of(&*budget));
            }
        }
    });
}

/// No selector selects nothing, an empty one everything.
fn selects(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    let selector = budget.spec.as_ref().and_then(|s| s.selector.as_ref());
    selector.is_some_and(|s| selector::matches(s, pod.metadata.labels.as_ref()))
}

impl Reconcile for Controller {
    async fn reconcile(&self, key: &Key, api: &Writer) -> anyhow::Result<Next> {
        let Some(budget) = self.budgets.get(key) else { return Ok(Next::Done) };
        let mut pods = self.pods.in_namespace(&key.namespace);
        pods.retain(|pod| selects(&budget, pod));
        if pods.is_empty() {
            self.recorder.normal(&*budget, "NoPods", "No matching pods found");
        }
        let now = Timestamp::now();
        let expected = expected(&budget, &pods, |pod| self.scales.of(pod));
        let status = match &expected {
            Ok(expected) => status(&budget, &pods, expected, now),
            Err(error) => {
                let text = format!("Failed to calculate the number of expected pods: {error}");
                self.recorder.warning(&*budget, "CalculateExpectedPodCountFailed", text);
                failed(&budget, error, now)
            }
        };
        if let Ok(Expected { unmanaged, .. }) = &expected
            && !unmanaged.is_empty()
        {
            self.recorder.warning(&*budget, "UnmanagedPods", unmanaged_text(&budget));
        }
        let next = status.disrupted_pods.iter().flat_map(BTreeMap::values).map(|at| at.0.as_second()).min();
        if budget.status.as_ref() != Some(&status) {
            api.replace_status(&PodDisruptionBudget { status: Some(status), ..(*budget).clone() }).await?;
        }
        let left = next.map(|at| u64::try_from(at + DELETION_TIMEOUT + 1 - now.as_second()).unwrap_or(1));
        Ok(left.map(Duration::from_secs).into())
    }
}

fn unmanaged_text(budget: &PodDisruptionBudget) -> String {
    let labels = budget.spec.as_ref().and_then(|s| s.selector.as_ref()?.match_labels.as_ref());
    let selector: Vec<_> = labels.into_iter().flatten().map(|(k, v)| format!("{k}={v}")).collect();
    format!(
        "Pods selected by this PodDisruptionBudget (selector: {}) were found to be unmanaged. As a result, the status \
         of the PDB cannot be calculated correctly, which may result in undefined behavior. To account for these pods \
         please set \".spec.minAvailable\" field of the PDB to an integer value.",
        selector.join(",")
    )
}

impl Scales {
    /// The uid of the outermost controller of a pod, and its replicas. Err if it has one we do not know.
    fn of(&self, pod: &Pod) -> Result<Option<(String, i32)>, String> {
        let Some(owner) = controller_of(pod) else { return Ok(None) };
        let key = Key::new(namespace(pod), owner.name.clone());
        let same = |uid: Option<&String>| uid == Some(&owner.uid);
        let found = match owner.kind.as_str() {
            "ReplicaSet" => {
                let set = self.sets.get(&key).filter(|set| same(set.metadata.uid.as_ref()));
                let outer = set.as_deref().and_then(controller_of).and_then(|r| {
                    let outer = self.deployments.get(&Key::new(namespace(pod), r.name.clone()))?;
                    (outer.metadata.uid.as_ref() == Some(&r.uid)).then_some(outer)
                });
                match outer {
                    Some(outer) => {
                        let replicas = outer.spec.as_ref().and_then(|s| s.replicas);
                        Some((outer.metadata.uid.clone().unwrap_or_default(), replicas))
                    }
                    None => set.map(|set| (owner.uid.clone(), set.spec.as_ref().and_then(|s| s.replicas))),
                }
            }
            "StatefulSet" => {
                let set = self.stateful.get(&key).filter(|set| same(set.metadata.uid.as_ref()));
                set.map(|set| (owner.uid.clone(), set.spec.as_ref().and_then(|s| s.replicas)))
            }
            "ReplicationController" => {
                let set = self.controllers.get(&key).filter(|set| same(set.metadata.uid.as_ref()));
                set.map(|set| (owner.uid.clone(), set.spec.as_ref().and_then(|s| s.replicas)))
            }
            _ => None,
        };
        match found {
            Some((uid, replicas)) => Ok(Some((uid, replicas.unwrap_or(1)))),
            None => Err(format!("found no controllers for pod {:?}", name(pod))),
        }
    }
}

fn expected(
    budget: &PodDisruptionBudget,
    pods: &[Arc<Pod>],
    scale: impl Fn(&Pod) -> Result<Option<(String, i32)>, String>,
) -> Result<Expected, String> {
    let spec = budget.spec.as_ref();
    let count = i32::try_from(pods.len()).unwrap_or(i32::MAX);
    if let Some(IntOrString::Int(least)) = spec.and_then(|s| s.min_available.as_ref()) {
        return Ok(Expected { pods: count, healthy: *least, unmanaged: Vec::new() });
    }
    let (mut seen, mut total, mut unmanaged) = (BTreeSet::new(), 0, Vec::new());
    for pod in pods {
        match scale(pod)? {
            Some((uid, replicas)) if seen.insert(uid.clone()) => total += replicas,
            Some(_) => {}
            None => unmanaged.push(name(&**pod).to_owned()),
        }
    }
    let healthy =
        match (spec.and_then(|s| s.max_unavailable.as_ref()), spec.and_then(|s| s.min_available.as_ref())) {
            (Some(most), _) => (total - resolve(Some(most), total, true)).max(0),
            (None, Some(least)) => resolve(Some(least), total, true),
            (None, None) => 0,
        };
    Ok(Expected { pods: total, healthy, unmanaged })
}

fn status(
    budget: &PodDisruptionBudget,
    pods: &[Arc<Pod>],
    expected: &Expected,
    now: Timestamp,
) -> PodDisruptionBudgetStatus {
    let before = budget.status.clone().unwrap_or_default();
    let mut disrupted = before.disrupted_pods.unwrap_or_default();
    let pending =
        |name: &str| pods.iter().any(|p| crate::claims::name(&**p) == name && !pods::is_terminating(p));
    disrupted.retain(|name, at| pending(name) && at.0.as_second() + DELETION_TIMEOUT >= now.as_second());
    let healthy = pods.iter().filter(|p| !pods::is_terminating(p) && !disrupted.contains_key(name(&***p)));
    let healthy = i32::try_from(healthy.filter(pods::is_ready).count()).unwrap_or(i32::MAX);
    let allowed = if expected.pods > 0 { (healthy - expected.healthy).max(0) } else { 0 };
    let (value, reason) =
        if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
    PodDisruptionBudgetStatus {
        current_healthy: Some(healthy),
        desired_healthy: Some(expected.healthy),
        expected_pods: Some(expected.pods),
        disruptions_allowed: Some(allowed),
        disrupted_pods: Some(disrupted).filter(|pods| !pods.is_empty()),
        observed_generation: budget.metadata.generation,
        conditions: Some(condition(before.conditions, value, reason, "", budget.metadata.generation, now)),
    }
}

/// Nothing may be evicted while it is not known how many there should be.
fn failed(budget: &PodDisruptionBudget, error: &str, now: Timestamp) -> PodDisruptionBudgetStatus {
    let mut status = budget.status.clone().unwrap_or_default();
    status.disruptions_allowed = Some(0);
    let observed = status.observed_generation;
    status.conditions = Some(condition(status.conditions, "False", "SyncFailed", error, observed, now));
    status
}

fn condition(
    conditions: Option<Vec<Condition>>,
    value: &str,
    reason: &str,
    message: &str,
    observed: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    let mut conditions = conditions.unwrap_or_default();
    let old = conditions.iter().position(|c| c.type_ == "DisruptionAllowed").map(|at| conditions.remove(at));
    let since = old.filter(|old| old.status == value).map_or(Time(now), |old| old.last_transition_time);
    conditions.push(Condition {
        type_: "DisruptionAllowed".to_owned(),
        status: value.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        observed_generation: observed,
        last_transition_time: since,
    });
    conditions
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str, ready: bool) -> Arc<Pod> {
        let status = if ready { "True" } else { "False" };
        let pod = json!({"metadata": {"name": name}, "status": {"conditions": [{"type": "Ready", "status": status}]}});
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    #[allow(clippy::needless_pass_by_value, reason = "a literal reads best as the argument")]
    fn allowed(spec: Value, disrupted: Value) -> [i32; 4] {
        let budget = json!({"spec": spec, "status": {"disruptedPods": disrupted, "currentHealthy": 0,
            "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0}});
        let budget = serde_json::from_value(budget).unwrap();
        let pods = [pod("a", true), pod("b", true), pod("c", true), pod("d", false)];
        let expected = expected(&budget, &pods, |_| Ok(Some(("set".to_owned(), 5)))).unwrap();
        let now = Timestamp::from_second(1000).unwrap();
        let status = status(&budget, &pods, &expected, now);
        [status.expected_pods, status.desired_healthy, status.current_healthy, status.disruptions_allowed]
            .map(Option::unwrap)
    }

    #[test]
    fn budgets_count_by_pods_or_by_the_scale_of_their_controllers() {
        assert_eq!(allowed(json!({"minAvailable": 2}), json!({})), [4, 2, 3, 1]);
        assert_eq!(allowed(json!({"minAvailable": "50%"}), json!({})), [5, 3, 3, 0]);
        assert_eq!(allowed(json!({"maxUnavailable": 3}), json!({})), [5, 2, 3, 1]);
        assert_eq!(allowed(json!({"maxUnavailable": "10%"}), json!({})), [5, 4, 3, 0]);
    }

    #[test]
    fn evicted_pods_count_as_gone_until_the_timeout() {
        let at = |second: i64| json!({"a": Timestamp::from_second(second).unwrap().to_string()});
        assert_eq!(allowed(json!({"minAvailable": 1}), at(950))[3], 1);
        assert_eq!(allowed(json!({"minAvailable": 1}), at(800))[3], 2);
    }
}
