//! What must be known of connected pods after a restart: one small file per pod.
//!
//! No fsync: after a power failure the links are gone too, and `open` drops records without a link.

use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::HostPort;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct PodRecord {
    pub(super) ip: Ipv4Addr,
    #[serde(default)]
    pub(super) ports: Vec<HostPort>,
    /// Where the pod's network namespace is; unknown of records of an earlier version.
    #[serde(default)]
    pub(super) netns: Option<PathBuf>,
}

pub(super) struct Records {
    dir: PathBuf,
}

// === impl Records ===

impl Records {
    pub(super) fn open(dir: PathBuf) -> io::Result<Records> {
        std::fs::create_dir_all(&dir)?;
        Ok(Records { dir })
    }

    pub(super) fn get(&self, pod_uid: &str) -> io::Result<Option<PodRecord>> {
        match std::fs::read(self.dir.join(pod_uid)) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Atomic: a reader sees the whole record or none.
    pub(super) fn put(&self, pod_uid: &str, record: &PodRecord) -> io::Result<()> {
        let temporary = self.dir.join(format!(".{pod_uid}"));
        std::fs::write(&temporary, serde_json::to_vec(record)?)?;
        std::fs::rename(temporary, self.dir.join(pod_uid))
    }

    pub(super) fn remove(&self, pod_uid: &str) -> io::Result<()> {
        match std::fs::remove_file(self.dir.join(pod_uid)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    pub(super) fn all(&self) -> io::Result<Vec<(String, PodRecord)>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.dir)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if !name.starts_with('.') {
                found.extend(self.get(&name)?.map(|record| (name, record)));
            }
        }
        found.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(found)
    }
}
