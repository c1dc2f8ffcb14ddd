//! The first process of a shared pid namespace: reaps, and ends when told.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::Path;

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Gid, Uid, setgid, setgroups, setuid};

use crate::sys::seccomp::Filter;

const NOBODY: u32 = 65535;
/// Empty, in the pod's directory.
pub(crate) const ROOT: &str = "pause";

/// What it says when nothing of the host is within its reach any more.
pub(crate) const READY: &str = "ready";

/// Tells its reader why when it fails.
pub(super) fn run(pod: &Path) -> io::Result<()> {
    let result = confine(pod);
    let word = match &result {
        Ok(()) => READY.to_owned(),
        Err(error) => error.to_string(),
    };
    let told = io::stdout().write_all(word.as_bytes()).and_then(|()| io::stdout().flush());
    result?;
    told?;
    nix::unistd::close(1)?;
    serve()
}

/// `pod` is the sandbox's directory. Everything that could be reached from inside the pod is given up first.
fn confine(pod: &Path) -> io::Result<()> {
    nix::unistd::setsid()?;
    for kind in ["net", "ipc", "uts"] {
        match File::open(pod.join(kind)) {
            Ok(file) => setns(file.as_fd(), CloneFlags::empty())?,
            // The host's.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    let filter = Filter::compile(&crate::runtime::seccomp::runtime_default(&[]))?;
    crate::sys::roots::move_into(&pod.join(ROOT))?;
    setgroups(&[])?;
    setgid(Gid::from_raw(NOBODY))?;
    setuid(Uid::from_raw(NOBODY))?;
    nix::sys::prctl::set_no_new_privs()?;
    // No other process of this uid in the pod may look into it.
    crate::sys::process::hide()?;
    filter.load()
}

fn serve() -> io::Result<()> {
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
