//! What a server costs the machine, from /proc.

use std::fs;

use anyhow::{Context, Result};

/// The processes of one server.
#[derive(Clone, Debug)]
pub(crate) struct Processes(Vec<u32>);

// === impl Processes ===

impl Processes {
    pub(crate) fn of(pids: impl IntoIterator<Item = u32>) -> Self {
        Processes(pids.into_iter().collect())
    }

    /// Whoever listens on a TCP port of loopback or of all addresses.
    pub(crate) fn listening_on(port: u16) -> Result<Self> {
        let wanted = format!(":{port:04X}");
        let mut inodes = vec![];
        for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
            for line in fs::read_to_string(table).unwrap_or_default().lines().skip(1) {
                let columns: Vec<&str> = line.split_whitespace().collect();
                if let [_, local, _, "0A", ..] = columns[..]
                    && local.ends_with(&wanted)
                    && let Some(inode) = columns.get(9)
                {
                    inodes.push(format!("socket:[{inode}]"));
                }
            }
        }
        let pids =
            fs::read_dir("/proc")?.flatten().filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
        let owner = pids.into_iter().find(|pid| {
            fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten().any(|fd| {
                fs::read_link(fd.path()).is_ok_and(|to| inodes.iter().any(|i| to.as_os_str() == i.as_str()))
            })
        });
        Ok(Processes::of([owner.with_context(|| format!("no process listens on port {port}"))?]))
    }

    /// Seconds of CPU used so far, all threads, user and system.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        self.0.iter().filter_map(|pid| cpu_ticks(*pid)).sum::<u64>() as f64 / ticks_per_second()
    }

    /// Resident memory in bytes.
    pub(crate) fn rss_bytes(&self) -> u64 {
        self.status("VmRSS:")
    }

    /// The most memory that was ever resident, in bytes, or since `forget_peak`.
    pub(crate) fn peak_bytes(&self) -> u64 {
        self.status("VmHWM:")
    }

    /// From now on `peak_bytes` begins anew.
    pub(crate) fn forget_peak(&self) {
        for pid in &self.0 {
            // Where the kernel has no such file the peak is that of the whole life.
            let _ = fs::write(format!("/proc/{pid}/clear_refs"), "5");
        }
    }

    /// Open files and sockets.
    pub(crate) fn descriptors(&self) -> usize {
        self.0.iter().filter_map(|pid| Some(fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count())).sum()
    }

    /// A number of kibibytes from the kernel's status page, in bytes.
    fn status(&self, name: &str) -> u64 {
        let of = |pid: &u32| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            let line = status.lines().find_map(|l| l.strip_prefix(name))?.to_owned();
            line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
        };
        self.0.iter().filter_map(of).sum()
    }
}

/// Seconds of CPU this program has used.
pub(crate) fn own_cpu_seconds() -> f64 {
    Processes::of([std::process::id()]).cpu_seconds()
}

fn cpu_ticks(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The program's name may hold blanks; what follows its closing bracket is plain.
    let fields: Vec<&str> = stat.rsplit(')').next()?.split_whitespace().collect();
    Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
}

fn ticks_per_second() -> f64 {
    let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100);
    ticks as f64
}

/// How many 4 KiB appends with fdatasync the disk below `dir` does in a second.
pub(crate) fn fdatasync_per_second(dir: &std::path::Path) -> Result<f64> {
    use std::io::Write;
    let path = dir.join("fdatasync-probe");
    let mut file = fs::File::create(&path)?;
    let begun = std::time::Instant::now();
    let mut count = 0;
    while begun.elapsed().as_secs_f64() < 1.0 {
        file.write_all(&[0; 4096])?;
        file.sync_data()?;
        count += 1;
    }
    let rate = f64::from(count) / begun.elapsed().as_secs_f64();
    fs::remove_file(&path)?;
    Ok(rate)
}
