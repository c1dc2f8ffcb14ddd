//! Further processes in a running container: an own path, for libcontainer's drops the seccomp filter.
//!
//! Nothing here waits for a process that the container can stop: `start` returns at once, and what becomes of the process
//! is told by its line and by the kernel, both of which the shim's loop looks at.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use libcontainer::oci_spec::runtime::{Process, Spec};
use libcontainer::syscall::syscall::create_syscall;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Gid, Pid, Uid};

use super::confinement::Confiner;
use super::held;
use crate::sys::{fds, process, terminal};

/// A process on its way to its program.
pub(super) struct Starting {
    line: UnixStream,
    text: Vec<u8>,
    received: Vec<OwnedFd>,
    pid: Option<Pid>,
    heard_out: bool,
}

/// Why there is no process: exit code and message as a shell user knows them.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) code: i32,
    pub(super) message: String,
}

fn refused(code: i32, message: impl Into<String>) -> Refused {
    Refused { code, message: message.into() }
}

/// The container that a process is to join.
pub(super) struct Inside<'a> {
    pub(super) spec: &'a Spec,
    pub(super) confiner: &'a Confiner,
    pub(super) cgroup: &'a str,
    pub(super) init: Pid,
    /// The container's user by the host's number.
    pub(super) owner: u32,
}

/// Starts `command` in a container. Without `tty`, `stdio` holds stdin, stdout and stderr.
pub(super) fn start(
    inside: &Inside<'_>,
    command: &[String],
    stdio: &[OwnedFd],
    tty: bool,
) -> Result<Starting, Refused> {
    let internal = |error: io::Error| refused(126, format!("cannot exec in a container: {error}"));
    if command.is_empty() || (!tty && stdio.len() < 3) {
        return Err(refused(126, "exec needs a command and its streams"));
    }
    let (ours, theirs) = UnixStream::pair().map_err(internal)?;
    process::spawn(|| helper(inside, command, stdio, tty, theirs.as_fd())).map_err(internal)?;
    ours.set_nonblocking(true).map_err(internal)?;
    Ok(Starting { line: ours, text: Vec::new(), received: Vec::new(), pid: None, heard_out: false })
}

// === impl Starting ===

impl Starting {
    pub(super) fn line(&self) -> std::os::fd::BorrowedFd<'_> {
        self.line.as_fd()
    }

    pub(super) fn pid(&self) -> Option<Pid> {
        self.pid
    }

    /// The terminal's master, once the process has one.
    pub(super) fn take_terminal(&mut self) -> Option<OwnedFd> {
        self.received.pop()
    }

    /// Takes in what the process says. A process that is there is held, so that it stops at its program, and may go on.
    pub(super) fn listen(&mut self) -> Result<(), Refused> {
        let internal = |error: io::Error| refused(126, format!("cannot exec in a container: {error}"));
        self.heard_out = loop {
            let mut buffer = [0; 1024];
            match fds::receive(self.line.as_fd(), &mut buffer, &mut self.received) {
                Ok(0) => break true,
                Ok(count) => self.text.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break false,
                // It ended with a byte of ours unread.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => break true,
                Err(error) => return Err(internal(error)),
            }
        };
        let text = String::from_utf8_lossy(&self.text).into_owned();
        if let Some((code, message)) = text.lines().find_map(|line| line.strip_prefix('E')?.split_once(' ')) {
            return Err(refused(code.parse().unwrap_or(126), message));
        }
        if self.pid.is_none() {
            self.pid = text.lines().find_map(|line| line.strip_prefix('P')?.parse().ok()).map(Pid::from_raw);
            match self.pid {
                Some(pid) => {
                    held::hold(pid).map_err(internal)?;
                    fds::write(self.line.as_fd(), b"g").map_err(internal)?;
                }
                None if self.heard_out => return Err(refused(126, "the exec helper died")),
                None => {}
            }
        }
        Ok(())
    }

    /// Whether the line has ended, as it does when the program begins.
    pub(super) fn is_heard_out(&self) -> bool {
        self.heard_out
    }

    /// The end of a process that did not become its program: why.
    pub(super) fn failure(&mut self) -> Refused {
        self.listen().err().unwrap_or_else(|| refused(126, "the process ended before its program began"))
    }

    pub(super) fn kill(&self) {
        if let Some(pid) = self.pid {
            let _ = kill(pid, Signal::SIGKILL);
        }
    }
}

