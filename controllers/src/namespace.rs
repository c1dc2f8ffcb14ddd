//! Empties a namespace that is being deleted - pods first - and then lets it go.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use coracle_api::names::FINALIZER_KUBERNETES;
use coracle_client::errors::is_not_found;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition, NamespaceStatus, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{DeleteParams, ListParams, PropagationPolicy, Request};
use kube::core::{ObjectList, PartialObjectMeta};
use serde_json::Value;

use crate::Config;
use crate::discovery::{Served, discover};
use crate::runtime::{Cache, Key, Next, Queue, Reconcile, Runtime, Writer};

/// Between two looks at content that is on its way out; the end of a pod is noticed at once.
const RECHECK: Duration = Duration::from_secs(1);

/// Between the deletion and the first look, as upstream: who deletes a namespace and, by the same manifest, what is in
/// it still finds that.
const GRACE: Duration = Duration::from_secs(5);

struct Controller {
    namespaces: Arc<Cache<Namespace>>,
}

pub(crate) fn start(runtime: &mut Runtime, _config: &Config) {
    let (namespaces, pods) = (runtime.cache::<Namespace>(), runtime.cache::<Pod>());
    let queue = Queue::default();
    let changed = queue.clone();
    namespaces.on_change(move |_, new| {
        if let Some(namespace) = new.filter(|n| is_ending(n)) {
            changed.add_after(Key::of(&**namespace), GRACE);
        }
    });
    let (all, changed) = (namespaces.clone(), queue.clone());
    pods.on_change(move |old, new| {
        let (Some(old), None) = (old, new) else { return };
        let key = Key::cluster(old.metadata.namespace.clone().unwrap_or_default());
        if let Some(delay) = all.get(&key).and_then(|n| delay(&n, Timestamp::now())) {
            changed.add_after(key, delay);
        }
    });
    runtime.work("namespace-controller", queue, 10, Controller { namespaces });
}

fn is_ending(namespace: &Namespace) -> bool {
    let finalizers = namespace.spec.as_ref().and_then(|s| s.finalizers.as_ref());
    namespace.metadata.deletion_timestamp.is_some()
        && finalizers.is_some_and(|f| f.iter().any(|f| f == FINALIZER_KUBERNETES))
}

/// How long to wait before a namespace that is ending is emptied.
fn delay(namespace: &Namespace, now: Timestamp) -> Option<Duration> {
    let deleted = namespace.metadata.deletion_timestamp.as_ref().filter(|_| is_ending(namespace))?;
    // The time stamp has whole seconds: it may be up to one second early.
    let passed = Duration::try_from(now.duration_since(deleted.0)).unwrap_or_default();
    Some((GRACE + Duration::from_secs(1)).saturating_sub(passed).min(GRACE))
}

/// What is left, and what went wrong.
#[derive(Default)]
struct Report {
    discovery: Vec<String>,
    deletion: Vec<String>,
    /// Instances left, by resource.
    remaining: BTreeMap<String, usize>,
    /// Instances left, by finalizer.
    finalizers: BTreeMap<String, usize>,
}

impl Reconcile for Controller {
    async fn reconcile(&self, key: &Key, api: &Writer) -> anyhow::Result<Next> {
        let Some(namespace) = self.namespaces.get(key).filter(|n| is_ending(n)) else {
            return Ok(Next::Done);
        };
        let report = empty(api.client(), &key.name).await?;
        let mut namespace = (*namespace).clone();
        let before = namespace.status.clone().unwrap_or_default().conditions.unwrap_or_default();
        let conditions = conditions(before.clone(), &report, Timestamp::now());
        if conditions != before {
            let status =
                NamespaceStatus { phase: Some("Terminating".to_owned()), conditions: Some(conditions) };
            namespace.status = Some(status);
            namespace = match api.replace_status(&namespace).await {
                Err(error) if is_not_found(&error) => return Ok(Next::Done),
                result => result?,
            };
        }
        if !report.is_clear() {
            return Ok(Next::After(RECHECK));
        }
        if let Some(finalizers) = namespace.spec.as_mut().and_then(|s| s.finalizers.as_mut()) {
            finalizers.retain(|f| f != FINALIZER_KUBERNETES);
        }
        match api.replace_subresource("finalize", &namespace).await {
            Err(error) if is_not_found(&error) => Ok(Next::Done),
            result => Ok(result.map(|_| Next::Done)?),
        }
    }
}

