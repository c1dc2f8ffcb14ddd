//! The kubelet's own cgroups: the pod's, and what it reads from the containers'. Version 1 (hybrid) and version 2.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::cri::{Resources, Stats};

pub(super) const ROOT: &str = "/sys/fs/cgroup";
/// The controllers of version 1 that give each container a group of its own.
const CONTROLLERS: [&str; 12] = [
    "cpu",
    "cpuacct",
    "cpuset",
    "devices",
    "hugetlb",
    "memory",
    "pids",
    "perf_event",
    "blkio",
    "net_prio",
    "net_cls",
    "freezer",
];

pub(crate) fn unified() -> bool {
    Path::new(ROOT).join("cgroup.controllers").exists()
}

/// Makes the directory that containers see as `/sys/fs/cgroup` on version 1: an empty place for each hierarchy, which
/// their own group is mounted on, and the other names of joint hierarchies (`cpu` for `cpu,cpuacct`).
pub(super) fn make_frame(frame: &Path) -> io::Result<()> {
    if unified() {
        return Ok(());
    }
    fs::create_dir_all(frame)?;
    for entry in fs::read_dir(ROOT)?.flatten() {
        let name = entry.file_name();
        if !name.to_string_lossy().split(',').any(|part| CONTROLLERS.contains(&part)) {
            continue;
        }
        let place = frame.join(&name);
        let made = match fs::read_link(entry.path()) {
            Ok(target) => std::os::unix::fs::symlink(target.file_name().unwrap_or(&name), place),
            Err(_) => fs::create_dir(place),
        };
        made.or_else(|error| if error.kind() == io::ErrorKind::AlreadyExists { Ok(()) } else { Err(error) })?;
    }
    Ok(())
}

/// The frame with the hierarchies it has a place for.
pub(super) fn framed(frame: PathBuf) -> (PathBuf, Vec<String>) {
    let entries = fs::read_dir(&frame).into_iter().flatten().flatten();
    let places = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let places = places.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    (frame, places)
}

/// The directories a cgroup has: one on v2, one in each hierarchy on v1.
fn directories(path: &str) -> Vec<PathBuf> {
    let relative = path.trim_start_matches('/');
    if unified() {
        return vec![Path::new(ROOT).join(relative)];
    }
    let mut seen = std::collections::BTreeSet::new();
    let entries = fs::read_dir(ROOT).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.path().canonicalize().ok())
        .filter(|hierarchy| hierarchy.join("cgroup.procs").exists() && seen.insert(hierarchy.clone()))
        .map(|hierarchy| hierarchy.join(relative))
        .collect()
}

fn controller(name: &str, path: &str) -> PathBuf {
    let relative = path.trim_start_matches('/');
    if unified() { Path::new(ROOT).join(relative) } else { Path::new(ROOT).join(name).join(relative) }
}

/// Makes the group and its parents and applies the limits to the group itself.
pub(super) fn create(path: &str, resources: &Resources) -> io::Result<()> {
    if unified() {
        let mut dir = PathBuf::from(ROOT);
        for part in path.split('/').filter(|part| !part.is_empty()) {
            for name in ["cpu", "memory", "pids", "cpuset", "io"] {
                // A controller that is not there cannot be handed down; a limit that needs it fails below.
                let _ = fs::write(dir.join("cgroup.subtree_control"), format!("+{name}"));
            }
            dir.push(part);
            fs::create_dir_all(&dir)?;
        }
    } else {
        for name in ["cpu", "memory", "pids"] {
            fs::create_dir_all(controller(name, path))?;
        }
    }
    update(path, resources)
}

pub(super) fn update(path: &str, resources: &Resources) -> io::Result<()> {
    let period = if resources.cpu_period == 0 { 100_000 } else { resources.cpu_period };
    let set = |name: &str, file: &str, value: String| fs::write(controller(name, path).join(file), value);
    let limit = |value: i64| if value < 0 { "max".to_owned() } else { value.to_string() };
    if unified() {
        if let Some(shares) = resources.cpu_shares {
            set("cpu", "cpu.weight", (1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142).to_string())?;
        }
        if let Some(quota) = resources.cpu_quota {
            set("cpu", "cpu.max", format!("{} {period}", limit(quota)))?;
        }
        if let Some(memory) = resources.memory_limit {
            set("memory", "memory.max", limit(memory))?;
        }
    } else {
        if let Some(shares) = resources.cpu_shares {
            set("cpu", "cpu.shares", shares.max(2).to_string())?;
        }
        if let Some(quota) = resources.cpu_quota {
            set("cpu", "cpu.cfs_period_us", period.to_string())?;
            set("cpu", "cpu.cfs_quota_us", quota.to_string())?;
        }
        if let Some(memory) = resources.memory_limit {
            set("memory", "memory.limit_in_bytes", memory.to_string())?;
        }
    }
    match resources.pids_limit {
        Some(pids) => set("pids", "pids.max", limit(pids)),
        None => Ok(()),
    }
}

