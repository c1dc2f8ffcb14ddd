//! How much memory, disk and process ids the machine has left, and whether that is too little.

use std::{fs, path::Path};

/// Upstream's eviction threshold for memory.
const MEMORY: u64 = 100 << 20;
/// Parts of the whole, in percent. Upstream's 10 and 15 % of the disk are made for servers that evict; here nothing is
/// evicted, and a well-filled laptop has room enough at less.
const DISK: u64 = 5;
const INODES: u64 = 5;
const PROCESSES: u64 = 5;

/// What is left, and of how much.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Supply {
    pub(crate) available: u64,
    pub(crate) total: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pressure {
    pub(crate) memory: bool,
    pub(crate) disk: bool,
    pub(crate) processes: bool,
}

// === impl Supply ===

impl Supply {
    /// Less than so many percent are left. What could not be measured is not short.
    fn below(self, percent: u64) -> bool {
        self.total > 0 && self.available.saturating_mul(100) < self.total.saturating_mul(percent)
    }
}

// === impl Pressure ===

impl Pressure {
    pub(crate) fn measure(directories: &[&Path]) -> Pressure {
        let short = |dir: &&Path| disk(dir).below(DISK) || inodes(dir).below(INODES);
        let memory = memory();
        Pressure {
            memory: memory.total > 0 && memory.available < MEMORY,
            disk: directories.iter().any(short),
            processes: processes().below(PROCESSES),
        }
    }
}

pub(crate) fn memory() -> Supply {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    Supply { available: kib(&text, "MemAvailable:"), total: kib(&text, "MemTotal:") }
}

/// A line of `/proc/meminfo`, in bytes.
pub(crate) fn kib(meminfo: &str, name: &str) -> u64 {
    let value =
        meminfo.lines().find_map(|l| l.strip_prefix(name)?.split_whitespace().next()?.parse::<u64>().ok());
    value.unwrap_or(0) * 1024
}

pub(crate) fn disk(dir: &Path) -> Supply {
    let read = |s: nix::sys::statvfs::Statvfs| Supply {
        available: s.blocks_available() * s.fragment_size(),
        total: s.blocks() * s.fragment_size(),
    };
    nix::sys::statvfs::statvfs(dir).map(read).unwrap_or_default()
}

pub(crate) fn inodes(dir: &Path) -> Supply {
    let read = |s: nix::sys::statvfs::Statvfs| Supply { available: s.files_available(), total: s.files() };
    nix::sys::statvfs::statvfs(dir).map(read).unwrap_or_default()
}

pub(crate) fn processes() -> Supply {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let number = |text: &str| text.trim().parse::<u64>().unwrap_or(0);
    let most = number(&read("/proc/sys/kernel/pid_max")).min(number(&read("/proc/sys/kernel/threads-max")));
    // The fourth field is `runnable/all`.
    let all = read("/proc/loadavg")
        .split_whitespace()
        .nth(3)
        .and_then(|f| f.split('/').nth(1).map(number))
        .unwrap_or(0);
    Supply { available: most.saturating_sub(all), total: most }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn supplies_are_short_below_their_threshold() {
        for (available, total, percent, short) in
            [(5, 100, 5, false), (4, 100, 5, true), (0, 0, 5, false), (0, 1, 5, true)]
        {
            assert_eq!(Supply { available, total }.below(percent), short, "{available} of {total}");
        }
        assert_eq!(kib("MemTotal:       1000 kB\nMemAvailable:    4 kB\n", "MemAvailable:"), 4096);
    }
}
