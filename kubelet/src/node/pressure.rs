//! How much memory, disk and process ids the machine has left.

use std::{fs, path::Path};

/// What is left, and of how much.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Supply {
    pub(crate) available: u64,
    pub(crate) total: u64,
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
    fn lines_of_meminfo_are_read_in_bytes() {
        assert_eq!(kib("MemTotal:       1000 kB\nMemAvailable:    4 kB\n", "MemAvailable:"), 4096);
    }
}
