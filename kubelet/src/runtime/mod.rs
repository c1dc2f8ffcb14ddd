//! Containers and sandboxes, through one shim process each.
//!
//! The disk and the shims know everything; this process only mirrors them, so it may be killed at any time.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::AsyncReadExt;
use tokio::sync::{broadcast, watch};

use crate::cri::{
    AttachSpec, ContainerError, ContainerEvent, ContainerRecord, ContainerSpec, ContainerState, ExecOutput,
    ExecSpec, RuntimeError, Sandbox, SandboxSpec,
};
use crate::images::Images;
use crate::shim::protocol::{ExitFile, Reply, Request, read_file};
use crate::tasks::supervised;

mod apparmor;
pub(crate) mod cgroups;
mod classes;
mod confinement;
mod container;
pub(crate) mod device_rules;
mod devices;
mod lifecycle;
pub(crate) mod limits;
mod link;
mod program;
mod purge;
mod rootfs;
mod sandbox;
pub(crate) mod seccomp;
mod session;
mod spec;
mod usage;
mod user;
mod users;

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use user::hostile::accounts as hostile_accounts;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use users::hostile_records;

use container::Record;
use link::Link;
use program::Program;
pub use purge::purge;
use sandbox::SandboxRecord;
pub use session::{Resizer, Session};

/// Receivers that lag more than this look at everything again.
const EVENTS: usize = 1024;
/// What `exec_sync` keeps of a command's output.
const MAX_OUTPUT: u64 = 16 * 1024;

/// Where the runtime keeps what it knows.
#[derive(Clone, Debug)]
pub struct RuntimeConfig {
    /// Survives a reboot: container records and writable layers. `/var/lib/coracle/runtime`
    pub state_dir: PathBuf,
    /// Gone with a reboot: sockets, namespaces, rootfs mounts. `/run/coracle`
    pub run_dir: PathBuf,
    /// The cgroup above the QoS classes: `/kubepods`.
    pub cgroup_root: String,
    /// What this program is told to end in `shim::main`: `["shim"]`.
    pub shim_arguments: Vec<OsString>,
    /// Where `Localhost` seccomp profiles are looked up.
    pub seccomp_dir: PathBuf,
    pub images: Images,
    /// How many pods there may be at once.
    pub max_pods: u32,
}

impl RuntimeConfig {
    /// The capabilities this process may hand on.
    fn capabilities(&self) -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let set = status.lines().find_map(|line| line.strip_prefix("CapBnd:"));
        set.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).unwrap_or(u64::MAX)
    }

    /// Without CAP_SYS_RESOURCE a process cannot be protected from the OOM killer more than this one is.
    fn oom_score(&self) -> i32 {
        const CAP_SYS_RESOURCE: u64 = 1 << 24;
        if self.capabilities() & CAP_SYS_RESOURCE != 0 {
            return -1000;
        }
        let own = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
        own.trim().parse().unwrap_or(0)
    }
}

struct Entry {
    record: Record,
    state: watch::Sender<ContainerState>,
}

struct Inner {
    config: RuntimeConfig,
    program: Program,
    /// Why pods cannot be held to limits on this machine.
    unlimited: Option<String>,
    /// Why AppArmor profiles cannot be enforced on this machine.
    no_apparmor: Option<String>,
    /// Why pods cannot have users of their own on this machine.
    no_users: Option<String>,
    ids: users::Ids,
    /// The processor shares that the class of Burstable pods has.
    weighed: Mutex<u64>,
    containers: Mutex<HashMap<String, Entry>>,
    sandboxes: Mutex<HashMap<String, SandboxRecord>>,
    events: broadcast::Sender<ContainerEvent>,
}

/// A cheap handle on the node's containers.
#[derive(Clone)]
pub struct Runtime(Arc<Inner>);

