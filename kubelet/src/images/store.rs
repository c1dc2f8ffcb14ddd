//! The images on disk: `index.json` and `layers/<64 hex digits of the diff id>/`, closed to everybody but root.
//!
//! A layer directory appears by rename when it is complete, so one that exists is good. The index is small and written
//! whole, by rename as well.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::{Mutex, MutexGuard};
use serde::{Deserialize, Serialize};

use super::access::{self, Pulls, Shown};
use super::digest::Digest;
use super::manifest::ImageConfig;
use super::{room, unpack};
use crate::beneath::{Access, Dir, File, FileType, Links};
use crate::cri::ImageInfo;

const INDEX: &str = "index.json";
const LAYERS: &str = "layers";
const SCRATCH: &str = "tmp";
/// Hundreds of images, with room for more.
const MAX_INDEX: u64 = 256 << 20;
const MAX_LOCKS: u64 = 64 << 20;
/// Tags, or digests, of one image.
const MAX_NAMES: usize = 1000;
/// A layer that no image has: its pull failed, or it goes on in another process.
const ORPHAN_AGE: Duration = Duration::from_secs(60 * 60);

/// One image in the index, keyed by its id.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) tags: Vec<String>,
    pub(super) digests: Vec<String>,
    /// As it came: compressed.
    pub(super) size: u64,
    /// Diff ids, lowest first.
    pub(super) layers: Vec<Digest>,
    pub(super) config: ImageConfig,
    /// What registries were shown for it; `None`: the node agent has not pulled it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) pulls: Option<Pulls>,
}

impl Entry {
    pub(super) fn info(&self, id: &Digest) -> ImageInfo {
        ImageInfo {
            id: id.to_string(),
            tags: self.tags.clone(),
            digests: self.digests.clone(),
            size_bytes: self.size,
            user: self.config.user.clone(),
        }
    }
}

type Entries = BTreeMap<Digest, Entry>;

/// The index and the directories. Several processes may have them open: the node, and `coracle image` beside it.
#[derive(Debug)]
pub(super) struct Store {
    path: PathBuf,
    dir: Dir,
    layers: Dir,
    scratch: Arc<Dir>,
    index: Mutex<Index>,
    /// Locked while the index is changed.
    changing: File,
    /// Locked, shared, by every process that has the store open.
    _open: File,
}

/// The index as it was last read, and of which file.
#[derive(Debug, Default)]
struct Index {
    entries: Entries,
    /// Inode and time of change; `None` where there is no file.
    file: Option<(u64, i64, i64)>,
}

/// Something unfinished, on the same file system; it goes when this is dropped.
pub(super) struct Scratch {
    dir: Arc<Dir>,
    name: String,
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = self.dir.remove_tree(&self.name) {
            tracing::warn!(%error, "cannot remove what was left of an image");
        }
    }
}

impl Store {
    pub(super) fn open(path: &Path) -> io::Result<Store> {
        let closed = Access::mode(0o700);
        let dir = Dir::make(path, 0o700)?;
        // Setuid files of images are for containers, not for this machine's users (CVE-2021-41103).
        dir.set_access(closed)?;
        let below = |name: &str| {
            let made = dir.make_dirs(name, Links::Refused, 0o700)?;
            made.set_access(closed)?;
            Ok::<Dir, io::Error>(made)
        };
        let (layers, scratch) = (below(LAYERS)?, Arc::new(below(SCRATCH)?));
        let open = dir.append("open.lock", Access::mode(0o600))?;
        let changing = dir.append("index.lock", Access::mode(0o600))?;
        let alone = open.try_lock().is_ok();
        let path = path.to_owned();
        let store = Store { path, dir, layers, scratch, index: Mutex::default(), changing, _open: open };
        store.refresh(&mut store.index.lock())?;
        if alone {
            // Nobody else is here: what a former process was unpacking when it ended is of no use.
            store.scratch.clear()?;
            store.take_over()?;
            store._open.unlock()?;
        }
        store._open.lock_shared()?;
        Ok(store)
    }

