//! Starting, stopping and removing containers.

use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::time::Duration;

use jiff::Timestamp;
use tokio::net::UnixStream;

use super::link::Link;
use super::{Runtime, blocking, cgroups, container, io_error, signal_number};
use crate::cri::{ContainerError, ContainerState, RuntimeError};
use crate::shim::protocol::{ExitFile, Reply, Request, write_file};

/// The exit code of a container whose program could not be started.
const START_ERROR: i32 = 128;
/// As upstream's `runtimeRequestTimeout`.
const START_PATIENCE: Duration = Duration::from_secs(120);
/// How long a shim may take to put on record that its container is gone.
const SHIM_PATIENCE: Duration = Duration::from_secs(15);

impl Runtime {
    pub async fn start_container(&self, id: &str) -> Result<(), ContainerError> {
        let failed =
            |error: &dyn std::fmt::Display| ContainerError::Start(format!("cannot run the shim: {error}"));
        if self.record(id).is_none() {
            return Err(ContainerError::Start(format!("container {id:?} not found")));
        }
        let dir = container::dir(&self.0.config, id);
        let (ours, theirs) = UnixStream::pair().map_err(|error| failed(&error))?;
        let theirs: OwnedFd = theirs.into_std().map_err(|error| failed(&error))?.into();
        let log = std::fs::File::create(dir.join("shim.log")).map_err(|error| failed(&error))?;
        let mut child = tokio::process::Command::new(self.0.program.path())
            .arg0("coracle")
            .args(&self.0.config.shim_arguments)
            .arg(&dir)
            // An allocator that prefers huge pages has the kernel clear megabytes for a process that needs a few pages.
            .env("MIMALLOC_ALLOW_THP", "0")
            .current_dir("/")
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::from(log))
            .spawn()
            .map_err(|error| failed(&error))?;
        let mut link = Link::new(ours);
        let first = tokio::time::timeout(START_PATIENCE, link.next()).await;
        if first.is_err() {
            // Whatever holds it up, neither it nor what it has begun may go on.
            let _ = child.start_kill();
            self.kill_group(id).await;
        }
        tokio::spawn(async move { child.wait().await });
        let late = || Err(std::io::Error::other("the container did not start in time"));
        let message = match first.unwrap_or_else(|_| late()) {
            Ok(Some(Reply::Running { pid, started })) => {
                self.set(id, ContainerState::Running { started: container::time(&started), pid });
                self.follow(id.to_owned(), link);
                return Ok(());
            }
            Ok(Some(Reply::Failed { message })) => message,
            Ok(_) => "the shim ended without a word".to_owned(),
            Err(error) => error.to_string(),
        };
        let exit = ExitFile {
            finished: Timestamp::now().to_string(),
            code: START_ERROR,
            message: message.clone(),
            ..ExitFile::default()
        };
        write_file(&dir.join("exit.json"), &exit).map_err(|error| failed(&error))?;
        self.ended(id).await;
        Err(ContainerError::Start(message))
    }

    /// Sends `signal` (`None`: the image's stop signal, else SIGTERM), and SIGKILL when `grace` has passed.
    /// Returns when the container has exited.
    pub async fn stop_container(
        &self,
        id: &str,
        signal: Option<i32>,
        grace: Duration,
    ) -> Result<(), RuntimeError> {
        let record = self.record(id).ok_or_else(|| RuntimeError::NotFound(id.to_owned()))?;
        let signal = signal.or_else(|| signal_number(&record.stop_signal)).unwrap_or(libc::SIGTERM);
        if !self.is_running(id) {
            return Ok(());
        }
        if !grace.is_zero() {
            self.kill_container(id, signal).await?;
            if tokio::time::timeout(grace, self.wait_exit(id)).await.is_ok() {
                return Ok(());
            }
        }
        self.kill_container(id, libc::SIGKILL).await?;
        if tokio::time::timeout(SHIM_PATIENCE, self.wait_exit(id)).await.is_err() {
            // All its processes are gone: it is the shim that hangs.
            self.kill_shim(id).await;
            self.wait_exit(id).await;
        }
        Ok(())
    }

    async fn kill_shim(&self, id: &str) {
        let Ok(link) = self.link(id).await else { return };
        if let Some(pid) = link.peer() {
            tracing::error!(id, pid, "the shim does not answer: it is killed");
            let _ =
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
    }

    /// Ends every process of the container without the shim's help.
    async fn kill_group(&self, id: &str) {
        let Some(record) = self.record(id) else { return };
        // Nothing to wait for: the shim tells of the end.
        let _ = tokio::task::spawn_blocking(move || cgroups::kill(&record.cgroup)).await;
    }

    fn is_running(&self, id: &str) -> bool {
        let containers = self.0.containers.lock();
        containers
            .get(id)
            .is_some_and(|entry| matches!(*entry.state.borrow(), ContainerState::Running { .. }))
    }

    async fn wait_exit(&self, id: &str) {
        let receiver = self.0.containers.lock().get(id).map(|entry| entry.state.subscribe());
        if let Some(mut receiver) = receiver {
            // An error means that the container was removed.
            let _ = receiver.wait_for(|state| !matches!(state, ContainerState::Running { .. })).await;
        }
    }

    pub(super) async fn link(&self, id: &str) -> Result<Link, RuntimeError> {
        if self.record(id).is_none() {
            return Err(RuntimeError::NotFound(id.to_owned()));
        }
        let socket = container::run_dir(&self.0.config, id).join("s");
        Link::connect(&socket).await.map_err(|_| RuntimeError::NotRunning)
    }

    /// A signal for the container's first process; SIGKILL is for all of them.
    pub async fn kill_container(&self, id: &str, signal: i32) -> Result<(), RuntimeError> {
        if signal == libc::SIGKILL && self.is_running(id) {
            self.kill_group(id).await;
            return Ok(());
        }
        match self.link(id).await {
            Ok(mut link) => match link.ask(&Request::Kill { signal }, &[]).await {
                // It has just ended.
                Ok(_) | Err(RuntimeError::NotRunning) => Ok(()),
                Err(error) => Err(error),
            },
            Err(RuntimeError::NotRunning) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Removes an exited (or killed first) container with its root file system. The log file stays.
    pub async fn remove_container(&self, id: &str) -> Result<(), RuntimeError> {
        let Some(record) = self.record(id) else { return Ok(()) };
        self.stop_container(id, None, Duration::ZERO).await?;
        let runtime = self.clone();
        blocking(move || container::remove(&runtime.0.config, &record.id, Some(&record.cgroup)))
            .await
            .map_err(io_error("remove a container"))?;
        self.0.containers.lock().remove(id);
        Ok(())
    }
}
