//! A Coracle to check: the program itself, started as a user starts it.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::kubectl::Kubectl;
use crate::netns::NODE_IP;

/// A running `coracle up` on a data directory of its own.
pub struct Cluster {
    pub program: PathBuf,
    pub data_dir: PathBuf,
    /// `up`, or `apiserver` for the API server alone.
    pub command: &'static str,
    pub flags: Vec<String>,
    /// When `coracle up` was started.
    pub begun: Instant,
    child: Option<Child>,
    lines: Option<Receiver<String>>,
}

/// The program to check: the one that was named, or the one built beside this.
pub fn program(named: Option<&Path>) -> Result<PathBuf> {
    match named {
        Some(program) => Ok(program.to_owned()),
        None => Ok(std::env::current_exe()?.with_file_name("coracle")),
    }
}

/// Brings the program beside this one up to date when cargo runs this one; otherwise it is taken as it is.
pub fn build(program: &Path) -> Result<()> {
    let (Some(cargo), Some(folder)) = (std::env::var_os("CARGO"), program.parent()) else { return Ok(()) };
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "--bin", "coracle", "--manifest-path"]);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml"));
    if folder.ends_with("release") {
        command.arg("--release");
    }
    let status = command.status().context("running cargo build")?;
    ensure!(status.success(), "cargo build --bin coracle: {status}");
    Ok(())
}

// === impl Cluster ===

impl Cluster {
    /// Prepares, but does not start, a cluster.
    pub fn new(program: &Path, data_dir: &Path, flags: &[&str]) -> Self {
        Cluster {
            program: program.to_owned(),
            data_dir: data_dir.to_owned(),
            command: "up",
            flags: flags.iter().map(|s| (*s).to_owned()).collect(),
            begun: Instant::now(),
            child: None,
            lines: None,
        }
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.data_dir.join("kubeconfig")
    }

    pub fn kubectl(&self, program: &Path) -> Kubectl {
        Kubectl { program: program.to_owned(), kubeconfig: self.kubeconfig() }
    }

    pub fn coracle(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(args).arg("--data-dir").arg(&self.data_dir);
        command
    }

    /// Starts the program and waits for its last line of advice.
    pub fn up(&mut self) -> Result<()> {
        let log = File::options().create(true).append(true).open(self.log_path())?;
        self.begun = Instant::now();
        let mut child = self
            .coracle(&[self.command, "--node-ip", NODE_IP, "--node-name", "n1"])
            .args(&self.flags)
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {}", self.program.display()))?;
        let out = child.stdout.take().context("stdout")?;
        let (send, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                let _ = send.send(line);
            }
        });
        self.child = Some(child);
        self.lines = Some(lines);
        self.wait_for_line("kubectl", Duration::from_secs(60)).map(drop)
    }

    /// The file that holds what the program logged.
    pub fn log_path(&self) -> PathBuf {
        self.data_dir.with_extension("log")
    }

    pub fn pid(&self) -> Result<Pid> {
        let child = self.child.as_ref().context("the cluster is not up")?;
        Ok(Pid::from_raw(i32::try_from(child.id())?))
    }

    /// The next printed line that contains `text`.
    pub fn wait_for_line(&mut self, text: &str, patience: Duration) -> Result<String> {
        let lines = self.lines.as_ref().context("the cluster is not up")?;
        let deadline = Instant::now() + patience;
        loop {
            match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) if line.contains(text) => return Ok(line),
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => {
                    bail!("`coracle up` did not print {text:?} in {patience:?}")
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let log = std::fs::read_to_string(self.log_path()).unwrap_or_default();
                    bail!("`coracle up` ended before printing {text:?}; its log: {log}")
                }
            }
        }
    }

    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        kill(self.pid()?, signal)?;
        let mut child = self.child.take().context("the cluster is not up")?;
        let status = child.wait()?;
        ensure!(
            signal == Signal::SIGKILL || status.success(),
            "`coracle up` ended with {status} after {signal}"
        );
        Ok(())
    }

    /// Starts the program again when it has ended by itself; says whether it had.
    pub fn restart_if_gone(&mut self) -> Result<bool> {
        let ended = self.child.as_mut().map(Child::try_wait).transpose()?.flatten();
        let Some(status) = ended else { return Ok(false) };
        println!(
            "`coracle up` ended with {status} and is started again; its log: {}",
            self.log_path().display()
        );
        self.child = None;
        self.up()?;
        Ok(true)
    }

    /// `coracle down --purge`
    pub fn purge(&mut self) -> Result<()> {
        if self.child.is_some() {
            self.signal(Signal::SIGTERM)?;
        }
        let out = self.coracle(&["down", "--purge"]).output()?;
        ensure!(out.status.success(), "`coracle down --purge`: {}", String::from_utf8_lossy(&out.stderr));
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.child.is_some() {
            // Dropped in the middle of a failing check: leave nothing behind, the failure is already reported.
            let _ = self.purge();
        }
    }
}
