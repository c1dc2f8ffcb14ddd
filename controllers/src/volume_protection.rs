//! Keeps claims that pods use, volumes that claims are bound to, and attribute classes that either names, from being
//! removed: they carry a finalizer, which goes when they are being deleted and nobody needs them any more.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, Volume};
use k8s_openapi::api::storage::v1::VolumeAttributesClass;
use kube::Api;
use kube::api::ListParams;
use parking_lot::Mutex;

use crate::Config;
use crate::claims::{controller_of, name, namespace, uid};
use crate::pods;
use crate::runtime::{Cache, Key, Kind, Next, Queue, Reconcile, Runtime, Writer};

const CLAIM: &str = "kubernetes.io/pvc-protection";
const VOLUME: &str = "kubernetes.io/pv-protection";
const CLASS: &str = "kubernetes.io/vac-protection";

/// Who refers to what, so that one deletion costs no look at all that might.
#[derive(Default)]
struct Referers(Mutex<HashMap<Key, BTreeSet<Referer>>>);

/// A kind of referer and its key.
type Referer = (&'static str, Key);

struct Claims {
    claims: Arc<Cache<PersistentVolumeClaim>>,
    pods: Arc<Cache<Pod>>,
    by_claim: Arc<Referers>,
}

struct Volumes {
    volumes: Arc<Cache<PersistentVolume>>,
}

struct Classes {
    classes: Arc<Cache<VolumeAttributesClass>>,
    by_class: Arc<Referers>,
}

pub(crate) fn start_claims(runtime: &mut Runtime, _config: &Config) {
    let (claims, pods) = (runtime.cache::<PersistentVolumeClaim>(), runtime.cache::<Pod>());
    let queue = Queue::default();
    claims.queue_each(&queue);
    let by_claim = Referers::follow(&pods, &queue, claims_of);
    runtime.work("persistentvolumeclaim-protection-controller", queue, 5, Claims { claims, pods, by_claim });
}

pub(crate) fn start_volumes(runtime: &mut Runtime, _config: &Config) {
    let (volumes, queue) = (runtime.cache::<PersistentVolume>(), Queue::default());
    volumes.queue_each(&queue);
    runtime.work("persistentvolume-protection-controller", queue, 5, Volumes { volumes });
}

pub(crate) fn start_classes(runtime: &mut Runtime, _config: &Config) {
    let classes = runtime.cache::<VolumeAttributesClass>();
    let (volumes, claims) = (runtime.cache::<PersistentVolume>(), runtime.cache::<PersistentVolumeClaim>());
    let queue = Queue::default();
    classes.queue_each(&queue);
    let by_class = Referers::follow(&volumes, &queue, |volume| {
        let class = volume.spec.as_ref().and_then(|s| s.volume_attributes_class_name.clone());
        class.map(Key::cluster).into_iter().collect()
    });
    by_class.also_follow(&claims, &queue, classes_of);
    runtime.work("volumeattributesclass-protection-controller", queue, 5, Classes { classes, by_class });
}

/// The claims that a pod names, its own ephemeral ones among them.
fn claims_of(pod: &Pod) -> BTreeSet<Key> {
    let volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
    volumes.filter_map(|v| claim_name(pod, v)).map(|claim| Key::new(namespace(pod), claim)).collect()
}

fn claim_name(pod: &Pod, volume: &Volume) -> Option<String> {
    let named = volume.persistent_volume_claim.as_ref().map(|source| source.claim_name.clone());
    named.or_else(|| volume.ephemeral.as_ref().map(|_| format!("{}-{}", name(pod), volume.name)))
}

/// The classes that a claim has, had or is to have.
fn classes_of(claim: &PersistentVolumeClaim) -> BTreeSet<Key> {
    let wanted = claim.spec.as_ref().and_then(|s| s.volume_attributes_class_name.clone());
    let status = claim.status.as_ref();
    let current = status.and_then(|s| s.current_volume_attributes_class_name.clone());
    let target =
        status.and_then(|s| s.modify_volume_status.as_ref()?.target_volume_attributes_class_name.clone());
    [wanted, current, target]
        .into_iter()
        .flatten()
        .filter(|name| !name.is_empty())
        .map(Key::cluster)
        .collect()
}

/// Whether a pod needs a claim to stay. One without a node does not: no kubelet starts it with a claim that is going.
fn uses(pod: &Pod, claim: &PersistentVolumeClaim) -> bool {
    let gone = pods::is_terminating(pod) && pod.metadata.deletion_grace_period_seconds == Some(0);
    let owned = controller_of(claim).is_some_and(|r| r.uid == uid(pod));
    let needs = |volume: &Volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(source), _) => source.claim_name == name(claim),
        (None, Some(_)) => !gone && owned && claim_name(pod, volume).as_deref() == Some(name(claim)),
        (None, None) => false,
    };
    pods::node_name(pod).is_some()
        && namespace(pod) == namespace(claim)
        && pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()).any(needs)
}

