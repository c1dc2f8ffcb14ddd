//! Deployments: one ReplicaSet per pod template, and the way from the old ones to the new.
//!
//! `view` reads what is there, `scaling` decides the sizes, `revision` keeps the history, `status` reports. This file
//! applies their decisions in upstream's order: find or make the new ReplicaSet, change sizes, clean up, report.

mod revision;
mod scaling;
mod status;
mod view;

use std::sync::Arc;

use coracle_api::selector::typed as selector;
use coracle_client::errors::{is_exists, message_of, namespace_is_terminating};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PropagationPolicy;

use crate::Config;
use crate::claims::{self, controller_of, controller_ref, name, namespace, uid};
use crate::runtime::{Cache, Key, Next, Queue, Reconcile, Recorder, Runtime, Writer};
pub(crate) use revision::template_hash;
use status::Progress;
use view::View;
pub(crate) use view::resolve;

const COMPONENT: &str = "deployment-controller";

struct Controller {
    deployments: Arc<Cache<Deployment>>,
    sets: Arc<Cache<ReplicaSet>>,
    pods: Arc<Cache<Pod>>,
    recorder: Recorder,
}

pub(crate) fn start(runtime: &mut Runtime, _config: &Config) {
    let deployments = runtime.cache::<Deployment>();
    let (sets, pods) = (runtime.cache::<ReplicaSet>(), runtime.cache::<Pod>());
    let queue = Queue::default();
    deployments.queue_each(&queue);
    claims::notify_owners(&sets, &deployments, &queue, |d: &Deployment, labels| {
        selector::picks(d.spec.as_ref().map(|s| &s.selector), labels)
    });
    recreate_when_pods_are_gone(&pods, sets.clone(), deployments.clone(), queue.clone());
    let recorder = runtime.recorder(COMPONENT);
    runtime.work(COMPONENT, queue, 5, Controller { deployments, sets, pods, recorder });
}

/// A Recreate rollout goes on when the last old pod is gone, which the ReplicaSets do not tell.
fn recreate_when_pods_are_gone(
    pods: &Cache<Pod>,
    sets: Arc<Cache<ReplicaSet>>,
    deployments: Arc<Cache<Deployment>>,
    queue: Queue,
) {
    pods.on_change(move |old, new| {
        let (Some(old), None) = (old, new) else { return };
        let set = claims::owner_key::<ReplicaSet, _>(&**old).and_then(|key| sets.get(&key));
        let Some(key) = set.and_then(|set| claims::owner_key::<Deployment, _>(&*set)) else { return };
        if deployments.get(&key).is_some_and(|d| view::is_recreate(&d)) {
            queue.add(key);
        }
    });
}

impl Reconcile for Controller {
    async fn reconcile(&self, key: &Key, api: &Writer) -> anyhow::Result<Next> {
        let Some(deployment) = self.deployments.get(key) else { return Ok(Next::Done) };
        let mut deployment = (*deployment).clone();
        let Some(spec) = deployment.spec.clone() else { return Ok(Next::Done) };
        if selector::is_empty(&spec.selector) {
            let text = "This deployment is selecting all pods. A non-empty selector is required.";
            self.recorder.warning(&deployment, "SelectingAll", text);
            return self.observe_only(deployment, api).await;
        }
        let deleting = deployment.metadata.deletion_timestamp.is_some();
        let owned = self.sets.controlled_by(uid(&deployment));
        let claimed = claims::sort(owned, self.sets.orphans(&key.namespace), deleting, |labels| {
            selector::matches(&spec.selector, labels)
        });
        let sets = claimed.apply(&deployment, api).await?;
        let view = View::new(deployment.clone(), sets.iter().map(|s| (**s).clone()).collect());
        if deleting {
            return self.report(&view, Progress::Unchanged, api).await;
        }
        if let Some(conditions) = status::pause(&deployment, Timestamp::now()) {
            deployment.status.get_or_insert_default().conditions = Some(conditions);
            deployment = api.replace_status(&deployment).await?;
        }
        let view = View { deployment, ..view };
        if view.is_paused() || view.is_scaling() {
            self.resize(view, api).await
        } else if view.is_recreate() {
            self.recreate(view, api).await
        } else {
            self.roll(view, api).await
        }
    }
}

impl Controller {
    /// The number of replicas changed, or the rollout rests: sizes only, no new ReplicaSet.
    async fn resize(&self, view: View, api: &Writer) -> anyhow::Result<Next> {
        let mut view = self.keep_revisions(view, api).await?;
        let sizes = scaling::proportional(&view);
        self.scale(&mut view, &sizes, api).await?;
        if view.is_paused() {
            self.clean_up(&view, api).await?;
        }
        self.report(&view, Progress::Unchanged, api).await
    }

