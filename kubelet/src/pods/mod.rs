//! Pods: one task each; plan, act, report.

mod act;
mod actuate;
pub(crate) mod allocation;
mod conditions;
mod crash_loop;
pub(crate) mod enforceable;
pub(crate) mod env;
mod env_file;
pub(crate) mod expansion;
mod hooks;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod hostile;
mod launch;
mod lives;
mod naming;
pub(crate) mod node_context;
pub(crate) mod own_users;
mod ownership;
pub(crate) mod places;
mod plan;
mod pull;
pub(crate) mod recorder;
mod resize;
pub(crate) mod resources;
pub(crate) mod roster;
mod security;
pub(crate) mod served;
pub(crate) mod set_up;
pub(crate) mod sources;
mod status;
pub(crate) mod sweep;
mod termination;
pub(crate) mod view;
mod worker;
mod writer;

use std::{collections::HashMap, sync::Arc};

use coracle_api::pod::is_terminal;
use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    runtime::watcher::{self, Event},
};
use parking_lot::RwLock;
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

pub(crate) use conditions::whole_second;
use node_context::NodeContext;
use view::{name_of, namespace_of, uid_of};
use worker::Wakers;

use crate::tasks::AbortOnDrop;

/// The pods of this node by namespace and name, for the streaming server.
pub(crate) type Directory = Arc<RwLock<HashMap<(String, String), Arc<Pod>>>>;

struct Entry {
    feed: watch::Sender<Option<Arc<Pod>>>,
    wakers: Wakers,
}

/// Follows the pods bound to this node, one worker for each uid.
pub(crate) async fn run(node: Arc<NodeContext>, directory: Directory, shutdown: CancellationToken) {
    let api: Api<Pod> = Api::all(node.config.client.clone());
    let config = watcher::Config::default().fields(&format!("spec.nodeName={}", node.config.node_name));
    let mut events = Box::pin(watcher::watcher(api, config));
    let mut changes = node.runtime.events();
    let mut entries: HashMap<String, Entry> = HashMap::new();
    let mut workers: JoinSet<String> = JoinSet::new();
    let mut listed: Vec<String> = Vec::new();
    let mut sweeping: Option<AbortOnDrop> = None;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            Some(Ok(uid)) = workers.join_next(), if !workers.is_empty() => {
                entries.remove(&uid);
                node.sources.release();
            }
            change = changes.recv() => match change {
                Ok(event) => if let Some(e) = entries.get(&event.pod_uid) { e.wakers.runtime.notify_one() },
                Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => entries.values().for_each(|e| e.wakers.runtime.notify_one()),
                Err(tokio::sync::broadcast::error::RecvError::Closed) => { changes = node.runtime.events(); tokio::time::sleep(std::time::Duration::from_millis(100)).await; }
            },
            Some(event) = events.next() => match event {
                Ok(Event::Init) => listed.clear(),
                Ok(Event::InitApply(pod)) => { listed.push(uid_of(&pod).to_owned()); admit(&node, &directory, &mut entries, &mut workers, pod); }
                Ok(Event::Apply(pod)) => admit(&node, &directory, &mut entries, &mut workers, pod),
                Ok(Event::InitDone) => {
                    for (_, e) in entries.iter().filter(|(uid, _)| !listed.contains(uid)) { e.feed.send_replace(None); }
                    node.allocations.settle(Timestamp::now());
                    directory.write().retain(|_, pod| listed.iter().any(|uid| uid == uid_of(pod)));
                    sweeping.get_or_insert_with(|| AbortOnDrop(tokio::spawn(sweep::run(node.clone()))));
                }
                Ok(Event::Delete(pod)) => {
                    if let Some(e) = entries.get(uid_of(&pod)) { e.feed.send_replace(None); }
                    directory.write().retain(|_, known| uid_of(known) != uid_of(&pod));
                }
                Err(error) => tracing::debug!(%error, "watch of pods failed, will resume"),
            },
        }
    }
}

fn admit(
    node: &Arc<NodeContext>,
    directory: &Directory,
    entries: &mut HashMap<String, Entry>,
    workers: &mut JoinSet<String>,
    pod: Pod,
) {
    let (uid, pod) = (uid_of(&pod).to_owned(), Arc::new(pod));
    directory.write().insert((namespace_of(&pod).to_owned(), name_of(&pod).to_owned()), pod.clone());
    if let Some(entry) = entries.get(&uid) {
        node.allocations.update(&pod, Timestamp::now());
        entry.feed.send_replace(Some(pod));
        return;
    }
    let (feed, receiver) = watch::channel(Some(pod.clone()));
    let wakers = Wakers::default();
    entries.insert(uid.clone(), Entry { feed, wakers: wakers.clone() });
    node.roster.enter(&uid, wakers.runtime.clone());
    // Before the next newcomer asks what the node has left.
    let others = newcomers_neighbours(node, &pod);
    let held = Arc::new(resize::granted_before(&pod));
    if !is_terminal(&pod) {
        node.allocations.open(&pod, held.clone(), wakers.grant.clone());
    }
    let node = node.clone();
    workers.spawn(async move {
        lives::run(node.clone(), lives::Beginning { pod, held, others }, receiver, wakers).await;
        node.roster.leave(&uid);
        uid
    });
}

/// The pods that share the node with one that arrives; `None` for one that was here before a restart.
fn newcomers_neighbours(node: &NodeContext, pod: &Pod) -> Option<Vec<Arc<Pod>>> {
    let status = pod.status.as_ref();
    if status.is_some_and(|s| s.start_time.is_some()) || is_terminal(pod) {
        return None;
    }
    Some(node.allocations.held())
}
