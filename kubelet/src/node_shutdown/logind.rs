//! What systemd's login manager (logind) knows of the machine's end, over D-Bus, and how it is made to wait.

use std::{
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::Duration,
};

use futures::StreamExt;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;
use zbus::{Connection, MatchRule, MessageStream, OwnedVariant, connection::Builder, message::Type};

const SERVICE: &str = "org.freedesktop.login1";
const PATH: &str = "/org/freedesktop/login1";
const MANAGER: &str = "org.freedesktop.login1.Manager";
/// How long the bus and those on it may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Upstream's waits for a configuration to be read: so many, each twice as long as the one before.
const TRIES: u32 = 5;
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// Settings of logind that are ours.
const SETTINGS: &str = "/etc/systemd/logind.conf.d";
const OURS: &str = "99-coracle.conf";

#[derive(Debug, thiserror::Error)]
pub(super) enum LogindError {
    #[error("{action}: {source}")]
    Bus { action: &'static str, source: zbus::Error },
    #[error("the system's bus does not answer")]
    Silent,
    #[error("the system's bus has closed the connection")]
    Closed,
    #[error("{}: {source}", path.display())]
    Settings { path: PathBuf, source: io::Error },
    #[error("logind waits for {have:?} only, not for {wanted:?}")]
    TooShort { have: Duration, wanted: Duration },
}

/// As long as it is held, logind puts the machine's end off: for its `InhibitDelayMaxSec` at most.
pub(super) struct Lock(#[allow(dead_code, reason = "it is there to be closed")] OwnedFd);

/// A connection to logind.
pub(super) struct Logind {
    bus: Connection,
    /// Marked when it has said that the machine is about to end, or is not any more.
    words: watch::Receiver<()>,
    _listening: AbortOnDropHandle<()>,
    settings: PathBuf,
}

// === impl Logind ===

impl Logind {
    pub(super) async fn connect() -> Result<Self, LogindError> {
        let connecting = Builder::system().method_timeout(PATIENCE).build();
        let bus = tokio::time::timeout(PATIENCE, connecting).await.map_err(|_| LogindError::Silent)?;
        Self::over(bus.map_err(bus_error("connecting to the system's bus"))?, SETTINGS.into()).await
    }

    pub(super) async fn over(bus: Connection, settings: PathBuf) -> Result<Self, LogindError> {
        let told = bus_error("listening to logind");
        let rule = MatchRule::builder()
            .msg_type(Type::Signal)
            .sender(SERVICE)
            .path(PATH)
            .interface(MANAGER)
            .member("PrepareForShutdown")
            .build();
        let heard = match rule {
            Ok(rule) => MessageStream::for_match_rule(rule, &bus, None).await,
            Err(error) => Err(error),
        };
        let mut heard = heard.map_err(told)?;
        let (mark, words) = watch::channel(());
        // Always taken at once: words that nobody takes would hold up the answers behind them.
        let listening = tokio::spawn(async move {
            while let Some(Ok(_)) = heard.next().await {
                mark.send_replace(());
            }
        });
        Ok(Logind { words, _listening: AbortOnDropHandle::new(listening), bus, settings })
    }

    /// Has the machine's end put off until the lock is dropped.
    pub(super) async fn inhibit(&self) -> Result<Lock, LogindError> {
        let what = ("shutdown", "coracle", "Pods need time to end", "delay");
        let told = bus_error("asking logind to wait at the machine's end");
        let answer = self.bus.call_method(Some(SERVICE), PATH, Some(MANAGER), "Inhibit", &what).await;
        let lock = answer.and_then(|answer| answer.body().deserialize::<zbus::OwnedFd>());
        let lock = lock.and_then(|fd| OwnedFd::try_from(zbus::Fd::from(fd)));
        lock.map(Lock).map_err(told)
    }

    /// Whether the machine is about to end.
    pub(super) async fn is_preparing(&self) -> Result<bool, LogindError> {
        self.property("PreparingForShutdown").await
    }

    /// Waits for word of a change, and gives what is the case. The word itself is not believed: whoever is on the bus can send
    /// one to us.
    pub(super) async fn changed(&mut self) -> Result<bool, LogindError> {
        self.words.changed().await.map_err(|_| LogindError::Closed)?;
        self.is_preparing().await
    }

    /// Has logind wait for so long, by its configuration, where it would wait for less.
    pub(super) async fn wait_for(&self, wanted: Duration) -> Result<(), LogindError> {
        if self.longest_delay().await? >= wanted {
            return Ok(());
        }
        let (dir, seconds) = (self.settings.clone(), wanted.as_secs());
        let written = tokio::task::spawn_blocking(move || write_settings(&dir, seconds)).await;
        written
            .unwrap_or_else(|error| Err(io::Error::other(error)))
            .map_err(|source| LogindError::Settings { path: self.settings.join(OURS), source })?;
        self.reload().await?;
        // It reads its files by and by, and tells nobody when it has.
        let mut pause = FIRST_WAIT;
        for _ in 0..TRIES {
            tokio::time::sleep(pause).await;
            if self.longest_delay().await? >= wanted {
                return Ok(());
            }
            pause *= 2;
        }
        Err(LogindError::TooShort { have: self.longest_delay().await?, wanted })
    }

    async fn longest_delay(&self) -> Result<Duration, LogindError> {
        self.property::<u64>("InhibitDelayMaxUSec").await.map(Duration::from_micros)
    }

    /// Makes logind read its files again.
    async fn reload(&self) -> Result<(), LogindError> {
        const SYSTEMD: &str = "org.freedesktop.systemd1";
        let (path, interface) = ("/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager");
        let hangup = ("systemd-logind.service", "all", libc::SIGHUP);
        let told = bus_error("making logind read its configuration");
        let done = self.bus.call_method(Some(SYSTEMD), path, Some(interface), "KillUnit", &hangup).await;
        done.map(drop).map_err(told)
    }

    async fn property<T>(&self, name: &str) -> Result<T, LogindError>
    where
        T: TryFrom<OwnedVariant>,
        T::Error: Into<zbus::Error>,
    {
        let told = bus_error("asking logind");
        let properties = Some("org.freedesktop.DBus.Properties");
        let answer = self.bus.call_method(Some(SERVICE), PATH, properties, "Get", &(MANAGER, name)).await;
        let value = answer.and_then(|answer| answer.body().deserialize::<OwnedVariant>());
        value.and_then(|value| T::try_from(value).map_err(Into::into)).map_err(told)
    }
}

fn bus_error(action: &'static str) -> impl FnOnce(zbus::Error) -> LogindError {
    move |source| LogindError::Bus { action, source }
}

fn write_settings(dir: &Path, seconds: u64) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    fs::write(
        dir.join(OURS),
        format!("# So that pods have time to end.\n[Login]\nInhibitDelayMaxSec={seconds}\n"),
    )
}

/// Takes back what the configuration of logind was given. It is read at logind's next start.
pub(crate) fn forget_settings() -> io::Result<()> {
    match fs::remove_file(Path::new(SETTINGS).join(OURS)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}
