//! The images on disk: `index.json`, `configs/<hex>` and `layers/<first 16 hex of the diff id>/`.
//!
//! A layer directory appears by rename when it is complete, so one that exists is good. The index is small and written
//! whole, by rename as well.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
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

/// The index and the directories.
#[derive(Debug)]
pub(super) struct Store {
    dir: PathBuf,
    index: Mutex<BTreeMap<String, Entry>>,
}

impl Store {
    pub(super) fn open(dir: &Path) -> io::Result<Store> {
        for name in ["layers", "tmp"] {
            fs::create_dir_all(dir.join(name))?;
        }
        // What a former process was unpacking when it ended is of no use.
        for leftover in fs::read_dir(dir.join("tmp"))? {
            remove_path(&leftover?.path())?;
        }
        let index = match fs::read(dir.join("index.json")) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(io::Error::other)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(error),
        };
        Ok(Store { dir: dir.to_owned(), index: Mutex::new(index) })
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

    /// Adds an image, or further names to one that is here. A tag moves from its former image.
    pub(super) fn add(&self, id: &str, mut entry: Entry) -> io::Result<ImageInfo> {
        let mut index = self.index.lock();
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
        self.write(&index)?;
        Ok(info)
    }

    pub(super) fn entry(&self, id: &str) -> Option<Entry> {
        self.index.lock().get(id).cloned()
    }

    /// Finds by id, id without `sha256:`, tag or digest.
    pub(super) fn find(&self, wanted: impl Fn(&str, &Entry) -> bool) -> Option<ImageInfo> {
        self.index.lock().iter().find(|(id, entry)| wanted(id, entry)).map(|(id, entry)| entry.info(id))
    }

    pub(super) fn list(&self) -> Vec<ImageInfo> {
        self.index.lock().iter().map(|(id, entry)| entry.info(id)).collect()
    }

    /// Removes an image and the layers that no other image has.
    pub(super) fn remove(&self, id: &str) -> io::Result<()> {
        let orphans: Vec<String> = {
            let mut index = self.index.lock();
            let Some(entry) = index.remove(id) else { return Ok(()) };
            self.write(&index)?;
            entry
                .layers
                .into_iter()
                .filter(|layer| !index.values().any(|other| other.layers.contains(layer)))
                .collect()
        };
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
        let nameless = {
            let mut index = self.index.lock();
            let Some(entry) = index.get_mut(id) else { return Ok(()) };
            entry.tags.retain(|tag| tag != name);
            entry.digests.retain(|digest| digest != name);
            let nameless = entry.tags.is_empty();
            self.write(&index)?;
            nameless
        };
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
