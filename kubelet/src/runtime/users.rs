//! Pods with users of their own (`hostUsers: false`): which ids stand for theirs, and whether this machine can give any.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use super::program::Program;
use super::sandbox;
use super::user::User;
use super::{Runtime, RuntimeConfig};
use crate::beneath;
use crate::cri::{ContainerError, IdRange, Mount, RuntimeError, SandboxSpec};
use crate::shim::namespaces::Wanted;
use crate::shim::protocol::{PodUsers, Staged};
use crate::sys::{idmap, mounts};

/// How many ids a pod has, as upstream's default.
const IDS: u32 = 65_536;
/// All but the host's own, which are below.
const DEFAULT: IdRange = IdRange { first: IDS, count: u32::MAX - IDS + 1 };
/// Below a container's run directory: where its volumes are, on their way into it.
const STAGE: &str = "m";

/// The ids of this node's pods: no two pods have one in common.
pub(super) struct Ids {
    /// All there are, or why there are none.
    supply: Result<IdRange, String>,
    taken: Mutex<BTreeMap<String, IdRange>>,
}

// === impl Ids ===

impl Ids {
    /// Enough for so many pods, or none: a node must not take pods that it then cannot run.
    pub(super) fn of_host(pods: u32) -> Ids {
        let read = |file: &str| match fs::read_to_string(file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            read => read.map_err(|error| format!("{file}: {error}")),
        };
        let lists = read("/etc/subuid").and_then(|users| Ok((users, read("/etc/subgid")?)));
        Ids::new(lists.and_then(|(users, groups)| supply(&users, &groups, pods)))
    }

    fn new(supply: Result<IdRange, String>) -> Ids {
        Ids { supply, taken: Mutex::default() }
    }

    /// The pod's ids: those it has already, or the first that nobody has.
    pub(super) fn claim(&self, pod_uid: &str) -> Result<IdRange, String> {
        let supply = self.supply.clone()?;
        let mut taken = self.taken.lock();
        if let Some(own) = taken.get(pod_uid) {
            return Ok(*own);
        }
        let used: BTreeSet<u32> = taken.values().map(|range| range.first).collect();
        let mut all = (0..supply.count / IDS).map(|number| supply.first + number * IDS);
        let free = all.find(|first| !used.contains(first));
        let first = free.ok_or("could not find an empty slot to allocate a user namespace")?;
        let range = IdRange { first, count: IDS };
        taken.insert(pod_uid.to_owned(), range);
        Ok(range)
    }

    /// What a former run gave.
    pub(super) fn record(&self, pod_uid: &str, range: IdRange) {
        self.taken.lock().insert(pod_uid.to_owned(), range);
    }

    pub(super) fn release(&self, pod_uid: &str) {
        self.taken.lock().remove(pod_uid);
    }
}

impl Runtime {
    /// Why pods cannot have users of their own on this machine.
    pub fn no_users(&self) -> Option<&str> {
        self.0.no_users.as_deref()
    }

    /// The file of the pod's user namespace, if it has one of its own.
    pub(crate) fn users_of(&self, pod_uid: &str) -> Option<PathBuf> {
        let sandboxes = self.0.sandboxes.lock();
        sandboxes.get(pod_uid)?.users(&self.0.config).map(|(namespace, _)| namespace)
    }

    /// The ids of a pod that is about to be made, if it is to have its own.
    pub(super) fn ids_for(&self, spec: &SandboxSpec) -> Result<Option<IdRange>, ContainerError> {
        if !spec.own_users {
            return Ok(None);
        }
        let claimed = match &self.0.no_users {
            Some(why) => Err(why.clone()),
            None => self.0.ids.claim(&spec.pod_uid),
        };
        claimed
            .map(Some)
            .map_err(|why| ContainerError::Create(format!("failed to create the pod's sandbox: {why}")))
    }

