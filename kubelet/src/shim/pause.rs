//! The first process of a shared pid namespace: reaps, and ends when told.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Gid, Uid, chdir, chroot, setgid, setgroups, setuid};

use crate::sys::seccomp::Filter;

const NOBODY: u32 = 65535;
/// Empty, in the pod's directory.
pub(crate) const ROOT: &str = "pause";

/// `pod` is the sandbox's directory. Everything that could be reached from inside the pod is given up first.
pub(super) fn run(pod: &Path) -> io::Result<()> {
    nix::unistd::setsid()?;
    for kind in ["net", "ipc", "uts"] {
        match File::open(pod.join(kind)) {
            Ok(file) => setns(file.as_fd(), CloneFlags::empty())?,
            // The host's.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    unshare(CloneFlags::CLONE_NEWNS)?;
    chroot(&pod.join(ROOT))?;
    chdir("/")?;
    setgroups(&[])?;
    setgid(Gid::from_raw(NOBODY))?;
    setuid(Uid::from_raw(NOBODY))?;
    nix::sys::prctl::set_no_new_privs()?;
    Filter::compile(&crate::runtime::seccomp::runtime_default(&[]))?.load()?;
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGCHLD] {
        signals.add(signal);
    }
    signals.thread_block()?;
    while signals.wait()? == Signal::SIGCHLD {
        while !matches!(waitpid(None, Some(WaitPidFlag::WNOHANG)), Ok(WaitStatus::StillAlive) | Err(_)) {}
    }
    Ok(())
}
