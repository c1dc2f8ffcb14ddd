//! Creating and starting the container with libcontainer.

use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;

use libcontainer::container::Container;
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::oci_spec::runtime::Spec;
use libcontainer::syscall::syscall::SyscallType;
use libcontainer::workload::{Executor, ExecutorError, ExecutorValidationError};
use nix::unistd::Pid;

use super::confinement::Confiner;
use super::held::{self, Came};
use super::protocol::ShimConfig;
use super::{exec, staging, verify};
use crate::cri::with_causes;
use crate::runtime::cgroups;
use crate::sys::namespaces::Apart;
use crate::sys::{fds, process, terminal};

/// The container's process replaces itself by the program; what goes wrong is told through a pipe that execve closes.
#[derive(Clone)]
struct Program {
    failure: Arc<OwnedFd>,
    confiner: Arc<Confiner>,
}

impl Executor for Program {
    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let args = spec.process().as_ref().and_then(|process| process.args().clone()).unwrap_or_default();
        let env = spec.process().as_ref().and_then(|process| process.env().clone()).unwrap_or_default();
        let message = match exec::must_be_inside().and_then(|()| self.confiner.apply()) {
            Ok(()) => exec::execute(&args, &env).1,
            Err(error) => format!("cannot confine the process: {error}"),
        };
        let _ = fds::write(self.failure.as_fd(), message.as_bytes());
        process::exit(128)
    }

    fn validate(&self, _: &Spec) -> Result<(), ExecutorValidationError> {
        Ok(())
    }
}

/// Ends of the container's streams that stay here.
pub(super) struct Streams {
    pub(super) stdin: Option<OwnedFd>,
    /// stdout and stderr; with a terminal only the first.
    pub(super) outputs: [Option<OwnedFd>; 2],
}

pub(super) struct Running {
    pub(super) init: Pid,
    pub(super) streams: Streams,
}

/// Where libcontainer keeps its record of the container.
pub(super) fn state_root(config: &ShimConfig) -> PathBuf {
    config.run_dir.join("oci")
}

/// Creates and starts. An error's text is for the container's status.
pub(super) fn start(config: &ShimConfig, spec: &Spec, confiner: &Arc<Confiner>) -> Result<Running, String> {
    let result = begin(config, spec, confiner);
    if result.is_err() {
        // Whatever there is of it: nothing of a container that was refused may go on.
        cgroups::kill(&config.cgroup);
        let _ = cgroups::remove(&config.cgroup);
    }
    result
}

fn begin(config: &ShimConfig, spec: &Spec, confiner: &Arc<Confiner>) -> Result<Running, String> {
    let text = |error: io::Error| error.to_string();
    let limited = cgroups::create(&config.cgroup, &config.resources)
        .and_then(|()| cgroups::restrict_devices(&config.cgroup, &config.devices));
    limited.map_err(|error| format!("unable to limit the container: {error}"))?;
    let (failure, failure_end) =
        pipe().map(|(read, write)| (std::fs::File::from(read), write)).map_err(text)?;
    // The library gives this process the container's score, for it to inherit.
    let own_score = process::oom_score().map_err(text)?;
    let apart = config.users.as_ref().map(staging::stage).transpose();
    let apart = apart.map_err(|error| format!("unable to prepare the container's volumes: {error}"))?;
    let built = build(config, confiner, failure_end);
    apart.map_or(Ok(()), Apart::leave).map_err(text)?;
    let (mut container, streams) = built?;
    process::set_oom_score(own_score).map_err(text)?;
    if !cgroups::unified() {
        // The library has written rules of its own, which allow more.
        cgroups::restrict_devices(&config.cgroup, &config.devices)
            .map_err(|error| format!("unable to limit the container: {error}"))?;
    }
    let init = container.pid().ok_or("the container has no process")?;
    let init = Pid::from_raw(init.as_raw());
    held::hold(init).map_err(text)?;
    container.start().map_err(|error| with_causes(&error))?;
    let refused = match held::until_program(init).map_err(text)? {
        Came::ToProgram(_) => match verify::first_process(config, spec, init.as_raw()) {
            Ok(found) if found.is_empty() => {
                held::release(init).map_err(text)?;
                return Ok(Running { init, streams });
            }
            Ok(found) => format!("the container is not confined as asked: {}", found.join("; ")),
            Err(error) => format!("the container cannot be looked at: {error}"),
        },
        Came::ToEnd(_, code, _) => match told(failure).as_str() {
            "" => format!("error during container init: it ended with exit code {code}"),
            message => format!("error during container init: {message}"),
        },
        Came::Elsewhere => "the container went astray".to_owned(),
    };
    let _ = nix::sys::signal::kill(init, nix::sys::signal::Signal::SIGKILL);
    let _ = container.delete(true);
    Err(format!("unable to start container process: {refused}"))
}

