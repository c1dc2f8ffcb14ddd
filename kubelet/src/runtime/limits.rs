//! A group's limits as the files of its cgroup, in both versions: one table that is written at the creation, written
//! again at a resize, and compared with what the kernel has before a program runs.

use std::fs;
use std::io;

use super::cgroups::{about, controller, set, unified};
use crate::cri::Resources;

const PERIOD: u64 = 100_000;

/// One file with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Setting {
    /// The controller's name, which on version 1 is a hierarchy of its own.
    controller: &'static str,
    file: String,
    value: String,
    /// Not every kernel has the file, and without it there is nothing to limit.
    optional: bool,
}

/// What `resources` means on version 2 (`v2`) or 1. What is not limited is not set.
pub(super) fn settings(resources: &Resources, v2: bool) -> Vec<Setting> {
    let mut all = Vec::new();
    let mut add = |controller, file: &str, value: String, optional| {
        all.push(Setting { controller, file: file.to_owned(), value, optional });
    };
    let period = if resources.cpu_period == 0 { PERIOD } else { resources.cpu_period };
    if let Some(shares) = resources.cpu_shares {
        if v2 {
            add("cpu", "cpu.weight", weight(shares).to_string(), false);
        } else {
            add("cpu", "cpu.shares", shares.clamp(2, 262_144).to_string(), false);
        }
    }
    if let Some(quota) = resources.cpu_quota {
        if v2 {
            add("cpu", "cpu.max", format!("{} {period}", or_max(quota)), false);
        } else {
            add("cpu", "cpu.cfs_period_us", period.to_string(), false);
            add("cpu", "cpu.cfs_quota_us", quota.max(-1).to_string(), false);
        }
    }
    if let Some(limit) = resources.memory_limit {
        if v2 {
            add("memory", "memory.max", or_max(limit), false);
        } else {
            add("memory", "memory.limit_in_bytes", limit.max(-1).to_string(), false);
        }
    }
    if resources.kill_together && v2 {
        // Upstream's default: where one process of a container is killed for its memory, all are.
        add("memory", "memory.oom.group", "1".to_owned(), true);
        if resources.memory_limit.is_some_and(|limit| limit >= 0) {
            add("memory", "memory.swap.max", "0".to_owned(), true);
        }
    }
    if let Some(pids) = resources.pids_limit {
        add("pids", "pids.max", or_max(pids), false);
    }
    for (size, bytes) in &resources.huge_pages {
        let file = if v2 { format!("hugetlb.{size}.max") } else { format!("hugetlb.{size}.limit_in_bytes") };
        add("hugetlb", &file, bytes.to_string(), true);
    }
    all
}

fn or_max(value: i64) -> String {
    if value < 0 { "max".to_owned() } else { value.to_string() }
}

/// Shares (2 to 262144, 1024 the default) as a weight (1 to 10000, 100 the default): the curve that container runtimes
/// agreed upon, which goes through all three points.
pub(crate) fn weight(shares: u64) -> u64 {
    #[expect(clippy::cast_precision_loss, reason = "shares are below 2^19")]
    let log = (shares.clamp(2, 262_144) as f64).log2();
    let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 1 to 10000")]
    let weight = 10_f64.powf(exponent).ceil() as u64;
    weight.clamp(1, 10_000)
}

