//! What the pod side of the kubelet asks of the container side: plain values, close to upstream's CRI messages.
//!
//! `runtime::Runtime` and `images::Images` implement it; `pods` is its only caller.

use std::path::PathBuf;

use coracle_api::resources::QosClass;
use jiff::Timestamp;
use tokio::io::{AsyncRead, AsyncWrite};

/// The namespaces and cgroup shared by a pod's containers.
#[derive(Clone, Debug, PartialEq)]
pub struct SandboxSpec {
    pub pod_uid: String,
    pub namespace: String,
    pub name: String,
    pub hostname: String,
    pub host_network: bool,
    pub host_pid: bool,
    pub host_ipc: bool,
    /// `shareProcessNamespace`: one pid namespace with a pause process as its init.
    pub share_pid: bool,
    /// `hostUsers: false`: the pod's users are not the host's.
    pub own_users: bool,
    /// Namespaced sysctls, set once in the sandbox.
    pub sysctls: Vec<(String, String)>,
    /// Limits of the pod-level cgroup.
    pub resources: Resources,
    pub qos: QosClass,
}

/// Ids of the host, of users and of groups alike, that stand for 0 and up in a pod with users of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct IdRange {
    pub first: u32,
    pub count: u32,
}

impl IdRange {
    /// The host's id for one of the pod's; `None`: the pod has no such id.
    pub fn outside(self, inside: u32) -> Option<u32> {
        (inside < self.count).then(|| self.first.checked_add(inside)).flatten()
    }
}

/// cgroup limits. `None` means: no limit.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Resources {
    pub cpu_shares: Option<u64>,
    /// Microseconds of CPU per `cpu_period` (100,000).
    pub cpu_quota: Option<i64>,
    pub cpu_period: u64,
    /// Bytes.
    pub memory_limit: Option<i64>,
    pub pids_limit: Option<i64>,
    pub oom_score_adj: i32,
    /// The kernel's OOM killer ends all processes together, as containers want it (version 2 alone can).
    pub kill_together: bool,
    /// Bytes of huge pages by their size as the kernel names it (`2MB`).
    pub huge_pages: Vec<(String, u64)>,
}

/// A sandbox that exists: its namespace files survive a restart of the kubelet.
#[derive(Clone, Debug, PartialEq)]
pub struct Sandbox {
    pub pod_uid: String,
    /// Bind-mounted namespace file; `None` for the host's network.
    pub netns: Option<PathBuf>,
    /// The namespace file and the ids of a pod that has users of its own.
    pub users: Option<(PathBuf, IdRange)>,
    pub created: Timestamp,
}

/// One container, completely decided: image resolved, environment expanded, mounts prepared on the host.
#[derive(Clone, Debug, PartialEq)]
pub struct ContainerSpec {
    pub pod_uid: String,
    pub pod_namespace: String,
    pub pod_name: String,
    /// Name in the pod spec.
    pub name: String,
    /// How often this container was started before (restart count): part of its identity and of its log file's name.
    pub attempt: u32,
    pub init: bool,
    /// The id of a running container whose processes this one shares.
    pub target: Option<String>,
    /// The image id that `Images` gave.
    pub image_id: String,
    /// As the user wrote it, for status.
    pub image: String,
    /// Overrides the image's entrypoint when not empty.
    pub command: Vec<String>,
    /// Overrides the image's command when not empty (or when `command` is given).
    pub args: Vec<String>,
    /// Added after, and winning over, the image's environment.
    pub env: Vec<(String, String)>,
    /// Empty: the image's.
    pub working_dir: String,
    pub mounts: Vec<Mount>,
    pub tty: bool,
    pub stdin: bool,
    pub stdin_once: bool,
    pub security: Security,
    pub resources: Resources,
    /// The directory of all logs.
    pub log_root: PathBuf,
    /// Where below it the shim appends CRI log lines (`<time> stdout F <line>`).
    pub log_path: PathBuf,
    /// Rotation of that file by the shim: bytes per file, and how many files are kept.
    pub log_max_bytes: u64,
    pub log_max_files: u32,
    /// Host file mounted at the container's `terminationMessagePath`.
    pub hostname: String,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Mount {
    pub host_path: PathBuf,
    pub container_path: PathBuf,
    pub readonly: bool,
    pub recursive_readonly: bool,
    pub propagation: Propagation,
    /// The owners of its files are already the pod's, where the pod has users of its own: nothing is left to be mapped.
    pub mapped: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Propagation {
    #[default]
    None,
    HostToContainer,
    Bidirectional,
}

/// The merged pod and container security contexts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Security {
    /// `None`: the image's user.
    pub run_as_user: Option<i64>,
    pub run_as_group: Option<i64>,
    /// `fsGroup` and `supplementalGroups`.
    pub supplemental_groups: Vec<i64>,
    /// `supplementalGroupsPolicy: Strict`: groups of the image's `/etc/group` are left out.
    pub strict_groups: bool,
    pub run_as_non_root: bool,
    pub privileged: bool,
    pub allow_privilege_escalation: Option<bool>,
    pub readonly_rootfs: bool,
    /// Without the `CAP_` prefix; `ALL` is known.
    pub add_capabilities: Vec<String>,
    pub drop_capabilities: Vec<String>,
    pub seccomp: Seccomp,
    pub apparmor: AppArmor,
    /// `procMount: Unmasked`
    pub unmasked_proc: bool,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub enum Seccomp {
    /// The runtime's own profile. The default here, as with upstream's `--seccomp-default`.
    #[default]
    RuntimeDefault,
    Unconfined,
    /// A profile file below the kubelet's seccomp directory.
    Localhost(PathBuf),
}

/// What AppArmor profile a container runs under.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum AppArmor {
    /// Nothing was asked for: the runtime's own, and none for privileged containers.
    #[default]
    Default,
    RuntimeDefault,
    Unconfined,
    /// A profile that the administrator has loaded.
    Localhost(String),
}

/// A container as the disk and the shim know it, whoever started it.
#[derive(Clone, Debug, PartialEq)]
pub struct ContainerRecord {
    /// 64 hex digits, printed as `coracle://<id>`.
    pub id: String,
    pub pod_uid: String,
    pub pod_namespace: String,
    pub pod_name: String,
    pub name: String,
    pub attempt: u32,
    pub init: bool,
    pub image: String,
    pub image_id: String,
    /// Below the directory of all logs.
    pub log_path: PathBuf,
    /// Who its first process runs as; unknown for records of older versions.
    pub user: Option<ContainerUser>,
    pub state: ContainerState,
}

/// Numbers, resolved from the security context and the image.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ContainerUser {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum ContainerState {
    Created {
        at: Timestamp,
    },
    Running {
        started: Timestamp,
        pid: i32,
    },
    /// `code` is 128 + signal for a killed process; `oom` when the kernel's OOM killer ended it.
    Exited {
        started: Option<Timestamp>,
        finished: Timestamp,
        code: i32,
        signal: Option<i32>,
        oom: bool,
        message: String,
    },
    /// The shim is gone and left no exit record.
    Unknown,
}

