//! From a container's specification and its image to the OCI runtime configuration: a pure function.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::user::User;
use super::{cgroups, seccomp};
use crate::cri::{ContainerError, ContainerSpec, Mount, Propagation, Seccomp};
use crate::images::ImageConfig;

const DEFAULT_CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];
const ALL_CAPABILITIES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];
const MASKED_PATHS: [&str; 11] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
const READONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What the sandbox and the node decide.
#[derive(Clone, Debug, Default)]
pub(super) struct Surroundings {
    /// OCI namespace type and file; an absent type is the host's.
    pub(super) namespaces: Vec<(&'static str, Option<PathBuf>)>,
    pub(super) sysctls: Vec<(String, String)>,
    pub(super) cgroup: String,
    pub(super) unified_cgroups: bool,
    /// On version 1: the directory that stands for `/sys/fs/cgroup`, and the hierarchies it has a place for.
    pub(super) cgroup_frame: (PathBuf, Vec<String>),
    pub(super) rootfs: PathBuf,
    /// The pod's shared memory directory.
    pub(super) shm: Option<PathBuf>,
    /// The capabilities this process can give: root in a container may lack some.
    pub(super) available: u64,
    pub(super) lowest_oom_score: i32,
    /// The AppArmor profile.
    pub(super) apparmor: Option<String>,
    /// The content of a `Localhost` profile.
    pub(super) localhost_profile: Option<Value>,
    /// Character and block devices of the host, for privileged containers.
    pub(super) devices: Vec<Value>,
}

pub(super) fn build(
    spec: &ContainerSpec,
    image: &ImageConfig,
    user: &User,
    around: &Surroundings,
) -> Result<Value, ContainerError> {
    let args = arguments(spec, image)?;
    let security = &spec.security;
    let capabilities = capabilities(spec, around.available)?;
    let root_user = user.uid == 0;
    let effective: &[String] = if root_user { &capabilities } else { &[] };
    let mut process = json!({
        "terminal": spec.tty,
        "user": {"uid": user.uid, "gid": user.gid, "additionalGids": user.groups},
        "args": args,
        "env": environment(spec, image, user),
        "cwd": working_dir(spec, image),
        "capabilities": {"bounding": capabilities, "effective": effective, "permitted": effective},
        "rlimits": [],
    });
    // A present `false` makes libcontainer load the filter after the capabilities are gone.
    if security.allow_privilege_escalation == Some(false) && !security.privileged {
        process["noNewPrivileges"] = json!(true);
    }
    if let Some(profile) = &around.apparmor {
        process["apparmorProfile"] = json!(profile);
    }
    if spec.resources.oom_score_adj >= around.lowest_oom_score {
        process["oomScoreAdj"] = json!(spec.resources.oom_score_adj);
    }
    let namespaces: Vec<Value> = around
        .namespaces
        .iter()
        .map(|(kind, path)| match path {
            Some(path) => json!({"type": kind, "path": path}),
            None => json!({"type": kind}),
        })
        .collect();
    let mut linux = json!({
        "cgroupsPath": around.cgroup,
        "namespaces": namespaces,
        // All limits are set where the group is made; without a word on devices the library would allow all at first.
        "resources": {"devices": [{"allow": security.privileged, "access": "rwm"}]},
        "rootfsPropagation": propagation(&spec.mounts),
        "devices": around.devices,
    });
    if !security.privileged {
        if !security.unmasked_proc {
            linux["maskedPaths"] = json!(MASKED_PATHS);
            linux["readonlyPaths"] = json!(READONLY_PATHS);
        }
        match &security.seccomp {
            Seccomp::Unconfined => {}
            Seccomp::RuntimeDefault => linux["seccomp"] = seccomp::runtime_default(&capabilities),
            Seccomp::Localhost(_) => {
                linux["seccomp"] = around.localhost_profile.clone().unwrap_or(Value::Null)
            }
        }
    }
    if !around.sysctls.is_empty() {
        linux["sysctl"] = around.sysctls.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
    }
    Ok(json!({
        "ociVersion": "1.0.2",
        "process": process,
        "root": {"path": around.rootfs, "readonly": security.readonly_rootfs},
        "mounts": mounts(spec, around),
        "linux": linux,
    }))
}

fn arguments(spec: &ContainerSpec, image: &ImageConfig) -> Result<Vec<String>, ContainerError> {
    let command = if spec.command.is_empty() { &image.entrypoint } else { &spec.command };
    let args = if spec.args.is_empty() && spec.command.is_empty() { &image.cmd } else { &spec.args };
    let all: Vec<String> = command.iter().chain(args).cloned().collect();
    if all.is_empty() { Err(ContainerError::Create("no command specified".to_owned())) } else { Ok(all) }
}

/// The image's environment, then the pod's; the later wins.
fn environment(spec: &ContainerSpec, image: &ImageConfig, user: &User) -> Vec<String> {
    let mut all: Vec<String> =
        vec![PATH.to_owned(), format!("HOSTNAME={}", spec.hostname), format!("HOME={}", user.home)];
    if spec.tty {
        all.push("TERM=xterm".to_owned());
    }
    all.extend(image.env.iter().cloned());
    all.extend(spec.env.iter().map(|(name, value)| format!("{name}={value}")));
    let name = |entry: &str| entry.split('=').next().unwrap_or_default().to_owned();
    let mut seen = BTreeSet::new();
    let mut kept: Vec<String> = all.into_iter().rev().filter(|entry| seen.insert(name(entry))).collect();
    kept.reverse();
    kept
}

pub(super) fn working_dir(spec: &ContainerSpec, image: &ImageConfig) -> String {
    [&spec.working_dir, &image.working_dir]
        .into_iter()
        .find(|dir| !dir.is_empty())
        .cloned()
        .unwrap_or_else(|| "/".to_owned())
}

fn capabilities(spec: &ContainerSpec, available: u64) -> Result<Vec<String>, ContainerError> {
    let security = &spec.security;
    let full = |name: &str| if name.starts_with("CAP_") { name.to_owned() } else { format!("CAP_{name}") };
    let all = |names: &[String]| names.iter().any(|name| name == "ALL");
    let possible: Vec<&str> = ALL_CAPABILITIES
        .iter()
        .enumerate()
        .filter(|(bit, _)| available & (1 << bit) != 0)
        .map(|(_, name)| *name)
        .collect();
    let mut set: BTreeSet<String> = if security.privileged || all(&security.add_capabilities) {
        possible.iter().map(|name| (*name).to_owned()).collect()
    } else if all(&security.drop_capabilities) {
        BTreeSet::new()
    } else {
        DEFAULT_CAPABILITIES
            .iter()
            .filter(|name| possible.contains(name))
            .map(|name| (*name).to_owned())
            .collect()
    };
    if !security.privileged {
        for name in security.drop_capabilities.iter().filter(|name| *name != "ALL") {
            set.remove(&full(name));
        }
        for name in security.add_capabilities.iter().filter(|name| *name != "ALL") {
            if !ALL_CAPABILITIES.contains(&full(name).as_str()) {
                return Err(ContainerError::Create(format!("unknown capability {:?}", full(name))));
            }
            set.insert(full(name));
        }
    }
    Ok(set.into_iter().collect())
}

/// libcontainer honours only the root's propagation, so the strongest wish of the mounts decides.
fn propagation(mounts: &[Mount]) -> &'static str {
    if mounts.iter().any(|mount| mount.propagation == Propagation::Bidirectional) {
        "shared"
    } else {
        "slave"
    }
}

