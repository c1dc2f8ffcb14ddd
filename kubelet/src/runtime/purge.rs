//! Removing every trace.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::container::Record;
use super::{cgroups, sandbox};
use crate::beneath;
use crate::cri::RuntimeError;
use crate::shim::protocol::read_file;
use crate::sys::{mounts, process};

/// How long a killed shim may take to go.
const PATIENCE_MILLISECONDS: u16 = 5000;

/// Removes every trace of the runtime's containers on this machine: shims, processes, mounts, namespaces, cgroups,
/// directories. The runtime must not be open in another process.
pub async fn purge(state_dir: &Path, run_dir: &Path, cgroup_root: &str) -> Result<(), RuntimeError> {
    let (state_dir, run_dir, cgroup) = (state_dir.to_owned(), run_dir.to_owned(), cgroup_root.to_owned());
    super::blocking(move || {
        // Shims first: they are told by the directory of ours that they were started with.
        let containers = state_dir.join("containers");
        let shims = shims(&containers, &run_dir);
        for pid in &shims {
            let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
        shims.iter().try_for_each(|pid| process::wait_gone(*pid, PATIENCE_MILLISECONDS))?;
        for group in own_groups(&containers, &run_dir, &cgroup) {
            cgroups::end(&group)?;
        }
        for point in mounts::below(&run_dir)? {
            mounts::unmount(&point)?;
        }
        // The root's name is common to all kubelets: what others have in it stays.
        cgroups::remove_empty(&cgroup);
        for directory in [&run_dir, &state_dir] {
            beneath::remove_tree(directory)?;
        }
        Ok(())
    })
    .await
    .map_err(super::io_error("purge"))
}

/// The groups of the pods that are on record.
fn own_groups(containers: &Path, run_dir: &Path, root: &str) -> BTreeSet<String> {
    let names = |dir: &Path| {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect::<Vec<_>>()
    };
    let uids = names(&run_dir.join("pods"));
    let mut groups: BTreeSet<String> = uids.iter().flat_map(|uid| sandbox::groups(root, uid)).collect();
    for id in names(containers) {
        let record = read_file::<Record>(&containers.join(id).join("record.json"));
        let pod = record.and_then(|record| Some(record.cgroup.rsplit_once('/')?.0.to_owned()));
        groups.extend(pod);
    }
    groups
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
