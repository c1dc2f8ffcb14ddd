//! Runs the pods of a StatefulSet, each under its own name and with its own claims.

mod identity;
mod plan;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use coracle_api::selector::{Labels, typed as selector};
use coracle_client::errors::{is_exists, message_of, namespace_is_terminating};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use serde_json::json;

use crate::Config;
use crate::claims::{self, name, uid};
use crate::revisions;
use crate::runtime::{Cache, Key, Next, Queue, Reconcile, Recorder, Runtime, Writer};
use plan::{Action, Revision, View};

struct Controller {
    sets: Arc<Cache<StatefulSet>>,
    pods: Arc<Cache<Pod>>,
    claims: Arc<Cache<PersistentVolumeClaim>>,
    history: Arc<Cache<ControllerRevision>>,
    recorder: Recorder,
}

pub(crate) fn start(runtime: &mut Runtime, _config: &Config) {
    let (sets, pods) = (runtime.cache::<StatefulSet>(), runtime.cache::<Pod>());
    let (claims, history) = (runtime.cache::<PersistentVolumeClaim>(), runtime.cache::<ControllerRevision>());
    let queue = Queue::default();
    sets.queue_each(&queue);
    claims::notify_owners(&pods, &sets, &queue, selects);
    claims::notify_owners(&history, &sets, &queue, selects);
    let recorder = runtime.recorder("statefulset-controller");
    runtime.work("statefulset-controller", queue, 5, Controller { sets, pods, claims, history, recorder });
}

fn selects(set: &StatefulSet, labels: Option<&Labels>) -> bool {
    selector::picks(set.spec.as_ref().map(|s| &s.selector), labels)
}

impl Reconcile for Controller {
    async fn reconcile(&self, key: &Key, api: &Writer) -> anyhow::Result<Next> {
        let Some(set) = self.sets.get(key) else { return Ok(Next::Done) };
        let Some(spec) = &set.spec else { return Ok(Next::Done) };
        let deleting = set.metadata.deletion_timestamp.is_some();
        let matches = |labels: Option<&Labels>| selects(&set, labels);
        let owned = self.history.controlled_by(uid(&*set));
        let history = claims::sort(owned, self.history.orphans(&key.namespace), deleting, matches);
        let history = history.apply(&*set, api).await?;
        let mut orphans = self.pods.orphans(&key.namespace);
        orphans.retain(|pod| identity::ordinal(&set, pod).is_some());
        let claimed = claims::sort(self.pods.controlled_by(uid(&*set)), orphans, deleting, matches);
        let claimed = claimed.apply(&*set, api).await?;
        let collisions = set.status.as_ref().and_then(|s| s.collision_count);
        let history =
            revisions::record(&*set, &spec.template, collisions, history, revisions::HASH, api).await?;
        let update = revision(&history.update);
        let current = set.status.as_ref().and_then(|s| s.current_revision.as_deref());
        let current = history.all.iter().find(|r| Some(name(&***r)) == current).unwrap_or(&history.update);
        let current = revision(current);
        let now = Timestamp::now();
        let view = View { set: &set, spec, pods: &claimed, current: &current, update: &update, now };
        let done = self.apply(&set, view.plan(), api).await;
        let status = view.status(history.collisions);
        if set.status.as_ref() != Some(&status) {
            api.replace_status(&StatefulSet { status: Some(status), ..(*set).clone() }).await?;
        }
        done?;
        let used = revisions::in_use(claimed.iter());
        let live = [current.name.as_str(), update.name.as_str()];
        let in_use = |r: &ControllerRevision| live.contains(&name(r)) || used.contains(name(r));
        for revision in revisions::surplus(&history.all, spec.revision_history_limit, in_use) {
            api.delete(&**revision, None).await?;
        }
        Ok(view.next_check().into())
    }
}

fn revision(revision: &ControllerRevision) -> Revision {
    let template = revisions::template_of(revision).unwrap_or_default();
    Revision { name: name(revision).to_owned(), template }
}