    /// None of the pod's containers will run again: its ids are for others.
    pub async fn release_users(&self, pod_uid: &str) -> Result<(), RuntimeError> {
        let (runtime, uid) = (self.clone(), pod_uid.to_owned());
        let forgotten = super::blocking(move || {
            let mut sandboxes = runtime.0.sandboxes.lock();
            let record = sandboxes.get_mut(&uid).filter(|record| record.ids.is_some());
            record.map_or(Ok(()), |record| sandbox::forget_ids(&runtime.0.config, record))
        });
        forgotten.await.map_err(super::io_error("give a pod's ids back"))?;
        self.0.ids.release(pod_uid);
        Ok(())
    }
}

/// What the host sets aside for the user `kubelet` among its subordinate ids, as upstream; without that, all.
fn supply(subuid: &str, subgid: &str, pods: u32) -> Result<IdRange, String> {
    let own = |text: &str| -> Vec<String> {
        text.lines()
            .filter_map(|line| line.strip_prefix("kubelet:"))
            .map(|own| own.trim().to_owned())
            .collect()
    };
    let (users, groups) = (own(subuid), own(subgid));
    if users.is_empty() && groups.is_empty() {
        return Ok(DEFAULT);
    }
    if users != groups {
        return Err("mismatched subuids and subgids for user \"kubelet\"".to_owned());
    }
    let [line] = &users[..] else {
        return Err("user \"kubelet\" has more than one range of subordinate ids".to_owned());
    };
    let range = line
        .split_once(':')
        .and_then(|(first, count)| Some(IdRange { first: first.parse().ok()?, count: count.parse().ok()? }));
    let range =
        range.ok_or_else(|| format!("the subordinate ids of user \"kubelet\" cannot be read: {line:?}"))?;
    let IdRange { first, count } = range;
    match () {
        () if first < IDS => {
            Err(format!("kubelet user assigned ID {first} must be greater or equal to {IDS}"))
        }
        () if first % IDS != 0 => Err(format!("kubelet user assigned ID {first} is not a multiple of {IDS}")),
        () if count == 0 || count % IDS != 0 => {
            Err(format!("kubelet user assigned IDs length {count} is not a multiple of {IDS}"))
        }
        () if u64::from(first) + u64::from(count) > 1 << 32 => {
            Err(format!("kubelet user assigned IDs from {first} on are fewer than {count}"))
        }
        () if count / IDS < pods => {
            Err(format!("kubelet user assigned IDs are not enough to support {pods} pods"))
        }
        () => Ok(range),
    }
}

/// A sandbox's record, and a container's; `/etc/subuid` and `/etc/subgid`, of which a pod's ids are.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn hostile_records(bytes: &[u8]) {
    fn same<T: serde::Serialize + for<'a> serde::Deserialize<'a>>(bytes: &[u8]) {
        let Ok(read) = serde_json::from_slice::<T>(bytes) else { return };
        let written = serde_json::to_value(&read).expect("it can be written");
        let again: T = serde_json::from_value(written.clone()).expect("what we wrote");
        assert_eq!(serde_json::to_value(&again).expect("it can be written"), written);
    }
    if let Ok(profile) = serde_json::from_slice::<serde_json::Value>(bytes)
        && let Ok(filter) = crate::sys::seccomp::Filter::compile(&profile)
    {
        let bytes = filter.to_bytes();
        assert_eq!(
            crate::sys::seccomp::Filter::from_bytes(&bytes).map(|same| same.to_bytes()).ok(),
            Some(bytes)
        );
    }
    let _ = crate::sys::seccomp::Filter::from_bytes(bytes);
    same::<super::SandboxRecord>(bytes);
    same::<super::Record>(bytes);
    let text = String::from_utf8_lossy(bytes);
    super::container::time(&text);
    let [users, groups] = crate::fuzz::parts(bytes).map(String::from_utf8_lossy);
    let Ok(all) = supply(&users, &groups, 8) else { return };
    let ids = Ids::new(Ok(all));
    let mut given = BTreeSet::new();
    for pod in 0..8 {
        let Ok(own) = ids.claim(&pod.to_string()) else { break };
        assert!(own.first >= IDS && u64::from(own.first) + u64::from(own.count) <= 1 << 32);
        assert!(own.first >= all.first && given.insert(own.first), "{all:?}");
    }
}

