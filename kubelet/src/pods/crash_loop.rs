//! Crash-loop back-off: how long a container that ended waits before it is started again.

use jiff::{SignedDuration, Timestamp};

/// Seconds of back-off: 10 s doubling to 5 min.
const DELAY: i64 = 10;
const DELAY_MAX: i64 = 300;
/// Seconds of good conduct after which a crash is the first again.
const FORGOTTEN_AFTER: i64 = 2 * DELAY_MAX;

/// The back-off of one container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CrashLoop {
    /// Restarts that made the back-off longer; unknown to a process that has not seen the container end.
    counted: Option<u32>,
    /// Seconds from an end to the next start.
    pub(crate) delay: i64,
    /// The moment before which the container is not started again.
    pub(crate) until: Option<Timestamp>,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct End {
    pub(crate) attempt: u32,
    pub(crate) started: Option<Timestamp>,
    pub(crate) finished: Timestamp,
    /// When the attempt before it ended, if that is known.
    pub(crate) before: Option<Timestamp>,
    /// A probe had it stopped.
    pub(crate) condemned: bool,
}

impl CrashLoop {
    /// Counts an end. As upstream's kubelet decides on the restart of what it stops while it still sees it run, the end
    /// that counts there is the one before: a container that a probe has stopped starts again at once if it has run for
    /// longer than its back-off, though each such restart makes that longer.
    pub(crate) fn ended(&mut self, end: End) {
        let ran = end.started.map_or(0, |at| end.finished.duration_since(at).as_secs());
        let counted = if ran >= FORGOTTEN_AFTER { 0 } else { self.counted.unwrap_or(end.attempt) };
        self.delay = delay(counted);
        let after = |at: Timestamp| at + SignedDuration::from_secs(self.delay);
        let seen = if end.condemned { end.before } else { Some(end.finished) };
        self.until =
            seen.map(after).map(|until| if until > end.finished { after(end.finished) } else { until });
        self.counted = Some(counted + u32::from(seen.is_some()));
    }
}

/// Seconds to wait after so many failures in a row: of a container, or to get its image.
pub(crate) fn delay(counted: u32) -> i64 {
    match counted.checked_sub(1) {
        Some(doubled) => (DELAY << doubled.min(8)).min(DELAY_MAX),
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// The seconds that pass between the ends of a container that runs this long each time and the starts that follow.
    fn waits(runs: &[i64], condemned: bool) -> Vec<i64> {
        let (mut crash, mut before, mut now) = (CrashLoop::default(), None, 0);
        let mut waits = Vec::new();
        for (attempt, ran) in (0..).zip(runs) {
            let (started, finished) = (Some(at(now)), at(now + ran));
            crash.ended(End { attempt, started, finished, before, condemned });
            let next = crash.until.map_or(finished, |until| until.max(finished));
            waits.push(next.duration_since(finished).as_secs());
            (before, now) = (Some(finished), next.as_second());
        }
        waits
    }

    #[test]
    fn back_off_doubles_from_ten_seconds_to_five_minutes_and_is_forgotten() {
        assert_eq!(waits(&[1; 8], false), [0, 10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(waits(&[1, 1, 599, 600, 1], false), [0, 10, 20, 0, 10]);
    }

    #[test]
    fn what_a_probe_stops_starts_at_once_while_its_runs_are_longer_than_its_back_off() {
        assert_eq!(waits(&[15; 7], true), [0, 0, 0, 20, 40, 80, 160]);
        assert_eq!(waits(&[1; 5], true), [0, 0, 10, 20, 40]);
        assert_eq!(waits(&[100; 8], true), [0, 0, 0, 0, 0, 0, 160, 300]);
    }

    #[test]
    fn another_process_presumes_a_restart_an_attempt() {
        for (attempt, ran, delay) in [(0, 1, 0), (1, 1, 10), (3, 1, 40), (5, 600, 0), (u32::MAX - 1, 1, 300)]
        {
            let mut crash = CrashLoop::default();
            let (started, finished) = (Some(at(0)), at(ran));
            crash.ended(End { attempt, started, finished, before: None, condemned: false });
            assert_eq!((crash.delay, crash.until), (delay, Some(at(ran + delay))), "attempt {attempt}");
        }
    }
}
