//! The Services of the cluster and the endpoints behind them, followed once for the proxy and for DNS.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::net::Protocol;

const LABEL_SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Namespace and name of a Service.
pub type Key = (String, String);

/// One address behind a Service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    pub ip: Ipv4Addr,
    pub hostname: Option<String>,
    pub node: Option<String>,
    pub ready: bool,
    pub serving: bool,
    pub terminating: bool,
    /// Name, protocol and number of its ports.
    pub ports: Vec<(String, Protocol, u16)>,
}

/// A cheap handle on what is known.
#[derive(Clone, Default)]
pub struct Catalog {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    services: BTreeMap<Key, Arc<Service>>,
    /// Slices by their own key, with the Service they are of.
    slices: HashMap<Key, (Key, Vec<Endpoint>)>,
    by_service: HashMap<Key, BTreeSet<String>>,
    by_ip: HashMap<Ipv4Addr, Key>,
    /// Host names of endpoints, with their Service and how many slices say so.
    hosts: HashMap<Ipv4Addr, BTreeMap<(Key, String), usize>>,
    dirty: BTreeSet<Key>,
    lists_pending: Option<usize>,
}

// === impl Catalog ===

impl Catalog {
    pub fn new() -> Catalog {
        let catalog = Catalog::default();
        catalog.inner.state.lock().lists_pending = Some(2);
        catalog
    }

    /// Follows the API until `shutdown`.
    pub async fn run(self, client: Client, shutdown: CancellationToken) {
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = self.follow_services(client.clone()) => {}
            () = self.follow_slices(client) => {}
        }
    }

    async fn follow_services(&self, client: Client) {
        let mut events =
            watcher(Api::<Service>::all(client), watcher::Config::default()).default_backoff().boxed();
        let mut listing: Option<BTreeSet<Key>> = None;
        loop {
            match events.try_next().await {
                Ok(Some(watcher::Event::Init)) => listing = Some(BTreeSet::new()),
                Ok(Some(watcher::Event::Apply(service) | watcher::Event::InitApply(service))) => {
                    let key = key_of(&service);
                    if let Some(seen) = &mut listing {
                        seen.insert(key.clone());
                    }
                    self.change(|state| state.set_service(key, Some(Arc::new(service))));
                }
                Ok(Some(watcher::Event::Delete(service))) => {
                    self.change(|state| state.set_service(key_of(&service), None));
                }
                Ok(Some(watcher::Event::InitDone)) => self.change(|state| {
                    let seen = listing.take().unwrap_or_default();
                    let stale: Vec<Key> =
                        state.services.keys().filter(|k| !seen.contains(k)).cloned().collect();
                    stale.into_iter().for_each(|key| state.set_service(key, None));
                    state.listed();
                }),
                Ok(None) => return,
                Err(error) => warn!(%error, "watch of services failed; it is resumed"),
            }
        }
    }

    async fn follow_slices(&self, client: Client) {
        let api = Api::<EndpointSlice>::all(client);
        let mut events = watcher(api, watcher::Config::default()).default_backoff().boxed();
        let mut listing: Option<BTreeSet<Key>> = None;
        loop {
            match events.try_next().await {
                Ok(Some(watcher::Event::Init)) => listing = Some(BTreeSet::new()),
                Ok(Some(watcher::Event::Apply(slice) | watcher::Event::InitApply(slice))) => {
                    if let Some(seen) = &mut listing {
                        seen.insert(key_of(&slice));
                    }
                    self.change(|state| state.set_slice(key_of(&slice), Some(&slice)));
                }
                Ok(Some(watcher::Event::Delete(slice))) => {
                    self.change(|state| state.set_slice(key_of(&slice), None));
                }
                Ok(Some(watcher::Event::InitDone)) => self.change(|state| {
                    let seen = listing.take().unwrap_or_default();
                    let stale: Vec<Key> =
                        state.slices.keys().filter(|k| !seen.contains(k)).cloned().collect();
                    stale.into_iter().for_each(|key| state.set_slice(key, None));
                    state.listed();
                }),
                Ok(None) => return,
                Err(error) => warn!(%error, "watch of endpoint slices failed; it is resumed"),
            }
        }
    }

    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn put_service(&self, service: Service) {
        self.change(|state| state.set_service(key_of(&service), Some(Arc::new(service))));
    }

    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn put_slice(&self, slice: &EndpointSlice) {
        self.change(|state| state.set_slice(key_of(slice), Some(slice)));
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.inner.state.lock());
        self.inner.changed.notify_one();
    }

    /// The Services that changed since the last call; waits for the first lists, then for a change. One caller.
    pub async fn changed(&self) -> BTreeSet<Key> {
        loop {
            {
                let mut state = self.inner.state.lock();
                if state.lists_pending.is_none_or(|n| n == 0) && !state.dirty.is_empty() {
                    return std::mem::take(&mut state.dirty);
                }
            }
            self.inner.changed.notified().await;
        }
    }

    pub fn service(&self, key: &Key) -> Option<Arc<Service>> {
        self.inner.state.lock().services.get(key).cloned()
    }

    pub fn service_of_ip(&self, ip: Ipv4Addr) -> Option<Key> {
        self.inner.state.lock().by_ip.get(&ip).cloned()
    }

    /// The host names that ready endpoints have at an address, each with its Service.
    pub fn hosts_of_ip(&self, ip: Ipv4Addr) -> Vec<(Key, String)> {
        self.inner.state.lock().hosts.get(&ip).into_iter().flat_map(|h| h.keys().cloned()).collect()
    }

    pub fn namespace_exists(&self, namespace: &str) -> bool {
        let first = (namespace.to_owned(), String::new());
        self.inner.state.lock().services.range(first..).next().is_some_and(|((ns, _), _)| ns == namespace)
    }

    /// All endpoints of a Service, each address once.
    pub fn endpoints(&self, key: &Key) -> Vec<Endpoint> {
        let state = self.inner.state.lock();
        let names = state.by_service.get(key).into_iter().flatten();
        let slices = names.filter_map(|name| state.slices.get(&(key.0.clone(), name.clone())));
        let mut all: Vec<Endpoint> = slices.flat_map(|(_, endpoints)| endpoints.iter().cloned()).collect();
        all.sort();
        all.dedup();
        all
    }
}