    /// Gives the layers of a former version, which had a part of their digest as name, their whole one.
    fn take_over(&self) -> io::Result<()> {
        const FORMER: usize = 16;
        for layer in self.layers().iter().filter(|layer| !self.has_layer(layer)) {
            let hex = layer.hex();
            if self.layers.kind_of(&hex[..FORMER])? == Some(FileType::Directory) {
                self.layers.rename(&hex[..FORMER], &self.layers, &hex)?;
            }
        }
        let broken: Vec<Digest> = {
            let index = self.current();
            let lacks = |entry: &Entry| entry.layers.iter().any(|layer| !self.has_layer(layer));
            index.entries.iter().filter(|(_, entry)| lacks(entry)).map(|(id, _)| *id).collect()
        };
        if !broken.is_empty() {
            tracing::warn!(?broken, "images without all their layers are forgotten");
            self.change(|index| {
                index.retain(|id, _| !broken.contains(id));
                Ok(())
            })?;
        }
        self.remove_orphans(Duration::ZERO)?;
        Ok(())
    }

    fn scratch(&self) -> Scratch {
        Scratch { dir: self.scratch.clone(), name: uuid::Uuid::new_v4().simple().to_string() }
    }

    /// A file for something unfinished.
    pub(super) fn scratch_file(&self) -> io::Result<(Scratch, File)> {
        let scratch = self.scratch();
        let file = self.scratch.create_new(&scratch.name, Access::mode(0o600))?;
        Ok((scratch, file))
    }

    /// The same file for reading.
    pub(super) fn read_scratch(&self, scratch: &Scratch) -> io::Result<File> {
        self.scratch.file(&scratch.name, Links::Refused)
    }

    /// Fails when there is no room for an image of so many compressed bytes.
    pub(super) fn expect(&self, compressed: u64) -> io::Result<()> {
        // The download and what it unpacks to are there at the same time.
        room::expect(&self.dir, compressed.saturating_mul(2))
    }

    /// How many more bytes may be written to the store is asked of this.
    pub(super) fn handle(&self) -> &Dir {
        &self.dir
    }

    pub(super) fn layer_dir(&self, diff_id: &Digest) -> PathBuf {
        self.path.join(LAYERS).join(diff_id.hex())
    }

    pub(super) fn has_layer(&self, diff_id: &Digest) -> bool {
        matches!(self.layers.kind_of(diff_id.hex()), Ok(Some(FileType::Directory)))
    }

    /// Unpacks a compressed or plain layer and puts it in place when its diff id is the promised one. Returns how many
    /// bytes it has; more than `most` are an error.
    pub(super) fn add_layer(&self, reader: impl io::BufRead, most: u64, diff_id: &Digest) -> io::Result<u64> {
        let scratch = self.scratch();
        let target = self.scratch.make_new(&scratch.name, Access::mode(0o755))?;
        let (found, length) = unpack::unpack(unpack::decompress(reader)?, &target, most)?;
        if found != *diff_id {
            return Err(io::Error::other(format!("layer has diff id {found}, the image promises {diff_id}")));
        }
        match self.scratch.rename(&scratch.name, &self.layers, diff_id.hex()) {
            // Another pull brought the same layer meanwhile.
            Err(error) if matches!(error.kind(), ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists) => {
            }
            other => other?,
        }
        Ok(length)
    }

