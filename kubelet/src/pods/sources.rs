//! The ConfigMaps and Secrets this node's pods refer to: each watched by name while somebody uses it.
//!
//! A change wakes the pods that use the object, so that volumes follow within moments and nothing is polled.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{
    Api, Client,
    runtime::watcher::{self, Event},
};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use crate::tasks::{AbortOnDrop, supervised};

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Reference {
    ConfigMap { namespace: String, name: String },
    Secret { namespace: String, name: String },
}

#[derive(Clone, Debug)]
pub(crate) enum Object {
    ConfigMap(Arc<ConfigMap>),
    Secret(Arc<Secret>),
}

/// `None`: not listed yet. `Some(None)`: it does not exist.
type Known = Option<Option<Object>>;

struct Entry {
    value: watch::Receiver<Known>,
    users: Arc<Mutex<Vec<Weak<Notify>>>>,
    /// Ends with the entry.
    _task: AbortOnDrop,
}

/// A cheap handle on all of them.
#[derive(Clone)]
pub(crate) struct Sources {
    client: Client,
    entries: Arc<Mutex<HashMap<Reference, Entry>>>,
}

impl Sources {
    pub(crate) fn new(client: Client) -> Self {
        Self { client, entries: Arc::default() }
    }

    /// Makes `user` one of those woken by changes of the object.
    pub(crate) fn subscribe(&self, reference: &Reference, user: &Arc<Notify>) {
        let mut entries = self.entries.lock();
        let entry = entries.entry(reference.clone()).or_insert_with(|| self.start(reference));
        let mut users = entry.users.lock();
        if !users.iter().any(|u| u.as_ptr() == Arc::as_ptr(user)) {
            users.push(Arc::downgrade(user));
        }
    }

    /// Stops the watches nobody uses any more; called when a pod is gone.
    pub(crate) fn release(&self) {
        self.entries.lock().retain(|_, entry| {
            let mut users = entry.users.lock();
            users.retain(|u| u.strong_count() > 0);
            !users.is_empty()
        });
    }

    /// The object now; waits for the first list of a new reference. `Err` when the API cannot be reached in time.
    pub(crate) async fn get(
        &self,
        reference: &Reference,
        user: &Arc<Notify>,
    ) -> Result<Option<Object>, String> {
        self.subscribe(reference, user);
        let receiver = self.entries.lock().get(reference).map(|e| e.value.clone());
        let Some(mut receiver) = receiver else { return Ok(None) };
        let wait = receiver.wait_for(Option::is_some);
        match tokio::time::timeout(std::time::Duration::from_secs(10), wait).await {
            Ok(Ok(known)) => Ok(known.clone().flatten()),
            Ok(Err(_)) | Err(_) => {
                Err(format!("failed to sync {} cache: timed out waiting for the condition", reference.kind()))
            }
        }
    }

    pub(crate) async fn config_map(
        &self,
        namespace: &str,
        name: &str,
        user: &Arc<Notify>,
    ) -> Result<Option<Arc<ConfigMap>>, String> {
        let reference = Reference::ConfigMap { namespace: namespace.to_owned(), name: name.to_owned() };
        Ok(self.get(&reference, user).await?.and_then(|o| match o {
            Object::ConfigMap(map) => Some(map),
            Object::Secret(_) => None,
        }))
    }

    pub(crate) async fn secret(
        &self,
        namespace: &str,
        name: &str,
        user: &Arc<Notify>,
    ) -> Result<Option<Arc<Secret>>, String> {
        let reference = Reference::Secret { namespace: namespace.to_owned(), name: name.to_owned() };
        Ok(self.get(&reference, user).await?.and_then(|o| match o {
            Object::Secret(secret) => Some(secret),
            Object::ConfigMap(_) => None,
        }))
    }

    fn start(&self, reference: &Reference) -> Entry {
        let (sender, value) = watch::channel(None);
        let users: Arc<Mutex<Vec<Weak<Notify>>>> = Arc::default();
        let client = self.client.clone();
        let task = match reference.clone() {
            Reference::ConfigMap { namespace, name } => {
                let api: Api<ConfigMap> = Api::namespaced(client, &namespace);
                keep(api, name, sender, users.clone(), Object::ConfigMap)
            }
            Reference::Secret { namespace, name } => {
                let api: Api<Secret> = Api::namespaced(client, &namespace);
                keep(api, name, sender, users.clone(), Object::Secret)
            }
        };
        Entry { value, users, _task: task }
    }
}

impl Reference {
    fn kind(&self) -> &'static str {
        match self {
            Reference::ConfigMap { .. } => "configmap",
            Reference::Secret { .. } => "secret",
        }
    }
}

fn keep<K>(
    api: Api<K>,
    name: String,
    sender: watch::Sender<Known>,
    users: Arc<Mutex<Vec<Weak<Notify>>>>,
    wrap: fn(Arc<K>) -> Object,
) -> AbortOnDrop
where
    K: kube::Resource + Clone + serde::de::DeserializeOwned + std::fmt::Debug + Send + Sync + 'static,
{
    let begin = move || follow(api.clone(), name.clone(), sender.clone(), users.clone(), wrap);
    AbortOnDrop(tokio::spawn(supervised("watch of a reference", begin)))
}

async fn follow<K>(
    api: Api<K>,
    name: String,
    sender: watch::Sender<Known>,
    users: Arc<Mutex<Vec<Weak<Notify>>>>,
    wrap: fn(Arc<K>) -> Object,
) where
    K: kube::Resource + Clone + serde::de::DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut events = Box::pin(watcher::watcher(api, config));
    let mut listed = None;
    while let Some(event) = events.next().await {
        let next = match event {
            Ok(Event::Init) => {
                listed = None;
                continue;
            }
            Ok(Event::InitApply(object)) => {
                listed = Some(wrap(Arc::new(object)));
                continue;
            }
            Ok(Event::InitDone) => listed.take(),
            Ok(Event::Apply(object)) => Some(wrap(Arc::new(object))),
            Ok(Event::Delete(_)) => None,
            Err(error) => {
                tracing::debug!(%error, name, "watch of a referenced object failed");
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                continue;
            }
        };
        sender.send_replace(Some(next));
        for user in users.lock().iter().filter_map(Weak::upgrade) {
            user.notify_one();
        }
    }
}