    async fn roll(&self, view: View, api: &Writer) -> anyhow::Result<Next> {
        let view = self.keep_revisions(view, api).await?;
        let Some(mut view) = self.ensure_new(view, api).await? else { return Ok(Next::Done) };
        let mut sizes = scaling::grow_new(&view);
        if sizes.is_empty() {
            sizes = scaling::shrink_old(&view);
        }
        let scaled = self.scale(&mut view, &sizes, api).await?;
        if !scaled && status::is_complete(&view.deployment, view.status()) {
            self.clean_up(&view, api).await?;
        }
        self.report(&view, Progress::Judged, api).await
    }

    async fn recreate(&self, view: View, api: &Writer) -> anyhow::Result<Next> {
        let mut view = self.keep_revisions(view, api).await?;
        let sizes = scaling::stop_old(&view);
        let scaled = self.scale(&mut view, &sizes, api).await?;
        if scaled || self.old_pods_run(&view) {
            return self.report(&view, Progress::Judged, api).await;
        }
        let Some(mut view) = self.ensure_new(view, api).await? else { return Ok(Next::Done) };
        let sizes = scaling::grow_new(&view);
        self.scale(&mut view, &sizes, api).await?;
        if status::is_complete(&view.deployment, view.status()) {
            self.clean_up(&view, api).await?;
        }
        self.report(&view, Progress::Judged, api).await
    }

    fn old_pods_run(&self, view: &View) -> bool {
        let running = |set: &ReplicaSet| {
            view::current(set) > 0
                || self.pods.controlled_by(uid(set)).iter().any(|p| !crate::pods::is_finished(p))
        };
        view.old.iter().any(running)
    }

    /// Brings the revision annotations of the new ReplicaSet, if it exists, and of the Deployment up to date.
    async fn keep_revisions(&self, mut view: View, api: &Writer) -> anyhow::Result<View> {
        let Some(new) = view.new.take() else { return Ok(view) };
        let wanted = revision::next(&view.old);
        let mut changed = new.clone();
        let noted = revision::annotate(&view.deployment, &mut changed, wanted, true);
        let min_ready = view.deployment.spec.as_ref().and_then(|s| s.min_ready_seconds);
        let spec = changed.spec.get_or_insert_default();
        let slower = spec.min_ready_seconds.unwrap_or(0) != min_ready.unwrap_or(0);
        spec.min_ready_seconds = min_ready;
        let new = if noted || slower { api.replace(&changed).await? } else { new };
        view.deployment = self.set_revision(view.deployment, &new, api).await?;
        if let Some(conditions) = status::found_new(&view.deployment, &new, Timestamp::now()) {
            view.deployment.status.get_or_insert_default().conditions = Some(conditions);
            view.deployment = api.replace_status(&view.deployment).await?;
        }
        view.new = Some(new);
        Ok(view)
    }

    async fn set_revision(
        &self,
        deployment: Deployment,
        new: &ReplicaSet,
        api: &Writer,
    ) -> anyhow::Result<Deployment> {
        let revision = revision::text(new);
        if revision.is_none() || revision == revision::text(&deployment) {
            return Ok(deployment);
        }
        let mut noted = deployment;
        let annotations = noted.metadata.annotations.get_or_insert_default();
        annotations.extend(revision.map(|revision| (revision::REVISION.to_owned(), revision.to_owned())));
        // Through the status first: there a new annotation does not count as a new generation.
        let written: Deployment = api.replace_status(&noted).await?;
        if revision::text(&written) == revision {
            return Ok(written);
        }
        noted.metadata.resource_version = written.metadata.resource_version;
        Ok(api.replace(&noted).await?)
    }

    /// Creates the ReplicaSet of the present template unless it exists. None: the name is taken by another template;
    /// the collision has been counted and the Deployment comes back.
    async fn ensure_new(&self, mut view: View, api: &Writer) -> anyhow::Result<Option<View>> {
        if view.new.is_some() {
            return Ok(Some(view));
        }
        let set = new_replica_set(&view);
        let created = match api.create(&set).await {
            Ok(created) => created,
            Err(error) if is_exists(&error) => {
                let Some(existing) = self.same_set(&view, &set, api).await? else {
                    self.count_collision(view.deployment, api).await?;
                    return Ok(None);
                };
                existing
            }
            Err(error) => return self.not_created(view.deployment, &set, error, api).await,
        };
        let size = view::desired(&created);
        if size > 0 {
            let text = format!("Scaled up replica set {} from 0 to {size}", name(&created));
            self.recorder.normal(&view.deployment, "ScalingReplicaSet", text);
        }
        view.deployment = self.set_revision(view.deployment, &created, api).await?;
        let conditions = status::created_new(&view.deployment, &created, Timestamp::now());
        if let Some(conditions) = conditions {
            view.deployment.status.get_or_insert_default().conditions = Some(conditions);
            view.deployment = api.replace_status(&view.deployment).await?;
        }
        view.new = Some(created);
        Ok(Some(view))
    }