/// The finalizers that an object should have instead of those it has.
fn corrected<K: Kind>(object: &K, finalizer: &str, used: bool) -> Option<Vec<String>> {
    let mut finalizers = object.meta().finalizers.clone().unwrap_or_default();
    let held = finalizers.iter().any(|f| f == finalizer);
    match (object.meta().deletion_timestamp.is_some(), held) {
        (true, true) if !used => finalizers.retain(|f| f != finalizer),
        (false, false) => finalizers.push(finalizer.to_owned()),
        _ => return None,
    }
    Some(finalizers)
}

async fn correct<K: Kind>(object: &K, finalizer: &str, used: bool, api: &Writer) -> anyhow::Result<Next> {
    if let Some(finalizers) = corrected(object, finalizer, used) {
        let mut object = object.clone();
        object.meta_mut().finalizers = Some(finalizers);
        api.replace(&object).await?;
    }
    Ok(Next::Done)
}

impl Reconcile for Claims {
    async fn reconcile(&self, key: &Key, api: &Writer) -> anyhow::Result<Next> {
        let Some(claim) = self.claims.get(key) else { return Ok(Next::Done) };
        let known = self.by_claim.of(key).into_iter().filter_map(|(_, pod)| self.pods.get(&pod));
        let mut used = known.into_iter().any(|pod| uses(&pod, &claim));
        if !used && corrected(&*claim, CLAIM, false).is_some() && claim.metadata.deletion_timestamp.is_some()
        {
            // The cache may be behind: a pod that is not in it yet may need the claim.
            let pods = Api::<Pod>::namespaced(api.client().clone(), &key.namespace);
            used = pods.list(&ListParams::default()).await?.items.iter().any(|pod| uses(pod, &claim));
        }
        correct(&*claim, CLAIM, used, api).await
    }
}

impl Reconcile for Volumes {
    async fn reconcile(&self, key: &Key, api: &Writer) -> anyhow::Result<Next> {
        let Some(volume) = self.volumes.get(key) else { return Ok(Next::Done) };
        let bound = volume.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
        correct(&*volume, VOLUME, bound, api).await
    }
}

impl Reconcile for Classes {
    async fn reconcile(&self, key: &Key, api: &Writer) -> anyhow::Result<Next> {
        let Some(class) = self.classes.get(key) else { return Ok(Next::Done) };
        correct(&*class, CLASS, !self.by_class.of(key).is_empty(), api).await
    }
}

// === impl Referers ===

impl Referers {
    /// Follows the cache from now on; what is referred to is queued whenever a referer changes or goes.
    fn follow<K: Kind>(
        cache: &Cache<K>,
        queue: &Queue,
        refers: impl Fn(&K) -> BTreeSet<Key> + Send + Sync + 'static,
    ) -> Arc<Self> {
        let referers = Arc::new(Referers::default());
        referers.also_follow(cache, queue, refers);
        referers
    }

    fn also_follow<K: Kind>(
        self: &Arc<Self>,
        cache: &Cache<K>,
        queue: &Queue,
        refers: impl Fn(&K) -> BTreeSet<Key> + Send + Sync + 'static,
    ) {
        let (kept, queue) = (self.clone(), queue.clone());
        cache.on_change(move |old, new| {
            let names = |object: Option<&Arc<K>>| object.map_or_else(BTreeSet::new, |o| refers(o));
            let Some(object) = new.or(old) else { return };
            let (before, after) = (names(old), names(new));
            kept.note(&(std::any::type_name::<K>(), Key::of(&**object)), &before, &after);
            before.union(&after).for_each(|key| queue.add(key.clone()));
        });
    }

    fn of(&self, key: &Key) -> Vec<Referer> {
        self.0.lock().get(key).into_iter().flatten().cloned().collect()
    }