/// Why this machine cannot give pods users of their own, found out by doing it all once.
pub(super) fn probe(config: &RuntimeConfig, program: &Program, ids: &Ids) -> Result<(), String> {
    const NAME: &str = "users";
    let (run, disk) = (config.run_dir.join(NAME), config.state_dir.join(NAME));
    let clear = || -> io::Result<()> {
        for point in mounts::below(&run)? {
            mounts::unmount(&point)?;
        }
        [&run, &disk].into_iter().try_for_each(beneath::remove_tree)
    };
    let range = ids.claim(NAME)?;
    let result = clear().and_then(|()| attempt(config, program, [&run, &disk], range));
    let result = result.and_then(|()| clear());
    ids.release(NAME);
    if result.is_err() {
        // The first error is the one to tell.
        let _ = clear();
    }
    result.map_err(|error| error.to_string())
}

fn attempt(config: &RuntimeConfig, program: &Program, places: [&Path; 2], ids: IdRange) -> io::Result<()> {
    let [run, disk] = places;
    for directory in ["sysfs", "proc", "rootfs", "layers", "layer"] {
        fs::create_dir_all(run.join(directory))?;
    }
    fs::create_dir_all(disk)?;
    let wanted = Wanted { ids, hostname: "trial".to_owned(), pause: false, trial: true };
    sandbox::make_with_users(config, program, run, &wanted)?;
    let namespace = run.join("user");
    let file = fs::File::open(&namespace)?;
    for place in places {
        idmap::detached(place).and_then(|tree| idmap::map_owners(&tree, file.as_fd())).map_err(|error| {
            let place = place.display();
            io::Error::new(
                error.kind(),
                format!("mounts of the file system of {place} cannot be id-mapped: {error}"),
            )
        })?;
    }
    let layers = [disk.to_owned(), run.join("layer")];
    let layers = mounts::MappedLayers::new(&layers, &namespace, &run.join("layers"))?;
    let rootfs = run.join("rootfs");
    mounts::overlay_readonly("trial", layers.paths(), &rootfs)?;
    let owner = fs::metadata(&rootfs)?.uid();
    if owner == ids.first {
        Ok(())
    } else {
        Err(io::Error::other(format!("an overlay of id-mapped layers shows the owner {owner}")))
    }
}

/// The volumes of a container whose pod has users of its own: each is shown to the pod with its owners mapped, at a place
/// in the run directory that the pod's root may look at. Gives the mounts as the container is to have them.
pub(super) fn stage(run_dir: &Path, volumes: &[Mount], users: (PathBuf, IdRange)) -> (Vec<Mount>, PodUsers) {
    let place = |(number, volume): (usize, &Mount)| {
        let at = run_dir.join(STAGE).join(number.to_string());
        let (map, readonly) = (!volume.mapped, volume.readonly);
        let staged = Staged { source: volume.host_path.clone(), at: at.clone(), map, readonly };
        (Mount { host_path: at, ..volume.clone() }, staged)
    };
    let (mounts, staged) = volumes.iter().enumerate().map(place).unzip();
    (mounts, PodUsers { namespace: users.0, ids: users.1, staged })
}

