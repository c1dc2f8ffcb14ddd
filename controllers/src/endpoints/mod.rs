//! Which pods stand behind a Service: EndpointSlices, the older Endpoints, and slices that mirror hand-made Endpoints.

mod legacy;
mod mirror;
mod pod;
mod slice;

use std::collections::BTreeMap;
use std::sync::Arc;

use coracle_api::selector::typed::contains;
use k8s_openapi::api::core::v1::{Endpoints, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::Config;
use crate::claims::{namespace, uid};
use crate::runtime::{Cache, Key, Next, Queue, Reconcile, Runtime, Writer};
use crate::service_account::unless_going;
use slice::Write;

pub(crate) fn start_slices(runtime: &mut Runtime, _config: &Config) {
    let controller = Slices {
        services: runtime.cache(),
        pods: runtime.cache(),
        nodes: runtime.cache(),
        slices: runtime.cache(),
    };
    let queue = Queue::default();
    follow(&controller.services, &controller.pods, &queue);
    let changed = queue.clone();
    controller.slices.on_change(move |old, new| {
        let lost = old.filter(|_| new.is_none()).or(new);
        if let Some(key) = lost.and_then(|s| crate::claims::owner_key::<Service, _>(&**s)) {
            changed.add(key);
        }
    });
    runtime.work("endpointslice-controller", queue, 5, controller);
}

pub(crate) fn start_legacy(runtime: &mut Runtime, _config: &Config) {
    let controller = Legacy { services: runtime.cache(), pods: runtime.cache(), endpoints: runtime.cache() };
    let queue = Queue::default();
    follow(&controller.services, &controller.pods, &queue);
    controller.endpoints.queue_each(&queue);
    runtime.work("endpoints-controller", queue, 5, controller);
}

pub(crate) fn start_mirror(runtime: &mut Runtime, _config: &Config) {
    let controller =
        Mirror { services: runtime.cache(), endpoints: runtime.cache(), slices: runtime.cache() };
    let queue = Queue::default();
    controller.endpoints.queue_each(&queue);
    controller.services.queue_each(&queue);
    runtime.work("endpointslice-mirroring-controller", queue, 5, controller);
}

/// Queues a Service when it changes, and every Service that selects a pod that changed.
fn follow(services: &Arc<Cache<Service>>, pods: &Cache<Pod>, queue: &Queue) {
    services.queue_each(queue);
    let (services, changed) = (services.clone(), queue.clone());
    pods.on_change(move |old, new| {
        if let (Some(old), Some(new)) = (old, new)
            && old.metadata.labels == new.metadata.labels
            && pod::Facts::of(old) == pod::Facts::of(new)
        {
            return;
        }
        let Some(one) = new.or(old) else { return };
        for service in services.in_namespace(namespace(&**one)) {
            if old.is_some_and(|p| selects(&service, p)) || new.is_some_and(|p| selects(&service, p)) {
                changed.add(Key::of(&*service));
            }
        }
    });
}

/// What a Service selects by; None if it is not for us to find its endpoints.
fn selector(service: &Service) -> Option<&BTreeMap<String, String>> {
    let spec = service.spec.as_ref()?;
    let external = spec.type_.as_deref() == Some("ExternalName");
    spec.selector.as_ref().filter(|s| !external && !s.is_empty())
}

fn selects(service: &Service, pod: &Pod) -> bool {
    selector(service).is_some_and(|wanted| contains(pod.metadata.labels.as_ref(), wanted))
}

fn is_headless(service: &Service) -> bool {
    let ip = service.spec.as_ref().and_then(|s| s.cluster_ip.as_deref());
    ip.is_none_or(|ip| ip == "None" || ip.is_empty())
}

fn publishes_not_ready(service: &Service) -> bool {
    service.spec.as_ref().and_then(|s| s.publish_not_ready_addresses).unwrap_or(false)
}

fn selected(pods: &Cache<Pod>, service: &Service) -> Vec<Arc<Pod>> {
    let mut pods = pods.in_namespace(namespace(service));
    pods.retain(|pod| selects(service, pod));
    pods
}

struct Slices {
    services: Arc<Cache<Service>>,
    pods: Arc<Cache<Pod>>,
    nodes: Arc<Cache<Node>>,
    slices: Arc<Cache<EndpointSlice>>,
}

impl Reconcile for Slices {
    async fn reconcile(&self, key: &Key, api: &Writer) -> anyhow::Result<Next> {
        // The slices of a Service that is gone go with it: they are its dependents.
        let Some(service) = self.services.get(key) else { return Ok(Next::Done) };
        if selector(&service).is_none() || service.metadata.deletion_timestamp.is_some() {
            return Ok(Next::Done);
        }
        let mut existing = self.slices.controlled_by(uid(&*service));
        existing.retain(|s| slice::manager(s) == Some(slice::CONTROLLER));
        let pods = selected(&self.pods, &service);
        let zone = |node: &str| {
            let node = self.nodes.get(&Key::cluster(node))?;
            node.metadata.labels.as_ref()?.get(coracle_api::names::LABEL_ZONE).cloned()
        };
        let groups = slice::of_pods(&service, &pods, zone);
        let shape = slice::Shape::of_service(&service);
        write(slice::plan(&existing, groups, &shape), api).await
    }
}

struct Mirror {
    services: Arc<Cache<Service>>,
    endpoints: Arc<Cache<Endpoints>>,
    slices: Arc<Cache<EndpointSlice>>,
}

impl Reconcile for Mirror {
    async fn reconcile(&self, key: &Key, api: &Writer) -> anyhow::Result<Next> {
        let Some(endpoints) = self.endpoints.get(key) else { return Ok(Next::Done) };
        let mut existing = self.slices.controlled_by(uid(&*endpoints));
        existing.retain(|s| slice::manager(s) == Some(mirror::CONTROLLER));
        let service = self.services.get(key);
        if !mirror::wanted(&endpoints, service.as_deref()) {
            return write(existing.iter().map(|s| Write::Delete(s.clone())).collect(), api).await;
        }
        let groups = mirror::groups(&endpoints);
        write(slice::plan(&existing, groups, &mirror::shape(&endpoints)), api).await
    }
}

async fn write(writes: Vec<Write>, api: &Writer) -> anyhow::Result<Next> {
    for write in writes {
        match write {
            Write::Create(slice) => {
                unless_going(api.create(&*slice).await)?;
            }
            Write::Replace(slice) => {
                api.replace(&*slice).await?;
            }
            Write::Delete(slice) => {
                api.delete(&*slice, None).await?;
            }
        }
    }
    Ok(Next::Done)
}

struct Legacy {
    services: Arc<Cache<Service>>,
    pods: Arc<Cache<Pod>>,
    endpoints: Arc<Cache<Endpoints>>,
}

impl Reconcile for Legacy {
    async fn reconcile(&self, key: &Key, api: &Writer) -> anyhow::Result<Next> {
        let existing = self.endpoints.get(key);
        let Some(service) = self.services.get(key) else {
            // Only what this controller made: Endpoints may also be used on their own.
            if let Some(orphan) = existing.filter(|e| legacy::is_ours(e)) {
                api.delete(&*orphan, None).await?;
            }
            return Ok(Next::Done);
        };
        if selector(&service).is_none() {
            return Ok(Next::Done);
        }
        let desired = legacy::desired(&service, &selected(&self.pods, &service), existing.as_deref());
        match existing {
            None => unless_going(api.create(&desired).await),
            Some(existing) if legacy::same(&existing, &desired) => Ok(Next::Done),
            Some(_) => {
                api.replace(&desired).await?;
                Ok(Next::Done)
            }
        }
    }
}
