//! Liveness, readiness and startup probes: one task per probe of a running container.
//!
//! A task tries, counts against the probe's thresholds and tells the pod's worker; what follows is the worker's affair.

mod dial;
mod grpc;
mod handler;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod hostile;
pub(crate) mod http;
mod metrics;
#[cfg(test)]
mod socket_tests;
mod tasks;

use std::{net::IpAddr, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Probe};
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior},
};

use crate::runtime::Runtime;
pub(crate) use metrics::{METRICS, Subject};
pub(crate) use tasks::Probes;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Kind {
    Startup,
    Liveness,
    Readiness,
}

/// What one try gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Success,
    /// A success worth an event: a redirect to another host.
    Warning(String),
    Failure(String),
    /// The try itself could not be made; it counts neither way.
    Error(String),
}

/// News of one probe: an event to record, a threshold reached, or both.
#[derive(Clone, Debug)]
pub(crate) struct Verdict {
    pub(crate) container: String,
    pub(crate) id: String,
    pub(crate) kind: Kind,
    /// Reason and message of a warning.
    pub(crate) event: Option<(&'static str, String)>,
    /// The probe's new result.
    pub(crate) result: Option<bool>,
    pub(crate) grace: Option<i64>,
}

#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) runtime: Runtime,
    pub(crate) container: Container,
    pub(crate) id: String,
    pub(crate) ip: IpAddr,
    pub(crate) started: Timestamp,
    pub(crate) subject: Subject,
}

/// Consecutive equal outcomes, and the result last told.
#[derive(Debug, Default)]
struct Tally {
    last: Option<bool>,
    run: i32,
    told: Option<bool>,
}

// === impl Kind ===

impl Kind {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Kind::Startup => "Startup",
            Kind::Liveness => "Liveness",
            Kind::Readiness => "Readiness",
        }
    }
}

// === impl Tally ===

impl Tally {
    /// The new result, once as many outcomes in a row as the threshold asks for agree.
    fn count(&mut self, ok: bool, probe: &Probe) -> Option<bool> {
        self.run = if self.last == Some(ok) { self.run.saturating_add(1) } else { 1 };
        self.last = Some(ok);
        let threshold =
            if ok { probe.success_threshold.unwrap_or(1) } else { probe.failure_threshold.unwrap_or(3) };
        if self.run < threshold || self.told == Some(ok) {
            return None;
        }
        self.told = Some(ok);
        Some(ok)
    }
}

/// Reason and message of the event that a try deserves.
fn event(kind: Kind, outcome: &Outcome) -> Option<(&'static str, String)> {
    let word = kind.word();
    match outcome {
        Outcome::Success => None,
        Outcome::Warning(why) => Some(("ProbeWarning", format!("{word} probe warning: {why}"))),
        Outcome::Failure(why) => Some(("Unhealthy", format!("{word} probe failed: {why}"))),
        Outcome::Error(why) => {
            Some(("Unhealthy", format!("{word} probe errored and resulted in unknown state: {why}")))
        }
    }
}

/// Probes until the task is ended. Startup probes end with their result, liveness probes with a failure: what
/// follows is a new container.
async fn run(target: Target, kind: Kind, probe: Probe, verdicts: mpsc::Sender<Verdict>) {
    let seconds = |v: Option<i32>, default| v.filter(|s| *s > 0).map_or(default, |s| i64::from(s.max(1)));
    let whole = |s: i64| Duration::from_secs(s.unsigned_abs());
    let (period, limit) = (seconds(probe.period_seconds, 10), whole(seconds(probe.timeout_seconds, 1)));
    let age = Timestamp::now().duration_since(target.started).as_secs();
    tokio::time::sleep(first_try(age, seconds(probe.initial_delay_seconds, 0), period, &target.container))
        .await;
    let mut ticks = tokio::time::interval(whole(period));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut tally = Tally::default();
    let mut in_step = true;
    let mut patience = if kind == Kind::Liveness { Duration::ZERO } else { SETTLING };
    loop {
        ticks.tick().await;
        let attempt = || handler::attempt(&target, &probe, limit);
        let begun = Instant::now();
        let outcome = settle(std::mem::take(&mut patience), attempt).await;
        METRICS.count(&target.subject, kind, &outcome, begun.elapsed());
        if in_step && matches!(outcome, Outcome::Success) {
            in_step = false;
            ticks.reset_after(phase(whole(period)));
        }
        let result = match &outcome {
            Outcome::Success | Outcome::Warning(_) => tally.count(true, &probe),
            Outcome::Failure(_) => tally.count(false, &probe),
            Outcome::Error(_) => None,
        };
        let event = event(kind, &outcome);
        if event.is_some() || result.is_some() {
            let (container, id) = (target.container.name.clone(), target.id.clone());
            let grace = probe.termination_grace_period_seconds;
            if verdicts.send(Verdict { container, id, kind, event, result, grace }).await.is_err() {
                return;
            }
        }
        match (kind, result) {
            (Kind::Startup, Some(_)) | (Kind::Liveness, Some(false)) => return,
            (Kind::Startup | Kind::Liveness | Kind::Readiness, _) => {}
        }
    }
}

