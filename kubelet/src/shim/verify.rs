//! Whether a process is confined as was asked, by the kernel's own account.
//!
//! A library may leave a wish out and say that all is well. So a process that has become its program is stopped before
//! the program's first instruction, and looked at: one that differs never runs.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use libcontainer::capabilities::CapabilityExt;
use libcontainer::oci_spec::runtime::{Capabilities, LinuxNamespaceType, Spec};

use super::protocol::ShimConfig;
use crate::beneath::{Dir, Links};
use crate::runtime::{cgroups, limits};
use crate::sys::roots;

/// The kinds of namespaces as `/proc/<pid>/ns` names them.
const NAMESPACES: [(LinuxNamespaceType, &str); 7] = [
    (LinuxNamespaceType::Mount, "mnt"),
    (LinuxNamespaceType::Network, "net"),
    (LinuxNamespaceType::Ipc, "ipc"),
    (LinuxNamespaceType::Uts, "uts"),
    (LinuxNamespaceType::Pid, "pid"),
    (LinuxNamespaceType::Cgroup, "cgroup"),
    (LinuxNamespaceType::User, "user"),
];

/// What was asked of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Asked {
    ids: [u32; 2],
    groups: Vec<u32>,
    /// Capabilities, each a bit.
    bounding: u64,
    ambient: u64,
    inheritable: u64,
    permitted: u64,
    filtered: bool,
    no_new_privileges: bool,
    label: Option<String>,
    oom_score: Option<i32>,
    /// As `/proc/<pid>/uid_map` and `gid_map` show them: inside, outside, size. Empty: the host's.
    id_maps: [Vec<[u32; 3]>; 2],
    readonly_root: bool,
    mounts: Vec<AskedMount>,
    masked: Vec<PathBuf>,
    readonly: Vec<PathBuf>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct AskedMount {
    path: PathBuf,
    /// `ro`, `nosuid`, `nodev`, `noexec`, `idmapped`, as far as asked for.
    flags: Vec<String>,
    /// Everything below is read-only, too.
    all_readonly: bool,
}

/// What the kernel says of a process.
#[derive(Clone, Debug, Default)]
struct Seen {
    status: String,
    label: String,
    oom_score: String,
    id_maps: [String; 2],
    own_id_maps: [String; 2],
    mounts: Vec<SeenMount>,
    /// The mount that a path leads to; absent where the path does not exist.
    at: BTreeMap<PathBuf, u64>,
    /// How many filters this process, from which the other descends, is under itself.
    own_filters: u64,
}

/// A line of `/proc/<pid>/mountinfo`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct SeenMount {
    id: u64,
    /// Where in its file system it begins.
    root: String,
    point: PathBuf,
    options: Vec<String>,
    kind: String,
}

/// A container's first process: everything. Empty: as asked. An error is a process that cannot be looked at.
pub(super) fn first_process(config: &ShimConfig, spec: &Spec, pid: i32) -> io::Result<Vec<String>> {
    let asked = Asked::of(spec, config);
    let mut found = differences(&asked, &Seen::of(pid, &asked)?);
    let linux = spec.linux().as_ref();
    let namespaces = linux.and_then(|linux| linux.namespaces().as_ref()).map_or(&[][..], Vec::as_slice);
    for (kind, name) in NAMESPACES {
        let (own, its) = (namespace("self", name)?, namespace(&pid.to_string(), name)?);
        let right = match namespaces.iter().find(|namespace| namespace.typ() == kind) {
            Some(namespace) => match namespace.path() {
                Some(file) => fs::metadata(file)?.ino() == its,
                None => own != its,
            },
            None => own == its,
        };
        if !right {
            found.push(format!("the {name} namespace is another"));
        }
    }
    if !roots::is_namespace_root(pid)? {
        found.push("the root directory hides another behind it".to_owned());
    }
    if !cgroups::contains(&config.cgroup, pid)? {
        found.push("the process is not in its cgroup".to_owned());
    }
    if !cgroups::devices_are(&config.cgroup, &config.devices)? {
        found.push("the device rules are others".to_owned());
    }
    found.extend(limits::differences(&config.cgroup, &config.resources));
    Ok(found)
}