    async fn same_set(
        &self,
        view: &View,
        wanted: &ReplicaSet,
        api: &Writer,
    ) -> anyhow::Result<Option<ReplicaSet>> {
        let existing: Option<ReplicaSet> = api.get(&Key::of(wanted)).await?;
        Ok(existing.filter(|set| {
            let ours = controller_of(set).is_some_and(|r| r.uid == uid(&view.deployment));
            ours && view.is_of_present_template(set)
        }))
    }

    async fn count_collision(&self, mut deployment: Deployment, api: &Writer) -> anyhow::Result<()> {
        let status = deployment.status.get_or_insert_default();
        status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
        api.replace_status(&deployment).await?;
        Ok(())
    }

    async fn not_created(
        &self,
        mut deployment: Deployment,
        set: &ReplicaSet,
        error: kube::Error,
        api: &Writer,
    ) -> anyhow::Result<Option<View>> {
        if namespace_is_terminating(&error) {
            return Ok(None);
        }
        let text = format!("Failed to create new replica set \"{}\": {}", name(set), message_of(&error));
        self.recorder.warning(&deployment, "ReplicaSetCreateError", text.clone());
        if let Some(conditions) = status::not_created(&deployment, text, Timestamp::now()) {
            deployment.status.get_or_insert_default().conditions = Some(conditions);
            api.replace_status(&deployment).await?;
        }
        Err(error.into())
    }

    /// Applies sizes; returns whether any size changed. Their annotations are kept up in passing.
    async fn scale(&self, view: &mut View, sizes: &[scaling::Size], api: &Writer) -> anyhow::Result<bool> {
        let mut scaled = false;
        for size in sizes {
            let deployment = view.deployment.clone();
            let Some(set) = view.find_mut(&size.set) else { continue };
            let before = view::desired(set);
            let noted = revision::note_sizes(&deployment, set);
            if before == size.replicas && !noted {
                continue;
            }
            set.spec.get_or_insert_default().replicas = Some(size.replicas);
            *set = api.replace(&*set).await?;
            if before != size.replicas {
                scaled = true;
                let direction = if before < size.replicas { "up" } else { "down" };
                let text = format!(
                    "Scaled {direction} replica set {} from {before} to {}",
                    name(set),
                    size.replicas
                );
                self.recorder.normal(&deployment, "ScalingReplicaSet", text);
            }
        }
        Ok(scaled)
    }

    async fn clean_up(&self, view: &View, api: &Writer) -> anyhow::Result<()> {
        for set in revision::surplus(view) {
            api.delete(set, Some(PropagationPolicy::Background)).await?;
        }
        Ok(())
    }

    async fn report(&self, view: &View, progress: Progress, api: &Writer) -> anyhow::Result<Next> {
        let now = Timestamp::now();
        let status = status::observe(view, progress, now);
        let next = match progress {
            Progress::Judged => status::deadline(&view.deployment, &status, now),
            Progress::Unchanged => None,
        };
        if *view.status() != status {
            let changed = Deployment { status: Some(status), ..view.deployment.clone() };
            api.replace_status(&changed).await?;
        }
        Ok(next.into())
    }

    async fn observe_only(&self, mut deployment: Deployment, api: &Writer) -> anyhow::Result<Next> {
        let generation = deployment.metadata.generation;
        let status = deployment.status.get_or_insert_default();
        if status.observed_generation.unwrap_or(0) < generation.unwrap_or(0) {
            status.observed_generation = generation;
            api.replace_status(&deployment).await?;
        }
        Ok(Next::Done)
    }
}

fn new_replica_set(view: &View) -> ReplicaSet {
    let deployment = &view.deployment;
    let spec = deployment.spec.clone().unwrap_or_default();
    let collisions = view.status().collision_count;
    let hash = revision::template_hash(&spec.template, collisions);
    let mut template = spec.template;
    let labelled = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    labelled.insert(coracle_api::names::LABEL_POD_TEMPLATE_HASH.to_owned(), hash.clone());
    let labels = labelled.clone();
    let mut selector = spec.selector;
    selector
        .match_labels
        .get_or_insert_default()
        .insert(coracle_api::names::LABEL_POD_TEMPLATE_HASH.to_owned(), hash.clone());
    let mut set = ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", name(deployment))),
            namespace: Some(namespace(deployment).to_owned()),
            owner_references: Some(vec![controller_ref(deployment)]),
            labels: Some(labels),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(scaling::first_size(view)),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(template),
        }),
        status: None,
    };
    revision::annotate(deployment, &mut set, revision::next(&view.old), false);
    set
}
