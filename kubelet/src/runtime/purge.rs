//! Removing every trace.

use std::fs;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::cgroups;
use crate::beneath;
use crate::cri::RuntimeError;
use crate::sys::mounts;

/// Removes every trace of the runtime's containers on this machine: shims, processes, mounts, namespaces, cgroups,
/// directories. The runtime must not be open in another process.
pub async fn purge(state_dir: &Path, run_dir: &Path, cgroup_root: &str) -> Result<(), RuntimeError> {
    let (state_dir, run_dir, cgroup) = (state_dir.to_owned(), run_dir.to_owned(), cgroup_root.to_owned());
    super::blocking(move || {
        // Shims first: they are told by the directory of ours that they were started with.
        let containers = state_dir.join("containers");
        for pid in shims(&containers, &run_dir) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        for pid in cgroups::processes(&cgroup) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        cgroups::wait_empty(&cgroup)?;
        for point in mounts::below(&run_dir)? {
            mounts::unmount(&point)?;
        }
        cgroups::remove(&cgroup)?;
        for directory in [&run_dir, &state_dir] {
            beneath::remove_tree(directory)?;
        }
        Ok(())
    })
    .await
    .map_err(super::io_error("purge"))
}

fn shims(containers: &Path, run_dir: &Path) -> Vec<i32> {
    let argument = |pid: i32| -> Option<bool> {
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let text = String::from_utf8_lossy(&line).into_owned();
        let mut words = text.split('\0').skip(1);
        Some(words.any(|word| {
            Path::new(word).starts_with(containers) || Path::new(word).starts_with(run_dir.join("pods"))
        }))
    };
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| argument(*pid) == Some(true)).collect()
}
