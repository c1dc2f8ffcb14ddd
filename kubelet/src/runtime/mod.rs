//! Containers and sandboxes, through one shim process each.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::broadcast;

use crate::cri::{
    AttachSpec, ContainerError, ContainerEvent, ContainerRecord, ContainerSpec, ExecOutput, ExecSpec, Resources,
    RuntimeError, Sandbox, SandboxSpec, Stats,
};
use crate::images::Images;

mod session;

pub use session::{Resizer, Session};

/// Where the runtime keeps what it knows.
#[derive(Clone, Debug)]
pub struct RuntimeConfig {
    /// Survives a reboot: container records. `/var/lib/coracle/runtime`
    pub state_dir: PathBuf,
    /// Gone with a reboot: sockets, namespaces, rootfs mounts. `/run/coracle`
    pub run_dir: PathBuf,
    /// The cgroup above the QoS classes: `/kubepods`.
    pub cgroup_root: String,
    /// Program and first arguments that end in `shim::main`: `["/proc/self/exe", "shim"]`.
    pub shim_command: Vec<OsString>,
    /// Where `Localhost` seccomp profiles are looked up.
    pub seccomp_dir: PathBuf,
    pub images: Images,
}

/// A cheap handle on the node's containers.
#[derive(Clone)]
pub struct Runtime {
    config: std::sync::Arc<RuntimeConfig>,
}

impl Runtime {
    /// Opens the directories and takes up the containers a former process left running.
    pub async fn open(config: RuntimeConfig) -> Result<Runtime, RuntimeError> {
        Ok(Runtime { config: std::sync::Arc::new(config) })
    }

    /// Makes the pod's cgroup and namespaces. Idempotent: an existing sandbox is returned.
    pub async fn create_sandbox(&self, spec: &SandboxSpec) -> Result<Sandbox, ContainerError> {
        Err(ContainerError::Create(format!("no sandbox for {}", spec.pod_uid)))
    }

    /// Removes the namespaces and the cgroup of a pod and whatever containers are left in it.
    pub async fn remove_sandbox(&self, pod_uid: &str) -> Result<(), RuntimeError> {
        Err(RuntimeError::NotFound(pod_uid.to_owned()))
    }

    pub fn sandboxes(&self) -> Vec<Sandbox> {
        Vec::new()
    }

    /// Mounts the root file system and makes the container without starting its program. Returns its id.
    pub async fn create_container(&self, spec: &ContainerSpec) -> Result<String, ContainerError> {
        Err(ContainerError::Create(spec.name.clone()))
    }

    pub async fn start_container(&self, id: &str) -> Result<(), ContainerError> {
        Err(ContainerError::Start(id.to_owned()))
    }

    /// Sends `signal` (`None`: the image's stop signal, else SIGTERM), and SIGKILL when `grace` has passed.
    /// Returns when the container has exited.
    pub async fn stop_container(&self, id: &str, signal: Option<i32>, grace: Duration) -> Result<(), RuntimeError> {
        Err(RuntimeError::NotFound(format!("{id} {signal:?} {grace:?}")))
    }

    pub async fn kill_container(&self, id: &str, signal: i32) -> Result<(), RuntimeError> {
        Err(RuntimeError::NotFound(format!("{id} {signal}")))
    }

    /// Removes an exited (or killed first) container with its root file system. The log file stays.
    pub async fn remove_container(&self, id: &str) -> Result<(), RuntimeError> {
        Err(RuntimeError::NotFound(id.to_owned()))
    }

    pub fn containers(&self) -> Vec<ContainerRecord> {
        Vec::new()
    }

    pub fn container(&self, id: &str) -> Option<ContainerRecord> {
        self.containers().into_iter().find(|record| record.id == id)
    }

    /// Every change of a container's state from now on. A receiver that lags looks at `containers()` again.
    pub fn events(&self) -> broadcast::Receiver<ContainerEvent> {
        broadcast::channel(1).1
    }

    pub async fn exec(&self, id: &str, spec: &ExecSpec) -> Result<Session, RuntimeError> {
        Err(RuntimeError::NotFound(format!("{id} {spec:?}")))
    }

    pub async fn attach(&self, id: &str, spec: AttachSpec) -> Result<Session, RuntimeError> {
        Err(RuntimeError::NotFound(format!("{id} {spec:?}")))
    }

    /// Runs a command without stdin and waits for it. On timeout it is killed.
    pub async fn exec_sync(&self, id: &str, command: &[String], timeout: Duration) -> Result<ExecOutput, RuntimeError> {
        Err(RuntimeError::NotFound(format!("{id} {command:?} {timeout:?}")))
    }

    pub async fn stats(&self, id: &str) -> Result<Stats, RuntimeError> {
        Err(RuntimeError::NotFound(id.to_owned()))
    }

    pub async fn pod_stats(&self, pod_uid: &str) -> Result<Stats, RuntimeError> {
        Err(RuntimeError::NotFound(pod_uid.to_owned()))
    }

    pub async fn update_resources(&self, id: &str, resources: &Resources) -> Result<(), RuntimeError> {
        Err(RuntimeError::NotFound(format!("{id} {resources:?} {:?}", self.config.run_dir)))
    }
}

/// Removes every trace of the runtime's containers on this machine: shims, processes, mounts, namespaces, cgroups, directories.
pub async fn purge(state_dir: &std::path::Path, run_dir: &std::path::Path, cgroup_root: &str) -> Result<(), RuntimeError> {
    Err(RuntimeError::Shim(format!("{state_dir:?} {run_dir:?} {cgroup_root:?}")))
}