impl Controller {
    async fn apply(&self, set: &StatefulSet, actions: Vec<Action>, api: &Writer) -> anyhow::Result<()> {
        for action in actions {
            match action {
                Action::Create(ordinal, pod) => {
                    let stale =
                        |claim: &Arc<PersistentVolumeClaim>| claim.metadata.deletion_timestamp.is_some();
                    if let Some(claim) = self.present_claims(set, ordinal).find(stale) {
                        anyhow::bail!("claim {} of the pod before is still being deleted", name(&*claim));
                    }
                    self.create_claims(set, ordinal, name(&*pod), api).await?;
                    self.create_pod(set, &pod, api).await?;
                }
                Action::CreateClaims(ordinal) => {
                    let pod = format!("{}-{ordinal}", name(set));
                    self.create_claims(set, ordinal, &pod, api).await?;
                }
                Action::Restore(ordinal, pod) => self.restore(set, ordinal, &pod, api).await?,
                Action::Delete(pod) => {
                    let result = api.delete(&*pod, None).await.map(drop);
                    self.report(set, "delete", name(&*pod), result)?;
                }
            }
        }
        Ok(())
    }

    async fn create_pod(&self, set: &StatefulSet, pod: &Pod, api: &Writer) -> anyhow::Result<()> {
        match api.create(pod).await {
            // The pod is there, but not ours or not yet in the cache.
            Err(error) if is_exists(&error) => Err(error.into()),
            Err(error) if namespace_is_terminating(&error) => Ok(()),
            result => self.report(set, "create", name(pod), result.map(drop)),
        }
    }

    fn report(
        &self,
        set: &StatefulSet,
        verb: &str,
        pod: &str,
        result: Result<(), kube::Error>,
    ) -> anyhow::Result<()> {
        let what = format!("{verb} Pod {pod} in StatefulSet {}", name(set));
        let title = if verb == "create" { "Create" } else { "Delete" };
        match result {
            Ok(()) => {
                self.recorder.normal(set, &format!("Successful{title}"), format!("{what} successful"));
                Ok(())
            }
            Err(error) => {
                let text = format!("{what} failed error: {}", message_of(&error));
                self.recorder.warning(set, &format!("Failed{title}"), text);
                Err(error.into())
            }
        }
    }

    fn present_claims(
        &self,
        set: &StatefulSet,
        ordinal: i32,
    ) -> impl Iterator<Item = Arc<PersistentVolumeClaim>> {
        let claims = identity::claims(set, ordinal).into_iter();
        claims.filter_map(|(_, claim)| self.claims.get(&Key::of(&claim)))
    }

    async fn create_claims(
        &self,
        set: &StatefulSet,
        ordinal: i32,
        pod: &str,
        api: &Writer,
    ) -> anyhow::Result<()> {
        for (_, claim) in identity::claims(set, ordinal) {
            if self.claims.get(&Key::of(&claim)).is_some() {
                continue;
            }
            let what = format!("Claim {} Pod {pod} in StatefulSet {}", name(&claim), name(set));
            match api.create(&claim).await {
                Ok(_) => {
                    self.recorder.normal(set, "SuccessfulCreate", format!("create {what} success"));
                }
                Err(error) if is_exists(&error) => {}
                Err(error) => {
                    let what = what.replacen(" Pod ", " for Pod ", 1);
                    let text = format!("create {what} failed error: {}", message_of(&error));
                    self.recorder.warning(set, "FailedCreate", text);
                    return Err(error.into());
                }
            }
        }
        Ok(())
    }

    async fn restore(&self, set: &StatefulSet, ordinal: i32, pod: &Pod, api: &Writer) -> anyhow::Result<()> {
        let missing = identity::missing_identity(pod, ordinal);
        if !missing.is_empty() {
            let patch = json!({"metadata": {"uid": pod.metadata.uid, "labels": missing}});
            api.merge::<Pod>(&Key::of(pod), patch).await?;
        }
        for claim in self.present_claims(set, ordinal) {
            if let Some(owners) = identity::claim_owners(set, pod, ordinal, &claim) {
                // An update, as upstream's role for this controller allows no patch.
                let mut claim = (*claim).clone();
                claim.metadata.owner_references = Some(owners);
                api.replace(&claim).await?;
            }
        }
        Ok(())
    }
}