fn fail(line: impl AsFd, code: i32, message: &str) -> ! {
    let _ = fds::write(line.as_fd(), format!("E{code} {}\n", message.replace('\n', " ")).as_bytes());
    process::exit(code)
}

/// In a copy of the shim, outside the container's pid namespace and so out of its reach: joins everything, and gives up
/// everything that the program shall not have. Only then a child appears in the container.
fn helper(
    inside: &Inside<'_>,
    command: &[String],
    stdio: &[OwnedFd],
    tty: bool,
    line: std::os::fd::BorrowedFd<'_>,
) {
    let Some(process) = inside.spec.process() else { fail(line, 126, "the container has no process") };
    let joined = || -> io::Result<OwnedFd> {
        streams(inside.owner, stdio, tty)?;
        // Of the shim's own files none goes into the container.
        let line = fds::keep_only(line)?;
        if let Some(score) = process.oom_score_adj() {
            process::set_oom_score(score)?;
        }
        if let Some(label) = process.apparmor_profile() {
            process::label_next_program(label)?;
        }
        crate::runtime::cgroups::join(inside.cgroup, std::process::id().cast_signed())?;
        process::join_namespaces(inside.init)?;
        Ok(line)
    };
    let line = match joined() {
        Ok(line) => line,
        Err(error) => fail(line, 126, &format!("cannot join the container: {error}")),
    };
    let early = !inside.confiner.forbids_fork();
    let prepared =
        become_user(process, tty, &line).and_then(|()| if early { inside.confiner.apply() } else { Ok(()) });
    if let Err(error) = prepared {
        fail(line, 126, &error.to_string());
    }
    match process::spawn(|| run(inside, process, command, tty, early, &line)) {
        Ok(pid) => {
            let _ = fds::write(line.as_fd(), format!("P{pid}\n").as_bytes());
            process::exit(0)
        }
        Err(error) => fail(line, 126, &error.to_string()),
    }
}

/// In the new process: waits until the shim holds it, then becomes the program.
fn run(
    inside: &Inside<'_>,
    process: &Process,
    command: &[String],
    tty: bool,
    early: bool,
    line: &OwnedFd,
) -> ! {
    let begin = || -> io::Result<()> {
        match nix::unistd::setsid() {
            Ok(_) => {}
            // A filter may forbid it; the helper's session will do.
            Err(_) if !tty => {}
            Err(error) => return Err(error.into()),
        }
        if tty {
            process::control_terminal()?;
        }
        process::close_on_exec()?;
        if fds::read(line.as_fd(), &mut [0])? == 0 {
            return Err(io::Error::other("the shim went away"));
        }
        if early { Ok(()) } else { inside.confiner.apply() }
    };
    if let Err(error) = begin() {
        fail(line, 126, &error.to_string());
    }
    let env = process.env().clone().unwrap_or_default();
    let (code, message) = execute(command, &env);
    fail(line, code, &message)
}

fn streams(owner: u32, stdio: &[OwnedFd], tty: bool) -> io::Result<()> {
    process::default_signals()?;
    nix::unistd::setsid()?;
    if tty {
        let null: OwnedFd = std::fs::File::options().read(true).write(true).open("/dev/null")?.into();
        return (0..3).try_for_each(|number| process::redirect(null.as_raw_fd(), number));
    }
    let pipes = stdio.iter().filter(|fd| fds::is_pipe(fd.as_fd()));
    pipes.map(|fd| fds::give_to(fd.as_fd(), owner)).collect::<io::Result<Vec<()>>>()?;
    stdio.iter().zip(0..3).try_for_each(|(fd, number)| process::redirect(fd.as_raw_fd(), number))
}