/// What the process said before its end.
fn told(failure: std::fs::File) -> String {
    /// It may be the container's own child that holds the pipe open, and says what it likes.
    const LONGEST: u64 = 4096;
    let mut message = String::new();
    let _ = failure.take(LONGEST).read_to_string(&mut message);
    message
}

fn build(
    config: &ShimConfig,
    confiner: &Arc<Confiner>,
    failure: OwnedFd,
) -> Result<(Container, Streams), String> {
    let text = |error: io::Error| error.to_string();
    let builder = ContainerBuilder::new(config.id.clone(), SyscallType::default())
        .with_executor(Program { failure: Arc::new(failure), confiner: confiner.clone() })
        .with_root_path(state_root(config))
        .map_err(|error| with_causes(&error))?;
    let console = config.run_dir.join("console");
    let listener = if config.tty {
        let _ = std::fs::remove_file(&console);
        Some(UnixListener::bind(&console).map_err(text)?)
    } else {
        None
    };
    let mut streams = Streams { stdin: None, outputs: [None, None] };
    let builder = if config.tty {
        builder.with_console_socket(Some(console.clone()))
    } else {
        let (stdin, ours) = stdin_pair(config.stdin).map_err(text)?;
        let (stdout, stdout_end) = pipe().map_err(text)?;
        let (stderr, stderr_end) = pipe().map_err(text)?;
        for end in [&stdout_end, &stderr_end].into_iter().chain(config.stdin.then_some(&stdin)) {
            fds::give_to(end.as_fd(), config.uid).map_err(text)?;
        }
        streams = Streams { stdin: ours, outputs: [Some(stdout), Some(stderr)] };
        builder.with_stdin(stdin).with_stdout(stdout_end).with_stderr(stderr_end)
    };
    let built = builder.as_init(&config.dir).with_systemd(false).with_detach(true).build();
    let container =
        built.map_err(|error| format!("unable to start container process: {}", with_causes(&error)))?;
    if let Some(listener) = listener {
        let master = receive_console(&listener).map_err(text)?;
        let _ = std::fs::remove_file(&console);
        fds::give_to(terminal::slave(&master).map_err(text)?.as_fd(), config.uid).map_err(text)?;
        streams.stdin = if config.stdin { Some(master.try_clone().map_err(text)?) } else { None };
        streams.outputs[0] = Some(master);
    }
    Ok((container, streams))
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?)
}

fn stdin_pair(wanted: bool) -> io::Result<(OwnedFd, Option<OwnedFd>)> {
    if wanted {
        let (read, write) = pipe()?;
        fds::set_nonblocking(write.as_fd())?;
        Ok((read, Some(write)))
    } else {
        Ok((std::fs::File::open("/dev/null")?.into(), None))
    }
}

fn receive_console(listener: &UnixListener) -> io::Result<OwnedFd> {
    let (stream, _): (UnixStream, _) = listener.accept()?;
    let mut received = Vec::new();
    fds::receive(stream.as_fd(), &mut [0; 256], &mut received)?;
    received.pop().ok_or_else(|| io::Error::other("the container sent no terminal"))
}