/// A container's user and groups must be among the pod's ids.
pub(super) fn check(who: &User, ids: IdRange) -> Result<(), ContainerError> {
    let lacks = |what: &str, id: u32| {
        let count = ids.count;
        ContainerError::Create(format!(
            "{what} {id} is not in the pod's user namespace, which has {count} ids"
        ))
    };
    if ids.outside(who.uid).is_none() {
        return Err(lacks("user", who.uid));
    }
    match [who.gid].iter().chain(&who.groups).find(|group| ids.outside(**group).is_none()) {
        Some(group) => Err(lacks("group", *group)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_disjoint_kept_and_given_back() {
        let ids = Ids::new(Ok(IdRange { first: 2 * IDS, count: 3 * IDS }));
        ids.record("old", IdRange { first: 3 * IDS, count: IDS });
        let first = |uid: &str| ids.claim(uid).map(|range| range.first / IDS);
        assert_eq!((first("a"), first("b"), first("a")), (Ok(2), Ok(4), Ok(2)));
        assert_eq!(first("c"), Err("could not find an empty slot to allocate a user namespace".to_owned()));
        assert_eq!(first("old"), Ok(3), "who has ids keeps them");
        ids.release("old");
        ids.release("nobody");
        assert_eq!((first("c"), first("b")), (Ok(3), Ok(4)));
        let none = Ids::new(Err("why".to_owned()));
        assert_eq!(none.claim("a"), Err("why".to_owned()));
    }

    #[test]
    fn ids_of_the_pod_stand_for_ids_of_the_host() {
        let range = IdRange { first: u32::MAX - IDS + 1, count: IDS };
        for (inside, outside) in
            [(0, Some(u32::MAX - IDS + 1)), (IDS - 1, Some(u32::MAX)), (IDS, None), (u32::MAX, None)]
        {
            assert_eq!(range.outside(inside), outside, "{inside}");
        }
        let user = |uid, gid, groups: &[u32]| User { uid, gid, groups: groups.to_vec(), home: String::new() };
        for (who, right) in [
            (user(0, 65_535, &[1]), true),
            (user(65_536, 0, &[]), false),
            (user(0, 65_536, &[]), false),
            (user(0, 0, &[1, 70_000]), false),
        ] {
            assert_eq!(check(&who, range).is_ok(), right, "{who:?}");
        }
    }

    #[test]
    fn the_hosts_subordinate_ids_for_kubelet_are_what_pods_get() {
        let range = |first: u32, count: u32| Ok((first, count));
        for (users, groups, want) in [
            ("", "", range(65_536, u32::MAX - 65_535)),
            ("somebody:100000:65536\n", "", range(65_536, u32::MAX - 65_535)),
            ("a:1:2\nkubelet:131072:7208960\n", "kubelet:131072:7208960", range(131_072, 7_208_960)),
            ("kubelet:131072:65536", "", Err("mismatched subuids and subgids for user \"kubelet\"")),
            (
                "kubelet:0:65536",
                "kubelet:0:65536",
                Err("kubelet user assigned ID 0 must be greater or equal to 65536"),
            ),
            (
                "kubelet:65537:65536",
                "kubelet:65537:65536",
                Err("kubelet user assigned ID 65537 is not a multiple of 65536"),
            ),
            (
                "kubelet:65536:1000",
                "kubelet:65536:1000",
                Err("kubelet user assigned IDs length 1000 is not a multiple of 65536"),
            ),
            (
                "kubelet:65536:65536\nkubelet:655360:65536",
                "kubelet:65536:65536\nkubelet:655360:65536",
                Err("user \"kubelet\" has more than one range of subordinate ids"),
            ),
            (
                "kubelet:4294901760:131072",
                "kubelet:4294901760:131072",
                Err("kubelet user assigned IDs from 4294901760 on are fewer than 131072"),
            ),
            (
                "kubelet:65536:7143424",
                "kubelet:65536:7143424",
                Err("kubelet user assigned IDs are not enough to support 110 pods"),
            ),
            ("kubelet:65536:7208960", "kubelet:65536:7208960", range(65_536, 7_208_960)),
            (
                "kubelet:x:65536",
                "kubelet:x:65536",
                Err("the subordinate ids of user \"kubelet\" cannot be read: \"x:65536\""),
            ),
        ] {
            let got = supply(users, groups, 110).map(|range| (range.first, range.count));
            assert_eq!(got, want.map_err(str::to_owned), "{users:?} {groups:?}");
        }
    }
}
