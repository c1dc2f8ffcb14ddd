//! The loop: changes come in, one pod at a time is decided on, bindings go out without waiting for them.

use std::collections::HashMap;
use std::sync::Arc;

use coracle_api::selector::LabelSelector;
use k8s_openapi::api::apps::v1::{ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{
    Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, ReplicationController, Service,
};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::jiff::Timestamp;
use kube::runtime::events::{EventType, Recorder, Reporter};
use kube::runtime::watcher;
use kube::{Api, Client};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::Config;
use crate::bind;
use crate::cluster::Cluster;
use crate::decide::{Unschedulable, schedule};
use crate::feed::{Change, follow, key_of};
use crate::owners::Kind;
use crate::pod::{Key, PodInfo};
use crate::preempt::{Budget, Preemption, preempt};
use crate::queue::Queue;

/// Changes that may wait while a decision is made.
const PENDING_CHANGES: usize = 1024;

enum Update {
    Pod(Change<Pod>),
    Node(Change<Node>),
    Namespace(Change<Namespace>),
    Claim(Change<PersistentVolumeClaim>),
    Volume(Change<PersistentVolume>),
    Class(Change<StorageClass>),
    Budget(Change<PodDisruptionBudget>),
    /// What selects pods: a Service, or a controller.
    Owner(Kind, Key, Option<LabelSelector>),
    OwnersSynced,
}

/// A binding that is over.
struct Bound {
    pod: Arc<PodInfo>,
    ok: bool,
}

struct Loop {
    config: Config,
    recorder: Recorder,
    cluster: Cluster,
    queue: Queue,
    /// Pods that are on a node as far as we know: bound, or assumed while their binding is on the way.
    placed: HashMap<Key, Arc<PodInfo>>,
    /// Pods for which a node is being cleared: less important ones must not take it.
    nominated: HashMap<Key, Arc<PodInfo>>,
    budgets: HashMap<Key, Budget>,
    writes: JoinSet<Option<Bound>>,
    rng: SmallRng,
    unsynced: usize,
}

/// Schedules pods until `shutdown`; returns when the writes that are on the way are done. A panic in a watch or a write is
/// one of this function: its caller begins it anew, with nothing forgotten or only assumed.
pub async fn run(config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    let (sender, mut updates) = mpsc::channel(PENDING_CHANGES);
    let mut watches = JoinSet::new();
    let unsynced = start_watches(&mut watches, &config.client, &sender);
    drop(sender);
    let reporter =
        Reporter { controller: config.scheduler_name.clone(), instance: Some(config.instance.clone()) };
    let mut state = Loop {
        recorder: Recorder::new(config.client.clone(), reporter),
        config,
        cluster: Cluster::default(),
        queue: Queue::default(),
        placed: HashMap::new(),
        nominated: HashMap::new(),
        budgets: HashMap::new(),
        writes: JoinSet::new(),
        rng: SmallRng::from_os_rng(),
        unsynced,
    };
    loop {
        let timer = state.queue.next_timer();
        tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            update = updates.recv() => match update {
                Some(update) => state.apply(update),
                None => anyhow::bail!("the scheduler's watches ended"),
            },
            Some(done) = state.writes.join_next() => state.settle(or_panic(done)?),
            Some(ended) = watches.join_next() => {
                or_panic(ended)?;
                anyhow::bail!("a watch of the scheduler ended");
            }
            () = sleep_until(timer) => state.queue.tick(Instant::now()),
            () = std::future::ready(()), if state.unsynced == 0 && state.queue.is_ready() => state.try_next(),
        }
    }
    while state.writes.join_next().await.is_some() {}
    Ok(())
}

