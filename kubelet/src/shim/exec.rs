//! Further processes in a running container: an own path, for libcontainer's drops the seccomp filter.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use libcontainer::oci_spec::runtime::Spec;
use libcontainer::syscall::syscall::create_syscall;
use nix::unistd::{Gid, Pid, Uid};

use super::confinement::Confiner;
use crate::sys::{fds, process, terminal};

/// What a started process left behind.
pub(super) struct Started {
    pub(super) pid: Pid,
    pub(super) terminal: Option<OwnedFd>,
}

/// Why there is no process: exit code and message as a shell user knows them.
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
}

/// Starts `command` in a container. Without `tty`, `stdio` holds stdin, stdout and stderr.
pub(super) fn start(
    inside: &Inside<'_>,
    command: &[String],
    stdio: &[OwnedFd],
    tty: bool,
) -> Result<Started, Refused> {
    let internal = |error: io::Error| refused(126, format!("cannot exec in a container: {error}"));
    if command.is_empty() || (!tty && stdio.len() < 3) {
        return Err(refused(126, "exec needs a command and its streams"));
    }
    let (ours, theirs) = UnixStream::pair().map_err(internal)?;
    let helper = process::spawn(|| {
        let joined = crate::runtime::cgroups::join(inside.cgroup, std::process::id().cast_signed())
            .and_then(|()| process::join_namespaces(inside.init));
        if let Err(error) = joined {
            fail(&theirs, 126, &format!("cannot join the container: {error}"));
        }
        // The pid namespace holds for children only.
        match process::spawn(|| run(inside, command, stdio, tty, &theirs)) {
            Ok(pid) => {
                let _ = fds::send(theirs.as_fd(), format!("P{pid}\n").as_bytes(), &[]);
                process::exit(0)
            }
            Err(error) => fail(&theirs, 126, &error.to_string()),
        }
    });
    let helper = match helper {
        Ok(helper) => helper,
        Err(error) => return Err(internal(error)),
    };
    let _ = nix::sys::wait::waitpid(helper, None);
    drop(theirs);
    let (mut text, mut received) = (Vec::new(), Vec::new());
    loop {
        let mut buffer = [0; 1024];
        match fds::receive(ours.as_fd(), &mut buffer, &mut received).map_err(internal)? {
            0 => break,
            count => text.extend_from_slice(&buffer[..count]),
        }
    }
    let text = String::from_utf8_lossy(&text).into_owned();
    let pid = text.lines().find_map(|line| line.strip_prefix('P')?.parse().ok());
    if let Some((code, message)) = text.lines().find_map(|line| line.strip_prefix('E')?.split_once(' ')) {
        return Err(refused(code.parse().unwrap_or(126), message));
    }
    let pid = Pid::from_raw(pid.ok_or_else(|| refused(126, "the exec helper died"))?);
    Ok(Started { pid, terminal: received.pop() })
}

fn fail(status: &UnixStream, code: i32, message: &str) -> ! {
    let _ = fds::send(status.as_fd(), format!("E{code} {}\n", message.replace('\n', " ")).as_bytes(), &[]);
    process::exit(code)
}

/// In the new process: everything up to execve.
fn run(inside: &Inside<'_>, command: &[String], stdio: &[OwnedFd], tty: bool, status: &UnixStream) -> ! {
    if let Err(error) = prepare(inside, stdio, tty, status) {
        fail(status, 126, &error.to_string());
    }
    let env = inside.spec.process().as_ref().and_then(|process| process.env().clone()).unwrap_or_default();
    let (code, message) = execute(command, &env);
    fail(status, code, &message)
}

fn prepare(inside: &Inside<'_>, stdio: &[OwnedFd], tty: bool, status: &UnixStream) -> io::Result<()> {
    process::default_signals()?;
    nix::unistd::setsid()?;
    let process =
        inside.spec.process().as_ref().ok_or_else(|| io::Error::other("the container has no process"))?;
    let uid = process.user().uid();
    if tty {
        let (master, slave) = terminal::open()?;
        fds::give_to(slave.as_fd(), uid)?;
        fds::send(status.as_fd(), b"T\n", &[master.as_raw_fd()])?;
        (0..3).try_for_each(|number| process::redirect(slave.as_raw_fd(), number))?;
        process::control_terminal()?;
    } else {
        stdio
            .iter()
            .filter(|fd| fds::is_pipe(fd.as_fd()))
            .try_for_each(|fd| fds::give_to(fd.as_fd(), uid))?;
        stdio.iter().zip(0..3).try_for_each(|(fd, number)| process::redirect(fd.as_raw_fd(), number))?;
    }
    if process.no_new_privileges() == Some(true) {
        nix::sys::prctl::set_no_new_privs()?;
    }
    nix::unistd::chdir(process.cwd())?;
    must_be_inside()?;
    let groups = process.user().additional_gids().clone().unwrap_or_default();
    nix::unistd::setgroups(&groups.into_iter().map(Gid::from_raw).collect::<Vec<_>>())?;
    process::close_on_exec()?;
    let syscall = create_syscall();
    syscall.set_id(Uid::from_raw(uid), Gid::from_raw(process.user().gid())).map_err(io::Error::other)?;
    libcontainer::capabilities::reset_effective(syscall.as_ref()).map_err(io::Error::other)?;
    inside.confiner.apply()
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
