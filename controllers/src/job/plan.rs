//! The decision about one Job: from what its pods and its status say to what is to be done.
//!
//! A pod that has ended is counted exactly once: it is first noted as uncounted in the status, then loses its
//! finalizer, and is added to the counters when the cache shows it without.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::conditions::{
    COMPLETE, FAILED, FAILURE_TARGET, SUCCESS_CRITERIA_MET, SUSPENDED, condition, set_condition,
};
use super::indexes::{self, Indexes};
use super::policy::{self, Verdict};
use super::{backoff, is_tracked};
use crate::claims::uid;
use crate::pods;
use crate::replicaset::rank;

/// Pods made or removed in one go.
const BURST: usize = 500;
/// Pods the status may hold as uncounted: their uids stay below 20 KB.
const UNCOUNTED: usize = 500;

#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) status: JobStatus,
    /// Pods to be deleted as a failure of the Job: they keep their finalizer until they are counted.
    pub(super) delete: Vec<Arc<Pod>>,
    /// Pods the Job itself no longer wants: their finalizer goes first, so that their end counts as no failure.
    pub(super) dismiss: Vec<Arc<Pod>>,
    pub(super) create: Vec<Slot>,
    /// Pods to lose their finalizer once the status is written.
    pub(super) untrack: Vec<Arc<Pod>>,
    pub(super) events: Vec<Note>,
    pub(super) again: Option<Duration>,
}

/// A pod to be made.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Slot {
    pub(super) index: Option<i32>,
    /// Failures of the index so far, counting and ignored, where they are limited per index.
    pub(super) failures: Option<(i32, i32)>,
}

#[derive(Debug, PartialEq)]
pub(super) struct Note {
    pub(super) warning: bool,
    pub(super) reason: String,
    pub(super) message: String,
}

/// How the Job is going to end.
struct Ending {
    success: bool,
    reason: String,
    message: String,
}

/// What is known of the Job while it is being judged.
struct View<'a> {
    job: &'a Job,
    spec: &'a JobSpec,
    pods: &'a [Arc<Pod>],
    active: Vec<Arc<Pod>>,
    succeeded: i32,
    failed: i32,
    /// Those in the status, and those the pods add to them.
    noted_indexes: Indexes,
    succeeded_indexes: Indexes,
    failed_indexes: Option<Indexes>,
    now: Timestamp,
}

pub(super) fn plan(job: &Job, pods: &[Arc<Pod>], now: Timestamp) -> Plan {
    let spec = job.spec.clone().unwrap_or_default();
    let view = View::new(job, &spec, pods, now);
    let mut plan = Plan { status: job.status.clone().unwrap_or_default(), ..Plan::default() };
    let suspended = spec.suspend == Some(true);
    if plan.status.start_time.is_none() && !suspended {
        plan.status.start_time = Some(Time(now));
    }
    plan.again = view.until_deadline(plan.status.start_time.as_ref());
    let mut ending = view.ending(plan.status.start_time.as_ref());
    if let Some(ending) = &ending {
        let doomed = if ending.success { &mut plan.dismiss } else { &mut plan.delete };
        doomed.clone_from(&view.active);
    } else {
        if job.metadata.deletion_timestamp.is_none() {
            view.manage(&mut plan);
        }
        let active = view.active.len() + plan.create.len() - plan.removed();
        ending = view.completion(active);
        if ending.is_none() && job.metadata.deletion_timestamp.is_none() {
            suspend_or_resume(&mut plan, suspended, now);
        }
    }
    view.count_pods(&mut plan);
    view.track(&mut plan, ending.as_ref());
    if let Some(ending) = ending {
        finish(job, &mut plan, &ending, now);
    }
    plan
}