/// A further process of a container: what is its own, and that all else is shared with `init`.
pub(super) fn further_process(
    config: &ShimConfig,
    spec: &Spec,
    init: i32,
    pid: i32,
) -> io::Result<Vec<String>> {
    let asked = Asked { mounts: vec![], masked: vec![], readonly: vec![], ..Asked::of(spec, config) };
    let seen = Seen { mounts: vec![], ..Seen::of(pid, &asked)? };
    let mut found = differences(&Asked { readonly_root: false, ..asked }, &seen);
    for (_, name) in NAMESPACES {
        if namespace(&init.to_string(), name)? != namespace(&pid.to_string(), name)? {
            found.push(format!("the {name} namespace is another"));
        }
    }
    let root = |pid: i32| fs::metadata(format!("/proc/{pid}/root/.")).map(|about| (about.dev(), about.ino()));
    if root(init)? != root(pid)? {
        found.push("the root directory is another".to_owned());
    }
    if !cgroups::contains(&config.cgroup, pid)? {
        found.push("the process is not in its cgroup".to_owned());
    }
    Ok(found)
}

fn namespace(pid: &str, name: &str) -> io::Result<u64> {
    Ok(fs::metadata(format!("/proc/{pid}/ns/{name}"))?.ino())
}

// === impl Asked ===

impl Asked {
    fn of(spec: &Spec, config: &ShimConfig) -> Asked {
        let confinement = &config.confinement;
        let (process, linux) = (spec.process().as_ref(), spec.linux().as_ref());
        let user = process.map(|process| process.user().clone()).unwrap_or_default();
        let mut groups = user.additional_gids().clone().unwrap_or_default();
        groups.sort_unstable();
        groups.dedup();
        let capabilities = confinement.capabilities.clone().unwrap_or_default();
        let map = || config.users.iter().map(|users| [0, users.ids.first, users.ids.count]).collect();
        let mapped = |mount: &libcontainer::oci_spec::runtime::Mount| {
            let mut staged = config.users.iter().flat_map(|users| &users.staged);
            staged.any(|one| one.map && mount.source().as_ref() == Some(&one.at))
        };
        let paths = |list: Option<&Vec<String>>| list.into_iter().flatten().map(PathBuf::from).collect();
        Asked {
            ids: [user.uid(), user.gid()],
            groups,
            bounding: bits(capabilities.bounding().as_ref()),
            ambient: bits(capabilities.ambient().as_ref()),
            inheritable: bits(capabilities.inheritable().as_ref()),
            permitted: bits(capabilities.permitted().as_ref()),
            filtered: confinement.filter.is_some(),
            no_new_privileges: confinement.no_new_privileges,
            label: process.and_then(|process| process.apparmor_profile().clone()),
            oom_score: process.and_then(libcontainer::oci_spec::runtime::Process::oom_score_adj),
            id_maps: [map(), map()],
            readonly_root: spec.root().as_ref().and_then(|root| root.readonly()).unwrap_or(false),
            mounts: spec.mounts().iter().flatten().map(|one| AskedMount::of(one, mapped(one))).collect(),
            masked: paths(linux.and_then(|linux| linux.masked_paths().as_ref())),
            readonly: paths(linux.and_then(|linux| linux.readonly_paths().as_ref())),
        }
    }

    /// The id outside that an id inside stands for.
    fn outside(&self, which: usize, id: u32) -> u32 {
        let rows = self.id_maps[which].iter();
        let of = |[inside, outside, size]: &[u32; 3]| {
            id.checked_sub(*inside).filter(|at| at < size).map(|at| outside + at)
        };
        rows.filter_map(of).next().unwrap_or(id)
    }
}

fn bits(list: Option<&Capabilities>) -> u64 {
    list.into_iter().flatten().fold(0, |all, one| all | 1 << one.to_cap().index())
}

impl AskedMount {
    fn of(mount: &libcontainer::oci_spec::runtime::Mount, mapped: bool) -> AskedMount {
        let options = mount.options().iter().flatten();
        let flag = |option: &String| match option.as_str() {
            "ro" | "rro" => Some("ro".to_owned()),
            "nosuid" | "nodev" | "noexec" => Some(option.clone()),
            _ => None,
        };
        AskedMount {
            path: mount.destination().clone(),
            flags: options.clone().filter_map(flag).chain(mapped.then(|| "idmapped".to_owned())).collect(),
            all_readonly: options.clone().any(|option| option == "rro"),
        }
    }
}

// === impl Seen ===

