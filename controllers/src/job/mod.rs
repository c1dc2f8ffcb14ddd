//! Runs pods of a Job until enough of them have succeeded or too many have failed.

mod backoff;
mod conditions;
mod indexes;
mod plan;
mod policy;
mod template;
#[cfg(test)]
mod tests;
mod ttl;

use std::sync::Arc;

use coracle_api::selector::{Labels, typed as selector};
use coracle_client::errors::{is_not_found, is_other_object};
use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use crate::Config;
use crate::claims::{self, controller_of, owner_key, uid};
use crate::pod_control;
use crate::runtime::{Cache, Key, Next, Queue, Reconcile, Recorder, Runtime, Writer};
pub(crate) use conditions::{is_complete, is_finished};
use plan::{Plan, Slot};
pub(crate) use ttl::start as start_ttl;

/// Holds a pod until it has been counted.
const FINALIZER: &str = "batch.kubernetes.io/job-tracking";

struct Controller {
    jobs: Arc<Cache<Job>>,
    pods: Arc<Cache<Pod>>,
    recorder: Recorder,
}

pub(crate) fn start(runtime: &mut Runtime, _config: &Config) {
    let (jobs, pods) = (runtime.cache::<Job>(), runtime.cache::<Pod>());
    let queue = Queue::default();
    jobs.queue_each(&queue);
    claims::notify_owners(&pods, &jobs, &queue, selects);
    let recorder = runtime.recorder("job-controller");
    runtime.work("job-controller", queue, 5, Controller { jobs: jobs.clone(), pods: pods.clone(), recorder });
    start_untracking(runtime, &jobs, &pods);
}

fn selects(job: &Job, labels: Option<&Labels>) -> bool {
    selector::picks(job.spec.as_ref().and_then(|s| s.selector.as_ref()), labels)
}

fn is_tracked(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().flatten().any(|f| f == FINALIZER)
}

fn is_managed_by_another(job: &Job) -> bool {
    let manager = job.spec.as_ref().and_then(|s| s.managed_by.as_deref());
    manager.is_some_and(|manager| manager != "kubernetes.io/job-controller")
}

impl Reconcile for Controller {
    async fn reconcile(&self, key: &Key, api: &Writer) -> anyhow::Result<Next> {
        let job = self.jobs.get(key).filter(|job| !is_managed_by_another(job) && !is_finished(job));
        let Some(job) = job else { return Ok(Next::Done) };
        let claimed = claims::sort(
            self.pods.controlled_by(uid(&*job)),
            self.pods.orphans(&key.namespace),
            job.metadata.deletion_timestamp.is_some(),
            |labels| selects(&job, labels),
        );
        let claimed = claimed.apply_holding(&*job, FINALIZER, api).await?;
        let plan = plan::plan(&job, &claimed, Timestamp::now());
        self.apply(&job, plan, api).await
    }
}

impl Controller {
    /// Pods first, then the status, and finalizers only when the status has noted their pods.
    async fn apply(&self, job: &Job, plan: Plan, api: &Writer) -> anyhow::Result<Next> {
        let mut status = plan.status;
        let freed = join_all(plan.dismiss.iter().map(|pod| untrack(pod, api))).await;
        freed.into_iter().collect::<Result<Vec<()>, _>>()?;
        for victims in [&plan.dismiss, &plan.delete] {
            if let Some(error) = pod_control::delete(job, victims, &self.recorder, api).await {
                return Err(error.into());
            }
        }
        let wanted = plan.create.len();
        let pod = |slot: &Slot| template::pod(job, slot);
        let (created, failure) = pod_control::create(job, &plan.create, pod, &self.recorder, api).await;
        let missing = i32::try_from(wanted - created).unwrap_or(0);
        status.active = status.active.map(|active| active - missing);
        if job.status.as_ref() != Some(&status) {
            api.replace_status(&Job { status: Some(status), ..job.clone() }).await?;
        }
        for event in plan.events {
            match event.warning {
                true => self.recorder.warning(job, &event.reason, event.message),
                false => self.recorder.normal(job, &event.reason, event.message),
            }
        }
        let untracked = join_all(plan.untrack.iter().map(|pod| untrack(pod, api))).await;
        untracked.into_iter().collect::<Result<Vec<()>, _>>()?;
        match failure {
            Some(error) => Err(error.into()),
            None => Ok(plan.again.into()),
        }
    }
}

/// Lets a pod go; that it is gone already, or another under its name, is as good. Only the one finalizer is touched,
/// in whatever version of the pod: a pod that has just been deleted or changed is let go as well.
async fn untrack(pod: &Pod, api: &Writer) -> Result<(), kube::Error> {
    if !is_tracked(pod) {
        return Ok(());
    }
    let patch =
        json!({"metadata": {"uid": pod.metadata.uid, "$deleteFromPrimitiveList/finalizers": [FINALIZER]}});
    match api.strategic::<Pod>(&Key::of(pod), patch).await {
        Ok(_) => Ok(()),
        Err(error) if is_not_found(&error) || is_other_object(&error) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Lets go of pods whose Job is no more, or no longer theirs.
struct Untracking {
    jobs: Arc<Cache<Job>>,
    pods: Arc<Cache<Pod>>,
}

fn start_untracking(runtime: &mut Runtime, jobs: &Arc<Cache<Job>>, pods: &Arc<Cache<Pod>>) {
    // Asked for again so that this worker waits for them too.
    runtime.cache::<Job>();
    runtime.cache::<Pod>();
    let queue = Queue::default();
    let (all, changed) = (jobs.clone(), queue.clone());
    pods.on_change(move |_, new| {
        if let Some(pod) = new.filter(|pod| is_stray(pod, &all)) {
            changed.add(Key::of(&**pod));
        }
    });
    let (all, changed) = (pods.clone(), queue.clone());
    jobs.on_change(move |old, new| {
        let Some(job) = old.or(new).filter(|_| new.is_none_or(|job| is_finished(job))) else { return };
        for pod in all.controlled_by(uid(&**job)).iter().filter(|p| is_tracked(p)) {
            changed.add(Key::of(&**pod));
        }
    });
    let reconciler = Untracking { jobs: jobs.clone(), pods: pods.clone() };
    runtime.work("job-controller-orphans", queue, 5, reconciler);
}

/// Tracked on behalf of no Job that still counts.
fn is_stray(pod: &Pod, jobs: &Cache<Job>) -> bool {
    if !is_tracked(pod) {
        return false;
    }
    let Some(key) = owner_key::<Job, Pod>(pod) else { return controller_of(pod).is_none() };
    let owner = controller_of(pod).map(|r| r.uid.as_str());
    match jobs.get(&key).filter(|job| job.metadata.uid.as_deref() == owner) {
        Some(job) => is_finished(&job) && !is_managed_by_another(&job),
        None => true,
    }
}

impl Reconcile for Untracking {
    async fn reconcile(&self, key: &Key, api: &Writer) -> anyhow::Result<Next> {
        if let Some(pod) = self.pods.get(key).filter(|pod| is_stray(pod, &self.jobs)) {
            untrack(&pod, api).await?;
        }
        Ok(Next::Done)
    }
}

/// A list of indexes is written and read again as the same, whatever a client has written.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn hostile_indexes(text: &str) {
    for limit in [3, 1000, i32::MAX] {
        let indexes = indexes::parse(text, limit);
        assert_eq!(indexes::parse(&indexes::format(&indexes), limit), indexes);
    }
}
