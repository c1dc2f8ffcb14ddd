//! Runs one pod of a DaemonSet on every node it belongs on, and brings them to new templates step by step.

mod placement;
mod plan;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use coracle_api::selector::{Labels, typed as selector};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::core::v1::{Node, Pod};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::Config;
use crate::claims::{self, name, uid};
use crate::pod_control;
use crate::revisions::{self, REVISION_HASH};
use crate::runtime::{Cache, Key, Next, Queue, Reconcile, Recorder, Runtime, Writer};
use placement::fit;
use plan::{Plan, View};

/// Pods made or removed in one go.
const BURST: usize = 250;
const BACKOFF_BASE: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(15 * 60);

struct Controller {
    sets: Arc<Cache<DaemonSet>>,
    pods: Arc<Cache<Pod>>,
    nodes: Arc<Cache<Node>>,
    history: Arc<Cache<ControllerRevision>>,
    recorder: Recorder,
    kills: Mutex<Kills>,
}

/// When the failed pod of a node was last killed, and how often in a row, by set and node.
type Kills = HashMap<Key, HashMap<String, (Instant, u32)>>;

pub(crate) fn start(runtime: &mut Runtime, _config: &Config) {
    let (sets, pods) = (runtime.cache::<DaemonSet>(), runtime.cache::<Pod>());
    let (nodes, history) = (runtime.cache::<Node>(), runtime.cache::<ControllerRevision>());
    let queue = Queue::default();
    sets.queue_each(&queue);
    claims::notify_owners(&pods, &sets, &queue, selects);
    claims::notify_owners(&history, &sets, &queue, selects);
    let (all, changed) = (sets.clone(), queue.clone());
    nodes.on_change(move |old, new| {
        for set in all.list() {
            let place = |node: Option<&Arc<Node>>| node.map(|node| fit(&set, node));
            if place(old) != place(new) {
                changed.add(Key::of(&*set));
            }
        }
    });
    let recorder = runtime.recorder("daemonset-controller");
    let kills = Mutex::default();
    runtime.work(
        "daemonset-controller",
        queue,
        2,
        Controller { sets, pods, nodes, history, recorder, kills },
    );
}

fn selects(set: &DaemonSet, labels: Option<&Labels>) -> bool {
    selector::picks(set.spec.as_ref().map(|s| &s.selector), labels)
}

impl Reconcile for Controller {
    async fn reconcile(&self, key: &Key, api: &Writer) -> anyhow::Result<Next> {
        let Some(set) = self.sets.get(key) else {
            self.kills.lock().remove(key);
            return Ok(Next::Done);
        };
        let Some(spec) = &set.spec else { return Ok(Next::Done) };
        if selector::is_empty(&spec.selector) {
            let text = "This daemon set is selecting all pods. A non-empty selector is required.";
            self.recorder.warning(&*set, "SelectingAll", text);
            return Ok(Next::Done);
        }
        if set.metadata.deletion_timestamp.is_some() {
            return Ok(Next::Done);
        }
        let matches = |labels: Option<&Labels>| selects(&set, labels);
        let owned = self.history.controlled_by(uid(&*set));
        let history = claims::sort(owned, self.history.orphans(&key.namespace), false, matches);
        let history = history.apply(&*set, api).await?;
        let collisions = set.status.as_ref().and_then(|s| s.collision_count);
        let history =
            revisions::record(&*set, &spec.template, collisions, history, REVISION_HASH, api).await?;
        let hash = hash_of(&history.update);
        let owned = self.pods.controlled_by(uid(&*set));
        let claimed = claims::sort(owned, self.pods.orphans(&key.namespace), false, matches);
        let claimed = claimed.apply(&*set, api).await?;
        let nodes = self.nodes.list();
        let view = View::new(&set, spec, &nodes, &claimed, hash, Timestamp::now());
        let plan = view.plan(|node| self.held(key, node));
        let (again, failure) = (plan.again, self.apply(&set, key, plan, hash, api).await);
        let used = revisions::in_use(claimed.iter());
        let in_use = |r: &ControllerRevision| {
            r.metadata.uid == history.update.metadata.uid || used.contains(hash_of(r))
        };
        for revision in revisions::surplus(&history.all, spec.revision_history_limit, in_use) {
            api.delete(&**revision, None).await?;
        }
        let collisions = (history.collisions != 0).then_some(history.collisions);
        let status = view.status(collisions);
        if set.status.as_ref() != Some(&status) {
            api.replace_status(&DaemonSet { status: Some(status), ..(*set).clone() }).await?;
        }
        match failure {
            Some(error) => Err(error.into()),
            None => Ok(again.into_iter().chain(view.next_check()).min().into()),
        }
    }
}

fn hash_of(revision: &ControllerRevision) -> &str {
    let label = revision.metadata.labels.as_ref().and_then(|l| l.get(REVISION_HASH));
    label.map_or_else(|| name(revision), String::as_str)
}

impl Controller {
    /// How long the failed pod of this node is still to be kept, lest we fight with a kubelet that rejects it.
    fn held(&self, key: &Key, node: &str) -> Option<Duration> {
        let kills = self.kills.lock();
        let (last, count) = kills.get(key)?.get(node)?;
        let wait = BACKOFF_BASE.saturating_mul(1 << (count - 1).min(10)).min(BACKOFF_MAX);
        wait.checked_sub(last.elapsed()).filter(|left| !left.is_zero())
    }

    fn note_kill(&self, key: &Key, node: &str) {
        let mut kills = self.kills.lock();
        let entry =
            kills.entry(key.clone()).or_default().entry(node.to_owned()).or_insert((Instant::now(), 0));
        // A node that was quiet for long starts anew.
        let count = if entry.0.elapsed() > BACKOFF_MAX * 2 { 1 } else { entry.1 + 1 };
        *entry = (Instant::now(), count);
    }

    async fn apply(
        &self,
        set: &DaemonSet,
        key: &Key,
        plan: Plan,
        hash: &str,
        api: &Writer,
    ) -> Option<kube::Error> {
        for (node, text) in plan.failed {
            self.note_kill(key, &node);
            self.recorder.warning(set, "FailedDaemonPod", text);
        }
        for text in plan.succeeded {
            self.recorder.normal(set, "SucceededDaemonPod", text);
        }
        let nodes = &plan.create[..plan.create.len().min(BURST)];
        let pod = |node: &String| placement::pod(set, node, hash);
        let (_, not_created) = pod_control::create(set, nodes, pod, &self.recorder, api).await;
        let victims = &plan.delete[..plan.delete.len().min(BURST)];
        let not_deleted = pod_control::delete(set, victims, &self.recorder, api).await;
        not_deleted.or(not_created)
    }
}
