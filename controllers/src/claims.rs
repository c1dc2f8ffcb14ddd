//! Who owns what: controller references, and how a controller takes what matches its selector and lets go of what
//! no longer does.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde_json::json;

use crate::runtime::{Cache, Key, Kind, Writer, is_not_found, reason_of};
use crate::selector::Labels;

pub(crate) fn controller_of<K: Kind>(object: &K) -> Option<&OwnerReference> {
    object.meta().owner_references.iter().flatten().find(|r| r.controller == Some(true))
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
        let mut controlled = self.kept;
        for object in &self.release {
            release(&**object, owner, api).await?;
        }
        if self.adopt.is_empty() || !may_adopt(owner, api).await? {
            return Ok(controlled);
        }
        for object in self.adopt {
            if let Some(adopted) = adopt(&*object, owner, api).await? {
                controlled.push(Arc::new(adopted));
            }
        }
        Ok(controlled)
    }
}

/// The cache may be behind: an owner that is gone or going must not adopt.
async fn may_adopt<O: Kind>(owner: &O, api: &Writer) -> anyhow::Result<bool> {
    let fresh: Option<O> = api.get(&Key::of(owner)).await?;
    Ok(fresh.is_some_and(|f| f.meta().uid == owner.meta().uid && f.meta().deletion_timestamp.is_none()))
}

async fn adopt<K: Kind, O: Kind>(object: &K, owner: &O, api: &Writer) -> anyhow::Result<Option<K>> {
    let mut references = object.meta().owner_references.clone().unwrap_or_default();
    references.retain(|r| r.uid != uid(owner));
    references.push(controller_ref(owner));
    own(object, &references, api).await
}

async fn release<K: Kind, O: Kind>(object: &K, owner: &O, api: &Writer) -> anyhow::Result<()> {
    let mut references = object.meta().owner_references.clone().unwrap_or_default();
    references.retain(|r| r.uid != uid(owner));
    own(object, &references, api).await.map(drop)
}

/// Writes the owner references, provided the object is still the one we saw. None if it is gone.
async fn own<K: Kind>(object: &K, references: &[OwnerReference], api: &Writer) -> anyhow::Result<Option<K>> {
    let meta = object.meta();
    let patch = json!({"metadata": {
        "uid": meta.uid, "resourceVersion": meta.resource_version, "ownerReferences": references,
    }});
    match api.merge::<K>(&Key::of(object), patch).await {
        Ok(object) => Ok(Some(object)),
        Err(error) if is_not_found(&error) || reason_of(&error) == "Invalid" => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Calls `enqueue` for each owner a changed dependent may matter to: the controller it had, the one it has, or, for
/// an orphan, every owner of its namespace whose selector matches it.
pub(crate) fn notify_owners<O: Kind, K: Kind>(
    dependents: &Cache<K>,
    owners: Arc<Cache<O>>,
    enqueue: impl Fn(Key) + Send + Sync + 'static,
    selects: impl Fn(&O, Option<&Labels>) -> bool + Send + Sync + 'static,
) {
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
            enqueue(key);
        }
        if let Some(key) = after {
            enqueue(key);
        }
        if let Some(orphan) = orphan {
            let labels = orphan.meta().labels.as_ref();
            for owner in owners.in_namespace(namespace(&**orphan)) {
                if selects(&owner, labels) {
                    enqueue(Key::of(&*owner));
                }
            }
        }
    });
}
