//! The images on disk: `index.json`, `configs/<hex>` and `layers/<first 16 hex of the diff id>/`.
//!
//! A layer directory appears by rename when it is complete, so one that exists is good. The index is small and written
//! whole, by rename as well.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use parking_lot::{Mutex, MutexGuard};
use serde::{Deserialize, Serialize};

use super::unpack;
use crate::cri::ImageInfo;

/// The part of an image's configuration that running needs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ImageConfig {
    #[serde(rename = "User")]
    pub(crate) user: String,
    #[serde(rename = "Env", deserialize_with = "null_as_default")]
    pub(crate) env: Vec<String>,
    #[serde(rename = "Entrypoint", deserialize_with = "null_as_default")]
    pub(crate) entrypoint: Vec<String>,
    #[serde(rename = "Cmd", deserialize_with = "null_as_default")]
    pub(crate) cmd: Vec<String>,
    #[serde(rename = "WorkingDir")]
    pub(crate) working_dir: String,
    #[serde(rename = "StopSignal")]
    pub(crate) stop_signal: String,
    #[serde(rename = "Volumes", deserialize_with = "null_as_default")]
    pub(crate) volumes: BTreeMap<String, serde_json::Value>,
}

fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// An image configuration file.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct ConfigFile {
    #[serde(default)]
    pub(super) config: Option<ImageConfig>,
    pub(super) rootfs: RootFs,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct RootFs {
    pub(super) diff_ids: Vec<String>,
}

/// One image in the index, keyed by its id.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) tags: Vec<String>,
    pub(super) digests: Vec<String>,
    pub(super) size: u64,
    /// Diff ids, lowest first.
    pub(super) layers: Vec<String>,
    pub(super) config: ImageConfig,
}

impl Entry {
    pub(super) fn info(&self, id: &str) -> ImageInfo {
        ImageInfo {
            id: id.to_owned(),
            tags: self.tags.clone(),
            digests: self.digests.clone(),
            size_bytes: self.size,
            user: self.config.user.clone(),
        }
    }
}

/// The index and the directories. Several processes may have them open: the node, and `coracle image` beside it.
#[derive(Debug)]
pub(super) struct Store {
    dir: PathBuf,
    index: Mutex<Index>,
    /// Locked while the index is changed.
    changing: fs::File,
    /// Locked, shared, by every process that has the store open.
    _open: fs::File,
}

/// The index as it was last read, and of which file.
#[derive(Debug, Default)]
struct Index {
    entries: BTreeMap<String, Entry>,
    /// Inode and time of change; `None` where there is no file.
    file: Option<(u64, i64, i64)>,
}

impl Store {
    pub(super) fn open(dir: &Path) -> io::Result<Store> {
        for name in ["layers", "tmp"] {
            fs::create_dir_all(dir.join(name))?;
        }
        let lock_file =
            |name: &str| fs::File::options().create(true).truncate(false).write(true).open(dir.join(name));
        let open = lock_file("open.lock")?;
        if open.try_lock().is_ok() {
            // Nobody else is here: what a former process was unpacking when it ended is of no use.
            for leftover in fs::read_dir(dir.join("tmp"))? {
                remove_path(&leftover?.path())?;
            }
            open.unlock()?;
        }
        open.lock_shared()?;
        let changing = lock_file("index.lock")?;
        let store = Store { dir: dir.to_owned(), index: Mutex::default(), changing, _open: open };
        store.refresh(&mut store.index.lock())?;
        Ok(store)
    }

    /// A path for something unfinished, on the same file system.
    pub(super) fn scratch(&self) -> PathBuf {
        self.dir.join("tmp").join(uuid::Uuid::new_v4().simple().to_string())
    }

    pub(super) fn layer_dir(&self, diff_id: &str) -> PathBuf {
        let hex = diff_id.strip_prefix("sha256:").unwrap_or(diff_id);
        self.dir.join("layers").join(&hex[..hex.len().min(16)])
    }

    pub(super) fn has_layer(&self, diff_id: &str) -> bool {
        self.layer_dir(diff_id).exists()
    }

    /// Unpacks a compressed or plain layer and puts it in place when its diff id is the promised one.
    pub(super) fn add_layer(&self, reader: impl io::BufRead, diff_id: &str) -> io::Result<()> {
        let scratch = self.scratch();
        let result = unpack::decompress(reader).and_then(|stream| unpack::unpack(stream, &scratch));
        let placed = result.and_then(|(found, _)| {
            if found != diff_id {
                return Err(io::Error::other(format!(
                    "layer has diff id {found}, the image promises {diff_id}"
                )));
            }
            match fs::rename(&scratch, self.layer_dir(diff_id)) {
                // Another pull brought the same layer meanwhile.
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
                other => other,
            }
        });
        if scratch.exists() {
            fs::remove_dir_all(&scratch)?;
        }
        placed
    }