impl<'a> View<'a> {
    fn new(job: &'a Job, spec: &'a JobSpec, pods: &'a [Arc<Pod>], now: Timestamp) -> Self {
        let status = job.status.clone().unwrap_or_default();
        let uncounted = status.uncounted_terminated_pods.unwrap_or_default();
        let (done, lost) = (uncounted.succeeded.unwrap_or_default(), uncounted.failed.unwrap_or_default());
        let new = |known: &[String], test: &dyn Fn(&Pod) -> bool| {
            let new = |p: &&Arc<Pod>| is_tracked(p) && !known.iter().any(|u| u == uid(&***p)) && test(p);
            number(pods.iter().filter(new).count())
        };
        let newly_done = new(&done, &|p| pods::phase(p) == "Succeeded");
        let newly_lost = new(&lost, &|p| is_failed(p, spec) && policy::judge(job, p) != Verdict::Ignored);
        let mut view = View {
            job,
            spec,
            pods,
            active: pods.iter().filter(pods::is_active).cloned().collect(),
            succeeded: status.succeeded.unwrap_or(0) + number(done.len()) + newly_done,
            failed: status.failed.unwrap_or(0) + number(lost.len()) + newly_lost,
            noted_indexes: Indexes::default(),
            succeeded_indexes: Indexes::default(),
            failed_indexes: None,
            now,
        };
        if is_indexed(spec) {
            let completions = spec.completions.unwrap_or(0);
            view.noted_indexes =
                indexes::parse(status.completed_indexes.as_deref().unwrap_or_default(), completions);
            view.succeeded_indexes = view.noted_indexes.clone();
            let done = pods.iter().filter(|p| is_tracked(p) && pods::phase(p) == "Succeeded");
            view.succeeded_indexes.extend(done.filter_map(|p| indexes::of(p, job)));
            view.succeeded = number(view.succeeded_indexes.len());
            view.failed_indexes = view.failed_indexes(status.failed_indexes.as_deref().unwrap_or_default());
        }
        view
    }

    fn failed_indexes(&self, noted: &str) -> Option<Indexes> {
        let limit = self.spec.backoff_limit_per_index?;
        let mut failed = indexes::parse(noted, self.spec.completions.unwrap_or(0));
        for pod in self.pods.iter().filter(|p| is_tracked(p) && is_failed(p, self.spec)) {
            let lost = match policy::judge(self.job, pod) {
                Verdict::FailsIndex => true,
                Verdict::Ignored => false,
                Verdict::Counts | Verdict::FailsJob(_) => indexes::failures(pod) >= limit,
            };
            failed.extend(indexes::of(pod, self.job).filter(|_| lost));
        }
        Some(failed)
    }

    /// Whether the Job is to end now for another reason than that all is done.
    fn ending(&self, start: Option<&Time>) -> Option<Ending> {
        if let Some(met) = condition(self.job, SUCCESS_CRITERIA_MET) {
            return Some(Ending::repeat(true, met));
        }
        if let Some(target) = condition(self.job, FAILURE_TARGET) {
            return Some(Ending::repeat(false, target));
        }
        let failure = |reason, message: &str| Some(Ending::new(false, reason, message));
        let lost = self.pods.iter().filter(|p| is_failed(p, self.spec));
        for verdict in lost.map(|p| policy::judge(self.job, p)) {
            if let Verdict::FailsJob(message) = verdict {
                return failure("PodFailurePolicy", &message);
            }
        }
        let all: Vec<&Pod> = self.pods.iter().map(AsRef::as_ref).collect();
        if self.failed > self.spec.backoff_limit.unwrap_or(6) || policy::too_many_restarts(self.job, &all) {
            return failure("BackoffLimitExceeded", "Job has reached the specified backoff limit");
        }
        if self.until_deadline(start).is_some_and(|left| left.is_zero()) {
            return failure("DeadlineExceeded", "Job was active longer than specified deadline");
        }
        if let Some(failed) = &self.failed_indexes {
            let most = self.spec.max_failed_indexes.and_then(|most| usize::try_from(most).ok());
            let all = usize::try_from(self.spec.completions.unwrap_or(0)).unwrap_or(0);
            if most.is_some_and(|most| failed.len() > most) {
                let text = "Job has exceeded the specified maximal number of failed indexes";
                return failure("MaxFailedIndexesExceeded", text);
            }
            if !failed.is_empty() && failed.len() + self.succeeded_indexes.len() >= all {
                return failure("FailedIndexes", "Job has failed indexes");
            }
        }
        let met = is_indexed(self.spec).then(|| policy::enough(self.job, &self.succeeded_indexes)).flatten();
        met.map(|message| Ending::new(true, "SuccessPolicy", &message))
    }

    fn completion(&self, active: usize) -> Option<Ending> {
        let complete = match self.spec.completions {
            None => self.succeeded > 0 && active == 0,
            Some(completions) => self.succeeded >= completions && active == 0,
        };
        complete.then(|| Ending::new(true, "CompletionsReached", "Reached expected number of succeeded pods"))
    }