/// The limits a group has.
pub(super) fn limits(path: &str) -> io::Result<Resources> {
    let read = |name: &str, file: &str| fs::read_to_string(controller(name, path).join(file));
    // What stands for no limit on version 1 is a number above any memory.
    let memory = |text: &str| text.trim().parse::<i64>().ok().filter(|bytes| *bytes < i64::MAX / 2);
    let (quota, memory_limit) = if unified() {
        let quota = read("cpu", "cpu.max")?;
        (quota.split(' ').next().unwrap_or_default().to_owned(), memory(&read("memory", "memory.max")?))
    } else {
        (read("cpu", "cpu.cfs_quota_us")?, memory(&read("memory", "memory.limit_in_bytes")?))
    };
    let cpu_quota = quota.trim().parse::<i64>().ok().filter(|quota| *quota >= 0);
    Ok(Resources { cpu_quota, memory_limit, ..Resources::default() })
}

/// The group of all shims below a root.
pub(super) fn shims(root: &str) -> String {
    format!("{}/shims", root.trim_end_matches('/'))
}

/// Makes the group of the shims, also in the hierarchies by which service managers know their processes.
pub(super) fn create_shims(root: &str) -> io::Result<()> {
    let path = shims(root);
    create(&path, &Resources::default())?;
    let named = ["systemd", "unified"].map(|name| Path::new(ROOT).join(name));
    let named = named.iter().filter(|hierarchy| !unified() && hierarchy.join("cgroup.procs").exists());
    named.map(|hierarchy| hierarchy.join(path.trim_start_matches('/'))).try_for_each(fs::create_dir_all)
}

/// Kills what is left in the group, then removes it.
pub(super) fn end(path: &str) -> io::Result<()> {
    for pid in processes(path) {
        // Already gone is fine.
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
    }
    wait_empty(path)?;
    remove(path)
}

/// Removes the group and everything below it; processes must be gone.
pub(crate) fn remove(path: &str) -> io::Result<()> {
    directories(path).iter().filter(|dir| dir.exists()).try_for_each(|dir| remove_tree(dir))
}

fn remove_tree(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    match fs::remove_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// The processes in the group and below.
pub(crate) fn processes(path: &str) -> Vec<i32> {
    let mut found = Vec::new();
    let mut pending = vec![controller("memory", path)];
    while let Some(dir) = pending.pop() {
        let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
        found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
        let children = fs::read_dir(&dir).into_iter().flatten().flatten();
        pending.extend(
            children
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                .map(|entry| entry.path()),
        );
    }
    found
}

/// Puts a process into an existing group, in every hierarchy.
pub(crate) fn join(path: &str, pid: i32) -> io::Result<()> {
    directories(path)
        .iter()
        .filter(|dir| dir.exists())
        .try_for_each(|dir| fs::write(dir.join("cgroup.procs"), pid.to_string()))
}

/// How many processes the kernel's OOM killer took from the group.
pub(crate) fn oom_kills(path: &str) -> u64 {
    let file = if unified() { "memory.events" } else { "memory.oom_control" };
    field(&controller("memory", path).join(file), "oom_kill")
}

fn field(file: &Path, name: &str) -> u64 {
    let text = fs::read_to_string(file).unwrap_or_default();
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok());
    value.unwrap_or(0)
}

fn single(file: &Path) -> u64 {
    fs::read_to_string(file).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

pub(super) fn stats(path: &str) -> io::Result<Stats> {
    let memory = controller("memory", path);
    if !memory.exists() {
        return Err(io::Error::new(io::ErrorKind::NotFound, format!("no cgroup {path}")));
    }
    let v2 = unified();
    let stat = memory.join("memory.stat");
    let usage = single(&memory.join(if v2 { "memory.current" } else { "memory.usage_in_bytes" }));
    let inactive = field(&stat, if v2 { "inactive_file" } else { "total_inactive_file" });
    let prefix = if v2 { "" } else { "total_" };
    Ok(Stats {
        cpu_usage_nanos: if v2 {
            field(&memory.join("cpu.stat"), "usage_usec") * 1000
        } else {
            single(&controller("cpuacct", path).join("cpuacct.usage"))
        },
        memory_usage_bytes: usage,
        memory_working_set_bytes: usage.saturating_sub(inactive),
        memory_rss_bytes: field(&stat, if v2 { "anon" } else { "total_rss" }),
        page_faults: field(&stat, &format!("{prefix}pgfault")),
        major_page_faults: field(&stat, &format!("{prefix}pgmajfault")),
        pids: single(&controller("pids", path).join("pids.current")),
    })
}

/// Waits until killed processes have left the group; each is awaited through its pidfd.
pub(super) fn wait_empty(path: &str) -> io::Result<()> {
    const PATIENCE_MILLISECONDS: u16 = 5000;
    for pid in processes(path) {
        crate::sys::process::wait_gone(pid, PATIENCE_MILLISECONDS)?;
    }
    Ok(())
}