impl Runtime {
    /// Opens the directories and takes up the containers a former process left running.
    pub async fn open(config: RuntimeConfig) -> Result<Runtime, RuntimeError> {
        container::make_directories(&config).map_err(io_error("create the runtime's directories"))?;
        let unlimited = classes::prepare(&config).err().map(|error| {
            tracing::error!(%error, "cgroups cannot be managed");
            format!("cgroups cannot be managed: {error}")
        });
        let tried = config.clone();
        let found_out = blocking(move || {
            let (program, ids) = (Program::own()?, users::Ids::of_host(config.max_pods));
            let no_users = users::probe(&tried, &program, &ids).err();
            Ok((program, ids, no_users))
        });
        let (program, ids, no_users) =
            found_out.await.map_err(io_error("prepare the program of the shims"))?;
        let inner = Inner {
            no_users,
            ids,
            config,
            program,
            unlimited,
            no_apparmor: blocking(|| Ok(apparmor::load().err()))
                .await
                .map_err(io_error("load the AppArmor profile"))?,
            weighed: Mutex::default(),
            containers: Mutex::default(),
            sandboxes: Mutex::default(),
            events: broadcast::channel(EVENTS).0,
        };
        let runtime = Runtime(Arc::new(inner));
        runtime.sweep().map_err(io_error("clean up after a former run"))?;
        runtime.adopt().await.map_err(io_error("read the runtime's records"))?;
        runtime.weigh_classes();
        Ok(runtime)
    }

    fn sweep(&self) -> std::io::Result<()> {
        let config = &self.0.config;
        sandbox::sweep(config)?;
        container::sweep(config)
    }

    async fn adopt(&self) -> std::io::Result<()> {
        let config = &self.0.config;
        for entry in std::fs::read_dir(config.run_dir.join("pods"))?.flatten() {
            if let Some(record) = read_file::<SandboxRecord>(&entry.path().join("sandbox.json")) {
                if let Some(ids) = record.ids {
                    self.0.ids.record(&record.pod_uid, ids);
                }
                self.0.sandboxes.lock().insert(record.pod_uid.clone(), record);
            }
        }
        for entry in std::fs::read_dir(config.state_dir.join("containers"))?.flatten() {
            let Some(record) = read_file::<Record>(&entry.path().join("record.json")) else {
                // A creation that was cut off.
                container::remove(config, &entry.file_name().to_string_lossy(), None)?;
                continue;
            };
            let link = match container::state(config, &record) {
                Some(state) => {
                    if matches!(state, ContainerState::Exited { .. }) {
                        container::unmount(config, &record.id)?;
                    }
                    self.insert(record, state);
                    continue;
                }
                None => Link::connect(&container::run_dir(config, &record.id).join("s")).await,
            };
            let id = record.id.clone();
            self.insert(record, ContainerState::Unknown);
            match link {
                Ok(mut link) => match link.ask(&Request::Watch, &[]).await {
                    Ok(Reply::Running { pid, started }) => {
                        self.set(&id, ContainerState::Running { started: container::time(&started), pid });
                        self.follow(id, link);
                    }
                    _ => self.ended(&id).await,
                },
                Err(_) => self.ended(&id).await,
            }
        }
        Ok(())
    }

    fn insert(&self, record: Record, state: ContainerState) {
        let entry = Entry { state: watch::channel(state).0, record };
        self.0.containers.lock().insert(entry.record.id.clone(), entry);
    }

    fn set(&self, id: &str, state: ContainerState) {
        let pod_uid = {
            let containers = self.0.containers.lock();
            let Some(entry) = containers.get(id) else { return };
            entry.state.send_replace(state);
            entry.record.pod_uid.clone()
        };
        // Nobody may be listening.
        let _ = self.0.events.send(ContainerEvent { pod_uid, container_id: id.to_owned() });
        self.weigh_classes();
    }

    /// The shim hung up: the end is on record, or the shim was killed and its container with it must go. What the container
    /// had mounted goes at once, its files stay until it is removed.
    async fn ended(&self, id: &str) {
        let Some(record) = self.record(id) else { return };
        let runtime = self.clone();
        let looked = blocking(move || {
            let config = &runtime.0.config;
            let exit = read_file::<ExitFile>(&container::dir(config, &record.id).join("exit.json"));
            if exit.is_none() {
                cgroups::kill(&record.cgroup);
            }
            if let Err(error) = container::unmount(config, &record.id) {
                tracing::warn!(%error, id = record.id, "the root file system of an ended container stays mounted");
            }
            Ok(exit.map_or(ContainerState::Unknown, container::exited))
        });
        self.set(id, looked.await.unwrap_or(ContainerState::Unknown));
    }

    /// Notices the container's end, also after a fault of its own.
    fn follow(&self, id: String, link: Link) {
        let (runtime, mut first) = (self.clone(), Some(link));
        tokio::spawn(async move {
            let begin = || {
                let (runtime, id, link) = (&runtime, &id, first.take());
                async move {
                    runtime.hung_up(id, link).await;
                    runtime.ended(id).await;
                }
            };
            supervised("container watch", begin).await;
        });
    }

