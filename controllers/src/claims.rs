//! Who owns what: controller references, and how a controller takes what matches its selector and lets go of what
//! no longer does.

use std::sync::Arc;

use coracle_api::owner;
use coracle_api::selector::Labels;
use coracle_client::errors::{is_invalid, is_not_found};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde_json::{Value, json};

use crate::runtime::{Cache, Key, Kind, Queue, Writer};

pub(crate) fn controller_of<K: Kind>(object: &K) -> Option<&OwnerReference> {
    owner::controller_of(object.meta())
}

pub(crate) fn uid<K: Kind>(object: &K) -> &str {
    object.meta().uid.as_deref().unwrap_or_default()
}

pub(crate) fn name<K: Kind>(object: &K) -> &str {
    object.meta().name.as_deref().unwrap_or_default()
}

pub(crate) fn namespace<K: Kind>(object: &K) -> &str {
    object.meta().namespace.as_deref().unwrap_or_default()
}

/// A reference that makes `owner` the controller and blocks its foreground deletion.
pub(crate) fn controller_ref<O: Kind>(owner: &O) -> OwnerReference {
    OwnerReference {
        api_version: O::api_version(&()).into_owned(),
        kind: O::kind(&()).into_owned(),
        name: name(owner).to_owned(),
        uid: uid(owner).to_owned(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// The key of the controlling owner if it is of kind `O`. The uid is for the caller to compare.
pub(crate) fn owner_key<O: Kind, K: Kind>(object: &K) -> Option<Key> {
    let reference = controller_of(object)?;
    let group = |api_version: &str| api_version.split_once('/').map_or("", |(g, _)| g).to_owned();
    let same = reference.kind == O::kind(&()) && group(&reference.api_version) == O::group(&());
    same.then(|| Key::new(namespace(object), reference.name.clone()))
}

/// What to do so that `owner` controls exactly the objects that match.
#[derive(Debug)]
pub(crate) struct Claims<K> {
    pub(crate) kept: Vec<Arc<K>>,
    adopt: Vec<Arc<K>>,
    release: Vec<Arc<K>>,
}

/// Sorts owned objects and orphans. An owner being deleted takes nothing and lets go of nothing.
pub(crate) fn sort<K: Kind>(
    owned: Vec<Arc<K>>,
    orphans: Vec<Arc<K>>,
    owner_deleting: bool,
    matches: impl Fn(Option<&Labels>) -> bool,
) -> Claims<K> {
    let matching = |object: &Arc<K>| matches(object.meta().labels.as_ref());
    let (kept, stray): (Vec<_>, Vec<_>) = owned.into_iter().partition(matching);
    if owner_deleting {
        return Claims { kept, adopt: Vec::new(), release: Vec::new() };
    }
    let free = |o: &Arc<K>| o.meta().deletion_timestamp.is_none();
    let adopt = orphans.into_iter().filter(|o| free(o) && matching(o)).collect();
    Claims { kept, adopt, release: stray }
}

impl<K: Kind> Claims<K> {
    /// Adopts and releases; returns everything the owner controls now.
    pub(crate) async fn apply<O: Kind>(self, owner: &O, api: &Writer) -> anyhow::Result<Vec<Arc<K>>> {
        self.settle(owner, None, api).await
    }

    /// The same, with a finalizer that what is controlled carries.
    pub(crate) async fn apply_holding<O: Kind>(
        self,
        owner: &O,
        finalizer: &str,
        api: &Writer,
    ) -> anyhow::Result<Vec<Arc<K>>> {
        self.settle(owner, Some(finalizer), api).await
    }

    async fn settle<O: Kind>(
        self,
        owner: &O,
        finalizer: Option<&str>,
        api: &Writer,
    ) -> anyhow::Result<Vec<Arc<K>>> {
        let mut controlled = self.kept;
        for object in &self.release {
            write(&**object, release(&**object, owner, finalizer), api).await?;
        }
        if self.adopt.is_empty() {
            return Ok(controlled);
        }
        // The cache may be behind: ask the server whether the owner is still there.
        let fresh: Option<O> = api.get(&Key::of(owner)).await?;
        if !may_adopt(owner, fresh.as_ref()) {
            return Ok(controlled);
        }
        for object in self.adopt {
            if let Some(adopted) = write(&*object, adopt(&*object, owner, finalizer), api).await? {
                controlled.push(Arc::new(adopted));
            }
        }
        Ok(controlled)
    }
}

/// An owner that is gone, replaced by another of its name, or going must not adopt.
fn may_adopt<O: Kind>(owner: &O, fresh: Option<&O>) -> bool {
    fresh.is_some_and(|f| f.meta().uid == owner.meta().uid && f.meta().deletion_timestamp.is_none())
}

fn adopt<K: Kind, O: Kind>(object: &K, owner: &O, finalizer: Option<&str>) -> Value {
    let mut references = object.meta().owner_references.clone().unwrap_or_default();
    references.retain(|r| r.uid != uid(owner));
    references.push(controller_ref(owner));
    let mut finalizers = object.meta().finalizers.clone().unwrap_or_default();
    if let Some(finalizer) = finalizer.filter(|f| !finalizers.iter().any(|have| have == f)) {
        finalizers.push(finalizer.to_owned());
    }
    patch(object, &references, &finalizers)
}

fn release<K: Kind, O: Kind>(object: &K, owner: &O, finalizer: Option<&str>) -> Value {
    let mut references = object.meta().owner_references.clone().unwrap_or_default();
    references.retain(|r| r.uid != uid(owner));
    let mut finalizers = object.meta().finalizers.clone().unwrap_or_default();
    finalizers.retain(|f| Some(f.as_str()) != finalizer);
    patch(object, &references, &finalizers)
}

/// Holds only for the object we saw, in the state we saw.
fn patch<K: Kind>(object: &K, references: &[OwnerReference], finalizers: &[String]) -> Value {
    let meta = object.meta();
    json!({"metadata": {
        "uid": meta.uid, "resourceVersion": meta.resource_version,
        "ownerReferences": references, "finalizers": finalizers,
    }})
}

/// None if the object is gone or another has its name.
async fn write<K: Kind>(object: &K, patch: Value, api: &Writer) -> anyhow::Result<Option<K>> {
    match api.merge::<K>(&Key::of(object), patch).await {
        Ok(object) => Ok(Some(object)),
        Err(error) if is_not_found(&error) || is_invalid(&error) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Queues each owner a changed dependent may matter to: the controller it had, the one it has, or, for
/// an orphan, every owner of its namespace whose selector matches it.
pub(crate) fn notify_owners<O: Kind, K: Kind>(
    dependents: &Cache<K>,
    owners: &Arc<Cache<O>>,
    queue: &Queue,
    selects: impl Fn(&O, Option<&Labels>) -> bool + Send + Sync + 'static,
) {
    let (owners, queue) = (owners.clone(), queue.clone());
    dependents.on_change(move |old, new| {
        if let (Some(old), Some(new)) = (old, new)
            && old.meta().resource_version == new.meta().resource_version
        {
            return;
        }
        let before = old.and_then(|o| owner_key::<O, K>(o));
        let after = new.and_then(|n| owner_key::<O, K>(n));
        let orphan = new.filter(|n| controller_of(&***n).is_none());
        if let Some(key) = before.filter(|key| Some(key) != after.as_ref()) {
            queue.add(key);
        }
        if let Some(key) = after {
            queue.add(key);
        }
        if let Some(orphan) = orphan {
            let labels = orphan.meta().labels.as_ref();
            for owner in owners.in_namespace(namespace(&**orphan)) {
                if selects(&owner, labels) {
                    queue.add(Key::of(&*owner));
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::ReplicaSet;
    use k8s_openapi::api::core::v1::Pod;

    use super::*;

    fn pod(name: &str, app: &str, deleting: bool) -> Arc<Pod> {
        let deleted = deleting.then_some("2026-01-01T00:00:00Z");
        let meta = json!({"name": name, "uid": name, "resourceVersion": "7", "labels": {"app": app},
            "deletionTimestamp": deleted, "finalizers": ["keep"]});
        Arc::new(serde_json::from_value(json!({"metadata": meta})).unwrap())
    }

    fn owner(uid: &str, deleting: bool) -> ReplicaSet {
        let deleted = deleting.then_some("2026-01-01T00:00:00Z");
        let meta = json!({"name": "owner", "uid": uid, "deletionTimestamp": deleted});
        serde_json::from_value(json!({"metadata": meta})).unwrap()
    }

    fn names(objects: &[Arc<Pod>]) -> Vec<&str> {
        objects.iter().map(|o| name(&**o)).collect()
    }

    #[test]
    fn matching_orphans_are_adopted_and_strays_released_unless_the_owner_is_going() {
        let sorted = |deleting| {
            let owned = vec![pod("mine", "web", false), pod("stray", "db", false)];
            let orphans =
                vec![pod("found", "web", false), pod("going", "web", true), pod("other", "db", false)];
            sort(owned, orphans, deleting, |labels| labels.is_some_and(|l| l["app"] == "web"))
        };
        let claims = sorted(false);
        assert_eq!(names(&claims.kept), ["mine"]);
        assert_eq!(names(&claims.adopt), ["found"]);
        assert_eq!(names(&claims.release), ["stray"]);
        let claims = sorted(true);
        assert_eq!(names(&claims.kept), ["mine"]);
        assert!(claims.adopt.is_empty() && claims.release.is_empty());
    }

    #[test]
    fn only_the_very_owner_that_is_still_there_adopts() {
        let cached = owner("a", false);
        assert!(may_adopt(&cached, Some(&owner("a", false))));
        assert!(!may_adopt(&cached, Some(&owner("b", false))), "made anew under the same name");
        assert!(!may_adopt(&cached, Some(&owner("a", true))), "being deleted");
        assert!(!may_adopt(&cached, None), "gone");
    }

    #[test]
    fn a_claim_holds_only_for_the_object_as_it_was_seen() {
        let (object, owner) = (pod("found", "web", false), owner("a", false));
        let adopted = adopt(&*object, &owner, Some("hold"));
        assert_eq!(adopted["metadata"]["uid"], "found");
        assert_eq!(adopted["metadata"]["resourceVersion"], "7");
        assert_eq!(adopted["metadata"]["ownerReferences"][0]["uid"], "a");
        assert_eq!(adopted["metadata"]["finalizers"], json!(["keep", "hold"]));
        let adopted =
            Pod { metadata: serde_json::from_value(adopted["metadata"].clone()).unwrap(), ..Pod::default() };
        let released = release(&adopted, &owner, Some("hold"));
        assert_eq!(released["metadata"]["ownerReferences"], json!([]));
        assert_eq!(released["metadata"]["finalizers"], json!(["keep"]));
    }
}
