//! Writes to the API server on behalf of one reconcile, and remembers what was written.

use std::time::Duration;

use coracle_client::errors::is_not_found;
use futures::FutureExt;
use futures::future::{BoxFuture, join_all};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy, Request};
use kube::core::params::GetParams;
use parking_lot::Mutex;
use serde_json::Value;

use super::cache::{Kind, revision};
use super::{Caches, Key};

/// After this time a cache that does not show a write is no reason to hold the key any longer: the write may have
/// been undone before the watch was opened again.
const FENCE_LIMIT: Duration = Duration::from_secs(30);

/// Field manager of every write.
const MANAGER: &str = "kube-controller-manager";

type Outcome<T> = Result<T, kube::Error>;

/// One client for every kind and scope. Each write leaves a fence behind that `settled` waits for.
pub(crate) struct Writer {
    client: kube::Client,
    caches: Caches,
    fences: Mutex<Vec<BoxFuture<'static, ()>>>,
}

// === impl Writer ===

impl Writer {
    pub(super) fn new(client: kube::Client, caches: Caches) -> Self {
        Writer { client, caches, fences: Mutex::new(Vec::new()) }
    }

    pub(crate) fn client(&self) -> &kube::Client {
        &self.client
    }

    /// Reads from the server, not from the cache.
    pub(crate) async fn get<K: Kind>(&self, key: &Key) -> Outcome<Option<K>> {
        let request = Self::at::<K>(key).get(&key.name, &GetParams::default()).map_err(invalid)?;
        match self.client.request(request).await {
            Ok(object) => Ok(Some(object)),
            Err(error) if is_not_found(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(crate) async fn create<K: Kind>(&self, object: &K) -> Outcome<K> {
        let request = Self::at::<K>(&Key::of(object)).create(&params(), encode(object)?).map_err(invalid)?;
        self.written(self.client.request(request).await)
    }

    /// Replaces everything but the status; fails with a conflict if the object has changed since it was read.
    pub(crate) async fn replace<K: Kind>(&self, object: &K) -> Outcome<K> {
        let key = Key::of(object);
        let request = Self::at::<K>(&key).replace(&key.name, &params(), encode(object)?).map_err(invalid)?;
        self.written(self.client.request(request).await)
    }

    pub(crate) async fn replace_status<K: Kind>(&self, object: &K) -> Outcome<K> {
        self.replace_subresource("status", object).await
    }

    pub(crate) async fn replace_subresource<K: Kind>(&self, subresource: &str, object: &K) -> Outcome<K> {
        let key = Key::of(object);
        let request = Self::at::<K>(&key)
            .replace_subresource(subresource, &key.name, &params(), encode(object)?)
            .map_err(invalid)?;
        self.written(self.client.request(request).await)
    }

    /// A JSON merge patch.
    pub(crate) async fn merge<K: Kind>(&self, key: &Key, patch: Value) -> Outcome<K> {
        let request =
            Self::at::<K>(key).patch(&key.name, &patching(), &Patch::Merge(patch)).map_err(invalid)?;
        self.written(self.client.request(request).await)
    }

    /// A strategic merge patch.
    pub(crate) async fn strategic<K: Kind>(&self, key: &Key, patch: Value) -> Outcome<K> {
        let request =
            Self::at::<K>(key).patch(&key.name, &patching(), &Patch::Strategic(patch)).map_err(invalid)?;
        self.written(self.client.request(request).await)
    }

    pub(crate) async fn strategic_status<K: Kind>(&self, key: &Key, patch: Value) -> Outcome<K> {
        let request = Self::at::<K>(key)
            .patch_subresource("status", &key.name, &patching(), &Patch::Strategic(patch))
            .map_err(invalid)?;
        self.written(self.client.request(request).await)
    }

    pub(crate) async fn merge_status<K: Kind>(&self, key: &Key, patch: Value) -> Outcome<K> {
        let request = Self::at::<K>(key)
            .patch_subresource("status", &key.name, &patching(), &Patch::Merge(patch))
            .map_err(invalid)?;
        self.written(self.client.request(request).await)
    }

    /// Deletes this very object (by uid). That it is gone already is not an error: returns whether it was there.
    pub(crate) async fn delete<K: Kind>(
        &self,
        object: &K,
        propagation: Option<PropagationPolicy>,
    ) -> Outcome<bool> {
        self.delete_with(object, DeleteParams { propagation_policy: propagation, ..DeleteParams::default() })
            .await
    }

    pub(crate) async fn delete_with<K: Kind>(&self, object: &K, mut how: DeleteParams) -> Outcome<bool> {
        let key = Key::of(object);
        let uid = object.meta().uid.clone();
        let asked = how.preconditions.take().unwrap_or(Preconditions { uid: None, resource_version: None });
        how.preconditions = Some(Preconditions { uid: uid.clone(), ..asked });
        let request = Self::at::<K>(&key).delete(&key.name, &how).map_err(invalid)?;
        match self.client.request_status::<Value>(request).await {
            Ok(_) => {
                if let (Some(cache), Some(uid)) = (self.caches.get::<K>(), uid) {
                    self.fences.lock().push(async move { cache.forgets(&key, &uid).await }.boxed());
                }
                Ok(true)
            }
            Err(error) if is_not_found(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Returns when the caches show everything written through this writer.
    pub(super) async fn settled(self) {
        let fences = self.fences.into_inner();
        if tokio::time::timeout(FENCE_LIMIT, join_all(fences)).await.is_err() {
            tracing::warn!("a cache does not show a write after {FENCE_LIMIT:?}");
        }
    }

    fn written<K: Kind>(&self, result: Outcome<K>) -> Outcome<K> {
        let object = result?;
        if let Some(cache) = self.caches.get::<K>() {
            let revision = revision(&object);
            self.fences.lock().push(async move { cache.reaches(revision).await }.boxed());
        }
        Ok(object)
    }

    fn at<K: Kind>(key: &Key) -> Request {
        Request::new(K::url_path(&(), key.scope()))
    }
}

fn params() -> PostParams {
    PostParams { dry_run: false, field_manager: Some(MANAGER.to_owned()) }
}

fn patching() -> PatchParams {
    PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() }
}

fn encode<K: Kind>(object: &K) -> Outcome<Vec<u8>> {
    serde_json::to_vec(object).map_err(kube::Error::SerdeError)
}

fn invalid(error: kube::core::request::Error) -> kube::Error {
    kube::Error::BuildRequest(error)
}
