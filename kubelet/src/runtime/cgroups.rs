//! The kubelet's own cgroups: the pod's, and what it reads from the containers'. Version 1 (hybrid) and version 2.

use std::fs;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use super::device_rules::Devices;
use super::limits;
use crate::cri::{Resources, Stats};
use crate::sys::bpf;

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

pub(super) fn controller(name: &str, path: &str) -> PathBuf {
    let relative = path.trim_start_matches('/');
    if unified() { Path::new(ROOT).join(relative) } else { Path::new(ROOT).join(name).join(relative) }
}

/// Makes the group and its parents and applies the limits to the group itself.
pub(crate) fn create(path: &str, resources: &Resources) -> io::Result<()> {
    if unified() {
        let mut dir = PathBuf::from(ROOT);
        for part in path.split('/').filter(|part| !part.is_empty()) {
            hand_down(&dir)?;
            dir.push(part);
            fs::create_dir_all(&dir).map_err(|error| about(&dir, &error))?;
        }
    } else {
        for name in hierarchies() {
            let dir = controller(name, path);
            fs::create_dir_all(&dir).map_err(|error| about(&dir, &error))?;
        }
    }
    limits::apply(path, resources)
}

/// The hierarchies of version 1 by which containers are held; what cannot be frozen is killed in more rounds.
fn hierarchies() -> impl Iterator<Item = &'static str> {
    let all = ["cpu", "memory", "pids", "devices", "freezer"].into_iter();
    all.filter(|name| *name != "freezer" || Path::new(ROOT).join(name).exists())
}

/// Writes a file of a group. It is never made: the kernel says of a missing file of a controller that was not handed down
/// that it may not be made, which is no answer to whether it is there.
pub(super) fn set(file: impl AsRef<Path>, value: impl AsRef<[u8]>) -> io::Result<()> {
    fs::OpenOptions::new().write(true).open(file)?.write_all(value.as_ref())
}

/// An error that names its file, for the kernel's own do not.
pub(super) fn about(file: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", file.display()))
}

/// Lets the groups below a group have the controllers that it has. A controller that cannot be handed down is left out: a
/// limit that needs it fails when it is set.
fn hand_down(dir: &Path) -> io::Result<()> {
    const WANTED: [&str; 6] = ["cpu", "memory", "pids", "cpuset", "io", "hugetlb"];
    let read =
        |file: &str| fs::read_to_string(dir.join(file)).map_err(|error| about(&dir.join(file), &error));
    let (has, below) = (read("cgroup.controllers")?, read("cgroup.subtree_control")?);
    let listed = |text: &str, name: &str| text.split_whitespace().any(|word| word == name);
    for name in WANTED.iter().filter(|name| listed(&has, name) && !listed(&below, name)) {
        let _ = set(dir.join("cgroup.subtree_control"), format!("+{name}"));
    }
    Ok(())
}

/// Makes the root ready to have groups below it. In a container with a cgroup namespace of its own the root is an
/// ordinary group with processes in it, and such a group hands nothing down: they move aside, as in every program that
/// runs containers in a container. The error says why pods cannot be held to limits here.
pub(super) fn prepare_root() -> io::Result<()> {
    if unified() { prepare(Path::new(ROOT)) } else { Ok(()) }
}

fn prepare(root: &Path) -> io::Result<()> {
    /// Where the processes go.
    const ASIDE: &str = "init";
    // Only the machine's own root has no type. With a process in it, any other could hand down but a part: it would become a
    // group of threads, and the processes could not leave it any more.
    if root.join("cgroup.type").exists() {
        let (aside, own) = (root.join(ASIDE), root.join("cgroup.procs"));
        let processes = fs::read_to_string(&own).map_err(|error| about(&own, &error))?;
        if !processes.is_empty() {
            fs::create_dir_all(&aside).map_err(|error| about(&aside, &error))?;
        }
        for pid in processes.lines() {
            // It may have ended.
            let _ = set(aside.join("cgroup.procs"), pid);
        }
    }
    hand_down(root)?;
    let below = root.join("cgroup.subtree_control");
    let text = fs::read_to_string(&below).map_err(|error| about(&below, &error))?;
    let missing =
        ["cpu", "memory", "pids"].into_iter().find(|name| !text.split_whitespace().any(|word| word == *name));
    match missing {
        None => Ok(()),
        Some(name) => Err(io::Error::other(format!("{}: {name} cannot be handed down", below.display()))),
    }
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
    kill(path);
    wait_empty(path)?;
    remove(path)
}

/// Kills all processes of the group and of those below, also one that forks faster than it can be looked for.
pub(crate) fn kill(path: &str) {
    // Each round finds what was born in the one before; frozen, nothing is.
    const ROUNDS: usize = 10;
    let all_at_once = controller("memory", path).join("cgroup.kill");
    if unified() && set(all_at_once, "1").is_ok() {
        return;
    }
    freeze(path, true);
    for _ in 0..ROUNDS {
        let found = processes(path);
        for pid in &found {
            // Already gone is fine.
            let _ =
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(*pid), nix::sys::signal::Signal::SIGKILL);
        }
        // On version 1 a frozen process dies when it thaws.
        freeze(path, false);
        if found.is_empty() {
            return;
        }
    }
}

/// Best effort: a group that does not freeze is killed in more rounds.
fn freeze(path: &str, frozen: bool) {
    let (file, value) = match (unified(), frozen) {
        (true, true) => (controller("memory", path).join("cgroup.freeze"), "1"),
        (true, false) => (controller("memory", path).join("cgroup.freeze"), "0"),
        (false, true) => (controller("freezer", path).join("freezer.state"), "FROZEN"),
        (false, false) => (controller("freezer", path).join("freezer.state"), "THAWED"),
    };
    let _ = set(file, value);
}

