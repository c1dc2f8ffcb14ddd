//! Processes.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::sys::signal::{SigHandler, SigSet, Signal, signal};
use nix::unistd::{ForkResult, Pid, fork};

/// Orphans of our descendants become our children.
pub fn become_subreaper() -> io::Result<()> {
    // SAFETY: no pointers are involved.
    let result = unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Lets this process's children have huge pages, whatever its allocator chose for itself at the start.
pub fn allow_huge_pages() -> io::Result<()> {
    // SAFETY: no pointers are involved.
    let result = unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 0, 0, 0, 0) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Begins a session of its own for keys (keyrings(7)), which its children inherit: no namespace keeps them apart, and what
/// is in the session of who started this is not for containers. A kernel without keys has none to keep.
pub fn own_keys() -> io::Result<()> {
    const NO_NAME: *const libc::c_char = std::ptr::null();
    // SAFETY: without a name the session is a new one, and no memory is passed.
    let result = unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, NO_NAME) };
    match io::Error::last_os_error() {
        _ if result >= 0 => Ok(()),
        error if error.raw_os_error() == Some(libc::ENOSYS) => Ok(()),
        error => Err(error),
    }
}

/// Runs `child` in a copy of this process, which must have one thread only; the copy ends with it.
pub fn spawn(child: impl FnOnce()) -> io::Result<Pid> {
    // SAFETY: with a single thread the child may do whatever the parent could.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => {
            child();
            exit(0)
        }
    }
}

/// How many threads this process has.
pub fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count)
}

pub fn exit(code: i32) -> ! {
    // SAFETY: ends the process without running handlers that belong to the parent.
    unsafe { libc::_exit(code) }
}

/// Joins all namespaces of a process.
pub fn join_namespaces(pid: Pid) -> io::Result<()> {
    let user = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/user"));
    // One's own cannot be joined.
    let other_user = user("self")? != user(&pid.to_string())?;
    // SAFETY: the call takes two integers and makes a descriptor.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was made above.
    let pidfd = unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).map_err(io::Error::other)?) };
    let flags = libc::CLONE_NEWNS
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWCGROUP
        | if other_user { libc::CLONE_NEWUSER } else { 0 };
    // SAFETY: an open descriptor and flags.
    let result = unsafe { libc::setns(pidfd.as_raw_fd(), flags) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    if other_user { become_root() } else { Ok(()) }
}

/// Makes this process the root of its user namespace: who has just entered one is nobody in it.
pub fn become_root() -> io::Result<()> {
    let (user, group) = (nix::unistd::Uid::from_raw(0), nix::unistd::Gid::from_raw(0));
    nix::unistd::setgroups(&[])?;
    nix::unistd::setresgid(group, group, group)?;
    nix::unistd::setresuid(user, user, user)?;
    Ok(())
}

/// All descriptors from 3 on are closed by the next execve.
pub fn close_on_exec() -> io::Result<()> {
    // SAFETY: no pointers are involved.
    let result = unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes descriptor `number` (0, 1 or 2) a copy of `fd`.
pub fn redirect(fd: i32, number: i32) -> io::Result<()> {
    nix::unistd::dup2(fd, number)?;
    Ok(())
}

/// Makes the terminal on standard input the controlling one of this session.
pub fn control_terminal() -> io::Result<()> {
    // SAFETY: no pointers are involved.
    let result = unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Rust ignores SIGPIPE, and an ignored signal stays ignored over execve.
pub fn default_signals() -> io::Result<()> {
    for which in [Signal::SIGPIPE, Signal::SIGINT, Signal::SIGQUIT] {
        // SAFETY: the default action is no handler of ours.
        unsafe { signal(which, SigHandler::SigDfl) }?;
    }
    SigSet::all().thread_unblock()?;
    Ok(())
}

pub fn ignore_broken_pipes() -> io::Result<()> {
    // SAFETY: ignoring is no handler of ours.
    unsafe { signal(Signal::SIGPIPE, SigHandler::SigIgn) }?;
    Ok(())
}

/// Waits until a process, which need not be a child, has ended.
pub fn wait_gone(pid: i32, milliseconds: u16) -> io::Result<()> {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::os::fd::AsFd;
    // SAFETY: the call takes two integers and makes a descriptor.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        return Ok(());
    }
    // SAFETY: the descriptor was made above.
    let pidfd = unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).map_err(io::Error::other)?) };
    poll(&mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)], PollTimeout::from(milliseconds))?;
    Ok(())
}

/// How ready the OOM killer is to take this process, from -1000 to 1000.
pub fn oom_score() -> io::Result<i32> {
    std::fs::read_to_string("/proc/self/oom_score_adj")?.trim().parse().map_err(io::Error::other)
}

pub fn set_oom_score(score: i32) -> io::Result<()> {
    std::fs::write("/proc/self/oom_score_adj", score.to_string())
}

/// The AppArmor profile of the next program of this process, or of a child of it.
pub fn label_next_program(profile: &str) -> io::Result<()> {
    let text = format!("exec {profile}");
    std::fs::write("/proc/self/attr/apparmor/exec", &text)
        .or_else(|_| std::fs::write("/proc/self/attr/exec", &text))
}

/// Nobody but root of the host may look into this process or trace it.
pub fn hide() -> io::Result<()> {
    Ok(nix::sys::prctl::set_dumpable(false)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sessions are a thread's own until it is alone.
    #[test]
    fn keys_of_who_started_it_are_not_in_a_session_of_its_own() {
        const SESSION: i32 = libc::KEY_SPEC_SESSION_KEYRING;
        // SAFETY: no pointers are involved.
        let session = || unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_GET_KEYRING_ID, SESSION, 1) };
        let before = session();
        if before < 0 {
            println!("SKIPPED: the kernel keeps no keys, or a filter does not let this process have any");
            return;
        }
        let after = std::thread::spawn(move || own_keys().map(|()| session())).join().unwrap().unwrap();
        assert!(after > 0 && after != before, "{before} {after}");
    }
}
