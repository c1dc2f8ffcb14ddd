//! What kubelet and shim say to each other: one JSON object a line; descriptors travel with it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::confinement::Confinement;
use crate::cri::{IdRange, Resources};
use crate::runtime::device_rules::Devices;

/// `shim.json` in the container's directory.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ShimConfig {
    pub(crate) id: String,
    /// Directory of the bundle; also of `state.json` and `exit.json`.
    pub(crate) dir: PathBuf,
    /// Directory on a tmpfs: the socket `s` and libcontainer's state.
    pub(crate) run_dir: PathBuf,
    pub(crate) cgroup: String,
    /// Where the shim itself belongs: whoever ends the kubelet's cgroup must not end it.
    pub(crate) shim_cgroup: String,
    /// The container's user by the host's number: its own streams must be his, for programs open `/dev/stdout`.
    pub(crate) uid: u32,
    /// Where the pod has users of its own.
    #[serde(default)]
    pub(crate) users: Option<PodUsers>,
    pub(crate) confinement: Confinement,
    /// The directory of all logs, and the container's own log below it.
    pub(crate) log_root: PathBuf,
    /// The limits of the container's cgroup.
    pub(crate) resources: Resources,
    pub(crate) devices: Devices,
    pub(crate) log_path: PathBuf,
    pub(crate) log_max_bytes: u64,
    pub(crate) log_max_files: u32,
    pub(crate) tty: bool,
    pub(crate) stdin: bool,
    pub(crate) stdin_once: bool,
}

/// The users of a pod that has its own.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct PodUsers {
    /// The file of the user namespace.
    pub(crate) namespace: PathBuf,
    pub(crate) ids: IdRange,
    pub(crate) staged: Vec<Staged>,
}

/// What the container is to have mounted, and where it stands ready for it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Staged {
    pub(crate) source: PathBuf,
    pub(crate) at: PathBuf,
    /// The owners of its files are shown as the pod's.
    pub(crate) map: bool,
    /// Also for who is root in the pod, with whatever capabilities.
    pub(crate) readonly: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub(crate) enum Request {
    /// Answered with the state, and again when it changes.
    Watch,
    Kill {
        signal: i32,
    },
    /// Descriptors without a terminal: stdin, stdout, stderr.
    Exec {
        command: Vec<String>,
        tty: bool,
    },
    /// On the connection of an exec: ends its process.
    Stop,
    /// Descriptors in the order stdin, stdout, stderr, as far as asked for.
    Attach {
        stdin: bool,
        stdout: bool,
        stderr: bool,
    },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "lowercase")]
pub(crate) enum Reply {
    Running {
        pid: i32,
        started: String,
    },
    Exited,
    /// The container could not be started.
    Failed {
        message: String,
    },
    Done,
    /// With the terminal's master as descriptor when there is one.
    Started,
    Refused {
        code: i32,
        message: String,
    },
    Exit {
        code: i32,
    },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct StateFile {
    pub(crate) pid: i32,
    pub(crate) started: String,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct ExitFile {
    pub(crate) started: Option<String>,
    pub(crate) finished: String,
    pub(crate) code: i32,
    pub(crate) signal: Option<i32>,
    pub(crate) oom: bool,
    pub(crate) message: String,
}

/// Writes a file that is never seen half written.
pub(crate) fn write_file(path: &std::path::Path, value: &impl Serialize) -> std::io::Result<()> {
    let scratch = path.with_extension("new");
    std::fs::write(&scratch, serde_json::to_vec(value).map_err(std::io::Error::other)?)?;
    std::fs::rename(scratch, path)
}

pub(crate) fn read_file<T: for<'a> Deserialize<'a>>(path: &std::path::Path) -> Option<T> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}
