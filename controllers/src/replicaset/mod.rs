//! ReplicaSets and ReplicationControllers: keep so many pods of a template alive. One implementation; the two kinds
//! differ in where their fields stand.

mod kinds;
pub(crate) mod rank;
mod status;

use std::sync::Arc;

use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

pub(crate) use k8s_openapi::api::apps::v1::ReplicaSet;
pub(crate) use k8s_openapi::api::core::v1::ReplicationController;

use crate::Config;
use crate::claims::{self, controller_of, controller_ref, name, namespace, uid};
use crate::pods;
use crate::runtime::{Cache, Key, Next, Queue, Reconcile, Recorder, Runtime, Writer, reason_of};
use kinds::Replicas;

/// At most so many pods are created or deleted in one go.
const BURST: usize = 500;

struct Controller<R> {
    owners: Arc<Cache<R>>,
    pods: Arc<Cache<Pod>>,
    recorder: Recorder,
}

pub(crate) fn start<R: Replicas>(runtime: &mut Runtime, _config: &Config) {
    let (owners, pods) = (runtime.cache::<R>(), runtime.cache::<Pod>());
    let queue = Queue::default();
    owners.queue_each(&queue);
    claims::notify_owners(&pods, &owners, &queue, R::selects);
    let recorder = runtime.recorder(R::COMPONENT);
    runtime.work(R::COMPONENT, queue, 5, Controller { owners, pods, recorder });
}

impl<R: Replicas> Reconcile for Controller<R> {
    async fn reconcile(&self, key: &Key, api: &Writer) -> anyhow::Result<Next> {
        let Some(owner) = self.owners.get(key) else { return Ok(Next::Done) };
        let deleting = owner.meta().deletion_timestamp.is_some();
        let claimed = claims::sort(
            self.pods.controlled_by(uid(&*owner)),
            self.pods.orphans(&key.namespace),
            deleting,
            |labels| owner.selects(labels),
        );
        let claimed = claimed.apply(&*owner, api).await?;
        let now = Timestamp::now();
        let active: Vec<_> = claimed.iter().filter(pods::is_active).cloned().collect();
        let terminating = claimed.iter().filter(|p| pods::is_terminating(p) && !pods::is_finished(p)).count();
        let failed = if deleting { None } else { self.scale(&owner, &active, now, api).await };
        let status = status::observe(&*owner, &active, terminating, failed.as_ref(), now);
        if let Some(changed) = owner.with_status(&status) {
            api.replace_status(&changed).await?;
        }
        match failed {
            Some(failure) => Err(failure.error.into()),
            None => Ok(status::next_check(&*owner, &active, now).into()),
        }
    }
}

/// Why pods could not be made or removed.
struct Failure {
    reason: &'static str,
    error: kube::Error,
}

impl<R: Replicas> Controller<R> {
    /// Creates what is missing or deletes what is too much.
    async fn scale(&self, owner: &R, active: &[Arc<Pod>], now: Timestamp, api: &Writer) -> Option<Failure> {
        let wanted = usize::try_from(owner.replicas()).unwrap_or(0);
        if active.len() < wanted {
            let error = self.create(owner, (wanted - active.len()).min(BURST), api).await?;
            Some(Failure { reason: "FailedCreate", error })
        } else if active.len() > wanted {
            let surplus = (active.len() - wanted).min(BURST);
            let victims = rank::choose(active.to_vec(), &self.related(owner), surplus, now);
            let error = self.delete(owner, &victims, api).await?;
            Some(Failure { reason: "FailedDelete", error })
        } else {
            None
        }
    }

    /// Slow start: 1, 2, 4 ... at a time, so that a quota that is full is asked once and not 500 times.
    async fn create(&self, owner: &R, mut missing: usize, api: &Writer) -> Option<kube::Error> {
        let template = owner.template()?;
        let pod = pods::from_template(template, namespace(owner), name(owner), controller_ref(owner));
        let mut batch = 1;
        while missing > 0 {
            let size = batch.min(missing);
            let results = join_all((0..size).map(|_| api.create(&pod))).await;
            let mut failure = None;
            for result in results {
                match result {
                    Ok(pod) => {
                        self.recorder.normal(
                            owner,
                            "SuccessfulCreate",
                            format!("Created pod: {}", name(&pod)),
                        );
                    }
                    Err(error) => failure = Some(error),
                }
            }
            if let Some(error) = failure {
                return self.not_created(owner, error);
            }
            missing -= size;
            batch *= 2;
        }
        None
    }

    /// A namespace that is going away refuses new pods: that is no failure of ours.
    fn not_created(&self, owner: &R, error: kube::Error) -> Option<kube::Error> {
        if let kube::Error::Api(status) = &error {
            if crate::replicaset::namespace_is_terminating(status) {
                return None;
            }
            self.recorder.warning(owner, "FailedCreate", format!("Error creating: {}", status.message));
        }
        Some(error)
    }

    async fn delete(&self, owner: &R, victims: &[Arc<Pod>], api: &Writer) -> Option<kube::Error> {
        let results = join_all(victims.iter().map(|pod| api.delete(&**pod, None))).await;
        let mut failure = None;
        for (pod, result) in victims.iter().zip(results) {
            match result {
                Ok(true) => {
                    self.recorder.normal(owner, "SuccessfulDelete", format!("Deleted pod: {}", name(&**pod)));
                }
                Ok(false) => {}
                Err(error) => {
                    let text = crate::replicaset::message_of(&error);
                    self.recorder.warning(owner, "FailedDelete", format!("Error deleting: {text}"));
                    failure = Some(error);
                }
            }
        }
        failure
    }

    /// The pods of all owners under the same controller: two pods of one Deployment on one node are one too many.
    fn related(&self, owner: &R) -> Vec<Arc<Pod>> {
        let siblings = match controller_of(owner) {
            Some(controller) => self.owners.controlled_by(&controller.uid),
            None => return self.pods.controlled_by(uid(owner)),
        };
        siblings.iter().flat_map(|sibling| self.pods.controlled_by(uid(&**sibling))).collect()
    }
}

pub(crate) fn namespace_is_terminating(status: &kube::core::Status) -> bool {
    let causes = status.details.iter().flat_map(|d| &d.causes);
    causes.into_iter().any(|cause| cause.reason == "NamespaceTerminating")
}

/// What the API server said, without our client's words around it.
pub(crate) fn message_of(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if !reason_of(error).is_empty() => status.message.clone(),
        other => other.to_string(),
    }
}