/// Writes the limits of a group.
pub(crate) fn apply(path: &str, resources: &Resources) -> io::Result<()> {
    for setting in settings(resources, unified()) {
        let file = controller(setting.controller, path).join(&setting.file);
        match set(&file, &setting.value) {
            Err(error) if !(setting.optional && error.kind() == io::ErrorKind::NotFound) => {
                return Err(about(&file, &error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Makes a group's allocations wait while it has more than `bytes` (version 2).
pub(super) fn slow_above(path: &str, bytes: i64) -> io::Result<()> {
    let file = controller("memory", path).join("memory.high");
    set(&file, bytes.to_string()).map_err(|error| about(&file, &error))
}

/// Where the kernel has another value than asked for, in words.
pub(crate) fn differences(path: &str, resources: &Resources) -> Vec<String> {
    let differ = |setting: &Setting| {
        let file = controller(setting.controller, path).join(&setting.file);
        match fs::read_to_string(&file) {
            Ok(has) if same(&setting.value, has.trim()) => None,
            Ok(has) => Some(format!("{} is {:?} instead of {:?}", setting.file, has.trim(), setting.value)),
            Err(_) if setting.optional => None,
            Err(error) => Some(format!("{} cannot be read: {error}", setting.file)),
        }
    };
    settings(resources, unified()).iter().filter_map(differ).collect()
}

/// Memory is counted in pages, and -1 on version 1 shows as a number beyond all memory.
fn same(asked: &str, has: &str) -> bool {
    const PAGE: u64 = 64 << 10;
    match (asked.parse::<u64>(), has.parse::<u64>()) {
        _ if asked == has => true,
        (Ok(asked), Ok(has)) => has <= asked && asked - has < PAGE && asked >= PAGE,
        (Err(_), Ok(has)) => asked == "-1" && has > i64::MAX as u64 / 2,
        _ => false,
    }
}

/// The limits a group has.
pub(super) fn of_group(path: &str) -> io::Result<Resources> {
    let read = |name: &str, file: &str| {
        let file = controller(name, path).join(file);
        fs::read_to_string(&file).map_err(|error| about(&file, &error))
    };
    // What stands for no limit on version 1 is a number above any memory.
    let memory = |text: &str| text.trim().parse::<i64>().ok().filter(|bytes| *bytes < i64::MAX / 2);
    let (quota, memory_limit) = if unified() {
        let quota = read("cpu", "cpu.max")?;
        (quota.split(' ').next().unwrap_or_default().to_owned(), memory(&read("memory", "memory.max")?))
    } else {
        (read("cpu", "cpu.cfs_quota_us")?, memory(&read("memory", "memory.limit_in_bytes")?))
    };
    let cpu_quota = quota.trim().parse::<i64>().ok().filter(|quota| *quota >= 0);
    Ok(Resources { cpu_quota, memory_limit, ..Resources::default() })
}

/// The sizes of huge pages that the kernel keeps apart, as its files name them (`2MB`), none of which may be used.
pub(crate) fn no_huge_pages() -> Vec<(String, u64)> {
    let pools = fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten().flatten();
    let kilobytes = |name: &str| name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse::<u64>().ok();
    let sizes = pools.filter_map(|pool| kilobytes(&pool.file_name().to_string_lossy()));
    sizes.map(|size| (size_name(size * 1024), 0)).collect()
}

/// `2097152` is `2MB`.
pub(crate) fn size_name(bytes: u64) -> String {
    match bytes {
        _ if bytes >= 1 << 30 => format!("{}GB", bytes >> 30),
        _ if bytes >= 1 << 20 => format!("{}MB", bytes >> 20),
        _ => format!("{}KB", bytes >> 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_become_weights_on_one_curve() {
        for (shares, want) in [
            (0, 1),
            (2, 1),
            (10, 4),
            (102, 17),
            (204, 29),
            (307, 40),
            (512, 59),
            (1024, 100),
            (2048, 174),
            (4096, 303),
            (262_144, 10_000),
            (u64::MAX, 10_000),
        ] {
            assert_eq!(weight(shares), want, "{shares}");
        }
        let all: Vec<u64> = (2..5000).map(weight).collect();
        assert!(all.is_sorted(), "more shares are never less weight");
    }

    fn lines(resources: &Resources, v2: bool) -> Vec<String> {
        settings(resources, v2).into_iter().map(|s| format!("{}={}", s.file, s.value)).collect()
    }

    #[test]
    fn creation_and_resize_write_the_same_files() {
        let all = Resources {
            cpu_shares: Some(102),
            cpu_quota: Some(20_000),
            memory_limit: Some(64 << 20),
            pids_limit: Some(10),
            kill_together: true,
            huge_pages: vec![("2MB".to_owned(), 0)],
            ..Resources::default()
        };
        let v2 = [
            "cpu.weight=17",
            "cpu.max=20000 100000",
            "memory.max=67108864",
            "memory.oom.group=1",
            "memory.swap.max=0",
            "pids.max=10",
            "hugetlb.2MB.max=0",
        ];
        assert_eq!(lines(&all, true), v2);
        let v1 = [
            "cpu.shares=102",
            "cpu.cfs_period_us=100000",
            "cpu.cfs_quota_us=20000",
            "memory.limit_in_bytes=67108864",
            "pids.max=10",
            "hugetlb.2MB.limit_in_bytes=0",
        ];
        assert_eq!(lines(&all, false), v1);
        let unlimited = Resources {
            cpu_quota: Some(-1),
            memory_limit: Some(-1),
            pids_limit: Some(-1),
            ..Resources::default()
        };
        assert_eq!(lines(&unlimited, true), ["cpu.max=max 100000", "memory.max=max", "pids.max=max"]);
        assert_eq!(lines(&Resources::default(), true), Vec::<String>::new());
    }

    #[test]
    fn the_kernel_rounds_memory_to_pages_only() {
        for (asked, has, want) in [
            ("100", "100", true),
            ("100", "99", false),
            ("67108865", "67108864", true),
            ("67108864", "67108865", false),
            ("67108864", "33554432", false),
            ("max 100000", "max 100000", true),
            ("-1", "9223372036854771712", true),
            ("-1", "100", false),
            ("max", "100", false),
            ("1", "0", false),
        ] {
            assert_eq!(same(asked, has), want, "{asked} {has}");
        }
    }
}