fn mounts(spec: &ContainerSpec, around: &Surroundings) -> Vec<Value> {
    let mount = |destination: &str, kind: &str, options: &[&str]| json!({"destination": destination, "type": kind, "source": kind, "options": options});
    let sys = if spec.security.privileged { "rw" } else { "ro" };
    let mut all = vec![
        mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", sys]),
    ];
    all.push(match &around.shm {
        Some(shm) => json!({"destination": "/dev/shm", "type": "bind", "source": shm, "options": ["rbind", "rw", "nosuid", "noexec", "nodev"]}),
        None => mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
    });
    if around.unified_cgroups {
        all.push(mount(cgroups::ROOT, "cgroup", &["nosuid", "noexec", "nodev", "relatime", sys]));
    } else if spec.mounts.iter().all(|mount| mount.container_path != Path::new(cgroups::ROOT)) {
        all.extend(own_groups(around, sys));
    }
    let mut own: Vec<&Mount> = spec.mounts.iter().collect();
    own.sort_by_key(|mount| mount.container_path.components().count());
    for mount in own {
        all.retain(|other| {
            Path::new(other["destination"].as_str().unwrap_or_default()) != mount.container_path
        });
        let access = match (mount.readonly, mount.recursive_readonly) {
            (true, true) => "rro",
            (true, false) => "ro",
            (false, _) => "rw",
        };
        all.push(json!({"destination": mount.container_path, "type": "bind", "source": mount.host_path, "options": ["rbind", access]}));
    }
    all
}

/// The container's groups of version 1, each in its place. A mount of type `cgroup` will not do: libcontainer makes it
/// writable whatever the options say.
fn own_groups(around: &Surroundings, access: &str) -> Vec<Value> {
    let (frame, hierarchies) = &around.cgroup_frame;
    let bind = |destination: PathBuf, source: PathBuf, access: &str| json!({"destination": destination, "type": "bind", "source": source, "options": ["bind", "nosuid", "noexec", "nodev", access]});
    let root = Path::new(cgroups::ROOT);
    let group = |name: &String| {
        let own = root.join(name).join(around.cgroup.trim_start_matches('/'));
        bind(root.join(name), own, access)
    };
    let frame = (!hierarchies.is_empty()).then(|| bind(root.to_owned(), frame.clone(), "ro"));
    frame.into_iter().chain(hierarchies.iter().map(group)).collect()
}

#[cfg(test)]
mod tests;