impl Seen {
    fn of(pid: i32, asked: &Asked) -> io::Result<Seen> {
        let read = |pid: &str, file: &str| fs::read_to_string(format!("/proc/{pid}/{file}"));
        let its = |file: &str| read(&pid.to_string(), file);
        // Where the kernel has no AppArmor, nothing is there to be read.
        let label = its("attr/apparmor/current").or_else(|_| its("attr/current")).unwrap_or_default();
        let root = Dir::open(format!("/proc/{pid}/root"))?;
        let mut at = BTreeMap::new();
        let mounts = asked.mounts.iter().map(|mount| &mount.path);
        for path in mounts.chain(&asked.masked).chain(&asked.readonly) {
            if let Some(id) = mount_at(&root, path)? {
                at.insert(path.clone(), id);
            }
        }
        Ok(Seen {
            status: its("status")?,
            label: label.trim_end_matches(['\n', '\0']).to_owned(),
            oom_score: its("oom_score_adj")?.trim().to_owned(),
            id_maps: [its("uid_map")?, its("gid_map")?],
            own_id_maps: [read("self", "uid_map")?, read("self", "gid_map")?],
            mounts: its("mountinfo")?.lines().filter_map(SeenMount::parse).collect(),
            at,
            own_filters: field(&read("self", "status")?, "Seccomp_filters")
                .and_then(|n| n.parse().ok())
                .unwrap_or(0),
        })
    }
}

