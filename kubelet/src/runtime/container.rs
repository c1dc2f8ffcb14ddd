//! Containers on disk: directories, root file systems, records.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::device_rules::Devices;
use super::sandbox::{self, SandboxRecord};
use super::spec::{self, Surroundings};
use super::{RuntimeConfig, apparmor, cgroups, confinement, devices, rootfs, user, users};
use crate::beneath::{self, Access, Dir, FileType, Links};
use crate::cri::{
    ContainerError, ContainerRecord, ContainerSpec, ContainerState, ContainerUser, IdRange, Seccomp,
};
use crate::shim::protocol::{ExitFile, ShimConfig, StateFile, read_file, write_file};
use crate::sys::mounts;

/// In the run directory: the namespace of the container whose processes are shared.
const PID_NAMESPACE: &str = "pid";
/// In the run directory: layers, while their overlay is being mounted.
const LAYERS: &str = "layers";

/// `record.json`: what does not change.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) id: String,
    pub(super) pod_uid: String,
    pub(super) pod_namespace: String,
    pub(super) pod_name: String,
    pub(super) name: String,
    pub(super) attempt: u32,
    pub(super) init: bool,
    pub(super) image: String,
    pub(super) image_id: String,
    pub(super) log_path: PathBuf,
    pub(super) created: String,
    pub(super) cgroup: String,
    pub(super) stop_signal: String,
    #[serde(default)]
    pub(super) user: Option<ContainerUser>,
}

impl Record {
    pub(super) fn public(&self, state: ContainerState) -> ContainerRecord {
        ContainerRecord {
            id: self.id.clone(),
            pod_uid: self.pod_uid.clone(),
            pod_namespace: self.pod_namespace.clone(),
            pod_name: self.pod_name.clone(),
            name: self.name.clone(),
            attempt: self.attempt,
            init: self.init,
            image: self.image.clone(),
            image_id: self.image_id.clone(),
            log_path: self.log_path.clone(),
            user: self.user.clone(),
            state,
        }
    }

    pub(super) fn created(&self) -> ContainerState {
        ContainerState::Created { at: time(&self.created) }
    }
}

/// What is above a root file system lets nobody else in: a setuid file of an image is not for this machine's users
/// (CVE-2021-41103).
const CLOSED: Access = Access { mode: 0o700, uid: None, gid: None };

pub(super) fn time(text: &str) -> Timestamp {
    text.parse().unwrap_or(Timestamp::UNIX_EPOCH)
}

/// Makes the directories for containers and sandboxes; those a reboot may forget cost no disk.
pub(super) fn make_directories(config: &RuntimeConfig) -> io::Result<()> {
    let run_dir = &config.run_dir;
    fs::create_dir_all(run_dir)?;
    if let Err(error) = mounts::keep_in_memory(run_dir) {
        tracing::warn!(%error, "{} stays on its disk", run_dir.display());
    }
    fs::create_dir_all(run_dir.join("pods"))?;
    for all in [config.state_dir.join("containers"), run_dir.join("c")] {
        let all = Dir::make(&all, 0o711)?;
        all.set_access(Access::mode(0o711))?;
        // Those of a former version were open.
        for container in all.entries()? {
            let container = container?;
            if container.kind == FileType::Directory {
                let container = all.dir(container.name, Links::Refused)?;
                if container.stat()?.st_mode & 0o007 != 0 {
                    container.set_access(CLOSED)?;
                }
            }
        }
    }
    cgroups::make_frame(&cgroup_frame(config))
}

/// What stands for `/sys/fs/cgroup` in containers, where cgroups are of version 1.
fn cgroup_frame(config: &RuntimeConfig) -> PathBuf {
    config.run_dir.join("cgroup")
}

pub(super) fn dir(config: &RuntimeConfig, id: &str) -> PathBuf {
    config.state_dir.join("containers").join(id)
}

/// Short, for a socket's path must not be long.
pub(super) fn run_dir(config: &RuntimeConfig, id: &str) -> PathBuf {
    config.run_dir.join("c").join(&id[..id.len().min(24)])
}

/// The state the disk tells; `None`: started, and no end on record.
pub(super) fn state(config: &RuntimeConfig, record: &Record) -> Option<ContainerState> {
    let dir = dir(config, &record.id);
    if let Some(exit) = read_file::<ExitFile>(&dir.join("exit.json")) {
        return Some(exited(exit));
    }
    read_file::<StateFile>(&dir.join("state.json")).is_none().then(|| record.created())
}

pub(super) fn exited(exit: ExitFile) -> ContainerState {
    ContainerState::Exited {
        started: exit.started.as_deref().map(time),
        finished: time(&exit.finished),
        code: exit.code,
        signal: exit.signal,
        oom: exit.oom,
        message: exit.message,
    }
}

/// A running container whose processes another one shall see.
pub(super) struct Target {
    pub(super) pid: i32,
    pub(super) cgroup: String,
}