    /// The index, read again when another process has changed it. An unreadable one is as it was.
    fn current(&self) -> MutexGuard<'_, Index> {
        let mut index = self.index.lock();
        if let Err(error) = self.refresh(&mut index) {
            tracing::warn!("{}: {error}", self.path.join(INDEX).display());
        }
        index
    }

    fn index_file(&self) -> io::Result<Option<(u64, i64, i64)>> {
        let found = self.dir.entry(INDEX)?;
        #[expect(clippy::unnecessary_cast, reason = "the types differ between architectures")]
        Ok(found.map(|found| (found.st_ino, found.st_ctime as i64, found.st_ctime_nsec as i64)))
    }

    fn refresh(&self, index: &mut Index) -> io::Result<()> {
        let file = self.index_file()?;
        if file != index.file {
            index.entries = match file {
                Some(_) => parse_index(&self.dir.read(INDEX, Links::Refused, MAX_INDEX)?)?,
                None => BTreeMap::new(),
            };
            index.file = file;
        }
        Ok(())
    }

    /// Works on the index while no other process changes it.
    fn locked<T>(&self, work: impl FnOnce(&mut Index) -> io::Result<T>) -> io::Result<T> {
        let mut index = self.index.lock();
        self.changing.lock()?;
        let done = self.refresh(&mut index).and_then(|()| work(&mut index));
        self.changing.unlock()?;
        done
    }

    /// Changes the index on disk and here. Where `edit` fails it must not have changed anything.
    fn change<T>(&self, edit: impl FnOnce(&mut Entries) -> io::Result<T>) -> io::Result<T> {
        self.locked(|index| {
            let result = edit(&mut index.entries)?;
            // Read anew unless all of this comes to its end.
            index.file = None;
            let bytes = serde_json::to_vec(&index.entries).map_err(io::Error::other)?;
            self.dir.write(INDEX, &bytes, Access::mode(0o600))?;
            index.file = self.index_file()?;
            Ok(result)
        })
    }

    /// Adds an image, or further names to one that is here. A tag moves from its former image. `shown` is what the
    /// registry was shown for which repository, when the node agent has pulled it.
    pub(super) fn add(
        &self,
        id: &Digest,
        mut entry: Entry,
        shown: Option<(&str, Shown)>,
    ) -> io::Result<ImageInfo> {
        self.change(|index| {
            // They may have gone with another image since they were found.
            if let Some(gone) = entry.layers.iter().find(|layer| !self.has_layer(layer)) {
                return Err(io::Error::new(ErrorKind::NotFound, format!("layer {gone} has been removed")));
            }
            for (other, existing) in index.iter_mut() {
                if other != id {
                    existing.tags.retain(|tag| !entry.tags.contains(tag));
                }
            }
            if let Some(existing) = index.remove(id) {
                merge(&mut entry.tags, existing.tags);
                merge(&mut entry.digests, existing.digests);
                entry.pulls = existing.pulls;
            }
            if let Some((repository, shown)) = shown {
                access::merge(entry.pulls.get_or_insert_default(), repository, shown);
            }
            let info = entry.info(id);
            index.insert(*id, entry);
            Ok(info)
        })
    }

    /// Remembers what a pod has shown for a repository.
    pub(super) fn show(&self, id: &Digest, repository: &str, shown: Shown) -> io::Result<()> {
        self.change(|index| {
            if let Some(entry) = index.get_mut(id) {
                access::merge(entry.pulls.get_or_insert_default(), repository, shown);
            }
            Ok(())
        })
    }

    /// What is asked of one image, without a copy of it.
    pub(super) fn look<T>(&self, id: &Digest, ask: impl FnOnce(&Entry) -> T) -> Option<T> {
        self.current().entries.get(id).map(ask)
    }

    /// Finds by id, tag or digest.
    pub(super) fn find(&self, wanted: impl Fn(&Digest, &Entry) -> bool) -> Option<ImageInfo> {
        self.current().entries.iter().find(|(id, entry)| wanted(id, entry)).map(|(id, entry)| entry.info(id))
    }

    pub(super) fn list(&self) -> Vec<ImageInfo> {
        self.current().entries.iter().map(|(id, entry)| entry.info(id)).collect()
    }

    /// The layers of all images, each once.
    pub(super) fn layers(&self) -> BTreeSet<Digest> {
        self.current().entries.values().flat_map(|entry| entry.layers.iter().copied()).collect()
    }

    /// Removes an image and the layers that no other image has.
    pub(super) fn remove(&self, id: &Digest) -> io::Result<()> {
        let removed = self.change(|index| Ok(index.remove(id).map(|entry| entry.layers)))?;
        for layer in removed.into_iter().flatten() {
            self.remove_layer(&layer)?;
        }
        Ok(())
    }

    /// Removes a layer unless an image has it.
    pub(super) fn remove_layer(&self, layer: &Digest) -> io::Result<()> {
        // Renamed first: a layer that exists is complete. No image can be added meanwhile.
        let scratch = self.locked(|index| {
            let used = index.entries.values().any(|entry| entry.layers.contains(layer));
            if used || !self.has_layer(layer) {
                return Ok(None);
            }
            let scratch = self.scratch();
            self.layers.rename(layer.hex(), &self.scratch, &scratch.name)?;
            Ok(Some(scratch))
        })?;
        drop(scratch);
        Ok(())
    }

    /// Removes what no image has and is older than `age`: failed pulls leave layers, and former versions other names.
    pub(super) fn remove_orphans(&self, age: Duration) -> io::Result<()> {
        let known: BTreeSet<String> =
            self.current().entries.values().flat_map(|entry| entry.layers.iter().map(Digest::hex)).collect();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        for entry in self.layers.entries()? {
            let name = entry?.name;
            let Some(found) = self.layers.entry(&name)? else { continue };
            let changed = Duration::from_secs(u64::try_from(found.st_ctime).unwrap_or(0));
            if known.contains(&*name.to_string_lossy()) || now.saturating_sub(changed) < age {
                continue;
            }
            match format!("sha256:{}", name.to_string_lossy()).parse() {
                Ok(layer) => self.remove_layer(&layer)?,
                Err(_) => self.layers.remove_tree(&name)?,
            }
        }
        Ok(())
    }

    /// Whether somebody else has the store open: another node on this machine may run what nobody uses here.
    pub(super) fn is_shared(&self) -> io::Result<bool> {
        use std::os::unix::fs::MetadataExt;
        let locks = Dir::open("/proc")?.read("locks", Links::Refused, MAX_LOCKS)?;
        Ok(holders(&String::from_utf8_lossy(&locks), self._open.metadata()?.ino()) > 1)
    }

    /// As `remove_orphans`, for what pulls left an hour ago.
    pub(super) fn tidy(&self) -> io::Result<()> {
        self.remove_orphans(ORPHAN_AGE)
    }

    /// Takes one name off an image; the image goes with its last name.
    pub(super) fn untag(&self, id: &Digest, name: &str) -> io::Result<()> {
        let nameless = self.change(|index| {
            let Some(entry) = index.get_mut(id) else { return Ok(false) };
            entry.tags.retain(|tag| tag != name);
            entry.digests.retain(|digest| digest != name);
            Ok(entry.tags.is_empty())
        })?;
        if nameless { self.remove(id) } else { Ok(()) }
    }
}