/// What a task came to; its panic becomes ours.
fn or_panic<T>(ended: Result<T, JoinError>) -> Result<T, JoinError> {
    ended.map_err(|error| match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(cancelled) => cancelled,
    })
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn start_watches(watches: &mut JoinSet<()>, client: &Client, into: &mpsc::Sender<Update>) -> usize {
    let all = watcher::Config::default;
    // Pods that are over hold nothing.
    let pods = all().fields("status.phase!=Succeeded,status.phase!=Failed");
    watches.spawn(follow(Api::all(client.clone()), pods, into.clone(), Update::Pod));
    watches.spawn(follow(Api::all(client.clone()), all(), into.clone(), Update::Node));
    watches.spawn(follow(Api::all(client.clone()), all(), into.clone(), Update::Namespace));
    watches.spawn(follow(Api::all(client.clone()), all(), into.clone(), Update::Claim));
    watches.spawn(follow(Api::all(client.clone()), all(), into.clone(), Update::Volume));
    watches.spawn(follow(Api::all(client.clone()), all(), into.clone(), Update::Class));
    watches.spawn(follow(Api::all(client.clone()), all(), into.clone(), Update::Budget));
    owners(watches, client, into, Kind::Service, |s: &Service| {
        s.spec.as_ref()?.selector.as_ref().map(LabelSelector::of_labels)
    });
    owners(watches, client, into, Kind::ReplicationController, |rc: &ReplicationController| {
        rc.spec.as_ref()?.selector.as_ref().map(LabelSelector::of_labels)
    });
    owners(watches, client, into, Kind::ReplicaSet, |rs: &ReplicaSet| {
        rs.spec.as_ref().map(|spec| LabelSelector::of_typed(&spec.selector))
    });
    owners(watches, client, into, Kind::StatefulSet, |set: &StatefulSet| {
        set.spec.as_ref().map(|spec| LabelSelector::of_typed(&spec.selector))
    });
    watches.len()
}

fn owners<K>(
    watches: &mut JoinSet<()>,
    client: &Client,
    into: &mpsc::Sender<Update>,
    kind: Kind,
    selector: fn(&K) -> Option<LabelSelector>,
) where
    K: kube::Resource<DynamicType = ()> + serde::de::DeserializeOwned + Clone + std::fmt::Debug + Send + Sync,
    K: 'static,
{
    let wrap = move |change| match change {
        Change::Set(owner) => Update::Owner(kind, key_of(&*owner), selector(&owner)),
        Change::Gone(key) => Update::Owner(kind, key, None),
        Change::Synced => Update::OwnersSynced,
    };
    watches.spawn(follow(Api::<K>::all(client.clone()), watcher::Config::default(), into.clone(), wrap));
}

// === impl Loop ===

impl Loop {
    fn apply(&mut self, update: Update) {
        let helps = match update {
            Update::Pod(change) => return self.apply_pod(change),
            Update::Node(Change::Set(node)) => self.cluster.set_node(&node),
            Update::Node(Change::Gone((_, name))) => {
                self.cluster.remove_node(&name);
                false
            }
            Update::Namespace(Change::Set(n)) => {
                let labels = n.metadata.labels.unwrap_or_default();
                self.cluster.namespaces.insert(n.metadata.name.unwrap_or_default(), labels);
                false
            }
            Update::Namespace(Change::Gone((_, name))) => {
                self.cluster.namespaces.remove(&name).is_some_and(|_| false)
            }
            Update::Claim(change) => return self.apply_claim(change),
            Update::Volume(Change::Set(v)) => {
                self.cluster.volumes.set_volume(key_of(&*v).1, Some(&v));
                true
            }
            Update::Volume(Change::Gone((_, name))) => {
                self.cluster.volumes.set_volume(name, None);
                false
            }
            Update::Class(Change::Set(c)) => {
                self.cluster.volumes.set_class(key_of(&*c).1, Some(&c));
                true
            }
            Update::Class(Change::Gone((_, name))) => {
                self.cluster.volumes.set_class(name, None);
                false
            }
            Update::Budget(Change::Set(b)) => {
                self.budgets.insert(key_of(&*b), Budget::new(&b));
                false
            }
            Update::Budget(Change::Gone(key)) => self.budgets.remove(&key).is_some_and(|_| false),
            Update::Owner(kind, key, selector) => {
                self.cluster.owners.set(kind, key, selector);
                false
            }
            Update::OwnersSynced
            | Update::Budget(Change::Synced)
            | Update::Node(Change::Synced)
            | Update::Namespace(Change::Synced)
            | Update::Volume(Change::Synced)
            | Update::Class(Change::Synced) => {
                self.unsynced -= 1;
                false
            }
        };
        if helps {
            self.queue.wake(Instant::now(), |_| true);
        }
    }

