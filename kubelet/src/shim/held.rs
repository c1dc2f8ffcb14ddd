//! Processes that are held at the first instruction of their program.
//!
//! Held means traced: the kernel stops such a process when execve is done and nothing of the program has run, a signal
//! from elsewhere does not stop it before, nobody else can trace it, and it ends with its shim.

use std::io;

use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::sys::trace;

/// From now on this process gets the stops of `pid`, which must not be multithreaded.
pub(super) fn hold(pid: Pid) -> io::Result<()> {
    trace::seize(pid).map_err(|error| {
        io::Error::new(error.kind(), format!("cannot hold the process to look at it: {error}"))
    })
}

/// Lets it go on as it likes.
pub(super) fn release(pid: Pid) -> io::Result<()> {
    trace::let_go(pid)
}

/// What a process came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Came {
    /// Its program is in place and has not begun.
    ToProgram(Pid),
    ToEnd(Pid, i32, Option<i32>),
    /// Nothing to be done.
    Elsewhere,
}

/// What a report of the kernel means. A held process that was stopped on the way is sent on.
pub(super) fn understand(status: WaitStatus) -> Came {
    match status {
        WaitStatus::Exited(pid, code) => Came::ToEnd(pid, code, None),
        WaitStatus::Signaled(pid, signal, _) => Came::ToEnd(pid, 128 + signal as i32, Some(signal as i32)),
        WaitStatus::PtraceEvent(pid, _, event) if event == trace::AT_PROGRAM => Came::ToProgram(pid),
        WaitStatus::PtraceEvent(pid, ..) => {
            // It may have been killed meanwhile: its end is reported next.
            let _ = trace::go_on(pid, 0);
            Came::Elsewhere
        }
        WaitStatus::Stopped(pid, signal) => {
            let _ = trace::go_on(pid, signal as i32);
            Came::Elsewhere
        }
        WaitStatus::PtraceSyscall(_) | WaitStatus::Continued(_) | WaitStatus::StillAlive => Came::Elsewhere,
    }
}

/// Waits until a held child has become its program, or has ended.
pub(super) fn until_program(pid: Pid) -> io::Result<Came> {
    loop {
        match waitpid(pid, None) {
            Ok(status) => match understand(status) {
                Came::Elsewhere => {}
                came => return Ok(came),
            },
            Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
