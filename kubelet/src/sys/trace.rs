//! Tracing a process that is about to become another program.

use std::io;
use std::ptr::null_mut;

use nix::unistd::Pid;

/// What a report of a stop calls the moment when a program is in place.
pub(crate) const AT_PROGRAM: i32 = libc::PTRACE_EVENT_EXEC;

/// Has `pid` stop when its program is in place, and end with this process.
pub(crate) fn seize(pid: Pid) -> io::Result<()> {
    let options = libc::PTRACE_O_TRACEEXEC | libc::PTRACE_O_EXITKILL;
    request(libc::PTRACE_SEIZE, pid, usize::try_from(options).map_err(io::Error::other)?)
}

/// Sends a stopped process on, with the signal that it was stopped for.
pub(crate) fn go_on(pid: Pid, signal: i32) -> io::Result<()> {
    request(libc::PTRACE_CONT, pid, usize::try_from(signal).map_err(io::Error::other)?)
}

/// Ends the tracing; the process goes on.
pub(crate) fn let_go(pid: Pid) -> io::Result<()> {
    request(libc::PTRACE_DETACH, pid, 0)
}

fn request(what: libc::c_uint, pid: Pid, data: usize) -> io::Result<()> {
    // SAFETY: these requests take numbers in place of addresses, and touch no memory of ours.
    let result = unsafe {
        libc::ptrace(
            what,
            pid.as_raw(),
            null_mut::<libc::c_void>(),
            std::ptr::without_provenance_mut::<libc::c_void>(data),
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