    fn apply_claim(&mut self, change: Change<PersistentVolumeClaim>) {
        match change {
            Change::Synced => self.unsynced -= 1,
            Change::Gone(key) => self.cluster.volumes.set_claim(key, None),
            Change::Set(claim) => {
                self.cluster.volumes.set_claim(key_of(&*claim), Some(&claim));
                self.queue.wake(Instant::now(), |_| true);
            }
        }
    }

    fn apply_pod(&mut self, change: Change<Pod>) {
        let now = Instant::now();
        let pod = match change {
            Change::Synced => return self.unsynced -= 1,
            Change::Gone(key) => return self.forget(&key),
            Change::Set(pod) => Arc::new(PodInfo::new(&pod)),
        };
        let key = pod.key.clone();
        // The same name with another uid is another pod.
        let other = self.placed.get(&key).or(self.queue.get(&key)).is_some_and(|old| old.uid != pod.uid);
        if other || pod.finished {
            self.forget(&key);
        }
        if pod.holds_node() {
            self.queue.remove(&key);
            self.nominated.remove(&key);
            let old = self.placed.insert(key, pod.clone());
            if let Some(old) = &old {
                self.cluster.remove_pod(old);
            }
            self.cluster.add_pod(pod);
            if old.is_none() {
                // A pod that others want to be near may have come.
                self.queue.wake(now, |p| !p.affinity.is_empty() || !p.spread.is_empty());
            }
        } else if pod.node_name.is_empty() && !pod.finished && !self.placed.contains_key(&key) {
            self.offer(pod, now);
        }
    }

    fn offer(&mut self, pod: Arc<PodInfo>, now: Instant) {
        if !pod.nominated_node.is_empty() {
            self.nominated.insert(pod.key.clone(), pod.clone());
        }
        if pod.scheduler_name != self.config.scheduler_name || pod.deleting {
            self.queue.remove(&pod.key);
            return;
        }
        // Our own reports come back as changes; only a new spec or new labels are worth a new try.
        match self.queue.get(&pod.key) {
            Some(old) if old.generation == pod.generation && old.labels == pod.labels => {
                self.queue.refresh(pod)
            }
            _ => self.queue.offer(pod, now),
        }
    }

    fn forget(&mut self, key: &Key) {
        self.queue.remove(key);
        self.nominated.remove(key);
        if let Some(pod) = self.placed.remove(key) {
            self.cluster.remove_pod(&pod);
            self.queue.wake(Instant::now(), |_| true);
        }
    }

    fn try_next(&mut self) {
        let Some(pod) = self.queue.pop() else { return };
        let reserved = self.reserved_against(&pod);
        reserved.iter().for_each(|p| self.cluster.add_pod(p.clone()));
        let decision = schedule(&pod, &self.cluster, &mut self.rng);
        let preemption = decision.as_ref().err().map(|why| self.make_room(&pod, why));
        reserved.iter().for_each(|p| self.cluster.remove_pod(p));
        match decision {
            Ok(node) => self.assume_and_bind(&pod, node),
            Err(why) => self.refuse(&pod, &why, preemption),
        }
    }

    fn make_room(&mut self, pod: &PodInfo, why: &Unschedulable) -> Result<Preemption, String> {
        preempt(pod, &mut self.cluster, &self.budgets, why)
    }