/// Lets the group use these devices and no others.
pub(crate) fn restrict_devices(path: &str, devices: &Devices) -> io::Result<()> {
    let dir = controller("devices", path);
    if unified() {
        let group = fs::File::open(&dir).map_err(|error| about(&dir, &error))?;
        let program = bpf::load_device_program(&devices.program())?;
        return bpf::attach_device_program(group.as_fd(), program.as_fd());
    }
    let write =
        |file: &str, line: &str| set(dir.join(file), line).map_err(|error| about(&dir.join(file), &error));
    if let Devices::Only(_) = devices {
        write("devices.deny", "a")?;
    }
    devices.lines().iter().try_for_each(|line| write("devices.allow", line))
}

/// Whether the kernel holds the group to these devices, by its own account.
pub(crate) fn devices_are(path: &str, devices: &Devices) -> io::Result<bool> {
    let dir = controller("devices", path);
    if unified() {
        let group = fs::File::open(&dir).map_err(|error| about(&dir, &error))?;
        let program = bpf::load_device_program(&devices.program())?;
        let wanted = bpf::tag(program.as_fd())?;
        return Ok(bpf::attached_device_programs(group.as_fd())?.contains(&wanted));
    }
    let file = dir.join("devices.list");
    let text = fs::read_to_string(&file).map_err(|error| about(&file, &error))?;
    let mut has: Vec<&str> = text.lines().map(str::trim).collect();
    let mut wanted = devices.lines();
    has.sort_unstable();
    wanted.sort_unstable();
    Ok(has == wanted)
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

/// Removes the group and those below it as far as nothing lives in them.
pub(super) fn remove_empty(path: &str) {
    fn down(dir: &Path) {
        let below = fs::read_dir(dir).into_iter().flatten().flatten();
        for entry in below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            down(&entry.path());
        }
        // A group with processes refuses.
        let _ = fs::remove_dir(dir);
    }
    directories(path).iter().for_each(|dir| down(dir));
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

/// Whether a process is in the group itself, in every hierarchy that limits it.
pub(crate) fn contains(path: &str, pid: i32) -> io::Result<bool> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let is_in = |controller: &str| {
        text.lines().any(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let (names, group) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
            names.split(',').any(|name| name == controller) && group == path
        })
    };
    if unified() {
        return Ok(is_in(""));
    }
    Ok(hierarchies().all(is_in))
}

/// Puts a process into an existing group, in every hierarchy.
pub(crate) fn join(path: &str, pid: i32) -> io::Result<()> {
    directories(path)
        .iter()
        .filter(|dir| dir.exists())
        .try_for_each(|dir| set(dir.join("cgroup.procs"), pid.to_string()))
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
    const PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);
    let until = std::time::Instant::now() + PATIENCE;
    for pid in processes(path) {
        let left = until.saturating_duration_since(std::time::Instant::now());
        crate::sys::process::wait_gone(pid, u16::try_from(left.as_millis()).unwrap_or(u16::MAX))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A group of version 2 on this machine, whatever else it has.
    fn v2_group(name: &str) -> PathBuf {
        let tree = if unified() { PathBuf::from(ROOT) } else { Path::new(ROOT).join("unified") };
        let group = tree.join(format!("coracle-{name}-{}", std::process::id()));
        fs::create_dir(&group).unwrap();
        group
    }

    #[test]
    fn a_file_of_a_controller_that_is_not_there_is_not_made() {
        let group = tempfile::tempdir().unwrap();
        let file = group.path().join("hugetlb.2MB.max");
        assert_eq!(set(&file, "0").unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(!file.exists());
    }

    #[test]
    #[cfg_attr(not(cgroups_v2), ignore = "needs root and cgroups of version 2")]
    fn processes_move_aside_before_their_group_hands_controllers_down() {
        let group = v2_group("aside");
        let mut inside = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        fs::write(group.join("cgroup.procs"), inside.id().to_string()).unwrap();
        // As often as the program starts.
        let made = [prepare(&group), prepare(&group)].map(|made| made.map_err(|error| error.to_string()));
        let left = fs::read_to_string(group.join("cgroup.procs")).unwrap();
        let aside = fs::read_to_string(group.join("init/cgroup.procs")).unwrap();
        let has = fs::read_to_string(group.join("cgroup.controllers")).unwrap();
        let below = fs::read_to_string(group.join("cgroup.subtree_control")).unwrap();
        let kind = fs::read_to_string(group.join("cgroup.type")).unwrap();
        inside.kill().unwrap();
        inside.wait().unwrap();
        remove_tree(&group).unwrap();
        assert_eq!((left.as_str(), aside.trim()), ("", inside.id().to_string().as_str()));
        assert_eq!(kind.trim(), "domain", "it did not become a group of threads");
        assert_eq!(below.split_whitespace().collect::<Vec<_>>(), has.split_whitespace().collect::<Vec<_>>());
        // Where a hierarchy of version 1 has a controller, nothing can be held to its limits, and it is named.
        let lacks =
            ["cpu", "memory", "pids"].into_iter().find(|name| !has.split_whitespace().any(|w| w == *name));
        let file = group.join("cgroup.subtree_control");
        let want =
            lacks.map_or(Ok(()), |name| Err(format!("{}: {name} cannot be handed down", file.display())));
        assert_eq!(made, [want.clone(), want]);
    }
}
