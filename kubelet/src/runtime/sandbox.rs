//! Sandboxes on disk: a pod's cgroup, its namespace files, its shared memory.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use coracle_api::resources::QosClass;
use jiff::Timestamp;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::device_rules::Devices;
use super::program::Program;
use super::{RuntimeConfig, cgroups};
use crate::beneath;
use crate::cri::{IdRange, Resources, Sandbox, SandboxSpec};
use crate::shim::namespaces::{PAUSE, Wanted};
use crate::shim::{pause, protocol::write_file};
use crate::sys::{mounts, namespaces};

/// `<run>/pods/<uid>/sandbox.json`
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct SandboxRecord {
    pub(super) pod_uid: String,
    pub(super) created: String,
    pub(super) cgroup: String,
    pub(super) host_network: bool,
    pub(super) host_pid: bool,
    pub(super) host_ipc: bool,
    pub(super) share_pid: bool,
    pub(super) sysctls: Vec<(String, String)>,
    pub(super) pause: Option<i32>,
    /// Where the pod has users of its own.
    #[serde(default)]
    pub(super) ids: Option<IdRange>,
    /// Absent in records of older versions.
    #[serde(default)]
    pub(super) qos: Option<QosClass>,
    #[serde(default)]
    pub(super) cpu_shares: u64,
}

impl SandboxRecord {
    pub(super) fn sandbox(&self, config: &RuntimeConfig) -> Sandbox {
        Sandbox {
            pod_uid: self.pod_uid.clone(),
            netns: (!self.host_network).then(|| dir(config, &self.pod_uid).join("net")),
            users: self.users(config),
            created: self.created.parse().unwrap_or(Timestamp::UNIX_EPOCH),
        }
    }

    /// The file and the ids of the pod's user namespace, if it has one of its own.
    pub(super) fn users(&self, config: &RuntimeConfig) -> Option<(PathBuf, IdRange)> {
        self.ids.map(|ids| (dir(config, &self.pod_uid).join("user"), ids))
    }

    /// What an OCI configuration says of the namespaces.
    pub(super) fn namespaces(
        &self,
        config: &RuntimeConfig,
        privileged: bool,
    ) -> Vec<(&'static str, Option<PathBuf>)> {
        let dir = dir(config, &self.pod_uid);
        let mut all = vec![("mount", None)];
        all.extend(self.ids.map(|_| ("user", Some(dir.join("user")))));
        if !self.host_network {
            all.extend([("network", Some(dir.join("net"))), ("uts", Some(dir.join("uts")))]);
        }
        if !self.host_ipc {
            all.push(("ipc", Some(dir.join("ipc"))));
        }
        match (self.host_pid, self.pause) {
            (true, _) => {}
            (false, Some(_)) => all.push(("pid", Some(dir.join("pid")))),
            (false, None) => all.push(("pid", None)),
        }
        if has_own_cgroup_namespace(cgroups::unified(), privileged) {
            all.push(("cgroup", None));
        }
        all
    }
}

/// A privileged container sees the host's groups, as upstream's does; with version 1 the container's own are mounted.
fn has_own_cgroup_namespace(unified: bool, privileged: bool) -> bool {
    unified && !privileged
}

pub(super) fn dir(config: &RuntimeConfig, pod_uid: &str) -> PathBuf {
    config.run_dir.join("pods").join(pod_uid)
}

/// The groups that a pod may have, one for each class.
pub(super) fn groups(root: &str, pod_uid: &str) -> [String; 3] {
    [QosClass::Guaranteed, QosClass::Burstable, QosClass::BestEffort].map(|qos| cgroup(root, qos, pod_uid))
}

fn cgroup(root: &str, qos: QosClass, pod_uid: &str) -> String {
    let class = match qos {
        QosClass::Guaranteed => "",
        QosClass::Burstable => "/burstable",
        QosClass::BestEffort => "/besteffort",
    };
    format!("{root}{class}/pod{pod_uid}")
}

/// Removes what creations that were cut off left behind.
pub(super) fn sweep(config: &RuntimeConfig) -> io::Result<()> {
    for entry in fs::read_dir(config.run_dir.join("pods"))?.flatten() {
        if !entry.path().join("sandbox.json").exists() {
            let uid = entry.file_name().to_string_lossy().into_owned();
            for group in groups(&config.cgroup_root, &uid) {
                end(config, &uid, &group)?;
            }
        }
    }
    Ok(())
}

pub(super) fn create(
    config: &RuntimeConfig,
    program: &Program,
    spec: &SandboxSpec,
    ids: Option<IdRange>,
) -> io::Result<SandboxRecord> {
    let cgroup = cgroup(&config.cgroup_root, spec.qos, &spec.pod_uid);
    let result = build(config, program, spec, ids, cgroup.clone());
    if result.is_err() {
        // The first error is the one to tell.
        let _ = end(config, &spec.pod_uid, &cgroup);
    }
    result
}