    /// Pods at least as important that wait for a node to be cleared, as if they were on it.
    fn reserved_against(&self, pod: &PodInfo) -> Vec<Arc<PodInfo>> {
        let more = self.nominated.values().filter(|p| p.priority >= pod.priority && p.key != pod.key);
        more.map(|p| p.assumed_on(&p.nominated_node)).collect()
    }

    fn assume_and_bind(&mut self, pod: &Arc<PodInfo>, node: String) {
        debug!(pod = ?pod.key, %node, "scheduled");
        self.queue.remove(&pod.key);
        self.nominated.remove(&pod.key);
        let assumed = pod.assumed_on(&node);
        self.placed.insert(pod.key.clone(), assumed.clone());
        self.cluster.add_pod(assumed.clone());
        let (client, recorder) = (self.config.client.clone(), self.recorder.clone());
        self.writes.spawn(async move {
            let ok = match bind::bind(&client, &assumed, &node).await {
                Ok(()) => {
                    let note = format!("Successfully assigned {}/{} to {node}", assumed.key.0, assumed.key.1);
                    bind::event(&recorder, &assumed, EventType::Normal, ["Scheduled", "Binding", &note])
                        .await;
                    true
                }
                Err(error) => {
                    let note = format!("running Bind plugin \"DefaultBinder\": {error}");
                    bind::event(
                        &recorder,
                        &assumed,
                        EventType::Warning,
                        ["FailedScheduling", "Scheduling", &note],
                    )
                    .await;
                    let why = ("SchedulerError", note.as_str());
                    bind::report_unscheduled(&client, &assumed, why, None, Timestamp::now()).await;
                    false
                }
            };
            Some(Bound { pod: assumed, ok })
        });
    }

    /// Says why, and begins to clear a node where that was found to help.
    fn refuse(
        &mut self,
        pod: &Arc<PodInfo>,
        why: &Unschedulable,
        preemption: Option<Result<Preemption, String>>,
    ) {
        let (room, remark) = match preemption {
            Some(Ok(room)) => (Some(room), String::new()),
            Some(Err(remark)) => (None, remark),
            None => (None, String::new()),
        };
        let message = why.message(&remark);
        let mut pod = PodInfo::clone(pod);
        let known = pod.clone();
        if let Some(room) = &room {
            pod.nominated_node.clone_from(&room.node);
            self.nominated.insert(pod.key.clone(), Arc::new(pod.clone()));
            self.queue.refresh(Arc::new(pod.clone()));
        }
        self.queue.failed(&pod.key, true, Instant::now());
        let (client, recorder) = (self.config.client.clone(), self.recorder.clone());
        let scheduler = self.config.scheduler_name.clone();
        self.writes.spawn(async move {
            for victim in room.iter().flat_map(|r| &r.victims) {
                if let Err(error) = bind::evict(&client, &recorder, &scheduler, victim, &pod).await {
                    warn!(%error, victim = ?victim.key, pod = ?pod.key, "cannot make room");
                }
            }
            bind::event(&recorder, &pod, EventType::Warning, ["FailedScheduling", "Scheduling", &message])
                .await;
            let nominated = room.as_ref().map(|r| r.node.as_str());
            let why = ("Unschedulable", message.as_str());
            bind::report_unscheduled(&client, &known, why, nominated, Timestamp::now()).await;
            None
        });
    }

    /// A failed binding gives the node's room back, and the pod another try after its back-off.
    fn settle(&mut self, done: Option<Bound>) {
        let Some(bound) = done.filter(|bound| !bound.ok) else { return };
        let key = bound.pod.key.clone();
        if self.placed.get(&key).is_none_or(|p| !Arc::ptr_eq(p, &bound.pod)) {
            return;
        }
        self.forget(&key);
        let now = Instant::now();
        let pending = PodInfo { node_name: String::new(), ..PodInfo::clone(&bound.pod) };
        self.queue.offer(Arc::new(pending), now);
        self.queue.failed(&key, false, now);
    }
}
