//! Deletes Jobs some time after they have finished, if they ask for that.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use kube::api::PropagationPolicy;

use super::conditions::finished_since;
use crate::Config;
use crate::claims::uid;
use crate::runtime::{Cache, Key, Next, Queue, Reconcile, Runtime, Writer};

struct Controller {
    jobs: Arc<Cache<Job>>,
}

pub(crate) fn start(runtime: &mut Runtime, _config: &Config) {
    let jobs = runtime.cache::<Job>();
    let queue = Queue::default();
    let changed = queue.clone();
    jobs.on_change(move |_, new| {
        if let Some(job) = new.filter(|job| left(job, Timestamp::now()).is_some()) {
            changed.add(Key::of(&**job));
        }
    });
    runtime.work("ttl-after-finished-controller", queue, 5, Controller { jobs });
}

/// How long the Job is still to stay; None if it is not to be deleted.
fn left(job: &Job, now: Timestamp) -> Option<Duration> {
    let ttl = job.spec.as_ref()?.ttl_seconds_after_finished?;
    if job.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let left = finished_since(job)?.as_second() + i64::from(ttl) - now.as_second();
    Some(Duration::from_secs(u64::try_from(left).unwrap_or(0)))
}

impl Reconcile for Controller {
    async fn reconcile(&self, key: &Key, api: &Writer) -> anyhow::Result<Next> {
        let Some(left) = self.jobs.get(key).and_then(|job| left(&job, Timestamp::now())) else {
            return Ok(Next::Done);
        };
        if !left.is_zero() {
            return Ok(Next::After(left));
        }
        // The cache may not have seen that somebody wants to keep the Job longer.
        let fresh: Option<Job> = api.get(key).await?;
        let same = |job: &Job| self.jobs.get(key).is_some_and(|cached| uid(&*cached) == uid(job));
        if let Some(job) = fresh.filter(|job| same(job)) {
            match self::left(&job, Timestamp::now()) {
                Some(left) if left.is_zero() => {
                    api.delete(&job, Some(PropagationPolicy::Foreground)).await?;
                }
                Some(left) => return Ok(Next::After(left)),
                None => {}
            }
        }
        Ok(Next::Done)
    }
}
