//! Gives every namespace its `default` ServiceAccount.

use std::sync::Arc;

use coracle_api::names;
use coracle_client::errors::{is_exists, is_not_found, namespace_is_terminating};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::Config;
use crate::runtime::{Cache, Key, Next, Queue, Reconcile, Runtime, Writer};

struct Controller {
    namespaces: Arc<Cache<Namespace>>,
    accounts: Arc<Cache<ServiceAccount>>,
}

pub(crate) fn start(runtime: &mut Runtime, _config: &Config) {
    let (namespaces, accounts) = (runtime.cache::<Namespace>(), runtime.cache::<ServiceAccount>());
    let queue = Queue::default();
    on_active(&namespaces, queue.clone());
    let deleted = queue.clone();
    accounts.on_change(move |old, new| {
        if let (Some(old), None) = (old, new) {
            deleted.add(Key::cluster(old.metadata.namespace.clone().unwrap_or_default()));
        }
    });
    runtime.work("serviceaccount-controller", queue, 5, Controller { namespaces, accounts });
}

/// Queues each namespace that is there to stay.
pub(crate) fn on_active(namespaces: &Cache<Namespace>, queue: Queue) {
    namespaces.on_change(move |_, new| {
        if let Some(namespace) = new.filter(|n| is_active(n)) {
            queue.add(Key::of(&**namespace));
        }
    });
}

pub(crate) fn is_active(namespace: &Namespace) -> bool {
    let phase = namespace.status.as_ref().and_then(|s| s.phase.as_deref());
    phase != Some("Terminating") && namespace.metadata.deletion_timestamp.is_none()
}

impl Reconcile for Controller {
    async fn reconcile(&self, key: &Key, api: &Writer) -> anyhow::Result<Next> {
        let active = self.namespaces.get(key).is_some_and(|n| is_active(&n));
        if !active || self.accounts.get(&Key::new(&key.name, names::NAMESPACE_DEFAULT)).is_some() {
            return Ok(Next::Done);
        }
        let account = ServiceAccount {
            metadata: ObjectMeta {
                name: Some(names::NAMESPACE_DEFAULT.to_owned()),
                namespace: Some(key.name.clone()),
                ..ObjectMeta::default()
            },
            ..ServiceAccount::default()
        };
        unless_going(api.create(&account).await)
    }
}

/// That the object is there already, or that the namespace is going away, is as good as done.
pub(crate) fn unless_going<K>(result: Result<K, kube::Error>) -> anyhow::Result<Next> {
    match result {
        Ok(_) => Ok(Next::Done),
        Err(error) if is_exists(&error) || is_not_found(&error) => Ok(Next::Done),
        Err(error) if namespace_is_terminating(&error) => Ok(Next::Done),
        Err(error) => Err(error.into()),
    }
}