impl ContainerState {
    pub(crate) fn finished_at(&self) -> Option<Timestamp> {
        match self {
            ContainerState::Exited { finished, .. } => Some(*finished),
            ContainerState::Created { .. } | ContainerState::Running { .. } | ContainerState::Unknown => None,
        }
    }
}

/// Something happened to a container; the receiver looks it up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerEvent {
    pub pod_uid: String,
    pub container_id: String,
}

/// Why a container could not be made or started, with upstream's reason for the container status.
#[derive(Debug, thiserror::Error)]
pub enum ContainerError {
    /// `CreateContainerConfigError`: runAsNonRoot with a root image, an unknown user ...
    #[error("{0}")]
    Config(String),
    /// `CreateContainerError`
    #[error("{0}")]
    Create(String),
    /// `StartError` (exit code 128): the entrypoint does not exist or cannot be run.
    #[error("{0}")]
    Start(String),
}

/// What is known of an image on the node.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageInfo {
    /// `sha256:<config digest>`
    pub id: String,
    /// `docker.io/library/nginx:1.27`
    pub tags: Vec<String>,
    /// `docker.io/library/nginx@sha256:...`
    pub digests: Vec<String>,
    pub size_bytes: u64,
    /// The image's own `USER`, for `runAsNonRoot`.
    pub user: String,
}

/// Why an image could not be had: upstream's `ErrImagePull`, `ErrImageNeverPull`, `InvalidImageName`, `RegistryUnavailable`.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error("{0}")]
    InvalidName(String),
    #[error("{0}")]
    Pull(String),
    #[error("{0}")]
    Unavailable(String),
}

/// Credentials for one registry, from `imagePullSecrets`.
#[derive(Clone, Debug, PartialEq)]
pub struct RegistryCredential {
    /// As in the Docker config: `registry.example.com`, `https://index.docker.io/v1/`, with optional path or glob.
    pub registry: String,
    pub username: String,
    pub password: String,
    /// The Secret it is from, by which a pod that has it is known again.
    pub secret: Option<SecretReference>,
}

/// One Secret and no later one of its name.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SecretReference {
    pub uid: String,
    pub namespace: String,
    pub name: String,
}

/// The three ends of an exec or attach: what the streaming server copies from and to. Dropping `stdin` closes it.
#[derive(Default)]
pub struct StdioPipes {
    pub stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    pub stdout: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// Never there with a terminal.
    pub stderr: Option<Box<dyn AsyncRead + Send + Unpin>>,
}

/// A command to run in a running container.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ExecSpec {
    pub command: Vec<String>,
    pub tty: bool,
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
}

/// Which of the container's own streams to join. Whether there is a terminal is the container's affair.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AttachSpec {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
}

/// What a finished `exec_sync` gave; the output is bounded (16 KiB, as for upstream's probes), the rest is dropped.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ExecOutput {
    pub code: i32,
    /// stdout and stderr as they came.
    pub output: Vec<u8>,
}

/// What a cgroup used.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stats {
    pub cpu_usage_nanos: u64,
    pub memory_usage_bytes: u64,
    /// Usage without the inactive file cache: what eviction and `kubectl top` look at.
    pub memory_working_set_bytes: u64,
    pub memory_rss_bytes: u64,
    pub page_faults: u64,
    pub major_page_faults: u64,
    pub pids: u64,
}

/// An operation on something that exists failed.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    #[error("container {0:?} not found")]
    NotFound(String),
    #[error("container is not running")]
    NotRunning,
    /// The command of an exec could not be started: upstream's exit code 126 or 127 and its message.
    #[error("{message}")]
    ExecFailed { code: i32, message: String },
    #[error("command timed out after {0:?}")]
    TimedOut(std::time::Duration),
    #[error("{context}")]
    Io { context: String, source: std::io::Error },
    #[error("{0}")]
    Shim(String),
}

/// An error with all its causes in one line: many libraries' own texts are flat.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let part = inner.to_string();
        if !text.ends_with(&part) {
            text = format!("{text}: {part}");
        }
        cause = inner.source();
    }
    text
}
