//! A further node of a cluster: `coracle kubelet` on a machine of its own, which is a network namespace here.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use crate::cluster::{Cluster, ON_ANY_DISK};
use crate::netns::{Machine, NODE_IP};
use crate::program::Program;

pub struct FurtherNode {
    pub name: String,
    machine: Machine,
    program: PathBuf,
    data_dir: PathBuf,
    flags: Vec<String>,
    running: Option<Program>,
}

// === impl FurtherNode ===

impl FurtherNode {
    /// Prepares, but does not start, a node that uses the images of the cluster's first one.
    pub(crate) fn new(cluster: &Cluster, machine: Machine, flags: Vec<String>) -> Result<Self> {
        let name = machine.node_name();
        let mut data_dir = cluster.data_dir.clone().into_os_string();
        data_dir.push(format!("-{name}"));
        let data_dir = PathBuf::from(data_dir);
        Ok(FurtherNode { name, machine, program: cluster.program.clone(), data_dir, flags, running: None })
    }

    /// A command on the node's machine, about the node's own data directory.
    pub fn coracle(&self, args: &[&str]) -> Command {
        let mut command = self.machine.command(&self.program);
        command.args(args).arg("--data-dir").arg(&self.data_dir);
        command
    }

    pub fn log_path(&self) -> PathBuf {
        self.data_dir.with_extension("log")
    }

    /// Starts the kubelet with the kubeconfig the cluster gives it, and waits until the node is ready.
    pub(crate) fn join(&mut self, cluster: &Path, api_server_port: u16) -> Result<()> {
        std::fs::create_dir_all(&self.data_dir)?;
        let images = self.data_dir.join("images");
        if !images.exists() {
            std::fs::create_dir_all(cluster.join("images"))?;
            std::os::unix::fs::symlink(cluster.join("images"), images)?;
        }
        let kubeconfig = self.data_dir.with_extension("kubeconfig");
        let output = Command::new(&self.program)
            .args(["kubeconfig", "--node", &self.name, "--node-ip", &self.machine.ip])
            .args(["--server", &format!("https://{NODE_IP}:{api_server_port}"), "--data-dir"])
            .arg(cluster)
            .arg("--output")
            .arg(&kubeconfig)
            .output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "coracle kubeconfig --node {}: {said}", self.name);
        let mut command = self.coracle(&["kubelet", "--node-name", &self.name]);
        command.args(["--node-ip", &self.machine.ip, "--kubeconfig"]).arg(kubeconfig);
        command.args(ON_ANY_DISK).args(&self.flags);
        let mut running = Program::start(command, &self.log_path())?;
        let ready = running.wait_for_line("is Ready", Duration::from_secs(60)).map(drop);
        self.running = Some(running);
        ready.with_context(|| format!("node {}", self.name))
    }

    /// Whether it has to be started, for the first time or because it has ended by itself.
    pub(crate) fn is_gone(&mut self) -> Result<bool> {
        Ok(match &mut self.running {
            Some(running) => running.ended()?.is_some(),
            None => true,
        })
    }

    pub(crate) fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Ends the kubelet; its pods go on.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        self.running.take().context("the node is not running")?.end(signal)
    }

    /// `coracle down --purge`
    pub(crate) fn purge(&mut self) -> Result<()> {
        if let Some(running) = self.running.take() {
            running.end(Signal::SIGTERM)?;
        }
        let out = self.coracle(&["down", "--purge"]).output()?;
        ensure!(out.status.success(), "`coracle down --purge`: {}", String::from_utf8_lossy(&out.stderr));
        Ok(())
    }
}