// === impl State ===

impl State {
    fn listed(&mut self) {
        self.lists_pending = self.lists_pending.map(|n| n.saturating_sub(1));
    }

    fn set_service(&mut self, key: Key, service: Option<Arc<Service>>) {
        if let Some(old) = self.services.remove(&key) {
            cluster_ips(&old).iter().for_each(|ip| drop(self.by_ip.remove(ip)));
        }
        if let Some(service) = service {
            cluster_ips(&service).into_iter().for_each(|ip| drop(self.by_ip.insert(ip, key.clone())));
            self.services.insert(key.clone(), service);
        }
        self.dirty.insert(key);
    }

    fn set_slice(&mut self, key: Key, slice: Option<&EndpointSlice>) {
        if let Some((service, endpoints)) = self.slices.remove(&key) {
            for (ip, host) in hosts(&service, &endpoints) {
                if let Some(of_ip) = self.hosts.get_mut(&ip) {
                    if let Some(count) = of_ip.get_mut(&host).filter(|c| **c > 1) {
                        *count -= 1;
                    } else {
                        of_ip.remove(&host);
                    }
                    if of_ip.is_empty() {
                        self.hosts.remove(&ip);
                    }
                }
            }
            if let Some(names) = self.by_service.get_mut(&service) {
                names.remove(&key.1);
                if names.is_empty() {
                    self.by_service.remove(&service);
                }
            }
            self.dirty.insert(service);
        }
        let Some(slice) = slice.filter(|s| s.address_type == "IPv4") else { return };
        let Some(name) = slice.labels().get(LABEL_SERVICE_NAME) else { return };
        let service = (key.0.clone(), name.clone());
        self.by_service.entry(service.clone()).or_default().insert(key.1.clone());
        self.dirty.insert(service.clone());
        let endpoints = endpoints_of(slice);
        for (ip, host) in hosts(&service, &endpoints) {
            *self.hosts.entry(ip).or_default().entry(host).or_default() += 1;
        }
        self.slices.insert(key, (service, endpoints));
    }
}

fn hosts<'a>(
    service: &'a Key,
    endpoints: &'a [Endpoint],
) -> impl Iterator<Item = (Ipv4Addr, (Key, String))> + 'a {
    let named = endpoints.iter().filter(|e| e.ready);
    named.filter_map(|e| Some((e.ip, (service.clone(), e.hostname.clone()?))))
}

fn key_of(object: &impl ResourceExt) -> Key {
    (object.namespace().unwrap_or_default(), object.name_any())
}

/// The IPv4 cluster addresses; a headless Service has none.
pub fn cluster_ips(service: &Service) -> Vec<Ipv4Addr> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let all = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
    let unique: BTreeSet<Ipv4Addr> = all.filter_map(|ip| ip.parse().ok()).collect();
    unique.into_iter().collect()
}

fn endpoints_of(slice: &EndpointSlice) -> Vec<Endpoint> {
    let port = |p: &k8s_openapi::api::discovery::v1::EndpointPort| {
        let protocol = Protocol::parse(p.protocol.as_deref().unwrap_or_default())?;
        Some((p.name.clone().unwrap_or_default(), protocol, u16::try_from(p.port?).ok()?))
    };
    let ports: Vec<_> = slice.ports.iter().flatten().filter_map(port).collect();
    let endpoint = |e: &k8s_openapi::api::discovery::v1::Endpoint| {
        let conditions = e.conditions.as_ref();
        let ready = conditions.and_then(|c| c.ready).unwrap_or(true);
        Some(Endpoint {
            ip: e.addresses.first()?.parse().ok()?,
            hostname: e.hostname.clone().filter(|h| !h.is_empty()),
            node: e.node_name.clone(),
            ready,
            serving: conditions.and_then(|c| c.serving).unwrap_or(ready),
            terminating: conditions.and_then(|c| c.terminating).unwrap_or(false),
            ports: ports.clone(),
        })
    };
    slice.endpoints.iter().flatten().filter_map(endpoint).collect()
}