/// In the container's namespaces: terminal, directory, groups and user.
fn become_user(process: &Process, tty: bool, line: &OwnedFd) -> io::Result<()> {
    let uid = process.user().uid();
    if tty {
        let (master, slave) = terminal::open()?;
        fds::give_to(slave.as_fd(), uid)?;
        fds::send(line.as_fd(), b"T\n", &[master.as_raw_fd()])?;
        (0..3).try_for_each(|number| process::redirect(slave.as_raw_fd(), number))?;
    }
    if process.no_new_privileges() == Some(true) {
        nix::sys::prctl::set_no_new_privs()?;
    }
    nix::unistd::chdir(process.cwd())?;
    must_be_inside()?;
    let groups = process.user().additional_gids().clone().unwrap_or_default();
    nix::unistd::setgroups(&groups.into_iter().map(Gid::from_raw).collect::<Vec<_>>())?;
    let syscall = create_syscall();
    syscall.set_id(Uid::from_raw(uid), Gid::from_raw(process.user().gid())).map_err(io::Error::other)?;
    libcontainer::capabilities::reset_effective(syscall.as_ref()).map_err(io::Error::other)
}

/// The working directory must be in the container: `/proc/self/fd` could have led to a directory of the node
/// (CVE-2024-21626). The kernel gives no absolute path to what the root directory does not have below it.
pub(super) fn must_be_inside() -> io::Result<()> {
    match nix::unistd::getcwd() {
        Ok(path) if path.is_absolute() => Ok(()),
        _ => Err(io::Error::other("the working directory is outside of the container")),
    }
}

/// Looks the program up and replaces this process by it; returns only on failure, with exit code and reason.
pub(super) fn execute(command: &[String], env: &[String]) -> (i32, String) {
    let name = &command[0];
    let path = match find(name, env) {
        Ok(path) => path,
        Err(failure) => return failure,
    };
    let strings = |texts: &[String]| {
        texts.iter().map(|text| CString::new(text.as_bytes())).collect::<Result<Vec<_>, _>>()
    };
    let (Ok(path), Ok(args), Ok(env)) =
        (CString::new(path.as_os_str().as_encoded_bytes()), strings(command), strings(env))
    else {
        return (126, format!("exec: {name:?}: invalid argument"));
    };
    match nix::unistd::execve(&path, &args, &env) {
        Err(nix::errno::Errno::ENOEXEC) => (126, format!("exec {name}: exec format error")),
        Err(nix::errno::Errno::ENOENT) => (127, format!("exec {name}: no such file or directory")),
        Err(error) => (126, format!("exec {name}: {}", error.desc().to_lowercase())),
        Ok(never) => match never {},
    }
}

fn find(name: &str, env: &[String]) -> Result<PathBuf, (i32, String)> {
    let usable = |path: &Path| nix::unistd::access(path, nix::unistd::AccessFlags::X_OK).is_ok();
    if name.contains('/') {
        let path = PathBuf::from(name);
        return match path.metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err((127, format!("exec: {name:?}: stat {name}: no such file or directory")))
            }
            Err(_) => Err((126, format!("exec: {name:?}: permission denied"))),
            Ok(kind) if kind.is_dir() => Err((126, format!("exec: {name:?}: is a directory"))),
            Ok(_) if !usable(&path) => Err((126, format!("exec: {name:?}: permission denied"))),
            Ok(_) => Ok(path),
        };
    }
    let path = env.iter().find_map(|entry| entry.strip_prefix("PATH=")).unwrap_or_default();
    let mut candidates =
        path.split(':').map(|dir| Path::new(if dir.is_empty() { "." } else { dir }).join(name));
    candidates
        .find(|path| path.is_file() && usable(path))
        .ok_or_else(|| (127, format!("exec: {name:?}: executable file not found in $PATH")))
}