/// How long the first try of what pods wait for is made anew. It comes with the container's start, which most servers need
/// a moment from. (Upstream's kubelet hears of the start within a second, and probes again whenever it looks at a pod that
/// is not ready.)
const SETTLING: Duration = Duration::from_secs(1);

/// Tries until it succeeds or patience ends: the last try is what counts.
async fn settle<F: Future<Output = Outcome>>(patience: Duration, attempt: impl Fn() -> F) -> Outcome {
    let end = Instant::now() + patience;
    let mut pause = Duration::from_millis(25);
    loop {
        let outcome = attempt().await;
        let failed = matches!(outcome, Outcome::Failure(_) | Outcome::Error(_));
        if !failed || Instant::now() + pause > end {
            return outcome;
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
}

/// How long after its first success a container is probed again: pods that became ready one at the other's heels are not
/// to be probed in step for ever. Only after a success can two tries be less than a period apart, so that a threshold of
/// failures takes no less time than it says.
fn phase(period: Duration) -> Duration {
    period.mul_f64(rand::random::<f64>())
}

/// How long to wait before the first try. Containers found running by a new kubelet are not probed all at once.
fn first_try(age: i64, initial_delay: i64, period: i64, c: &Container) -> Duration {
    let delay = Duration::from_secs((initial_delay - age).max(0).unsigned_abs());
    let adopted = age > period && c.startup_probe.is_none();
    if adopted { delay + phase(Duration::from_secs(period.unsigned_abs())) } else { delay }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_count_consecutive_outcomes() {
        let probe = |success, failure| Probe {
            success_threshold: Some(success),
            failure_threshold: Some(failure),
            ..Probe::default()
        };
        // One letter a try: + succeeded, - failed. One letter a report: Y, N, or . for none.
        for (success, failure, tries, told) in [
            (1, 3, "+++", "Y.."),
            (1, 3, "--+---", "..Y..N"),
            (1, 3, "---+", "..NY"),
            (2, 1, "+-++", ".N.Y"),
            (3, 2, "++-+++--", ".....Y.N"),
        ] {
            let mut tally = Tally::default();
            let got: String = tries
                .chars()
                .map(|c| match tally.count(c == '+', &probe(success, failure)) {
                    Some(true) => 'Y',
                    Some(false) => 'N',
                    None => '.',
                })
                .collect();
            assert_eq!(got, told, "{success}/{failure} {tries}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_try_gives_a_server_a_second_to_come_up() {
        for (up_after, tries) in [(0, 1), (20, 2), (700, 6), (5000, 6)] {
            let (start, count) = (Instant::now(), std::cell::Cell::new(0));
            let attempt = async || {
                count.set(count.get() + 1);
                match start.elapsed().as_millis() >= up_after {
                    true => Outcome::Success,
                    false => Outcome::Failure(String::new()),
                }
            };
            let succeeded = settle(SETTLING, attempt).await == Outcome::Success;
            assert_eq!((succeeded, count.get()), (up_after < 1000, tries), "up after {up_after} ms");
            assert!(start.elapsed() < Duration::from_secs(1));
        }
    }

    #[test]
    fn events_are_in_upstream_words() {
        let text =
            |kind, outcome| event(kind, &outcome).map(|(reason, message)| format!("{reason}: {message}"));
        let failed = Outcome::Failure("HTTP probe failed with statuscode: 500".into());
        let want = "Unhealthy: Readiness probe failed: HTTP probe failed with statuscode: 500";
        assert_eq!(text(Kind::Readiness, failed).as_deref(), Some(want));
        let errored = Outcome::Error("port web not found".into());
        let want = "Unhealthy: Liveness probe errored and resulted in unknown state: port web not found";
        assert_eq!(text(Kind::Liveness, errored).as_deref(), Some(want));
        assert_eq!(text(Kind::Startup, Outcome::Success), None);
    }

    #[test]
    fn the_first_try_waits_for_the_initial_delay_counted_from_the_start() {
        let c = Container::default();
        assert_eq!(first_try(0, 15, 10, &c), Duration::from_secs(15));
        assert_eq!(first_try(5, 15, 10, &c), Duration::from_secs(10));
        assert!(first_try(3600, 15, 10, &c) < Duration::from_secs(10));
        let gated = Container { startup_probe: Some(Probe::default()), ..Container::default() };
        assert_eq!(
            first_try(3600, 15, 10, &gated),
            Duration::ZERO,
            "after the startup probe there is no wait"
        );
    }
}
