//! The shim's loop: streams, exits and requests, all in one poll.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;

use jiff::Timestamp;
use libcontainer::oci_spec::runtime::Spec;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::confinement::Confiner;
use super::create::{self, Streams};
use super::exec::{self, Inside};
use super::log::Log;
use super::protocol::{ExitFile, Reply, Request, ShimConfig, StateFile, write_file};
use crate::sys::{fds, process};

/// A line longer than this is no request.
const MAX_REQUEST: usize = 4 << 20;
/// How long a process that outlived the container's first may hold its streams open.
const DRAIN_MILLISECONDS: u16 = 200;

/// What a connection is waiting for.
enum Role {
    Idle,
    Watcher,
    Exec(Pid),
    Attached { stdin: Option<OwnedFd>, outputs: [Option<OwnedFd>; 2] },
}

struct Connection {
    socket: UnixStream,
    text: Vec<u8>,
    received: Vec<OwnedFd>,
    role: Role,
}

impl Connection {
    fn new(socket: UnixStream) -> io::Result<Connection> {
        socket.set_nonblocking(true)?;
        Ok(Connection { socket, text: Vec::new(), received: Vec::new(), role: Role::Idle })
    }

    fn reply(&self, reply: &Reply, fd: Option<&OwnedFd>) {
        let Ok(mut text) = serde_json::to_vec(reply) else { return };
        text.push(b'\n');
        let fd: Vec<i32> = fd.into_iter().map(AsRawFd::as_raw_fd).collect();
        // A peer that is gone needs no answer.
        let _ = fds::send(self.socket.as_fd(), &text, &fd);
    }
}

pub(super) struct Shim {
    config: ShimConfig,
    spec: Spec,
    confiner: Arc<Confiner>,
    init: Pid,
    started: String,
    streams: Streams,
    log: Log,
    signals: SignalFd,
    listener: UnixListener,
    connections: Vec<Connection>,
    /// Bytes for the container's stdin that it has not taken yet.
    input: Vec<u8>,
}