fn mount_at(root: &Dir, path: &Path) -> io::Result<Option<u64>> {
    match root.find(path, Links::AsRoot) {
        Ok(handle) => roots::mount_of(handle.as_fd()).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        // A file where a directory should be: such a path does not exist either.
        Err(error) if error.raw_os_error() == Some(libc::ENOTDIR) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A line of the kernel's, or what stands for one.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn hostile_mount(line: &str) {
    if let Some(mount) = SeenMount::parse(line) {
        assert!(mount.point.as_os_str().len() <= line.len());
        mount.has("ro");
    }
    field(line, "CapEff");
}

impl SeenMount {
    fn parse(line: &str) -> Option<SeenMount> {
        let (fields, rest) = line.split_once(" - ")?;
        let fields: Vec<&str> = fields.split(' ').collect();
        let [id, _, _, root, point, options, ..] = fields[..] else { return None };
        Some(SeenMount {
            id: id.parse().ok()?,
            root: plain(root),
            point: plain(point).into(),
            options: options.split(',').map(str::to_owned).collect(),
            kind: rest.split(' ').next()?.to_owned(),
        })
    }

    fn has(&self, flag: &str) -> bool {
        self.options.iter().any(|option| option == flag)
    }
}

/// The kernel writes blanks and backslashes as three octal digits.
fn plain(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (code, sign)| text.replace(code, sign))
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

/// In words, for the container's status. Pure.
fn differences(asked: &Asked, seen: &Seen) -> Vec<String> {
    let mut found = Vec::new();
    identity(asked, seen, &mut found);
    capabilities(asked, seen, &mut found);
    confinement(asked, seen, &mut found);
    mounts(asked, seen, &mut found);
    found
}

fn identity(asked: &Asked, seen: &Seen, found: &mut Vec<String>) {
    for (which, name) in ["Uid", "Gid"].into_iter().enumerate() {
        let want = asked.outside(which, asked.ids[which]).to_string();
        let has: Vec<&str> = field(&seen.status, name).unwrap_or_default().split_whitespace().collect();
        // A program with a setuid bit of its own changes all but the first.
        let counts = if asked.no_new_privileges { 4 } else { 1 };
        if has.len() < 4 || has[..counts].iter().any(|id| *id != want) {
            found.push(format!("{name} is {has:?} instead of {want}"));
        }
    }
    let mut want: Vec<u32> = asked.groups.iter().map(|group| asked.outside(1, *group)).collect();
    want.sort_unstable();
    let groups = field(&seen.status, "Groups").unwrap_or_default().split_whitespace();
    let mut has: Vec<u32> = groups.filter_map(|group| group.parse().ok()).collect();
    has.sort_unstable();
    has.dedup();
    if has != want {
        found.push(format!("Groups are {has:?} instead of {want:?}"));
    }
    for (which, name) in ["uid_map", "gid_map"].into_iter().enumerate() {
        let rows = |text: &str| -> Vec<Vec<u32>> {
            text.lines()
                .map(|line| line.split_whitespace().filter_map(|number| number.parse().ok()).collect())
                .collect()
        };
        let want: Vec<Vec<u32>> = match &asked.id_maps[which] {
            none if none.is_empty() => rows(&seen.own_id_maps[which]),
            some => some.iter().map(|row| row.to_vec()).collect(),
        };
        if rows(&seen.id_maps[which]) != want {
            found.push(format!("{name} is {:?}", seen.id_maps[which].trim()));
        }
    }
}

fn capabilities(asked: &Asked, seen: &Seen, found: &mut Vec<String>) {
    let set = |name: &str| field(&seen.status, name).and_then(|set| u64::from_str_radix(set, 16).ok());
    let mut check = |name: &str, right: &dyn Fn(u64) -> bool| match set(name) {
        Some(has) if right(has) => {}
        has => found.push(format!("{name} is {has:x?}")),
    };
    check("CapBnd", &|has| has == asked.bounding);
    check("CapInh", &|has| has == asked.inheritable);
    check("CapAmb", &|has| has == asked.ambient);
    for name in ["CapPrm", "CapEff"] {
        check(name, &|has| match (asked.ids[0], asked.no_new_privileges) {
            // The kernel gives root all that is not out of bounds, others what the program's file says of it.
            (0, _) => has == asked.bounding,
            (_, true) => has & !(asked.permitted | asked.ambient) == 0,
            (_, false) => has & !asked.bounding == 0,
        });
    }
}

fn confinement(asked: &Asked, seen: &Seen, found: &mut Vec<String>) {
    let number = |name: &str| field(&seen.status, name).and_then(|n| n.parse::<u64>().ok());
    if asked.filtered {
        let (mode, filters) = (number("Seccomp"), number("Seccomp_filters"));
        // Older kernels do not count.
        if mode != Some(2) || filters.is_some_and(|filters| filters <= seen.own_filters) {
            found.push("the system call filter is not loaded".to_owned());
        }
    }
    if asked.no_new_privileges && number("NoNewPrivs") != Some(1) {
        found.push("NoNewPrivs is not set".to_owned());
    }
    if let Some(label) = &asked.label {
        let has = seen.label.split(" (").next().unwrap_or_default();
        if has != label || seen.label.ends_with("(complain)") {
            found.push(format!("the AppArmor label is {:?} instead of {label:?}", seen.label));
        }
    }
    if let Some(score) = asked.oom_score
        && seen.oom_score != score.to_string()
    {
        found.push(format!("oom_score_adj is {} instead of {score}", seen.oom_score));
    }
}

fn mounts(asked: &Asked, seen: &Seen, found: &mut Vec<String>) {
    if asked.mounts.is_empty() {
        return;
    }
    let mount = |path: &PathBuf| {
        let id = seen.at.get(path)?;
        seen.mounts.iter().find(|mount| mount.id == *id)
    };
    let root = seen.mounts.iter().find(|mount| mount.point == Path::new("/"));
    if asked.readonly_root && root.is_none_or(|root| !root.has("ro")) {
        found.push("the root file system is not read-only".to_owned());
    }
    let mut points: Vec<&Path> = Vec::new();
    for one in &asked.mounts {
        let Some(has) = mount(&one.path).filter(|has| Some(has.id) != root.map(|root| root.id)) else {
            found.push(format!("{} is not mounted", one.path.display()));
            continue;
        };
        points.push(&has.point);
        for flag in one.flags.iter().filter(|flag| !has.has(flag)) {
            found.push(format!("{} is mounted without {flag}", one.path.display()));
        }
        let below = |mount: &&SeenMount| mount.point.starts_with(&has.point) && !mount.has("ro");
        if let Some(open) = seen.mounts.iter().find(below).filter(|_| one.all_readonly) {
            found.push(format!("{} is not read-only", open.point.display()));
        }
    }
    for other in &seen.mounts {
        let known =
            other.point == Path::new("/") || points.iter().any(|point| other.point.starts_with(point));
        if !known {
            found.push(format!("{} is mounted unasked", other.point.display()));
        }
    }
    // A path that the kernel does not have needs no cover.
    let covered = |path: &&PathBuf| seen.at.contains_key(*path);
    for path in asked.masked.iter().filter(covered) {
        let right = mount(path).is_some_and(|has| {
            has.point == **path && (has.root == "/null" || has.kind == "tmpfs" && has.has("ro"))
        });
        if !right {
            found.push(format!("{} is not masked", path.display()));
        }
    }
    for path in asked.readonly.iter().filter(covered) {
        if !mount(path).is_some_and(|has| has.point == **path && has.has("ro")) {
            found.push(format!("{} is not read-only", path.display()));
        }
    }
}

#[cfg(test)]
mod tests;
