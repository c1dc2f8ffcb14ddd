//! A program that was started and prints lines, some of which are waited for.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

pub(crate) struct Program {
    child: Child,
    lines: Receiver<String>,
    log: PathBuf,
}

// === impl Program ===

impl Program {
    /// What it writes to standard error is added to `log`.
    pub(crate) fn start(mut command: Command, log: &Path) -> Result<Self> {
        let file = File::options().create(true).append(true).open(log)?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(file);
        let mut child = command.spawn().with_context(|| format!("starting {command:?}"))?;
        let out = child.stdout.take().context("stdout")?;
        let (send, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                let _ = send.send(line);
            }
        });
        Ok(Program { child, lines, log: log.to_owned() })
    }

    pub(crate) fn pid(&self) -> Result<Pid> {
        Ok(Pid::from_raw(i32::try_from(self.child.id())?))
    }

    /// The next printed line that contains `text`.
    pub(crate) fn wait_for_line(&mut self, text: &str, patience: Duration) -> Result<String> {
        let deadline = Instant::now() + patience;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) if line.contains(text) => return Ok(line),
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => bail!("coracle did not print {text:?} in {patience:?}"),
                Err(RecvTimeoutError::Disconnected) => {
                    let log = std::fs::read_to_string(&self.log).unwrap_or_default();
                    bail!("coracle ended before printing {text:?}; its log: {log}")
                }
            }
        }
    }

    /// With which status it has ended by itself, if it has.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Ends it, and waits for that.
    pub(crate) fn end(mut self, signal: Signal) -> Result<()> {
        kill(self.pid()?, signal)?;
        let status = self.child.wait()?;
        ensure!(signal == Signal::SIGKILL || status.success(), "coracle ended with {status} after {signal}");
        Ok(())
    }
}
