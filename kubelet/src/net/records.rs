//! What must be known of connected pods after a restart: one small file per pod.
//!
//! No fsync: after a power failure the links are gone too, and `open` drops records without a link. Of a file that is no
//! record, nothing is known but that it is there: it goes, and its pod is connected anew.

use std::io::{self, ErrorKind};
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
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
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
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    pub(super) fn all(&self) -> io::Result<Vec<(String, PodRecord)>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.dir)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name.starts_with('.') {
                continue;
            }
            match self.get(&name) {
                Ok(record) => found.extend(record.map(|record| (name, record))),
                // What JSON's reader says of bytes that are none, or that end too early.
                Err(error) if matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof) => {
                    tracing::warn!(%error, pod = name, "a record of the pod network cannot be read: removed");
                    self.remove(&name)?;
                }
                Err(error) => return Err(error),
            }
        }
        found.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(found)
    }
}

/// A file among good ones, whatever is in it: the others are found, and no address is given twice.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn hostile_record(bytes: &[u8]) {
    let place = crate::fuzz::Place::new();
    let records = Records::open(place.0.clone()).expect("a directory in memory");
    let good = PodRecord { ip: [10, 244, 0, 9].into(), ports: vec![], netns: None };
    records.put("good", &good).expect("a record in memory");
    std::fs::write(place.0.join("odd"), bytes).expect("a file in memory");
    let mut pool = super::addresses::AddressPool::new("10.244.0.0/28".parse().expect("a range"));
    let mut known = vec![];
    for (uid, record) in records.all().expect("what cannot be read is passed over") {
        pool.adopt(&uid, record.ip);
        known.push((uid, record));
    }
    assert!(known.iter().any(|(uid, record)| uid == "good" && *record == good));
    for (uid, record) in &known {
        records.put(uid, record).expect("a record in memory");
    }
    assert_eq!(records.all().expect("what we wrote"), known);
    while let Some(address) = pool.assign(&known.len().to_string()) {
        let others: Vec<_> = known.iter().map(|(_, record)| record.ip).collect();
        assert!(!others.contains(&address), "{address} is given twice");
        known.push((known.len().to_string(), PodRecord { ip: address, ports: vec![], netns: None }));
    }
}