    fn until_deadline(&self, start: Option<&Time>) -> Option<Duration> {
        if self.spec.suspend == Some(true) {
            return None;
        }
        let deadline = start?.0.as_second() + self.spec.active_deadline_seconds?;
        let left = deadline - self.now.as_second();
        Some(Duration::from_secs(u64::try_from(left).unwrap_or(0)))
    }

    /// Makes or removes pods until as many run as may.
    fn manage(&self, plan: &mut Plan) {
        if self.spec.suspend == Some(true) {
            plan.dismiss.clone_from(&self.active);
            return;
        }
        let active = self.active.len();
        let parallelism = self.spec.parallelism.unwrap_or(1);
        let wanted = match self.spec.completions {
            None if self.succeeded > 0 => active,
            None => count(parallelism),
            Some(completions) => count((completions - self.succeeded).min(parallelism)),
        };
        plan.dismiss = self.surplus(active.saturating_sub(wanted));
        plan.dismiss.truncate(BURST);
        if !plan.dismiss.is_empty() {
            return;
        }
        let occupied = active + if replaces_failed_only(self.spec) { self.terminating() } else { 0 };
        let missing = wanted.saturating_sub(occupied).min(BURST);
        if missing == 0 {
            return;
        }
        let per_index = policy::limits_per_index(self.job);
        let delay = if per_index { Duration::ZERO } else { backoff::of_all(self.pods, self.spec, self.now) };
        if !delay.is_zero() {
            plan.again = Some(plan.again.map_or(delay, |again| again.min(delay)));
            return;
        }
        if is_indexed(self.spec) {
            self.fill_indexes(plan, missing, per_index);
        } else {
            plan.create.resize_with(missing, Slot::default);
        }
    }

    /// Takes the lowest indexes that are free; those in back-off later.
    fn fill_indexes(&self, plan: &mut Plan, missing: usize, per_index: bool) {
        let mut taken: Indexes = self.active.iter().filter_map(|p| indexes::of(p, self.job)).collect();
        if replaces_failed_only(self.spec) {
            let going = self.pods.iter().filter(|p| pods::is_terminating(p) && !pods::is_finished(p));
            taken.extend(going.filter_map(|p| indexes::of(p, self.job)));
        }
        let free = |ix: &i32| {
            !taken.contains(ix)
                && !self.succeeded_indexes.contains(ix)
                && !self.failed_indexes.as_ref().is_some_and(|failed| failed.contains(ix))
        };
        for index in (0..self.spec.completions.unwrap_or(0)).filter(free).take(missing) {
            if !per_index {
                plan.create.push(Slot { index: Some(index), failures: None });
                continue;
            }
            let last = self.last_failed(index);
            let delay = last.map_or(Duration::ZERO, |pod| backoff::of_index(pod, self.now));
            if delay.is_zero() {
                let failures = last.map_or((0, 0), |pod| self.failures_after(pod));
                plan.create.push(Slot { index: Some(index), failures: Some(failures) });
            } else {
                plan.again = Some(plan.again.map_or(delay, |again| again.min(delay)));
            }
        }
    }

    fn failures_after(&self, failed: &Pod) -> (i32, i32) {
        let (counted, ignored) = (indexes::failures(failed), indexes::ignored_failures(failed));
        match policy::judge(self.job, failed) {
            Verdict::Ignored => (counted, ignored.saturating_add(1)),
            _ => (counted.saturating_add(1), ignored),
        }
    }

    /// The pod that holds the failure count of an index whose replacement is still to come.
    fn last_failed(&self, index: i32) -> Option<&Pod> {
        let lost = self.pods.iter().filter(|p| is_tracked(p) && is_failed(p, self.spec));
        let of_index = lost.filter(|p| indexes::of(p, self.job) == Some(index));
        of_index
            .max_by_key(|p| indexes::failures(p).saturating_add(indexes::ignored_failures(p)))
            .map(AsRef::as_ref)
    }