impl Shim {
    pub(super) fn start(config: ShimConfig) -> io::Result<Shim> {
        let _ = nix::unistd::setsid();
        process::become_subreaper()?;
        let mut first = Connection::new(UnixStream::from(fds::take_stdin()?))?;
        first.role = Role::Watcher;
        process::default_signals()?;
        let confiner = Arc::new(Confiner::new(&config.confinement)?);
        let log = Log::open(&config.log_root, &config.log_path, config.log_max_bytes, config.log_max_files)?;
        let socket = config.run_dir.join("s");
        let _ = std::fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket)?;
        listener.set_nonblocking(true)?;
        let running = match create::start(&config, &confiner) {
            Ok(running) => running,
            Err(message) => {
                first.reply(&Reply::Failed { message: message.clone() }, None);
                return Err(io::Error::other(message));
            }
        };
        process::ignore_broken_pipes()?;
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGCHLD);
        mask.thread_block()?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let init = running.init;
        let started = Timestamp::now().to_string();
        write_file(
            &config.dir.join("state.json"),
            &StateFile { pid: init.as_raw(), started: started.clone() },
        )?;
        first.reply(&Reply::Running { pid: init.as_raw(), started: started.clone() }, None);
        // Moving takes the kernel some milliseconds, so it comes after the good news.
        if let Err(error) =
            crate::runtime::cgroups::join(&config.shim_cgroup, std::process::id().cast_signed())
        {
            tracing::warn!(%error, "the shim stays in the kubelet's cgroup");
        }
        let spec = Spec::load(config.dir.join("config.json")).map_err(io::Error::other)?;
        for output in running.streams.outputs.iter().flatten() {
            fds::set_nonblocking(output.as_fd())?;
        }
        Ok(Shim {
            config,
            spec,
            confiner,
            init,
            started,
            streams: running.streams,
            log,
            signals,
            listener,
            connections: vec![first],
            input: Vec::new(),
        })
    }

    /// Runs until the container has ended and its end is on record.
    pub(super) fn serve(mut self) -> io::Result<()> {
        // It may have ended before SIGCHLD was blocked.
        let mut ended = self.reap();
        while ended.is_none() {
            let ready = self.wait(PollTimeout::NONE)?;
            (0..2).filter(|stream| ready.outputs[*stream]).for_each(|stream| {
                self.copy_output(stream);
            });
            self.copy_input(&ready);
            for index in ready.connections.iter().rev() {
                self.read_requests(*index);
            }
            if ready.listener {
                while let Ok((socket, _)) = self.listener.accept() {
                    self.connections.push(Connection::new(socket)?);
                }
            }
            if ready.signals {
                while matches!(self.signals.read_signal(), Ok(Some(_))) {}
            }
            // Also without a signal: forks of ours may have consumed it.
            ended = self.reap();
        }
        self.finish(ended.unwrap_or((255, None)))
    }

    fn wait(&self, timeout: PollTimeout) -> io::Result<Ready> {
        #[derive(Clone, Copy)]
        enum What {
            Signals,
            Listener,
            Output(usize),
            Stdin,
            Connection(usize),
            Attached(usize),
        }
        let mut polled = vec![
            (What::Signals, PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)),
            (What::Listener, PollFd::new(self.listener.as_fd(), PollFlags::POLLIN)),
        ];
        for (stream, fd) in self.streams.outputs.iter().enumerate() {
            polled.extend(
                fd.as_ref().map(|fd| (What::Output(stream), PollFd::new(fd.as_fd(), PollFlags::POLLIN))),
            );
        }
        if let (Some(stdin), false) = (&self.streams.stdin, self.input.is_empty()) {
            polled.push((What::Stdin, PollFd::new(stdin.as_fd(), PollFlags::POLLOUT)));
        }
        for (index, connection) in self.connections.iter().enumerate() {
            polled.push((What::Connection(index), PollFd::new(connection.socket.as_fd(), PollFlags::POLLIN)));
            if let (Role::Attached { stdin: Some(stdin), .. }, true) =
                (&connection.role, self.input.is_empty())
            {
                polled.push((What::Attached(index), PollFd::new(stdin.as_fd(), PollFlags::POLLIN)));
            }
        }
        let (whats, mut fds): (Vec<What>, Vec<PollFd<'_>>) = polled.into_iter().unzip();
        match poll(&mut fds, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut ready = Ready::default();
        for (what, fd) in whats.iter().zip(&fds) {
            if fd.revents().is_some_and(|events| !events.is_empty()) {
                match what {
                    What::Signals => ready.signals = true,
                    What::Listener => ready.listener = true,
                    What::Output(stream) => ready.outputs[*stream] = true,
                    What::Stdin => ready.stdin = true,
                    What::Connection(index) => ready.connections.push(*index),
                    What::Attached(index) => ready.attached.push(*index),
                }
            }
        }
        Ok(ready)
    }

    /// Copies what the container wrote to the log and to who is attached. Returns whether anything came.
    fn copy_output(&mut self, stream: usize) -> bool {
        let mut buffer = [0; 32 * 1024];
        let Some(output) = &self.streams.outputs[stream] else { return false };
        let now = Timestamp::now();
        match fds::read(output.as_fd(), &mut buffer) {
            Ok(count) if count > 0 => {
                if let Err(error) = self.log.append(stream, &buffer[..count], now) {
                    tracing::error!(%error, "cannot write the container's log");
                }
                for connection in &mut self.connections {
                    if let Role::Attached { outputs, .. } = &mut connection.role
                        && let Some(fd) = &outputs[stream]
                        && !write_all(fd, &buffer[..count])
                    {
                        outputs[stream] = None;
                    }
                }
                true
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            _ => {
                self.streams.outputs[stream] = None;
                false
            }
        }
    }

    fn copy_input(&mut self, ready: &Ready) {
        for index in &ready.attached {
            let Role::Attached { stdin, .. } = &mut self.connections[*index].role else { continue };
            let Some(fd) = stdin else { continue };
            let mut buffer = [0; 4096];
            match fds::read(fd.as_fd(), &mut buffer) {
                Ok(count) if count > 0 => self.input.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                _ => {
                    *stdin = None;
                    if self.config.stdin_once && !self.config.tty {
                        self.streams.stdin = None;
                    }
                }
            }
        }
        let Some(stdin) = &self.streams.stdin else {
            self.input.clear();
            return;
        };
        if !self.input.is_empty() {
            match fds::write(stdin.as_fd(), &self.input) {
                Ok(count) => drop(self.input.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => {
                    self.streams.stdin = None;
                    self.input.clear();
                }
            }
        }
    }

    fn read_requests(&mut self, index: usize) {
        let mut buffer = [0; 16 * 1024];
        let connection = &mut self.connections[index];
        match fds::receive(connection.socket.as_fd(), &mut buffer, &mut connection.received) {
            Ok(count) if count > 0 && connection.text.len() + count <= MAX_REQUEST => {
                connection.text.extend_from_slice(&buffer[..count]);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            _ => {
                self.connections.remove(index);
                return;
            }
        }
        while let Some(end) = self.connections[index].text.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.connections[index].text.drain(..=end).collect();
            match serde_json::from_slice(&line) {
                Ok(request) => self.answer(index, request),
                Err(error) => {
                    self.connections[index]
                        .reply(&Reply::Refused { code: 125, message: error.to_string() }, None);
                }
            }
        }
    }

    fn answer(&mut self, index: usize, request: Request) {
        let received = std::mem::take(&mut self.connections[index].received);
        let connection = &mut self.connections[index];
        match request {
            Request::Watch => {
                connection.role = Role::Watcher;
                connection
                    .reply(&Reply::Running { pid: self.init.as_raw(), started: self.started.clone() }, None);
            }
            Request::Kill { signal } => {
                let result = Signal::try_from(signal).and_then(|signal| kill(self.init, signal));
                let reply = match result {
                    Ok(()) | Err(nix::errno::Errno::ESRCH) => Reply::Done,
                    Err(error) => Reply::Refused { code: 1, message: error.to_string() },
                };
                connection.reply(&reply, None);
            }
            Request::Exec { command, tty } => {
                let inside = Inside {
                    spec: &self.spec,
                    confiner: &self.confiner,
                    cgroup: &self.config.cgroup,
                    init: self.init,
                };
                match exec::start(&inside, &command, &received, tty) {
                    Ok(started) => {
                        connection.role = Role::Exec(started.pid);
                        connection.reply(&Reply::Started, started.terminal.as_ref());
                    }
                    Err(refused) => {
                        connection
                            .reply(&Reply::Refused { code: refused.code, message: refused.message }, None);
                    }
                }
            }
            Request::Stop => {
                if let Role::Exec(pid) = connection.role {
                    let _ = kill(pid, Signal::SIGKILL);
                }
            }
            Request::Attach { stdin, stdout, stderr } => {
                let mut received = received.into_iter();
                let mut next = |wanted: bool| if wanted { received.next() } else { None };
                let (stdin, outputs) = (next(stdin), [next(stdout), next(stderr)]);
                for fd in outputs.iter().flatten() {
                    let _ = fds::set_nonblocking(fd.as_fd());
                }
                connection.role = Role::Attached { stdin, outputs };
                let terminal = if self.config.tty { self.streams.outputs[0].as_ref() } else { None };
                connection.reply(&Reply::Started, terminal);
            }
        }
    }

    /// Collects ended processes. Returns code and signal when the container's first is among them.
    fn reap(&mut self) -> Option<(i32, Option<i32>)> {
        let mut ended = None;
        loop {
            let (pid, code, signal) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, code, None),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, 128 + signal as i32, Some(signal as i32)),
                Ok(WaitStatus::StillAlive) | Err(_) => return ended,
                Ok(_) => continue,
            };
            if pid == self.init {
                ended = Some((code, signal));
            }
            self.connections.retain(|connection| match connection.role {
                Role::Exec(own) if own == pid => {
                    connection.reply(&Reply::Exit { code }, None);
                    false
                }
                _ => true,
            });
        }
    }

    fn finish(mut self, (code, signal): (i32, Option<i32>)) -> io::Result<()> {
        // With a pid namespace of its own nobody is left; in a shared one the rest of the container goes too.
        for pid in crate::runtime::cgroups::processes(&self.config.cgroup) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        while self.streams.outputs.iter().any(Option::is_some) {
            let came = [self.copy_output(0), self.copy_output(1)].contains(&true);
            if !came && !self.wait(PollTimeout::from(DRAIN_MILLISECONDS))?.outputs.contains(&true) {
                break;
            }
        }
        let now = Timestamp::now();
        (0..2).try_for_each(|stream| self.log.finish(stream, now))?;
        let exit = ExitFile {
            started: Some(self.started.clone()),
            finished: now.to_string(),
            code,
            signal,
            oom: crate::runtime::cgroups::oom_kills(&self.config.cgroup) > 0,
            message: String::new(),
        };
        write_file(&self.config.dir.join("exit.json"), &exit)?;
        for connection in &self.connections {
            let reply = match connection.role {
                Role::Attached { .. } | Role::Exec(_) => Reply::Exit { code },
                Role::Watcher | Role::Idle => Reply::Exited,
            };
            connection.reply(&reply, None);
        }
        let _ = std::fs::remove_file(self.config.run_dir.join("s"));
        self.reap();
        // libcontainer's own removal looks for the cgroup in the list of all mounts, once for each controller.
        if let Err(error) = crate::runtime::cgroups::remove(&self.config.cgroup) {
            tracing::warn!(%error, "the cgroup is left to the container's removal");
        }
        std::fs::remove_dir_all(create::state_root(&self.config).join(&self.config.id))
    }
}

#[derive(Default)]
struct Ready {
    signals: bool,
    listener: bool,
    outputs: [bool; 2],
    stdin: bool,
    connections: Vec<usize>,
    attached: Vec<usize>,
}

/// Writes everything to an attached client, waiting a while for a slow one; a hung one is let go.
fn write_all(fd: &OwnedFd, mut bytes: &[u8]) -> bool {
    const PATIENCE_MILLISECONDS: u16 = 5000;
    while !bytes.is_empty() {
        match fds::write(fd.as_fd(), bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let mut polled = [PollFd::new(fd.as_fd(), PollFlags::POLLOUT)];
                if !matches!(poll(&mut polled, PollTimeout::from(PATIENCE_MILLISECONDS)), Ok(1..)) {
                    return false;
                }
            }
            Err(_) => return false,
        }
    }
    true
}