/// An entry that cannot be read, for its layers or its own id are no digests, is none: it is forgotten.
fn parse_index(bytes: &[u8]) -> io::Result<Entries> {
    let all: HashMap<String, serde_json::Value> = serde_json::from_slice(bytes).map_err(io::Error::other)?;
    let read = all.into_iter().filter_map(|(id, entry)| {
        let parsed = id.parse::<Digest>().map_err(|error| error.to_string());
        match parsed.and_then(|id| serde_json::from_value(entry).map(|e| (id, e)).map_err(|e| e.to_string()))
        {
            Ok(read) => Some(read),
            Err(error) => {
                tracing::warn!(id, error, "an image in the index is forgotten");
                None
            }
        }
    });
    Ok(read.collect())
}

/// An index is written and read again as the same.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn hostile_index(bytes: &[u8]) {
    let Ok(entries) = parse_index(bytes) else { return };
    let written = serde_json::to_vec(&entries).expect("it can be written");
    let again = parse_index(&written).expect("what we wrote");
    assert_eq!(serde_json::to_vec(&again).expect("it can be written"), written);
}

/// How many hold the lock of a file, by the lines of `/proc/locks`.
fn holders(locks: &str, inode: u64) -> usize {
    let inode = format!(":{inode}");
    let holds = |line: &&str| {
        let mut words = line.split_whitespace().skip(1);
        words.next() == Some("FLOCK") && words.nth(3).is_some_and(|file| file.ends_with(&inode))
    };
    locks.lines().filter(holds).count()
}

