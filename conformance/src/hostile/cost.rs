//! What an attack costs the machine: processor time, memory, descriptors, disk; and what is there besides.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Instant;

use anyhow::Result;

use super::arena::Arena;
use super::tenant::Spread;
use super::witness::{Disk, Peak};
use crate::acceptance::leftovers::Traces;
use crate::process::Processes;

pub(super) const MB: f64 = 1_000_000.0;

/// What was there when an attack began.
pub(super) struct Meter {
    processes: Processes,
    cpu: f64,
    pub(super) rss: u64,
    pub(super) descriptors: usize,
    pub(super) disk: u64,
    pub(super) traces: Traces,
    peak: Peak,
    witness: Disk,
}

/// What an attack cost until it ended.
#[derive(Clone, Debug, Default)]
pub(super) struct Spent {
    pub(super) cpu_seconds: f64,
    /// The most above what it was before.
    pub(super) rss_growth: u64,
    pub(super) descriptors_growth: usize,
    pub(super) disk_growth: u64,
    /// How long the disk took for others meanwhile.
    pub(super) disk: Spread,
}

/// What is there of the program at a moment.
pub(super) struct Now {
    pub(super) rss: u64,
    pub(super) descriptors: usize,
}

// === impl Meter ===

impl Meter {
    pub(super) fn start(arena: &Arena) -> Result<Self> {
        let processes = Processes::of([u32::try_from(arena.pid.as_raw())?]);
        let traces = Traces::take(&arena.layout)?;
        let disk = disk(&arena.layout.data);
        processes.forget_peak();
        Ok(Meter {
            cpu: processes.cpu_seconds(),
            rss: processes.rss_bytes(),
            descriptors: processes.descriptors(),
            disk,
            traces,
            peak: Peak::watch(processes.clone()),
            witness: Disk::watch(&arena.scratch)?,
            processes,
        })
    }

    pub(super) fn stop(&self, arena: &Arena) -> Spent {
        Spent {
            cpu_seconds: self.processes.cpu_seconds() - self.cpu,
            rss_growth: self.processes.peak_bytes().saturating_sub(self.rss),
            descriptors_growth: self.peak.descriptors().saturating_sub(self.descriptors),
            disk_growth: disk(&arena.layout.data).saturating_sub(self.disk),
            disk: self.witness.times(),
        }
    }

    pub(super) fn now(&self) -> Now {
        Now { rss: self.processes.rss_bytes(), descriptors: self.processes.descriptors() }
    }
}

/// The bytes that the files below a directory take, each counted once, mounts left out.
pub(super) fn disk(dir: &Path) -> u64 {
    let Ok(device) = fs::symlink_metadata(dir).map(|m| m.dev()) else { return 0 };
    let (mut bytes, mut waiting) = (0, vec![dir.to_owned()]);
    let mut seen = std::collections::HashSet::new();
    while let Some(path) = waiting.pop() {
        let Ok(meta) = fs::symlink_metadata(&path) else { continue };
        if meta.dev() != device || (meta.nlink() > 1 && !seen.insert(meta.ino())) {
            continue;
        }
        bytes += meta.blocks() * 512;
        if meta.is_dir() {
            waiting.extend(fs::read_dir(&path).into_iter().flatten().flatten().map(|e| e.path()));
        }
    }
    bytes
}

/// Seconds since then, for reports.
pub(super) fn seconds(begun: Instant) -> f64 {
    begun.elapsed().as_secs_f64()
}