    /// The pods to remove: those of an index that another has or that is too high, then the least useful.
    fn surplus(&self, least: usize) -> Vec<Arc<Pod>> {
        let mut surplus = Vec::new();
        let mut left = Vec::new();
        if is_indexed(self.spec) {
            let mut seen = BTreeSet::new();
            let worst_first = rank::choose(self.active.clone(), &[], self.active.len(), self.now);
            for pod in worst_first.into_iter().rev() {
                let wanted = indexes::of(&pod, self.job).is_some_and(|index| seen.insert(index));
                if wanted { &mut left } else { &mut surplus }.push(pod);
            }
        } else {
            left.clone_from(&self.active);
        }
        let more = least.saturating_sub(surplus.len());
        surplus.extend(rank::choose(left, &[], more, self.now).into_iter().take(more));
        surplus
    }

    fn terminating(&self) -> usize {
        self.pods.iter().filter(|p| pods::is_terminating(p) && !pods::is_finished(p)).count()
    }

    fn count_pods(&self, plan: &mut Plan) {
        let goes = plan.delete.iter().chain(&plan.dismiss).map(|p| uid(&**p)).collect::<BTreeSet<_>>();
        let stays = |p: &&Arc<Pod>| !goes.contains(uid(&***p));
        let ready = self.active.iter().filter(stays).filter(pods::is_ready).count();
        plan.status.active = Some(number(self.active.len() + plan.create.len() - plan.removed()));
        plan.status.ready = Some(number(ready));
        plan.status.terminating = Some(number(self.terminating() + plan.removed()));
    }

    /// Moves ended pods one step on their way into the counters.
    fn track(&self, plan: &mut Plan, ending: Option<&Ending>) {
        let tracked: BTreeSet<&str> = self.pods.iter().filter(|p| is_tracked(p)).map(|p| uid(&**p)).collect();
        let status = &mut plan.status;
        let mut uncounted = status.uncounted_terminated_pods.take().unwrap_or_default();
        let (done, lost) =
            (uncounted.succeeded.get_or_insert_default(), uncounted.failed.get_or_insert_default());
        let more = |count: Option<i32>, n: i32| Some(count.unwrap_or(0).saturating_add(n));
        status.succeeded = more(status.succeeded, settle(done, &tracked));
        status.failed = more(status.failed, settle(lost, &tracked));
        let mut noted = self.noted_indexes.clone();
        let mut fresh = 0;
        let dismissed: BTreeSet<&str> = plan.dismiss.iter().map(|p| uid(&**p)).collect();
        for pod in self.pods.iter().filter(|p| is_tracked(p) && !dismissed.contains(uid(&***p))) {
            let failed = is_failed(pod, self.spec);
            if !self.may_untrack(pod, failed, ending) {
                continue;
            }
            if done.len() + lost.len() + fresh >= UNCOUNTED {
                break;
            }
            plan.untrack.push(pod.clone());
            let id = uid(&**pod);
            let indexed = is_indexed(self.spec);
            let index = indexes::of(pod, self.job);
            if pods::phase(pod) == "Succeeded" && !lost.iter().any(|u| u == id) {
                match index {
                    Some(index) if indexed => fresh += usize::from(noted.insert(index)),
                    _ if !indexed && !done.iter().any(|u| u == id) => done.push(id.to_owned()),
                    _ => {}
                }
            } else if (failed || ending.is_some_and(|e| !e.success))
                && (!indexed || index.is_some())
                && policy::judge(self.job, pod) != Verdict::Ignored
                && !lost.iter().any(|u| u == id)
            {
                lost.push(id.to_owned());
            }
        }
        uncounted.succeeded = uncounted.succeeded.filter(|uids| !uids.is_empty());
        uncounted.failed = uncounted.failed.filter(|uids| !uids.is_empty());
        status.uncounted_terminated_pods = Some(uncounted);
        if is_indexed(self.spec) {
            status.succeeded = Some(number(noted.len()));
            status.completed_indexes = Some(indexes::format(&noted)).filter(|text| !text.is_empty());
            status.failed_indexes = self.failed_indexes.as_ref().map(indexes::format);
        }
    }

    fn may_untrack(&self, pod: &Pod, failed: bool, ending: Option<&Ending>) -> bool {
        let over = self.job.metadata.deletion_timestamp.is_some() || ending.is_some();
        if over || pods::phase(pod) == "Succeeded" {
            return true;
        }
        failed && !self.holds_failure_count(pod)
    }

