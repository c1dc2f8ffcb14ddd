//! The time of day, which certificates are about: it can be set while the program runs.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use jiff::Timestamp;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

/// Where the time comes from, and how to wait for a time of day.
pub trait Clock: fmt::Debug + Send + Sync {
    fn now(&self) -> Timestamp;

    /// Ends when it is `at`, or when the clock has been set meanwhile: who waits has to look again.
    fn until(&self, at: Timestamp) -> BoxFuture<'_, ()>;
}

/// The machine's clock.
#[derive(Debug)]
pub struct SystemClock;

/// A clock that shows what it is told, for tests.
#[derive(Debug)]
pub struct SetClock {
    time: watch::Sender<Told>,
    /// How many wait since it was last told.
    waiting: watch::Sender<usize>,
}

#[derive(Clone, Copy, Debug)]
struct Told {
    now: Timestamp,
    /// How often it was set, rather than moved on.
    set: u64,
}

/// What TLS takes the time from.
#[derive(Debug)]
pub(crate) struct TlsTime(pub(crate) Arc<dyn Clock>);

/// A timer as the reactor takes it.
struct Alarm(TimerFd);

// === impl SystemClock ===

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn until(&self, at: Timestamp) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            if let Err(error) = alarm(at).await {
                tracing::warn!(%error, "no timer tells when the clock is set");
                let left = Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default();
                tokio::time::sleep(left.min(Duration::from_secs(60))).await;
            }
        })
    }
}

/// The kernel's timer of the time of day, which also fires when that is set.
async fn alarm(at: Timestamp) -> io::Result<()> {
    let timer = TimerFd::new(ClockId::CLOCK_REALTIME, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
    // Zero would mean never.
    let at = TimeSpec::from_duration(Duration::from_secs(u64::try_from(at.as_second()).unwrap_or(0).max(1)));
    let flags = TimerSetTimeFlags::TFD_TIMER_ABSTIME | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET;
    timer.set(Expiration::OneShot(at), flags)?;
    #[allow(deprecated, reason = "the alarm owns its descriptor, which is the same until it is dropped")]
    let alarm = AsyncFd::new(Alarm(timer))?;
    alarm.readable().await?.retain_ready();
    Ok(())
}

impl AsRawFd for Alarm {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

// === impl SetClock ===

impl SetClock {
    pub fn new(now: Timestamp) -> Arc<Self> {
        let time = watch::Sender::new(Told { now, set: 0 });
        Arc::new(SetClock { time, waiting: watch::Sender::new(0) })
    }

    /// Time goes by until this.
    pub fn pass_to(&self, now: Timestamp) {
        self.waiting.send_replace(0);
        self.time.send_modify(|told| told.now = now);
    }

    /// Somebody sets the clock.
    pub fn set(&self, now: Timestamp) {
        self.waiting.send_replace(0);
        self.time.send_modify(|told| *told = Told { now, set: told.set + 1 });
    }

    /// Ends when so many wait that have seen what it was last told.
    pub async fn waited_for_by(&self, many: usize) {
        // The sender lives as long as the clock does.
        let _ = self.waiting.subscribe().wait_for(|waiting| *waiting >= many).await;
    }
}

impl Clock for SetClock {
    fn now(&self) -> Timestamp {
        self.time.borrow().now
    }

    fn until(&self, at: Timestamp) -> BoxFuture<'_, ()> {
        let mut time = self.time.subscribe();
        let set = time.borrow().set;
        Box::pin(async move {
            loop {
                let told = *time.borrow_and_update();
                if told.now >= at || told.set != set {
                    return;
                }
                self.waiting.send_modify(|waiting| *waiting += 1);
                if time.changed().await.is_err() {
                    return;
                }
            }
        })
    }
}

// === impl TlsTime ===

impl TimeProvider for TlsTime {
    fn current_time(&self) -> Option<UnixTime> {
        let second = u64::try_from(self.0.now().as_second()).ok()?;
        Some(UnixTime::since_unix_epoch(Duration::from_secs(second)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_machines_clock_wakes_at_a_time_of_day() {
        let now = Timestamp::now();
        for at in [Timestamp::UNIX_EPOCH, now] {
            SystemClock.until(at).await;
        }
        // A timer for later is armed and does not fire.
        let later = now + jiff::SignedDuration::from_hours(24 * 400);
        let waited = tokio::time::timeout(Duration::from_millis(20), alarm(later)).await;
        assert!(waited.is_err());
    }
}
