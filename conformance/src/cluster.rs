//! A Coracle to check: the program itself, started as a user starts it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::further_node::FurtherNode;
use crate::kubectl::Kubectl;
use crate::netns::{Machine, NODE_IP};
use crate::program::Program;

/// Where further nodes find the API server.
const API_SERVER_PORT: u16 = 6443;

/// A running `coracle up` on a data directory of its own.
pub struct Cluster {
    pub program: PathBuf,
    pub data_dir: PathBuf,
    /// `up`, or `apiserver` for the API server alone.
    pub command: &'static str,
    pub flags: Vec<String>,
    /// When `coracle up` was started.
    pub begun: Instant,
    /// The nodes beside the one that `coracle up` is.
    pub further: Vec<FurtherNode>,
    running: Option<Program>,
}

/// A trial's nodes share the disk of the machine that builds them: how full that is, is not their affair (as for kind's).
pub(crate) const ON_ANY_DISK: [&str; 4] =
    ["--eviction-hard", "memory.available<100Mi", "--image-gc-high-threshold", "100"];

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
            further: vec![],
            running: None,
        }
    }

    /// Each machine is to be a node, too, with these flags.
    pub fn with_machines(mut self, machines: &[Machine], flags: &[String]) -> Result<Self> {
        let node = |machine: &Machine| FurtherNode::new(&self, machine.clone(), flags.to_vec());
        self.further = machines.iter().map(node).collect::<Result<_>>()?;
        Ok(self)
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

    /// Starts the program and waits for its last line of advice, then starts the further nodes that do not run.
    pub fn up(&mut self) -> Result<()> {
        self.begun = Instant::now();
        let mut command = self.coracle(&[self.command, "--node-ip", NODE_IP, "--node-name", "n1"]);
        if self.command == "up" {
            command.args(ON_ANY_DISK);
        }
        command.args(&self.flags);
        self.running = Some(Program::start(command, &self.log_path())?);
        self.wait_for_line("kubectl", Duration::from_secs(60))?;
        self.join_further_nodes()
    }

    fn join_further_nodes(&mut self) -> Result<()> {
        for node in &mut self.further {
            if node.is_gone()? {
                node.join(&self.data_dir, API_SERVER_PORT)?;
            }
        }
        Ok(())
    }

    /// The file that holds what the program logged.
    pub fn log_path(&self) -> PathBuf {
        self.data_dir.with_extension("log")
    }

    pub fn pid(&self) -> Result<Pid> {
        self.running.as_ref().context("the cluster is not up")?.pid()
    }

    /// With which status the program has ended by itself, if it has.
    pub fn ended(&mut self) -> Result<Option<std::process::ExitStatus>> {
        Ok(self.running.as_mut().map(Program::ended).transpose()?.flatten())
    }

    /// The next printed line that contains `text`.
    pub fn wait_for_line(&mut self, text: &str, patience: Duration) -> Result<String> {
        self.running.as_mut().context("the cluster is not up")?.wait_for_line(text, patience)
    }

    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        self.running.take().context("the cluster is not up")?.end(signal)
    }

    /// Starts what has ended by itself again; says whether anything had.
    pub fn restart_if_gone(&mut self) -> Result<bool> {
        if let Some(status) = self.ended()? {
            let log = self.log_path();
            println!("`coracle up` ended with {status} and is started again; its log: {}", log.display());
            self.running = None;
            self.up()?;
            return Ok(true);
        }
        let mut gone = false;
        for node in &mut self.further {
            if node.is_gone()? {
                println!(
                    "node {} ended and is started again; its log: {}",
                    node.name,
                    node.log_path().display()
                );
                gone = true;
            }
        }
        self.join_further_nodes()?;
        Ok(gone)
    }

    /// `coracle down --purge`
    pub fn purge(&mut self) -> Result<()> {
        for node in &mut self.further {
            node.purge()?;
        }
        if self.running.is_some() {
            self.signal(Signal::SIGTERM)?;
        }
        let out = self.coracle(&["down", "--purge"]).output()?;
        ensure!(out.status.success(), "`coracle down --purge`: {}", String::from_utf8_lossy(&out.stderr));
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.running.is_some() || self.further.iter().any(FurtherNode::is_running) {
            // Dropped in the middle of a failing check: leave nothing behind, the failure is already reported.
            let _ = self.purge();
        }
    }
}