/// What a container is made among.
pub(super) struct Among {
    pub(super) target: Option<Target>,
    pub(super) enforces_apparmor: bool,
}

/// Makes everything but the process.
pub(super) fn prepare(
    config: &RuntimeConfig,
    pod: &SandboxRecord,
    spec: &ContainerSpec,
    among: &Among,
    id: &str,
) -> Result<Record, ContainerError> {
    let result = build(config, pod, spec, among, id);
    if result.is_err() {
        // The first error is the one to tell.
        let _ = remove(config, id, None);
    }
    result
}

fn build(
    config: &RuntimeConfig,
    pod: &SandboxRecord,
    spec: &ContainerSpec,
    among: &Among,
    id: &str,
) -> Result<Record, ContainerError> {
    let failed = |error: io::Error| ContainerError::Create(error.to_string());
    let missing = || ContainerError::Create(format!("image {:?} is not on this node", spec.image));
    let image = config.images.config(&spec.image_id).ok_or_else(missing)?;
    let layers = config.images.layers(&spec.image_id).ok_or_else(missing)?;
    let (dir, run_dir) = (dir(config, id), run_dir(config, id));
    let rootfs = run_dir.join("rootfs");
    let users = pod.users(config);
    // Who is root in the pod, by the host's number.
    let root_id = users.as_ref().map_or(0, |(_, ids)| ids.first);
    let (upper, work, empty) = (dir.join("upper"), dir.join("work"), dir.join("empty"));
    let closed = |dir: &Path, access| Dir::make(dir, 0o700).and_then(|made| made.set_access(access));
    closed(&dir, CLOSED).map_err(failed)?;
    // The pod's root mounts what is in there, when it has no rights over the host's any more.
    let passable = Access { mode: 0o710, uid: None, gid: Some(root_id) };
    closed(&run_dir, if users.is_some() { passable } else { CLOSED }).map_err(failed)?;
    for directory in [&upper, &work, &rootfs] {
        fs::create_dir_all(directory).map_err(failed)?;
    }
    let layers = if layers.is_empty() {
        fs::create_dir_all(&empty).map_err(failed)?;
        vec![empty]
    } else {
        layers
    };
    mount_rootfs(&layers, [&upper, &work, &rootfs], users.as_ref(), &run_dir)
        .map_err(|error| ContainerError::Create(format!("mount the image's root file system: {error}")))?;
    let (passwd, group) = (user::account_file(&rootfs, "passwd")?, user::account_file(&rootfs, "group")?);
    let who = user::resolve(spec, &image.user, &passwd, &group)?;
    users.as_ref().map_or(Ok(()), |(_, ids)| users::check(&who, *ids))?;
    let root = Dir::open(&rootfs).map_err(failed)?;
    rootfs::make_working_dir(&root, &spec::working_dir(spec, &image), root_id).map_err(failed)?;
    rootfs::make_mount_points(&root, &spec.mounts, root_id).map_err(failed)?;
    let mut namespaces = pod.namespaces(config, spec.security.privileged);
    if let Some(own) = namespaces.iter_mut().find(|(kind, path)| *kind == "pid" && path.is_none())
        && let Some(target) = &among.target
    {
        own.1 = Some(processes_of(target, &run_dir).map_err(failed)?);
    }
    let around = Surroundings {
        namespaces,
        sysctls: pod.sysctls.clone(),
        cgroup: format!("{}/{id}", pod.cgroup),
        unified_cgroups: cgroups::unified(),
        cgroup_frame: cgroups::framed(cgroup_frame(config)),
        rootfs,
        shm: (!pod.host_ipc).then(|| sandbox::dir(config, &pod.pod_uid).join("shm")),
        available: config.capabilities(),
        lowest_oom_score: config.oom_score(),
        apparmor: apparmor::profile(&spec.security, among.enforces_apparmor)?,
        localhost_profile: localhost_profile(config, &spec.security.seccomp)?,
        devices: if spec.security.privileged { devices::of_host().map_err(failed)? } else { Vec::new() },
    };
    let uid = users.as_ref().map_or(Some(who.uid), |(_, ids)| ids.outside(who.uid)).unwrap_or(who.uid);
    let staged = users.map(|users| users::stage(&run_dir, &spec.mounts, users));
    let (spec, users) = match staged {
        Some((mounts, users)) => (&ContainerSpec { mounts, ..spec.clone() }, Some(users)),
        None => (spec, None),
    };
    let mut oci = spec::build(spec, &image, &who, &around)?;
    let confinement = confinement::split(&mut oci, &config.state_dir.join("seccomp"))
        .map_err(|error| ContainerError::Create(format!("cannot prepare the seccomp filter: {error}")))?;
    write_file(&dir.join("config.json"), &oci).map_err(failed)?;
    let shim = ShimConfig {
        id: id.to_owned(),
        dir: dir.clone(),
        run_dir,
        cgroup: around.cgroup.clone(),
        shim_cgroup: cgroups::shims(&config.cgroup_root),
        uid,
        users,
        confinement,
        log_root: spec.log_root.clone(),
        resources: spec.resources.clone(),
        devices: Devices::of_container(spec.security.privileged),
        log_path: spec.log_path.clone(),
        log_max_bytes: spec.log_max_bytes,
        log_max_files: spec.log_max_files,
        tty: spec.tty,
        stdin: spec.stdin,
        stdin_once: spec.stdin_once,
    };
    write_file(&dir.join("shim.json"), &shim).map_err(failed)?;
    let record = Record {
        id: id.to_owned(),
        pod_uid: spec.pod_uid.clone(),
        pod_namespace: spec.pod_namespace.clone(),
        pod_name: spec.pod_name.clone(),
        name: spec.name.clone(),
        attempt: spec.attempt,
        init: spec.init,
        image: spec.image.clone(),
        image_id: spec.image_id.clone(),
        log_path: spec.log_path.clone(),
        created: Timestamp::now().to_string(),
        cgroup: around.cgroup,
        stop_signal: image.stop_signal,
        user: Some(ContainerUser { uid: who.uid, gid: who.gid, groups: who.groups }),
    };
    write_file(&dir.join("record.json"), &record).map_err(failed)?;
    Ok(record)
}