    fn note(&self, referer: &Referer, before: &BTreeSet<Key>, after: &BTreeSet<Key>) {
        let mut all = self.0.lock();
        for key in before.difference(after) {
            if let Some(referers) = all.get_mut(key) {
                referers.remove(referer);
                if referers.is_empty() {
                    all.remove(key);
                }
            }
        }
        for key in after {
            all.entry(key.clone()).or_default().insert(referer.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[allow(clippy::needless_pass_by_value, reason = "a literal reads best as the argument")]
    fn pod(node: Option<&str>, volumes: Value, gone: bool) -> Pod {
        let mut meta = json!({"namespace": "ns", "name": "p", "uid": "pod"});
        if gone {
            meta["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            meta["deletionGracePeriodSeconds"] = json!(0);
        }
        let pod = json!({"metadata": meta, "spec": {"nodeName": node, "containers": [], "volumes": volumes}});
        serde_json::from_value(pod).unwrap()
    }

    fn claim(name: &str, owner: &str) -> PersistentVolumeClaim {
        let owner =
            json!([{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": owner, "controller": true}]);
        let meta = json!({"namespace": "ns", "name": name, "ownerReferences": owner});
        serde_json::from_value(json!({"metadata": meta})).unwrap()
    }

    #[test]
    fn pods_that_have_a_node_use_their_claims() {
        let by_name = || json!([{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]);
        let ephemeral = || json!([{"name": "v", "ephemeral": {}}]);
        let cases = [
            (pod(Some("n"), by_name(), false), claim("data", ""), true),
            (pod(Some("n"), by_name(), true), claim("data", ""), true),
            (pod(None, by_name(), false), claim("data", ""), false),
            (pod(Some("n"), by_name(), false), claim("other", ""), false),
            (pod(Some("n"), ephemeral(), false), claim("p-v", "pod"), true),
            (pod(Some("n"), ephemeral(), true), claim("p-v", "pod"), false),
            (pod(Some("n"), ephemeral(), false), claim("p-v", "another"), false),
        ];
        for (pod, claim, used) in cases {
            assert_eq!(uses(&pod, &claim), used, "{pod:?} {claim:?}");
        }
        let names: Vec<_> =
            claims_of(&pod(None, ephemeral(), false)).into_iter().map(|k| k.to_string()).collect();
        assert_eq!(names, ["ns/p-v"]);
    }

    #[test]
    fn the_finalizer_is_there_until_the_object_is_deleted_and_unused() {
        let cases: [(bool, &[&str], bool, Option<&[&str]>); 6] = [
            (false, &["x"], false, Some(&["x", CLAIM])),
            (false, &[CLAIM], false, None),
            (true, &[CLAIM, "x"], true, None),
            (true, &[CLAIM, "x"], false, Some(&["x"])),
            (true, &["x"], false, None),
            (true, &[CLAIM], false, Some(&[])),
        ];
        for (deleting, finalizers, used, expected) in cases {
            let meta = json!({"name": "c", "finalizers": finalizers,
                "deletionTimestamp": deleting.then_some("2026-01-01T00:00:00Z")});
            let claim: PersistentVolumeClaim = serde_json::from_value(json!({"metadata": meta})).unwrap();
            let expected = expected.map(|list| list.iter().map(|&f| f.to_owned()).collect::<Vec<_>>());
            assert_eq!(corrected(&claim, CLAIM, used), expected, "{deleting} {finalizers:?} {used}");
        }
    }

    #[test]
    fn referers_are_known_until_they_change_or_go() {
        let referers = Referers::default();
        let set = |names: &[&str]| names.iter().map(|n| Key::cluster(*n)).collect::<BTreeSet<_>>();
        let one = ("pod", Key::new("ns", "p"));
        referers.note(&one, &set(&[]), &set(&["a", "b"]));
        referers.note(&("volume", Key::new("ns", "p")), &set(&[]), &set(&["b"]));
        assert_eq!(referers.of(&Key::cluster("b")).len(), 2);
        referers.note(&one, &set(&["a", "b"]), &set(&["b"]));
        assert!(referers.of(&Key::cluster("a")).is_empty());
        referers.note(&one, &set(&["b"]), &set(&[]));
        assert_eq!(referers.of(&Key::cluster("b")).len(), 1);
    }
}