/// Deletes everything in the namespace. While pods run, what they use stays.
async fn empty(client: &kube::Client, namespace: &str) -> anyhow::Result<Report> {
    let discovered = discover(client).await?;
    let mut report = Report { discovery: discovered.failures, ..Report::default() };
    let is_pods = |s: &Served| s.api.group.is_empty() && s.api.plural == "pods";
    let content = discovered.served.iter().filter(|s| s.namespaced && s.can("delete") && s.can("list"));
    let (pods, others): (Vec<_>, Vec<_>) = content.partition(|s| is_pods(s));
    for resource in pods {
        clear(client, resource, namespace, &mut report).await;
    }
    if report.remaining.is_empty() {
        let all = others.into_iter().map(|resource| async move {
            let mut report = Report::default();
            clear(client, resource, namespace, &mut report).await;
            report
        });
        for part in futures::future::join_all(all).await {
            report.deletion.extend(part.deletion);
            report.remaining.extend(part.remaining);
            for (finalizer, count) in part.finalizers {
                *report.finalizers.entry(finalizer).or_default() += count;
            }
        }
    }
    Ok(report)
}

async fn clear(client: &kube::Client, resource: &Served, namespace: &str, report: &mut Report) {
    let result = async {
        let left = list(client, resource, namespace).await?;
        if left.is_empty() {
            return Ok(left);
        }
        delete(client, resource, namespace, &left).await?;
        list(client, resource, namespace).await
    };
    match result.await {
        Ok(left) if left.is_empty() => {}
        Ok(left) => {
            for finalizer in left.iter().flat_map(|o| o.metadata.finalizers.iter().flatten()) {
                *report.finalizers.entry(finalizer.clone()).or_default() += 1;
            }
            report.remaining.insert(resource.message_name(), left.len());
        }
        Err(error) if is_not_found(&error) => {}
        Err(error) => report.deletion.push(error.to_string()),
    }
}

type Left = Vec<PartialObjectMeta>;

async fn list(client: &kube::Client, resource: &Served, namespace: &str) -> Result<Left, kube::Error> {
    let request = Request::new(resource.path(Some(namespace)))
        .list_metadata(&ListParams::default())
        .map_err(kube::Error::BuildRequest)?;
    let list: ObjectList<PartialObjectMeta> = client.request(request).await?;
    Ok(list.items)
}