/// The newest names stay.
fn merge(into: &mut Vec<String>, from: Vec<String>) {
    for name in from {
        if into.len() < MAX_NAMES && !into.contains(&name) {
            into.push(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn entry(tag: &str, layers: &[Digest]) -> Entry {
        Entry { tags: vec![tag.to_owned()], layers: layers.to_vec(), ..Entry::default() }
    }

    fn layer(store: &Store, name: &str) -> Digest {
        let layer = Digest::of(name.as_bytes());
        fs::create_dir(store.layer_dir(&layer)).unwrap();
        layer
    }

    #[test]
    fn what_another_process_imports_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let (node, tool) = (Store::open(dir.path()).unwrap(), Store::open(dir.path()).unwrap());
        assert!(node.list().is_empty());
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        tool.add(&a, entry("docker.io/library/a:1", &[]), None).unwrap();
        assert_eq!(node.list().len(), 1);
        node.add(&b, entry("docker.io/library/b:1", &[]), None).unwrap();
        assert_eq!(tool.list().len(), 2);
        tool.remove(&a).unwrap();
        assert_eq!(node.look(&a, |_| ()), None);
    }

    #[test]
    fn a_shared_store_is_known() {
        let text = "1: FLOCK  ADVISORY  READ 10 08:01:77 0 EOF\n2: POSIX  ADVISORY  READ 11 08:01:77 0 EOF\n\
                    3: FLOCK  ADVISORY  READ 12 08:01:177 0 EOF\n4: FLOCK  ADVISORY  READ 13 08:01:77 0 EOF\n";
        assert_eq!((holders(text, 77), holders(text, 177), holders(text, 7)), (2, 1, 0));
        let dir = tempfile::tempdir().unwrap();
        let one = Store::open(dir.path()).unwrap();
        assert!(!one.is_shared().unwrap());
        let _other = Store::open(dir.path()).unwrap();
        assert!(one.is_shared().unwrap());
    }

    #[test]
    fn nothing_of_the_store_is_open_to_others() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("images");
        // As a former version has left it.
        fs::create_dir_all(path.join(LAYERS)).unwrap();
        let store = Store::open(&path).unwrap();
        store.add(&Digest::of(b"a"), entry("docker.io/library/a:1", &[]), None).unwrap();
        for (name, mode) in [("", 0o700), (LAYERS, 0o700), (SCRATCH, 0o700), (INDEX, 0o600)] {
            let found = fs::metadata(path.join(name)).unwrap().permissions().mode() & 0o7777;
            assert_eq!(found, mode, "{name:?}");
        }
    }

    #[test]
    fn layers_go_with_the_last_image_that_has_them() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let (shared, own) = (layer(&store, "shared"), layer(&store, "own"));
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        store.add(&a, entry("docker.io/library/a:1", &[shared, own]), None).unwrap();
        store.add(&b, entry("docker.io/library/b:1", &[shared]), None).unwrap();
        store.remove(&a).unwrap();
        assert!(store.has_layer(&shared) && !store.has_layer(&own));
        let gone = store.add(&a, entry("docker.io/library/a:1", &[shared, own]), None).unwrap_err();
        assert_eq!(gone.to_string(), format!("layer {own} has been removed"));
        layer(&store, "of a failed pull");
        store.tidy().unwrap();
        assert_eq!(fs::read_dir(dir.path().join(LAYERS)).unwrap().count(), 2, "it may still go on");
        store.remove_orphans(Duration::ZERO).unwrap();
        assert_eq!(fs::read_dir(dir.path().join(LAYERS)).unwrap().count(), 1);
    }

    #[test]
    fn the_store_of_a_former_version_is_taken_over_without_its_traps() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("pki");
        let path = dir.path().join("images");
        fs::create_dir(&outside).unwrap();
        let (good, lost) = (Digest::of(b"good"), Digest::of(b"lost"));
        let former = path.join(LAYERS).join(&good.hex()[..16]);
        fs::create_dir_all(&former).unwrap();
        fs::create_dir(path.join(LAYERS).join("0123456789abcdef")).unwrap();
        fs::write(former.join("file"), "").unwrap();
        let image = |layer: &str| {
            format!(
                r#"{{"tags":["docker.io/library/a:1"],"digests":[],"size":1,"layers":[{layer:?}],"config":{{}}}}"#
            )
        };
        let ids: Vec<Digest> = (0..5_u8).map(|n| Digest::of(&[n])).collect();
        let traps = ["../../pki".to_owned(), "sha256:aaaaaaaaaaaaaaaé".to_owned(), lost.to_string()];
        let mut images: Vec<String> =
            traps.iter().zip(&ids[1..]).map(|(layer, id)| format!("\"{id}\":{}", image(layer))).collect();
        images.push(format!("\"{}\":{}", ids[0], image(&good.to_string())));
        images.push(format!("\"../../pki\":{}", image(&good.to_string())));
        fs::write(path.join(INDEX), format!("{{{}}}", images.join(","))).unwrap();
        let store = Store::open(&path).unwrap();
        assert_eq!(store.list().len(), 1);
        assert!(store.layer_dir(&good).join("file").exists());
        assert_eq!(fs::read_dir(path.join(LAYERS)).unwrap().count(), 1);
        for id in &ids {
            store.remove(id).unwrap();
        }
        assert!(outside.exists());
        assert_eq!(fs::read_dir(path.join(LAYERS)).unwrap().count(), 0);
    }
}
