//! ReplicaSets and ReplicationControllers: keep so many pods of a template alive. One implementation; the two kinds
//! differ in where their fields stand.

mod kinds;
pub(crate) mod rank;
mod status;

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

pub(crate) use k8s_openapi::api::apps::v1::ReplicaSet;
pub(crate) use k8s_openapi::api::core::v1::ReplicationController;

use crate::Config;
use crate::claims::{self, controller_of, controller_ref, name, namespace, uid};
use crate::pod_control;
use crate::pods;
use crate::runtime::{Cache, Key, Next, Queue, Reconcile, Recorder, Runtime, Writer};
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
            let error = pod_control::delete(owner, &victims, &self.recorder, api).await?;
            Some(Failure { reason: "FailedDelete", error })
        } else {
            None
        }
    }

    async fn create(&self, owner: &R, missing: usize, api: &Writer) -> Option<kube::Error> {
        let template = owner.template()?;
        let pod = pods::from_template(template, namespace(owner), name(owner), controller_ref(owner));
        let places = vec![(); missing];
        pod_control::create(owner, &places, |_: &()| pod.clone(), &self.recorder, api).await.1
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