    /// Waits until the container's shim tells its end, or tells nothing more: on this line, or on a new one.
    async fn hung_up(&self, id: &str, link: Option<Link>) {
        let link = match link {
            Some(link) => Some(link),
            None => self.call_again(id).await,
        };
        let Some(mut link) = link else { return };
        while let Ok(Some(reply)) = link.next().await {
            if matches!(reply, Reply::Exited) {
                break;
            }
        }
    }

    async fn call_again(&self, id: &str) -> Option<Link> {
        let mut link = Link::connect(&container::run_dir(&self.0.config, id).join("s")).await.ok()?;
        matches!(link.ask(&Request::Watch, &[]).await, Ok(Reply::Running { .. })).then_some(link)
    }

    fn record(&self, id: &str) -> Option<Record> {
        self.0.containers.lock().get(id).map(|entry| entry.record.clone())
    }

    /// Makes the pod's cgroup and namespaces. Idempotent: an existing sandbox is returned.
    pub async fn create_sandbox(&self, spec: &SandboxSpec) -> Result<Sandbox, ContainerError> {
        if let Some(record) = self.0.sandboxes.lock().get(&spec.pod_uid) {
            return Ok(record.sandbox(&self.0.config));
        }
        if let Some(why) = &self.0.unlimited {
            return Err(ContainerError::Create(format!("failed to create the pod's sandbox: {why}")));
        }
        let ids = self.ids_for(spec)?;
        let (runtime, spec) = (self.clone(), spec.clone());
        let pod_uid = spec.pod_uid.clone();
        let record = blocking(move || {
            let config = &runtime.0.config;
            // Leftovers of a creation that was cut off. The list of all mounts is long: it is read only where needed.
            let dir = sandbox::dir(config, &spec.pod_uid);
            if dir.exists() {
                for point in crate::sys::mounts::below(&dir)? {
                    crate::sys::mounts::unmount(&point)?;
                }
            }
            sandbox::create(config, &runtime.0.program, &spec, ids)
        })
        .await
        .map_err(|error| {
            self.0.ids.release(&pod_uid);
            ContainerError::Create(format!("failed to create the pod's sandbox: {error}"))
        })?;
        let sandbox = record.sandbox(&self.0.config);
        self.0.sandboxes.lock().insert(record.pod_uid.clone(), record);
        self.weigh_classes();
        Ok(sandbox)
    }

    /// Removes the namespaces and the cgroup of a pod and whatever containers are left in it.
    pub async fn remove_sandbox(&self, pod_uid: &str) -> Result<(), RuntimeError> {
        let left: Vec<String> = self.containers_of(pod_uid).into_iter().map(|record| record.id).collect();
        for id in left {
            self.remove_container(&id).await?;
        }
        let Some(record) = self.0.sandboxes.lock().get(pod_uid).cloned() else { return Ok(()) };
        let runtime = self.clone();
        blocking(move || sandbox::remove(&runtime.0.config, &record))
            .await
            .map_err(io_error("remove a sandbox"))?;
        self.0.sandboxes.lock().remove(pod_uid);
        self.0.ids.release(pod_uid);
        self.weigh_classes();
        Ok(())
    }

    pub fn sandboxes(&self) -> Vec<Sandbox> {
        self.0.sandboxes.lock().values().map(|record| record.sandbox(&self.0.config)).collect()
    }

    /// Mounts the root file system and makes the container without starting its program. Returns its id.
    pub async fn create_container(&self, spec: &ContainerSpec) -> Result<String, ContainerError> {
        let pod = self.0.sandboxes.lock().get(&spec.pod_uid).cloned();
        let pod =
            pod.ok_or_else(|| ContainerError::Create(format!("pod {} has no sandbox", spec.pod_uid)))?;
        let target = spec.target.as_ref().map(|target| self.target(target)).transpose()?;
        let id = hex::encode(rand::random::<[u8; 32]>());
        let (runtime, spec, new) = (self.clone(), spec.clone(), id.clone());
        let made = tokio::task::spawn_blocking(move || {
            let among = container::Among { target, enforces_apparmor: runtime.0.no_apparmor.is_none() };
            container::prepare(&runtime.0.config, &pod, &spec, &among, &new)
        })
        .await;
        let record = made.map_err(|error| ContainerError::Create(error.to_string()))??;
        let state = record.created();
        self.insert(record, state.clone());
        self.set(&id, state);
        Ok(id)
    }