async fn delete(
    client: &kube::Client,
    resource: &Served,
    namespace: &str,
    left: &Left,
) -> Result<(), kube::Error> {
    let how =
        DeleteParams { propagation_policy: Some(PropagationPolicy::Background), ..DeleteParams::default() };
    let request = Request::new(resource.path(Some(namespace)));
    if resource.can("deletecollection") {
        let request =
            request.delete_collection(&how, &ListParams::default()).map_err(kube::Error::BuildRequest)?;
        client.request_status::<Value>(request).await?;
        return Ok(());
    }
    for object in left {
        let name = object.metadata.name.as_deref().unwrap_or_default();
        let one = request.delete(name, &how).map_err(kube::Error::BuildRequest)?;
        match client.request_status::<Value>(one).await {
            Err(error) if !is_not_found(&error) => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

// === impl Report ===

impl Report {
    fn is_clear(&self) -> bool {
        self.discovery.is_empty() && self.deletion.is_empty() && self.remaining.is_empty()
    }

    /// Type, fault, reason and message of each condition.
    fn findings(&self) -> [(&'static str, bool, &'static str, String); 5] {
        let resources = self.remaining.iter().map(|(name, n)| format!("{name} has {n} resource instances"));
        let resources = resources.collect::<Vec<_>>().join(", ");
        let finalizers = self.finalizers.iter().map(|(name, n)| format!("{name} in {n} resource instances"));
        let finalizers = finalizers.collect::<Vec<_>>().join(", ");
        let say = |type_, fault: bool, bad: &'static str, text: String, good: &'static str, all: &str| {
            if fault { (type_, true, bad, text) } else { (type_, false, good, all.to_owned()) }
        };
        [
            say(
                "NamespaceDeletionDiscoveryFailure",
                !self.discovery.is_empty(),
                "DiscoveryFailed",
                format!(
                    "Discovery failed for some groups, {} failing: unable to retrieve the complete list of server APIs: {}",
                    self.discovery.len(),
                    self.discovery.join(", ")
                ),
                "ResourcesDiscovered",
                "All resources successfully discovered",
            ),
            say(
                "NamespaceDeletionGroupVersionParsingFailure",
                false,
                "GroupVersionParsingFailed",
                String::new(),
                "ParsedGroupVersions",
                "All legacy kube types successfully parsed",
            ),
            say(
                "NamespaceDeletionContentFailure",
                !self.deletion.is_empty(),
                "ContentDeletionFailed",
                format!(
                    "Failed to delete all resource types, {} remaining: {}",
                    self.deletion.len(),
                    self.deletion.join(", ")
                ),
                "ContentDeleted",
                "All content successfully deleted, may be waiting on finalization",
            ),
            say(
                "NamespaceContentRemaining",
                !self.remaining.is_empty(),
                "SomeResourcesRemain",
                format!("Some resources are remaining: {resources}"),
                "ContentRemoved",
                "All content successfully removed",
            ),
            say(
                "NamespaceFinalizersRemaining",
                !self.finalizers.is_empty(),
                "SomeFinalizersRemain",
                format!("Some content in the namespace has finalizers remaining: {finalizers}"),
                "ContentHasNoFinalizers",
                "All content-preserving finalizers finished",
            ),
        ]
    }
}

fn conditions(
    mut conditions: Vec<NamespaceCondition>,
    report: &Report,
    now: Timestamp,
) -> Vec<NamespaceCondition> {
    for (type_, fault, reason, message) in report.findings() {
        let new = NamespaceCondition {
            type_: type_.to_owned(),
            status: if fault { "True" } else { "False" }.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_transition_time: Some(Time(now)),
        };
        match conditions.iter_mut().find(|c| c.type_ == type_) {
            None => conditions.push(new),
            Some(old) if old.status != new.status => *old = new,
            Some(old) => (old.reason, old.message) = (new.reason, new.message),
        }
    }
    conditions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_left_alone_for_some_seconds() {
        let at = |second: i64| Timestamp::from_second(second).unwrap();
        let namespace = |deleted: Option<i64>, finalizer: &str| -> Namespace {
            let deleted = deleted.map(|second| at(second).to_string());
            let text = serde_json::json!({"metadata": {"name": "n", "deletionTimestamp": deleted},
                "spec": {"finalizers": [finalizer]}});
            serde_json::from_value(text).unwrap()
        };
        let cases = [
            (None, "kubernetes", None),
            (Some(100), "example.com/other", None),
            (Some(100), "kubernetes", Some(5)),
            (Some(98), "kubernetes", Some(4)),
            (Some(94), "kubernetes", Some(0)),
            (Some(500), "kubernetes", Some(5)),
        ];
        for (deleted, finalizer, expected) in cases {
            let left = delay(&namespace(deleted, finalizer), at(100)).map(|d| d.as_secs());
            assert_eq!(left, expected, "{deleted:?} {finalizer}");
        }
    }

    #[test]
    fn conditions_name_what_remains() {
        let mut report = Report::default();
        report.remaining.insert("pods.".to_owned(), 2);
        report.finalizers.insert("example.com/hold".to_owned(), 1);
        let conditions = conditions(Vec::new(), &report, Timestamp::UNIX_EPOCH);
        let message = |at: usize| conditions[at].message.as_deref().unwrap();
        assert_eq!(message(3), "Some resources are remaining: pods. has 2 resource instances");
        assert_eq!(
            message(4),
            "Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances"
        );
        assert!(!report.is_clear());
    }
}
