//! Keeps the books of ResourceQuotas: what admission has charged is counted anew when objects go or change.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use coracle_api::Object;
use coracle_api::quota::Counted;
use coracle_api::resources::{self, ResourceList};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{
    ConfigMap, PersistentVolumeClaim, Pod, ReplicationController, ResourceQuota, ResourceQuotaStatus, Secret,
    Service,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::api::{ListParams, Request};
use serde_json::Value;

use crate::Config;
use crate::claims::namespace;
use crate::discovery::discover;
use crate::pods;
use crate::runtime::{Cache, Key, Kind, Next, Queue, Reconcile, Runtime, Writer};

/// For what no event tells: pods that outstay their grace.
const RESYNC: Duration = Duration::from_secs(300);
/// For kinds that are counted but not watched.
const RESYNC_UNWATCHED: Duration = Duration::from_secs(15);

type List = Box<dyn Fn(&str) -> Vec<Object> + Send + Sync>;

/// A kind that quotas may be about, from its cache.
struct Source {
    group: String,
    plural: String,
    list: List,
}

struct Controller {
    quotas: Arc<Cache<ResourceQuota>>,
    sources: Vec<Source>,
}

pub(crate) fn start(runtime: &mut Runtime, _config: &Config) {
    let quotas = runtime.cache::<ResourceQuota>();
    let queue = Queue::default();
    let changed = queue.clone();
    quotas.on_change(move |old, new| {
        let limits = |q: &Arc<ResourceQuota>| (q.spec.clone(), q.status.as_ref().map(|s| s.hard.clone()));
        if let Some(quota) = new.filter(|new| old.is_none_or(|old| limits(old) != limits(new))) {
            changed.add(Key::of(&**quota));
        }
    });
    let sources = vec![
        source::<Pod>(runtime, &quotas, &queue, pod_matters),
        source::<Service>(runtime, &quotas, &queue, |old, new| old.spec != new.spec),
        source::<PersistentVolumeClaim>(runtime, &quotas, &queue, |old, new| old.spec != new.spec),
        source::<ConfigMap>(runtime, &quotas, &queue, |_, _| false),
        source::<Secret>(runtime, &quotas, &queue, |_, _| false),
        source::<ReplicationController>(runtime, &quotas, &queue, |_, _| false),
        source::<ReplicaSet>(runtime, &quotas, &queue, |_, _| false),
        source::<Deployment>(runtime, &quotas, &queue, |_, _| false),
        source::<StatefulSet>(runtime, &quotas, &queue, |_, _| false),
        source::<DaemonSet>(runtime, &quotas, &queue, |_, _| false),
        source::<Job>(runtime, &quotas, &queue, |_, _| false),
        source::<CronJob>(runtime, &quotas, &queue, |_, _| false),
        source::<ResourceQuota>(runtime, &quotas, &queue, |_, _| false),
    ];
    runtime.work("resourcequota-controller", queue, 5, Controller { quotas, sources });
}

fn pod_matters(old: &Pod, new: &Pod) -> bool {
    let state = |p: &Pod| {
        (pods::is_finished(p), pods::is_terminating(p), p.spec.as_ref().map(|s| s.active_deadline_seconds))
    };
    let resources = |p: &Pod| p.metadata.generation;
    state(old) != state(new) || resources(old) != resources(new)
}

/// Quotas are looked at again when an object of their namespace goes, or changes in a way that matters.
fn source<K: Kind>(
    runtime: &mut Runtime,
    quotas: &Arc<Cache<ResourceQuota>>,
    queue: &Queue,
    matters: impl Fn(&K, &K) -> bool + Send + Sync + 'static,
) -> Source {
    let cache = runtime.cache::<K>();
    let (quotas, queue) = (quotas.clone(), queue.clone());
    cache.on_change(move |old, new| {
        let Some(old) = old else { return };
        if new.is_none_or(|new| matters(old, new)) {
            for quota in quotas.in_namespace(namespace(&**old)) {
                queue.add(Key::of(&*quota));
            }
        }
    });
    let list = move |namespace: &str| cache.in_namespace(namespace).iter().map(|o| object(&**o)).collect();
    Source { group: K::group(&()).into_owned(), plural: K::plural(&()).into_owned(), list: Box::new(list) }
}

fn object<K: Kind>(typed: &K) -> Object {
    Object(serde_json::to_value(typed).expect("a typed object has a JSON form"))
}

impl Reconcile for Controller {
    async fn reconcile(&self, key: &Key, api: &Writer) -> anyhow::Result<Next> {
        let Some(quota) = self.quotas.get(key) else { return Ok(Next::Done) };
        let now = Timestamp::now();
        let as_object = object(&*quota);
        let hard = as_object.at(&["spec", "hard"]).map(resources::list).unwrap_or_default();
        let mut used = ResourceList::new();
        for source in &self.sources {
            let kind = Counted { group: &source.group, plural: &source.plural };
            if hard.keys().any(|name| kind.touches(name)) {
                let objects = (source.list)(&key.namespace);
                resources::add(&mut used, &usage(kind, &as_object, &hard, &objects, now));
            }
        }
        let unwatched: Vec<&str> = hard.keys().map(String::as_str).filter(|n| self.is_unwatched(n)).collect();
        for name in &unwatched {
            resources::add(&mut used, &count_unwatched(name, &key.namespace, api).await?);
        }
        let known = |name: &str| unwatched.contains(&name) || self.sources.iter().any(|s| s.counts(name));
        let status = status(&quota, &hard, &used, known);
        if quota.status.as_ref() != Some(&status) {
            api.replace_status(&ResourceQuota { status: Some(status), ..(*quota).clone() }).await?;
        }
        Ok(Next::After(if unwatched.is_empty() { RESYNC } else { RESYNC_UNWATCHED }))
    }
}

impl Controller {
    fn is_unwatched(&self, name: &str) -> bool {
        name.starts_with("count/") && !self.sources.iter().any(|source| source.counts(name))
    }
}

impl Source {
    fn counts(&self, name: &str) -> bool {
        Counted { group: &self.group, plural: &self.plural }.touches(name)
    }
}

/// What the objects of one kind use of the quota.
fn usage(
    kind: Counted<'_>,
    quota: &Object,
    hard: &ResourceList,
    objects: &[Object],
    now: Timestamp,
) -> ResourceList {
    let mut used = ResourceList::new();
    for object in objects.iter().filter(|object| kind.matches(quota, hard, object)) {
        resources::add(&mut used, &kind.usage(object, now));
    }
    used
}

/// Every limited resource with what is used of it; what nobody can count keeps its old number.
fn status(
    quota: &ResourceQuota,
    hard: &ResourceList,
    used: &ResourceList,
    known: impl Fn(&str) -> bool,
) -> ResourceQuotaStatus {
    let before = quota.status.as_ref().and_then(|s| s.used.as_ref());
    let of = |name: &String| match used.get(name) {
        Some(amount) => Some(Quantity(amount.to_string())),
        None if known(name) => Some(Quantity("0".to_owned())),
        None => before.and_then(|before| before.get(name).cloned()),
    };
    let used: BTreeMap<_, _> = hard.keys().filter_map(|name| Some((name.clone(), of(name)?))).collect();
    ResourceQuotaStatus { hard: quota.spec.as_ref().and_then(|s| s.hard.clone()), used: Some(used) }
}

/// Counts the objects of a kind that no cache holds, such as a custom resource: `count/widgets.example.com`.
async fn count_unwatched(name: &str, namespace: &str, api: &Writer) -> anyhow::Result<ResourceList> {
    let (plural, group) =
        name.trim_start_matches("count/").split_once('.').unwrap_or((&name["count/".len()..], ""));
    let found = discover(api.client()).await?;
    let served = found.served.iter().find(|s| s.namespaced && s.api.plural == plural && s.api.group == group);
    let Some(served) = served else { return Ok(ResourceList::new()) };
    let request = Request::new(served.path(Some(namespace))).list(&ListParams::default().limit(1))?;
    let page: Value = api.client().request(request).await?;
    let first = page["items"].as_array().map_or(0, Vec::len);
    let rest = page["metadata"]["remainingItemCount"].as_u64().unwrap_or(0);
    let count = u64::try_from(first).unwrap_or(0) + rest;
    Ok(ResourceList::from([(name.to_owned(), count.to_string().parse()?)]))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn usage_is_counted_within_the_scopes_and_zero_where_there_is_none() {
        let quota: ResourceQuota = serde_json::from_value(json!({
            "metadata": {"name": "q", "namespace": "ns"},
            "spec": {"hard": {"pods": "5", "requests.cpu": "1", "services": "3", "example.com/odd": "7"}, "scopes": ["NotTerminating"]},
            "status": {"used": {"example.com/odd": "2"}},
        }))
        .unwrap();
        let pod = |cpu: &str, deadline: Option<i64>| {
            Object(json!({"spec": {"activeDeadlineSeconds": deadline, "containers": [
                {"name": "c", "resources": {"requests": {"cpu": cpu}}}]}, "status": {"phase": "Running"}}))
        };
        let as_object = object(&quota);
        let hard = resources::list(as_object.at(&["spec", "hard"]).unwrap());
        let objects = [pod("250m", None), pod("250m", None), pod("1", Some(5))];
        let kind = Counted { group: "", plural: "pods" };
        let used = usage(kind, &as_object, &hard, &objects, Timestamp::UNIX_EPOCH);
        let status = status(&quota, &hard, &used, |name| name != "example.com/odd");
        let expected = json!({"pods": "2", "requests.cpu": "500m", "services": "0", "example.com/odd": "2"});
        assert_eq!(serde_json::to_value(status.used).unwrap(), expected);
    }
}
