//! Starts Jobs when their CronJob's schedule says so.

mod plan;
mod schedule;

use std::sync::Arc;

use coracle_client::errors::{is_exists, message_of, namespace_is_terminating};
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus, Job};
use kube::api::PropagationPolicy;

use crate::Config;
use crate::claims::{controller_of, name, owner_key, uid};
use crate::runtime::{Cache, Key, Next, Queue, Reconcile, Recorder, Runtime, Writer};

struct Controller {
    crons: Arc<Cache<CronJob>>,
    jobs: Arc<Cache<Job>>,
    recorder: Recorder,
}

pub(crate) fn start(runtime: &mut Runtime, _config: &Config) {
    let (crons, jobs) = (runtime.cache::<CronJob>(), runtime.cache::<Job>());
    let queue = Queue::default();
    crons.queue_each(&queue);
    let changed = queue.clone();
    jobs.on_change(move |old, new| {
        for key in [old, new].into_iter().flatten().filter_map(|job| owner_key::<CronJob, Job>(job)) {
            changed.add(key);
        }
    });
    let recorder = runtime.recorder("cronjob-controller");
    runtime.work("cronjob-controller", queue, 5, Controller { crons, jobs, recorder });
}

impl Reconcile for Controller {
    async fn reconcile(&self, key: &Key, api: &Writer) -> anyhow::Result<Next> {
        let Some(cron) = self.crons.get(key) else { return Ok(Next::Done) };
        let plan = plan::plan(&cron, &self.jobs.controlled_by(uid(&*cron)), Timestamp::now());
        for event in plan.events {
            match event.warning {
                true => self.recorder.warning(&*cron, event.reason, event.message),
                false => self.recorder.normal(&*cron, event.reason, event.message),
            }
        }
        for job in &plan.delete {
            self.delete(&cron, job, api).await?;
        }
        let mut status = plan.status;
        if let Some((job, due)) = plan.create {
            status = self.create(&cron, &job, due, status, api).await?;
        }
        if cron.status.as_ref() != Some(&status) {
            api.replace_status(&CronJob { status: Some(status), ..(*cron).clone() }).await?;
        }
        Ok(plan.again.into())
    }
}

impl Controller {
    async fn delete(&self, cron: &CronJob, job: &Job, api: &Writer) -> anyhow::Result<()> {
        match api.delete(job, Some(PropagationPolicy::Background)).await {
            Ok(true) => {
                self.recorder.normal(cron, "SuccessfulDelete", format!("Deleted job {}", name(job)));
                Ok(())
            }
            Ok(false) => Ok(()),
            Err(error) => {
                self.recorder.warning(cron, "FailedDelete", format!("Deleted job: {}", message_of(&error)));
                Err(error.into())
            }
        }
    }

    /// The name says the time, so that one time is never run twice.
    async fn create(
        &self,
        cron: &CronJob,
        job: &Job,
        due: Timestamp,
        status: CronJobStatus,
        api: &Writer,
    ) -> anyhow::Result<CronJobStatus> {
        match api.create(job).await {
            Ok(created) => {
                self.recorder.normal(cron, "SuccessfulCreate", format!("Created job {}", name(&created)));
                Ok(plan::started(status, &created, due))
            }
            Err(error) if is_exists(&error) => {
                let existing = api.get::<Job>(&Key::of(job)).await?;
                let ours = existing.filter(|j| controller_of(j).is_some_and(|r| r.uid == uid(cron)));
                Ok(ours.map_or(status.clone(), |job| plan::started(status, &job, due)))
            }
            Err(error) if namespace_is_terminating(&error) => Ok(status),
            Err(error) => {
                let text = format!("Error creating job: {}", message_of(&error));
                self.recorder.warning(cron, "FailedCreate", text);
                Err(error.into())
            }
        }
    }
}

/// A schedule comes due after the time that is asked about, or never.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn hostile_schedule(text: &str) {
    use coracle_api::cron::Schedule;
    use jiff::{Timestamp, tz::TimeZone};
    let Ok(read) = Schedule::parse(text) else { return };
    for after in [Timestamp::UNIX_EPOCH, Timestamp::MAX] {
        let due = schedule::next(&read, after, &TimeZone::UTC);
        assert!(due.is_none_or(|due| due > after), "{text:?}");
    }
}