    /// The container whose processes another one shall see.
    fn target(&self, id: &str) -> Result<container::Target, ContainerError> {
        let gone = || ContainerError::Create(format!("target container {id:?} is not running"));
        let containers = self.0.containers.lock();
        let entry = containers.get(id).ok_or_else(gone)?;
        let ContainerState::Running { pid, .. } = *entry.state.borrow() else { return Err(gone()) };
        Ok(container::Target { pid, cgroup: entry.record.cgroup.clone() })
    }

    pub fn containers(&self) -> Vec<ContainerRecord> {
        let containers = self.0.containers.lock();
        containers.values().map(|entry| entry.record.public(entry.state.borrow().clone())).collect()
    }

    /// The containers of one pod.
    pub fn containers_of(&self, pod_uid: &str) -> Vec<ContainerRecord> {
        let containers = self.0.containers.lock();
        let own = containers.values().filter(|entry| entry.record.pod_uid == pod_uid);
        own.map(|entry| entry.record.public(entry.state.borrow().clone())).collect()
    }

    /// What asks the container to end: `wanted`, else the image's stop signal, else SIGTERM.
    pub fn stop_signal(&self, id: &str, wanted: Option<&str>) -> i32 {
        let own = || self.record(id).and_then(|record| signal_number(&record.stop_signal));
        wanted.and_then(signal_number).or_else(own).unwrap_or(libc::SIGTERM)
    }

    pub fn container(&self, id: &str) -> Option<ContainerRecord> {
        let containers = self.0.containers.lock();
        containers.get(id).map(|entry| entry.record.public(entry.state.borrow().clone()))
    }

    /// Every change of a container's state from now on. A receiver that lags looks at `containers()` again.
    pub fn events(&self) -> broadcast::Receiver<ContainerEvent> {
        self.0.events.subscribe()
    }

    pub async fn exec(&self, id: &str, spec: &ExecSpec) -> Result<Session, RuntimeError> {
        session::exec(self.link(id).await?, spec).await
    }

    pub async fn attach(&self, id: &str, spec: AttachSpec) -> Result<Session, RuntimeError> {
        session::attach(self.link(id).await?, spec).await
    }

    /// Runs a command without stdin and waits for it. On timeout it is killed.
    pub async fn exec_sync(
        &self,
        id: &str,
        command: &[String],
        timeout: Duration,
    ) -> Result<ExecOutput, RuntimeError> {
        let spec = ExecSpec { command: command.to_vec(), stdout: true, stderr: true, ..ExecSpec::default() };
        let begun = tokio::time::Instant::now();
        let session = tokio::time::timeout(timeout, self.exec(id, &spec)).await;
        let mut session = session.map_err(|_| RuntimeError::TimedOut(timeout))??;
        let (stdout, stderr) = (session.stdio.stdout.take(), session.stdio.stderr.take());
        let run = async {
            let (mut output, errors, code) = tokio::join!(drain(stdout), drain(stderr), session.wait());
            output.extend(errors);
            Ok(ExecOutput { code: code?, output })
        };
        match tokio::time::timeout_at(begun + timeout, run).await {
            Ok(result) => result,
            Err(_) => {
                session.kill();
                Err(RuntimeError::TimedOut(timeout))
            }
        }
    }
}

/// Reads to the end, keeps the beginning.
async fn drain(reader: Option<Box<dyn tokio::io::AsyncRead + Send + Unpin>>) -> Vec<u8> {
    let Some(mut reader) = reader else { return Vec::new() };
    let mut kept = Vec::new();
    // A broken pipe ends the output like its end does.
    if (&mut reader).take(MAX_OUTPUT).read_to_end(&mut kept).await.is_ok() {
        let _ = tokio::io::copy(&mut reader, &mut tokio::io::sink()).await;
    }
    kept
}

/// `SIGQUIT`, `QUIT` or `3`.
fn signal_number(name: &str) -> Option<i32> {
    let full = if name.starts_with("SIG") { name.to_owned() } else { format!("SIG{name}") };
    name.parse().ok().or_else(|| full.parse::<nix::sys::signal::Signal>().ok().map(|signal| signal as i32))
}

fn io_error(context: &'static str) -> impl Fn(std::io::Error) -> RuntimeError {
    move |source| RuntimeError::Io { context: context.to_owned(), source }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> std::io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(std::io::Error::other)?
}