    /// With a limit per index a failed pod is kept until its replacement carries the count on.
    fn holds_failure_count(&self, pod: &Pod) -> bool {
        let Some(failed) = &self.failed_indexes else { return false };
        let Some(index) = indexes::of(pod, self.job) else { return false };
        let replaced = self.active.iter().any(|p| indexes::of(p, self.job) == Some(index));
        !replaced
            && !failed.contains(&index)
            && !self.succeeded_indexes.contains(&index)
            && self.last_failed(index).is_some_and(|last| uid(last) == uid(pod))
    }
}

/// Counts the uids whose pods are no longer held, and drops them.
fn settle(uids: &mut Vec<String>, tracked: &BTreeSet<&str>) -> i32 {
    let before = uids.len();
    uids.retain(|uid| tracked.contains(uid.as_str()));
    number(before - uids.len())
}

/// First the condition that says how it will end; when the last pod is gone and counted, the final one.
fn finish(job: &Job, plan: &mut Plan, ending: &Ending, now: Timestamp) {
    let (interim, last) =
        if ending.success { (SUCCESS_CRITERIA_MET, COMPLETE) } else { (FAILURE_TARGET, FAILED) };
    let status = &mut plan.status;
    if condition(job, interim).is_none() {
        set_condition(status, interim, "True", &ending.reason, &ending.message, now);
        return;
    }
    let waiting =
        status.uncounted_terminated_pods.iter().any(|u| u.succeeded.is_some() || u.failed.is_some());
    let alive = status.active.unwrap_or(0) > 0 || status.terminating.unwrap_or(0) > 0;
    if waiting || alive || !plan.untrack.is_empty() {
        return;
    }
    set_condition(status, last, "True", &ending.reason, &ending.message, now);
    plan.again = None;
    if ending.success {
        status.completion_time = Some(Time(now));
        plan.events.push(Note::normal("Completed", "Job completed"));
    } else {
        let (reason, message) = (ending.reason.clone(), ending.message.clone());
        plan.events.push(Note { warning: true, reason, message });
    }
}

fn suspend_or_resume(plan: &mut Plan, suspended: bool, now: Timestamp) {
    let known =
        plan.status.conditions.iter().flatten().find(|c| c.type_ == SUSPENDED).map(|c| c.status == "True");
    if suspended && known != Some(true) {
        set_condition(&mut plan.status, SUSPENDED, "True", "JobSuspended", "Job suspended", now);
        plan.status.start_time = None;
        plan.events.push(Note::normal("Suspended", "Job suspended"));
    } else if !suspended && known == Some(true) {
        set_condition(&mut plan.status, SUSPENDED, "False", "JobResumed", "Job resumed", now);
        plan.status.start_time = Some(Time(now));
        plan.events.push(Note::normal("Resumed", "Job resumed"));
    }
}

/// Terminating pods count as failed, unless they are to be replaced only when they really have.
pub(super) fn is_failed(pod: &Pod, spec: &JobSpec) -> bool {
    let phase = pods::phase(pod);
    phase == "Failed" || (!replaces_failed_only(spec) && pods::is_terminating(pod) && phase != "Succeeded")
}

fn replaces_failed_only(spec: &JobSpec) -> bool {
    spec.pod_replacement_policy.as_deref() == Some("Failed") || spec.pod_failure_policy.is_some()
}

pub(super) fn is_indexed(spec: &JobSpec) -> bool {
    spec.completion_mode.as_deref() == Some("Indexed")
}

fn number(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

fn count(number: i32) -> usize {
    usize::try_from(number).unwrap_or(0)
}

// === impl Plan ===

impl Plan {
    /// How many pods the plan ends.
    fn removed(&self) -> usize {
        self.delete.len() + self.dismiss.len()
    }
}

// === impl Ending ===

impl Ending {
    fn new(success: bool, reason: &str, message: &str) -> Self {
        Ending { success, reason: reason.to_owned(), message: message.to_owned() }
    }

    fn repeat(success: bool, condition: &JobCondition) -> Self {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        Ending { success, reason: text(&condition.reason), message: text(&condition.message) }
    }
}

// === impl Note ===

impl Note {
    fn normal(reason: &str, message: &str) -> Self {
        Note { warning: false, reason: reason.to_owned(), message: message.to_owned() }
    }
}
