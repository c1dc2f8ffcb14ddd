//! What the program tells the service manager that started it (systemd's `sd_notify` protocol): that it is ready, that it
//! stops, and, where it is asked to, that it is alive.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval, timeout};

/// How long the service manager may take to make room for a word of ours.
const PATIENCE: Duration = Duration::from_secs(5);

/// The service manager, if there is one that listens.
#[derive(Clone, Debug, Default)]
pub struct ServiceManager {
    socket: Option<OsString>,
    /// How often it wants to hear that the program is alive.
    watchdog: Option<Duration>,
}

// === impl ServiceManager ===

impl ServiceManager {
    /// By the environment that it gave to this process.
    pub fn of_environment() -> Self {
        let text = |name: &str| std::env::var(name).ok();
        Self::of(
            std::env::var_os("NOTIFY_SOCKET"),
            text("WATCHDOG_USEC").as_deref(),
            text("WATCHDOG_PID").as_deref(),
            std::process::id(),
        )
    }

    fn of(socket: Option<OsString>, period: Option<&str>, pid: Option<&str>, own: u32) -> Self {
        let socket = socket.filter(|name| {
            let known = matches!(name.as_bytes().first(), Some(b'/' | b'@'));
            if !known && !name.is_empty() {
                tracing::warn!(?name, "the service manager's socket is of a kind that is not known here");
            }
            known
        });
        // A watchdog may be meant for another process, which has left its environment to this one.
        let ours = pid.is_none_or(|pid| pid.parse() == Ok(own));
        let period = period.and_then(|p| p.parse().ok()).filter(|p| *p > 0).map(Duration::from_micros);
        ServiceManager { watchdog: period.filter(|_| ours && socket.is_some()), socket }
    }

    /// What was asked for works; `status` is for people.
    pub async fn ready(&self, status: &str) {
        self.tell(&format!("READY=1\nSTATUS={}", status.replace('\n', " "))).await;
    }

    /// The program is about to end.
    pub async fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=Stopping; pods go on running").await;
    }

    /// Tells, twice in the period that was asked for, that the program is alive: as long as `alive` says so within that time.
    /// Never returns.
    pub async fn watch<F: Future<Output = bool>>(&self, mut alive: impl FnMut() -> F) {
        let Some(period) = self.watchdog else { return std::future::pending().await };
        let mut ticks = interval(period / 2);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            match timeout(period / 2, alive()).await {
                Ok(true) => self.tell("WATCHDOG=1").await,
                Ok(false) | Err(_) => tracing::error!("not well: the service manager may end this program"),
            }
        }
    }

    /// A word that cannot be delivered is told in the log: nothing depends on it here.
    async fn tell(&self, words: &str) {
        let Some(socket) = &self.socket else { return };
        let sent = timeout(PATIENCE, send(socket, words.as_bytes())).await;
        if let Err(error) = sent.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            tracing::warn!(%error, words, "the service manager was not told");
        }
    }
}

/// A socket for each word: the manager may have made its own anew meanwhile.
async fn send(name: &OsStr, words: &[u8]) -> io::Result<()> {
    let address = match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        path => SocketAddr::from_pathname(OsStr::from_bytes(path))?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.connect_addr(&address)?;
    tokio::net::UnixDatagram::from_std(socket)?.send(words).await.map(drop)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn heard(socket: &UnixDatagram) -> Option<String> {
        let mut buffer = [0; 512];
        socket.set_nonblocking(true).unwrap();
        socket.recv(&mut buffer).ok().map(|n| String::from_utf8_lossy(&buffer[..n]).into_owned())
    }

    fn manager(name: &OsStr, watchdog: Option<&str>) -> ServiceManager {
        ServiceManager::of(Some(name.to_owned()), watchdog, None, 7)
    }

    #[tokio::test]
    async fn words_are_those_of_the_protocol_on_both_kinds_of_socket() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let hidden = format!("coracle-test-{}", std::process::id());
        let by_name = SocketAddr::from_abstract_name(&hidden).unwrap();
        for (socket, name) in [
            (UnixDatagram::bind(&path).unwrap(), path.clone().into_os_string()),
            (UnixDatagram::bind_addr(&by_name).unwrap(), format!("@{hidden}").into()),
        ] {
            let manager = manager(&name, None);
            manager.ready("node a\nis Ready").await;
            assert_eq!(heard(&socket).unwrap(), "READY=1\nSTATUS=node a is Ready");
            manager.stopping().await;
            assert!(heard(&socket).unwrap().starts_with("STOPPING=1\n"));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_manager_that_is_gone_or_never_reads_holds_nothing_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let manager = manager(path.as_os_str(), None);
        manager.ready("nobody has ever listened").await;
        let socket = UnixDatagram::bind(&path).unwrap();
        let begun = tokio::time::Instant::now();
        // Its queue is full after some hundred words.
        for _ in 0..2_000 {
            manager.ready("nobody reads").await;
            if begun.elapsed() >= PATIENCE {
                break;
            }
        }
        assert_eq!(begun.elapsed(), PATIENCE);
        drop(socket);
        manager.ready("nobody listens any more").await;
        // And one that comes back is heard of.
        std::fs::remove_file(&path).unwrap();
        let socket = UnixDatagram::bind(&path).unwrap();
        manager.ready("again").await;
        assert_eq!(heard(&socket).unwrap(), "READY=1\nSTATUS=again");
    }

    #[test]
    fn who_is_asked_for_a_sign_of_life() {
        let socket = || Some(OsString::from("/run/notify"));
        let of = |socket, period, pid| ServiceManager::of(socket, period, pid, 7).watchdog;
        let half_a_minute = Some(Duration::from_secs(30));
        assert_eq!(of(socket(), Some("30000000"), Some("7")), half_a_minute);
        assert_eq!(of(socket(), Some("30000000"), None), half_a_minute);
        for (socket, period, pid) in [
            (socket(), Some("30000000"), Some("8")),
            (socket(), Some("0"), None),
            (socket(), Some("soon"), None),
            (socket(), None, None),
            (None, Some("30000000"), None),
            (Some("vsock:2:1234".into()), Some("30000000"), None),
            (Some("".into()), Some("30000000"), None),
        ] {
            assert_eq!(of(socket, period, pid), None);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn signs_of_life_come_twice_a_period_and_stop_with_life() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let manager = manager(path.as_os_str(), Some("10000000"));
        let questions = Cell::new(0);
        let alive = || {
            questions.set(questions.get() + 1);
            let number = questions.get();
            async move {
                match number {
                    1 | 2 => true,
                    3 => false,
                    _ => std::future::pending().await,
                }
            }
        };
        let watched = timeout(Duration::from_secs(31), manager.watch(alive)).await;
        assert!(watched.is_err());
        assert_eq!(std::iter::from_fn(|| heard(&socket)).collect::<Vec<_>>(), ["WATCHDOG=1", "WATCHDOG=1"]);
        assert!(questions.get() >= 4);
        // Without a watchdog nobody asks, and nothing ends.
        let never = super::ServiceManager { watchdog: None, ..manager };
        assert!(timeout(Duration::from_secs(100), never.watch(|| async { panic!("asked") })).await.is_err());
    }
}