/// Mounts the layers and the writable one (`upper`, `work`) at `rootfs`. In a pod with users of its own all files belong
/// to these.
fn mount_rootfs(
    layers: &[PathBuf],
    [upper, work, rootfs]: [&Path; 3],
    users: Option<&(PathBuf, IdRange)>,
    run_dir: &Path,
) -> io::Result<()> {
    let Some((namespace, ids)) = users else { return mounts::overlay(layers, upper, work, rootfs) };
    Dir::open(upper)?.set_access(Access { mode: 0o755, uid: Some(ids.first), gid: Some(ids.first) })?;
    let mapped = mounts::MappedLayers::new(layers, namespace, &run_dir.join(LAYERS))?;
    mounts::overlay(mapped.paths(), upper, work, rootfs)
}

/// The file by which the pid namespace of a running container is joined.
fn processes_of(target: &Target, run_dir: &Path) -> io::Result<PathBuf> {
    let file = run_dir.join(PID_NAMESPACE);
    fs::File::create(&file)?;
    mounts::bind(Path::new(&format!("/proc/{}/ns/pid", target.pid)), &file)?;
    // Its number may have gone to another process: what was bound counts only if it is still in the container's group.
    if cgroups::contains(&target.cgroup, target.pid)? {
        Ok(file)
    } else {
        Err(io::Error::other("the target container has just ended"))
    }
}

fn localhost_profile(
    config: &RuntimeConfig,
    seccomp: &Seccomp,
) -> Result<Option<serde_json::Value>, ContainerError> {
    let Seccomp::Localhost(name) = seccomp else { return Ok(None) };
    let path = config.seccomp_dir.join(name);
    let text = fs::read(&path).map_err(|error| {
        ContainerError::Create(format!("cannot load seccomp profile {:?}: {error}", path.display()))
    })?;
    serde_json::from_slice(&text).map(Some).map_err(|error| {
        ContainerError::Create(format!("cannot load seccomp profile {:?}: {error}", path.display()))
    })
}

/// Removes what creations that were cut off left in the run directory.
pub(super) fn sweep(config: &RuntimeConfig) -> io::Result<()> {
    for entry in fs::read_dir(config.run_dir.join("c"))?.flatten() {
        let short = entry.file_name().to_string_lossy().into_owned();
        let known = fs::read_dir(config.state_dir.join("containers"))?
            .flatten()
            .any(|container| container.file_name().to_string_lossy().starts_with(&short));
        if !known {
            for point in mounts::below(&entry.path())? {
                mounts::unmount(&point)?;
            }
            beneath::remove_tree(entry.path())?;
        }
    }
    Ok(())
}

/// Takes off all that is mounted for a container; its files stay. What is not mounted is fine.
pub(super) fn unmount(config: &RuntimeConfig, id: &str) -> io::Result<()> {
    let run_dir = run_dir(config, id);
    ["rootfs", PID_NAMESPACE].iter().try_for_each(|point| mounts::unmount(&run_dir.join(point)))
}

/// Removes directories, mounts and what is left of the cgroup.
pub(super) fn remove(config: &RuntimeConfig, id: &str, cgroup: Option<&str>) -> io::Result<()> {
    let run_dir = run_dir(config, id);
    if let Some(cgroup) = cgroup {
        cgroups::end(cgroup)?;
    }
    unmount(config, id)?;
    for directory in [run_dir, dir(config, id)] {
        beneath::remove_tree(&directory)?;
    }
    Ok(())
}
