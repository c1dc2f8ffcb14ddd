//! One metadata-only watch for each deletable resource, found by discovery and looked for again, since resources
//! come and go with CustomResourceDefinitions.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, pin_mut};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Api;
use kube::api::DynamicObject;
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::{Config, Event};
use kube::runtime::{WatchStreamExt, watcher};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use super::graph::Node;
use super::{Shared, Uid};
use crate::discovery::{Served, discover};

/// As upstream: nothing tells of an aggregated group that appears.
const REDISCOVER: Duration = Duration::from_secs(30);
const RETRY: Duration = Duration::from_secs(1);
/// So long more definitions may follow one that has changed: they are looked for together.
const TOGETHER: Duration = Duration::from_millis(200);

type Name = (String, String);

pub(super) async fn follow_all(client: kube::Client, shared: Arc<Shared>) {
    let mut watches = JoinSet::new();
    let mut known: HashMap<Name, AbortHandle> = HashMap::new();
    let definitions: Api<PartialObjectMeta<CustomResourceDefinition>> = Api::all(client.clone());
    let changes = watcher(definitions, Config::default()).default_backoff();
    pin_mut!(changes);
    loop {
        let pause = match discover(&client).await {
            Ok(found) => {
                let complete = found.failures.is_empty();
                let wanted: Vec<_> = found.served.into_iter().filter(is_collected).map(Arc::new).collect();
                let names: HashSet<Name> = wanted.iter().map(|s| name(s)).collect();
                known.retain(|name, watch| {
                    let keep = names.contains(name) || !complete;
                    if !keep {
                        watch.abort();
                    }
                    keep
                });
                for resource in wanted {
                    shared.graph.write().add_resource(&resource);
                    known
                        .entry(name(&resource))
                        .or_insert_with(|| watches.spawn(follow(client.clone(), resource, shared.clone())));
                }
                REDISCOVER
            }
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "garbage collector: discovery");
                RETRY
            }
        };
        while watches.try_join_next().is_some() {}
        // Kinds come and go with their definitions; what other servers serve is asked for now and then.
        let pause = tokio::time::sleep(pause);
        pin_mut!(pause);
        let mut changed = false;
        loop {
            tokio::select! {
                () = &mut pause => break,
                change = changes.next() => {
                    let tells = matches!(change, Some(Ok(Event::Apply(_) | Event::Delete(_) | Event::InitDone)));
                    if tells && !changed {
                        changed = true;
                        pause.as_mut().reset(Instant::now() + TOGETHER);
                    }
                }
            }
        }
    }
}

/// Events own nothing, are many, and expire by themselves.
fn is_collected(resource: &Served) -> bool {
    ["delete", "list", "watch"].iter().all(|verb| resource.can(verb)) && resource.api.kind != "Event"
}

fn name(resource: &Served) -> Name {
    (resource.api.api_version.clone(), resource.api.plural.clone())
}

async fn follow(client: kube::Client, resource: Arc<Served>, shared: Arc<Shared>) {
    let api: Api<PartialObjectMeta<DynamicObject>> = Api::all_with(client, &resource.api);
    let stream = watcher(api, Config::default()).default_backoff();
    pin_mut!(stream);
    let mut listed = HashSet::new();
    while let Some(event) = stream.next().await {
        match event {
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitApply(object)) => {
                listed.extend(object.metadata.uid.clone());
                apply(&shared, &resource, object);
            }
            Ok(Event::InitDone) => {
                let before = shared.graph.read().of_resource(&resource);
                before.difference(&listed).for_each(|uid| remove(&shared, uid));
                listed = HashSet::new();
            }
            Ok(Event::Apply(object)) => apply(&shared, &resource, object),
            Ok(Event::Delete(object)) => remove(&shared, object.metadata.uid.as_deref().unwrap_or_default()),
            Err(error) => {
                tracing::debug!(
                    resource = resource.api.plural,
                    error = &error as &dyn std::error::Error,
                    "watch"
                );
            }
        }
    }
}

fn apply(shared: &Shared, resource: &Arc<Served>, object: PartialObjectMeta<DynamicObject>) {
    let Some(node) = Node::new(resource, object.metadata) else { return };
    let affected = shared.graph.write().apply(node);
    affected.into_iter().for_each(|uid| shared.queue.add(Uid(uid)));
}

fn remove(shared: &Shared, uid: &str) {
    let affected = shared.graph.write().remove(uid);
    affected.into_iter().for_each(|uid| shared.queue.add(Uid(uid)));
}