    /// The index, read again when another process has changed it. An unreadable one is as it was.
    fn current(&self) -> MutexGuard<'_, Index> {
        let mut index = self.index.lock();
        if let Err(error) = self.refresh(&mut index) {
            tracing::warn!("{}: {error}", self.dir.join("index.json").display());
        }
        index
    }

    fn refresh(&self, index: &mut Index) -> io::Result<()> {
        let path = self.dir.join("index.json");
        let file = match fs::metadata(&path) {
            Ok(found) => Some((found.ino(), found.ctime(), found.ctime_nsec())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        if file != index.file {
            index.entries = match file {
                Some(_) => serde_json::from_slice(&fs::read(&path)?).map_err(io::Error::other)?,
                None => BTreeMap::new(),
            };
            index.file = file;
        }
        Ok(())
    }

    /// Changes the index on disk and here, one process after the other.
    fn change<T>(&self, edit: impl FnOnce(&mut BTreeMap<String, Entry>) -> T) -> io::Result<T> {
        let mut index = self.index.lock();
        self.changing.lock()?;
        let changed = self.refresh(&mut index).and_then(|()| {
            let result = edit(&mut index.entries);
            self.write(&index.entries)?;
            // The file that is there now is this one.
            index.file =
                fs::metadata(self.dir.join("index.json")).ok().map(|f| (f.ino(), f.ctime(), f.ctime_nsec()));
            Ok(result)
        });
        self.changing.unlock()?;
        changed
    }

    /// Adds an image, or further names to one that is here. A tag moves from its former image.
    pub(super) fn add(&self, id: &str, mut entry: Entry) -> io::Result<ImageInfo> {
        self.change(|index| {
            for (other, existing) in index.iter_mut() {
                if other != id {
                    existing.tags.retain(|tag| !entry.tags.contains(tag));
                }
            }
            if let Some(existing) = index.remove(id) {
                merge(&mut entry.tags, existing.tags);
                merge(&mut entry.digests, existing.digests);
            }
            let info = entry.info(id);
            index.insert(id.to_owned(), entry);
            info
        })
    }

    pub(super) fn entry(&self, id: &str) -> Option<Entry> {
        self.current().entries.get(id).cloned()
    }

    /// Finds by id, id without `sha256:`, tag or digest.
    pub(super) fn find(&self, wanted: impl Fn(&str, &Entry) -> bool) -> Option<ImageInfo> {
        self.current().entries.iter().find(|(id, entry)| wanted(id, entry)).map(|(id, entry)| entry.info(id))
    }

    pub(super) fn list(&self) -> Vec<ImageInfo> {
        self.current().entries.iter().map(|(id, entry)| entry.info(id)).collect()
    }

    /// Removes an image and the layers that no other image has.
    pub(super) fn remove(&self, id: &str) -> io::Result<()> {
        let orphans: Vec<String> = self.change(|index| {
            let layers = index.remove(id).map(|entry| entry.layers).unwrap_or_default();
            layers
                .into_iter()
                .filter(|layer| !index.values().any(|other| other.layers.contains(layer)))
                .collect()
        })?;
        for layer in orphans {
            let dir = self.layer_dir(&layer);
            if dir.exists() {
                // Renamed first: a layer that exists is complete.
                let scratch = self.scratch();
                fs::rename(&dir, &scratch)?;
                fs::remove_dir_all(&scratch)?;
            }
        }
        Ok(())
    }

    /// Takes one name off an image; the image goes with its last name.
    pub(super) fn untag(&self, id: &str, name: &str) -> io::Result<()> {
        let nameless = self.change(|index| {
            let Some(entry) = index.get_mut(id) else { return false };
            entry.tags.retain(|tag| tag != name);
            entry.digests.retain(|digest| digest != name);
            entry.tags.is_empty()
        })?;
        if nameless { self.remove(id) } else { Ok(()) }
    }

    fn write(&self, index: &BTreeMap<String, Entry>) -> io::Result<()> {
        let scratch = self.dir.join("index.json.new");
        fs::write(&scratch, serde_json::to_vec(index).map_err(io::Error::other)?)?;
        fs::rename(scratch, self.dir.join("index.json"))
    }
}

fn merge(into: &mut Vec<String>, from: Vec<String>) {
    for name in from {
        if !into.contains(&name) {
            into.push(name);
        }
    }
}

fn remove_path(path: &Path) -> io::Result<()> {
    if path.symlink_metadata()?.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_process_imports_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let (node, tool) = (Store::open(dir.path()).unwrap(), Store::open(dir.path()).unwrap());
        assert!(node.list().is_empty());
        let entry = Entry { tags: vec!["docker.io/library/a:1".to_owned()], ..Entry::default() };
        tool.add("sha256:a", entry.clone()).unwrap();
        assert_eq!(node.list().len(), 1);
        node.add("sha256:b", Entry { tags: vec!["docker.io/library/b:1".to_owned()], ..entry }).unwrap();
        assert_eq!(tool.list().len(), 2);
        tool.remove("sha256:a").unwrap();
        assert_eq!(node.entry("sha256:a"), None);
    }
}
