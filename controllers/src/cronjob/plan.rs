//! The decision about one CronJob: which run is due, and which Jobs of the past may go.

use std::sync::Arc;
use std::time::Duration;

use coracle_api::cron::Schedule;
use coracle_api::time::is_zone;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use super::schedule;
use crate::claims::{controller_ref, name, uid};
use crate::job::{is_complete, is_finished};

const SCHEDULED_AT: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// So many runs may be missed before somebody is told.
const MISSED: i64 = 100;

#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) status: CronJobStatus,
    pub(super) delete: Vec<Arc<Job>>,
    /// The Job to make, for this time.
    pub(super) create: Option<(Job, Timestamp)>,
    pub(super) events: Vec<Note>,
    pub(super) again: Option<Duration>,
}

#[derive(Debug, PartialEq)]
pub(super) struct Note {
    pub(super) warning: bool,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

pub(super) fn plan(cron: &CronJob, jobs: &[Arc<Job>], now: Timestamp) -> Plan {
    let mut plan = Plan { status: cron.status.clone().unwrap_or_default(), ..Plan::default() };
    let spec = &cron.spec;
    follow_jobs(&mut plan, jobs);
    trim_history(&mut plan, spec, jobs);
    if cron.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    let Some(zone) = zone(spec, &mut plan) else { return plan };
    if spec.suspend == Some(true) {
        return plan;
    }
    match Schedule::parse(&spec.schedule) {
        Ok(schedule) => start_due(cron, spec, jobs, &schedule, &zone, now, &mut plan),
        Err(error) => {
            let text = format!("unparseable schedule: {:?} : {error}", spec.schedule);
            plan.warn("UnparseableSchedule", text);
        }
    }
    plan
}

/// Brings the list of running Jobs up to date.
fn follow_jobs(plan: &mut Plan, jobs: &[Arc<Job>]) {
    let mut active = plan.status.active.take().unwrap_or_default();
    for job in jobs {
        let listed = active.iter().position(|r| r.uid.as_deref() == Some(uid(&**job)));
        match (listed, is_finished(job)) {
            (None, false) => {
                let name = name(&**job);
                let text = format!("Saw a job that the controller did not create or forgot: {name}");
                plan.warn("UnexpectedJob", text);
            }
            (Some(at), true) => {
                active.remove(at);
                let end = if is_complete(job) { "Complete" } else { "Failed" };
                let text = format!("Saw completed job: {}, condition: {end}", name(&**job));
                plan.note("SawCompletedJob", text);
            }
            _ => {}
        }
        let completed =
            job.status.as_ref().and_then(|s| s.completion_time.clone()).filter(|_| is_complete(job));
        if completed.as_ref().map(|t| t.0) > plan.status.last_successful_time.as_ref().map(|t| t.0) {
            plan.status.last_successful_time = completed;
        }
    }
    let known = |r: &ObjectReference| jobs.iter().any(|job| r.uid.as_deref() == Some(uid(&**job)));
    for gone in active.iter().filter(|r| !known(r)) {
        plan.note(
            "MissingJob",
            format!("Active job went missing: {}", gone.name.as_deref().unwrap_or_default()),
        );
    }
    active.retain(known);
    plan.status.active = Some(active).filter(|active| !active.is_empty());
}

/// The oldest finished Jobs beyond the limits.
fn trim_history(plan: &mut Plan, spec: &CronJobSpec, jobs: &[Arc<Job>]) {
    let limits = [
        (true, spec.successful_jobs_history_limit.unwrap_or(3)),
        (false, spec.failed_jobs_history_limit.unwrap_or(1)),
    ];
    for (complete, limit) in limits {
        let ended = jobs.iter().filter(|job| is_finished(job) && is_complete(job) == complete);
        let mut ended: Vec<_> = ended.filter(|j| j.metadata.deletion_timestamp.is_none()).cloned().collect();
        ended.sort_by_key(|job| {
            let started = job.status.as_ref().and_then(|s| s.start_time.clone()).map(|t| t.0);
            (started, job.metadata.name.clone())
        });
        let surplus = ended.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        plan.delete.extend(ended.into_iter().take(surplus));
    }
}

fn zone(spec: &CronJobSpec, plan: &mut Plan) -> Option<TimeZone> {
    let Some(name) = spec.time_zone.as_deref() else { return Some(TimeZone::system()) };
    let zone = is_zone(name).then(|| TimeZone::get(name).ok()).flatten();
    if zone.is_none() {
        plan.warn("UnknownTimeZone", format!("invalid timeZone: {name:?}: unknown time zone {name}"));
    }
    zone
}

fn start_due(
    cron: &CronJob,
    spec: &CronJobSpec,
    jobs: &[Arc<Job>],
    schedule: &Schedule,
    zone: &TimeZone,
    now: Timestamp,
    plan: &mut Plan,
) {
    // A moment later than the time itself, so that no rounding wakes us before it.
    let moment = Duration::from_millis(100);
    let next =
        schedule::next(schedule, now, zone).and_then(|at| Duration::try_from(at.duration_since(now)).ok());
    plan.again = next.map(|left| left + moment);
    if next.is_none() {
        // Right by its letters, and no day is like that: a 31st of February.
        let why = "time difference between two schedules is less than 1 second";
        return plan.warn("InvalidSchedule", format!("invalid schedule: {} : {why}", spec.schedule));
    }
    let Some(due) = due(cron, spec, schedule, zone, now, plan) else { return };
    let deadline = spec.starting_deadline_seconds.map(SignedDuration::from_secs);
    if deadline.is_some_and(|deadline| due + deadline < now) {
        let at = due.strftime("%a, %d %b %Y %H:%M:%S +0000");
        plan.warn("MissSchedule", format!("Missed scheduled time to start a job: {at}"));
        return;
    }
    let job_name = format!("{}-{}", name(cron), due.as_second() / 60);
    let active = plan.status.active.clone().unwrap_or_default();
    let listed = active.iter().any(|r| r.name.as_deref() == Some(&job_name));
    if listed || plan.status.last_schedule_time.as_ref().is_some_and(|last| last.0 == due) {
        return;
    }
    match spec.concurrency_policy.as_deref() {
        Some("Forbid") if !active.is_empty() => {
            let text = "Not starting job because prior execution is running and concurrency policy is Forbid";
            plan.note("JobAlreadyActive", text.to_owned());
            return;
        }
        Some("Replace") => {
            let running = |job: &&Arc<Job>| active.iter().any(|r| r.uid.as_deref() == Some(uid(&***job)));
            plan.delete.extend(jobs.iter().filter(running).cloned());
            plan.status.active = None;
        }
        _ => {}
    }
    plan.create = Some((job(cron, spec, job_name, due, zone), due));
}

/// The last time that has passed since the last run.
fn due(
    cron: &CronJob,
    spec: &CronJobSpec,
    schedule: &Schedule,
    zone: &TimeZone,
    now: Timestamp,
    plan: &mut Plan,
) -> Option<Timestamp> {
    let last = cron.status.as_ref().and_then(|s| s.last_schedule_time.as_ref());
    let mut since = last.or(cron.metadata.creation_timestamp.as_ref())?.0;
    if let Some(deadline) = spec.starting_deadline_seconds {
        since = since.max(now.checked_sub(SignedDuration::from_secs(deadline)).ok()?);
    }
    let first = schedule::next(schedule, since, zone).filter(|at| *at <= now)?;
    let Some(second) = schedule::next(schedule, first, zone).filter(|at| *at <= now) else {
        return Some(first);
    };
    let period = second.duration_since(first);
    if now.duration_since(first).as_secs() / period.as_secs().max(1) > MISSED {
        let text =
            "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
        plan.warn("TooManyMissedTimes", text.to_owned());
    }
    // Looks back from now over ever longer spans, rather than forward over all that was missed.
    let mut span = period;
    let mut found = loop {
        span = span.checked_mul(2)?;
        let from = now.checked_sub(span).map_or(second, |from| from.max(first));
        if from == first {
            break second;
        }
        if let Some(at) = schedule::next(schedule, from, zone).filter(|at| *at <= now) {
            break at;
        }
    };
    while let Some(later) = schedule::next(schedule, found, zone).filter(|at| *at <= now) {
        found = later;
    }
    Some(found)
}

fn job(cron: &CronJob, spec: &CronJobSpec, name: String, due: Timestamp, zone: &TimeZone) -> Job {
    let template = spec.job_template.clone();
    let of_template = template.metadata.unwrap_or_default();
    let mut annotations = of_template.annotations.unwrap_or_default();
    let zone = if spec.time_zone.is_some() { zone.clone() } else { TimeZone::UTC };
    let local = due.to_zoned(zone);
    let offset = if local.offset().is_zero() { "Z".to_owned() } else { local.strftime("%:z").to_string() };
    annotations.insert(SCHEDULED_AT.to_owned(), format!("{}{offset}", local.strftime("%Y-%m-%dT%H:%M:%S")));
    Job {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: cron.metadata.namespace.clone(),
            labels: of_template.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![controller_ref(cron)]),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    }
}