fn build(
    config: &RuntimeConfig,
    program: &Program,
    spec: &SandboxSpec,
    ids: Option<IdRange>,
    cgroup: String,
) -> io::Result<SandboxRecord> {
    let dir = dir(config, &spec.pod_uid);
    fs::create_dir_all(&dir)?;
    cgroups::create(&cgroup, &spec.resources)?;
    let has_pause = spec.share_pid && !spec.host_pid;
    let started = match ids {
        Some(ids) => {
            if spec.host_network || spec.host_pid || spec.host_ipc {
                return Err(io::Error::other(
                    "namespaces of the host are not for a pod with users of its own",
                ));
            }
            let wanted = Wanted { ids, hostname: spec.hostname.clone(), pause: has_pause, trial: false };
            prepare_pause(&dir)?;
            make_with_users(config, program, &dir, &wanted)?
        }
        None => {
            let mut kinds = Vec::new();
            if !spec.host_network {
                kinds.extend(["net", "uts"]);
            }
            if !spec.host_ipc {
                kinds.push("ipc");
            }
            namespaces::create(&dir, &kinds, &spec.hostname)?;
            if has_pause { Some(start_pause(config, program, &dir)?) } else { None }
        }
    };
    if !spec.host_ipc {
        let (shm, owner) = (dir.join("shm"), ids.map_or(0, |ids| ids.first));
        fs::create_dir_all(&shm)?;
        mounts::tmpfs(&shm, &format!("mode=1777,size=65536k,uid={owner},gid={owner}"))?;
    }
    if let Some(pid) = started {
        confine_pause(&dir, &format!("{cgroup}/pause"), pid)?;
    }
    let record = SandboxRecord {
        pod_uid: spec.pod_uid.clone(),
        created: Timestamp::now().to_string(),
        cgroup,
        host_network: spec.host_network,
        host_pid: spec.host_pid,
        host_ipc: spec.host_ipc,
        share_pid: spec.share_pid,
        sysctls: spec.sysctls.clone(),
        pause: started,
        ids,
        qos: Some(spec.qos),
        cpu_shares: spec.resources.cpu_shares.unwrap_or(0),
    };
    write_file(&dir.join("sandbox.json"), &record)?;
    Ok(record)
}

/// The empty directory that the first process of a shared pid namespace is locked into.
fn prepare_pause(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir.join(pause::ROOT))
}

/// A first process for the shared pid namespace.
fn start_pause(config: &RuntimeConfig, program: &Program, dir: &Path) -> io::Result<i32> {
    prepare_pause(dir)?;
    let mut command = Command::new(program.path());
    command.args(&config.shim_arguments).arg("--pause").arg(dir);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = namespaces::spawn_in_pid_namespace(command)?;
    let pid = child.id().cast_signed();
    // Until it has left the host's files behind, no container may share its processes.
    let mut word = String::new();
    let told = child.stdout.take().map(|mut out| out.read_to_string(&mut word));
    if !matches!(told, Some(Ok(_))) || word != pause::READY {
        let _ = child.kill();
        let _ = child.wait();
        return Err(io::Error::other(format!("the pause process failed: {word}")));
    }
    // A thread for each shared pod: it only waits, so that no zombie stays.
    std::thread::spawn(move || child.wait());
    Ok(pid)
}

/// Puts the pause process into its group, and its pid namespace into a file.
fn confine_pause(dir: &Path, cgroup: &str, pid: i32) -> io::Result<()> {
    let confined = || {
        cgroups::create(cgroup, &Resources::default())?;
        cgroups::restrict_devices(cgroup, &Devices::of_container(false))?;
        cgroups::join(cgroup, pid)?;
        let file = dir.join("pid");
        fs::File::create(&file)?;
        mounts::bind(&PathBuf::from(format!("/proc/{pid}/ns/pid")), &file)
    };
    let result = confined();
    if result.is_err() {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    result
}

/// Makes the namespaces of a pod with users of its own, each in its file in `dir`. Gives the number of the pause process
/// if there is to be one.
pub(super) fn make_with_users(
    config: &RuntimeConfig,
    program: &Program,
    dir: &Path,
    wanted: &Wanted,
) -> io::Result<Option<i32>> {
    let mut command = Command::new(program.path());
    let asked = serde_json::to_string(wanted).map_err(io::Error::other)?;
    command.args(&config.shim_arguments).arg("--namespaces").arg(dir).arg(asked);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let done = command.spawn()?.wait_with_output()?;
    let word = String::from_utf8_lossy(&done.stdout).into_owned();
    let pid = word.lines().find_map(|line| line.strip_prefix(PAUSE)?.parse::<i32>().ok());
    match pid {
        _ if !done.status.success() => {}
        Some(pid) if word.ends_with(pause::READY) => return Ok(Some(pid)),
        None if !wanted.pause => return Ok(None),
        Some(_) | None => {}
    }
    if let Some(pid) = pid {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    Err(io::Error::other(format!("the pod's own namespaces cannot be made: {word}")))
}

/// The pod has ended for good: its ids are for others.
pub(super) fn forget_ids(config: &RuntimeConfig, record: &mut SandboxRecord) -> io::Result<()> {
    record.ids = None;
    write_file(&dir(config, &record.pod_uid).join("sandbox.json"), record)
}

pub(super) fn remove(config: &RuntimeConfig, record: &SandboxRecord) -> io::Result<()> {
    if let Some(pause) = record.pause {
        let _ = kill(Pid::from_raw(pause), Signal::SIGKILL);
    }
    end(config, &record.pod_uid, &record.cgroup)
}

fn end(config: &RuntimeConfig, pod_uid: &str, cgroup: &str) -> io::Result<()> {
    cgroups::end(cgroup)?;
    let dir = dir(config, pod_uid);
    for point in mounts::below(&dir)? {
        mounts::unmount(&point)?;
    }
    beneath::remove_tree(&dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn privileged_containers_are_in_the_hosts_cgroup_namespace() {
        for (unified, privileged, own) in
            [(true, false, true), (true, true, false), (false, false, false), (false, true, false)]
        {
            assert_eq!(has_own_cgroup_namespace(unified, privileged), own, "{unified} {privileged}");
        }
    }
}