/// The status with a Job that has been made.
pub(super) fn started(mut status: CronJobStatus, job: &Job, due: Timestamp) -> CronJobStatus {
    status.active.get_or_insert_default().push(ObjectReference {
        api_version: Some("batch/v1".to_owned()),
        kind: Some("Job".to_owned()),
        name: job.metadata.name.clone(),
        namespace: job.metadata.namespace.clone(),
        uid: job.metadata.uid.clone(),
        resource_version: job.metadata.resource_version.clone(),
        field_path: None,
    });
    status.last_schedule_time = Some(Time(due));
    status
}

impl Plan {
    fn note(&mut self, reason: &'static str, message: String) {
        self.events.push(Note { warning: false, reason, message });
    }

    fn warn(&mut self, reason: &'static str, message: String) {
        self.events.push(Note { warning: true, reason, message });
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[allow(clippy::needless_pass_by_value, reason = "a literal reads best as the argument")]
    fn cron(spec: Value, status: Value) -> CronJob {
        let mut cron = json!({"metadata": {"name": "c", "namespace": "ns", "uid": "c", "creationTimestamp": "2026-01-01T00:00:30Z"},
            "spec": {"schedule": "*/5 * * * *", "timeZone": "UTC", "jobTemplate": {"spec": {"template": {}}}}, "status": status});
        for (key, value) in spec.as_object().unwrap() {
            cron["spec"][key] = value.clone();
        }
        serde_json::from_value(cron).unwrap()
    }

    fn old_job(name: &str, end: Option<&str>) -> Arc<Job> {
        let conditions: Vec<_> = end.iter().map(|end| json!({"type": end, "status": "True"})).collect();
        let job = json!({"metadata": {"name": name, "namespace": "ns", "uid": name},
            "status": {"conditions": conditions, "startTime": "2026-01-01T00:00:00Z", "completionTime": "2026-01-01T00:01:00Z"}});
        Arc::new(serde_json::from_value(job).unwrap())
    }

    fn run(cron: &CronJob, jobs: &[Arc<Job>], now: &str) -> Plan {
        plan(cron, jobs, now.parse().unwrap())
    }

    #[test]
    fn the_last_time_that_passed_is_run_once() {
        let early = run(&cron(json!({}), json!({})), &[], "2026-01-01T00:04:00Z");
        assert!(early.create.is_none());
        assert_eq!(early.again, Some(Duration::from_millis(60_100)));
        let (job, due) = run(&cron(json!({}), json!({})), &[], "2026-01-01T03:17:00Z").create.unwrap();
        assert_eq!(due.to_string(), "2026-01-01T03:15:00Z");
        assert_eq!(job.metadata.name.unwrap(), format!("c-{}", due.as_second() / 60));
        assert_eq!(job.metadata.annotations.unwrap()[SCHEDULED_AT], "2026-01-01T03:15:00Z");
        let done = cron(json!({}), json!({"lastScheduleTime": "2026-01-01T03:15:00Z"}));
        assert!(run(&done, &[], "2026-01-01T03:17:00Z").create.is_none());
        assert!(
            run(&cron(json!({"suspend": true}), json!({})), &[], "2026-01-01T03:17:00Z").create.is_none()
        );
    }

    #[test]
    fn concurrency_is_forbidden_or_replaces() {
        let active = json!({"active": [{"name": "a", "uid": "a"}]});
        let jobs = [old_job("a", None)];
        let now = "2026-01-01T00:06:00Z";
        let allowed = run(&cron(json!({}), active.clone()), &jobs, now);
        assert!(allowed.create.is_some() && allowed.delete.is_empty());
        let forbidden = run(&cron(json!({"concurrencyPolicy": "Forbid"}), active.clone()), &jobs, now);
        assert!(forbidden.create.is_none());
        assert_eq!(forbidden.events[0].reason, "JobAlreadyActive");
        let replaced = run(&cron(json!({"concurrencyPolicy": "Replace"}), active), &jobs, now);
        assert_eq!(
            (replaced.create.is_some(), replaced.delete.len(), replaced.status.active),
            (true, 1, None)
        );
    }

    #[test]
    fn finished_jobs_leave_the_list_and_old_ones_go() {
        let status = json!({"active": [{"name": "a", "uid": "a"}, {"name": "gone", "uid": "gone"}]});
        let jobs =
            [old_job("a", Some("Complete")), old_job("b", Some("Complete")), old_job("f", Some("Failed"))];
        let limits = json!({"successfulJobsHistoryLimit": 1, "suspend": true});
        let plan = run(&cron(limits, status), &jobs, "2026-01-01T00:06:00Z");
        assert_eq!(plan.status.active, None);
        assert_eq!(plan.status.last_successful_time.unwrap().0.to_string(), "2026-01-01T00:01:00Z");
        assert_eq!(plan.delete.iter().map(|j| name(&**j)).collect::<Vec<_>>(), ["a"]);
        assert_eq!(plan.events[0].message, "Saw completed job: a, condition: Complete");
        assert_eq!(plan.events[1].message, "Active job went missing: gone");
    }

    #[test]
    fn a_schedule_or_zone_that_cannot_be_is_told_once_and_starts_nothing() {
        let never =
            "invalid schedule: 59 23 31 2 * : time difference between two schedules is less than 1 second";
        let cases = [
            (json!({"schedule": "59 23 31 2 *"}), "InvalidSchedule", never),
            (json!({"schedule": ", * * * *"}), "InvalidSchedule", "invalid schedule: , * * * * : "),
            (
                json!({"schedule": "* * *"}),
                "UnparseableSchedule",
                "unparseable schedule: \"* * *\" : expected exactly 5",
            ),
            (
                json!({"timeZone": "europe/berlin"}),
                "UnknownTimeZone",
                "invalid timeZone: \"europe/berlin\": unknown",
            ),
        ];
        for (spec, reason, message) in cases {
            let plan = run(&cron(spec, json!({})), &[], "2026-01-01T03:17:00Z");
            assert_eq!(plan.events.iter().map(|e| e.reason).collect::<Vec<_>>(), [reason], "{message}");
            assert!(
                plan.events[0].warning && plan.events[0].message.starts_with(message),
                "{:?}",
                plan.events
            );
            assert!(plan.create.is_none() && plan.again.is_none(), "{reason}");
        }
    }

    #[test]
    fn a_deadline_forgets_what_is_too_long_ago() {
        let cron = cron(json!({"startingDeadlineSeconds": 60}), json!({}));
        assert!(run(&cron, &[], "2026-01-01T00:07:00Z").create.is_none());
        assert!(run(&cron, &[], "2026-01-01T00:05:59Z").create.is_some());
    }
}
