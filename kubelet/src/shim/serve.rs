//! The shim's loop: streams, exits and requests, all in one poll.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use libcontainer::oci_spec::runtime::Spec;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::confinement::Confiner;
use super::connection::{Connection, Outlet, Role};
use super::create::{self, Streams};
use super::exec::{self, Inside};
use super::held::{self, Came};
use super::log::Log;
use super::protocol::{ExitFile, Reply, Request, ShimConfig, StateFile, write_file};
use crate::sys::{fds, process};

/// A line longer than this is no request.
const MAX_REQUEST: usize = 4 << 20;
/// How long a process that outlived the container's first may hold its streams open in silence, and in all.
const DRAIN_MILLISECONDS: u16 = 200;
const DRAIN_IN_ALL: Duration = Duration::from_secs(5);
/// How often clients that do not read are looked at.
const STALLED_MILLISECONDS: u16 = 500;

pub(super) struct Shim {
    pub(super) config: ShimConfig,
    pub(super) spec: Spec,
    confiner: Arc<Confiner>,
    pub(super) init: Pid,
    started: String,
    streams: Streams,
    log: Log,
    signals: SignalFd,
    listener: UnixListener,
    pub(super) connections: Vec<Connection>,
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
        process::hide()?;
        let confiner = Arc::new(Confiner::new(&config.confinement)?);
        let log = Log::open(&config.log_root, &config.log_path, config.log_max_bytes, config.log_max_files)?;
        let socket = config.run_dir.join("s");
        let _ = std::fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket)?;
        listener.set_nonblocking(true)?;
        let spec = Spec::load(config.dir.join("config.json")).map_err(io::Error::other)?;
        let running = match create::start(&config, &spec, &confiner) {
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
            let full = (0..2).any(|stream| self.is_held_up(stream));
            let ready = self.wait(if full { STALLED_MILLISECONDS.into() } else { PollTimeout::NONE })?;
            self.flush(&ready, full);
            (0..2).filter(|stream| ready.outputs[*stream]).for_each(|stream| {
                self.copy_output(stream);
            });
            self.copy_input(&ready);
            for index in &ready.starting {
                self.listen(*index);
            }
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
            Outlet(usize),
            Starting(usize),
        }
        let mut polled = vec![
            (What::Signals, PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)),
            (What::Listener, PollFd::new(self.listener.as_fd(), PollFlags::POLLIN)),
        ];
        for (stream, fd) in self.streams.outputs.iter().enumerate() {
            polled.extend(
                fd.as_ref()
                    .filter(|_| !self.is_held_up(stream))
                    .map(|fd| (What::Output(stream), PollFd::new(fd.as_fd(), PollFlags::POLLIN))),
            );
        }
        if let (Some(stdin), false) = (&self.streams.stdin, self.input.is_empty()) {
            polled.push((What::Stdin, PollFd::new(stdin.as_fd(), PollFlags::POLLOUT)));
        }
        for (index, connection) in self.connections.iter().enumerate() {
            polled.push((What::Connection(index), PollFd::new(connection.socket.as_fd(), PollFlags::POLLIN)));
            let outlets = (0..2).filter_map(|stream| connection.outlet(stream));
            polled.extend(
                outlets
                    .filter(|outlet| outlet.is_pending())
                    .map(|outlet| (What::Outlet(index), PollFd::new(outlet.fd(), PollFlags::POLLOUT))),
            );
            if let Role::Starting(starting) = &connection.role
                && !starting.is_heard_out()
            {
                polled.push((What::Starting(index), PollFd::new(starting.line(), PollFlags::POLLIN)));
            }
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
                    What::Outlet(index) => ready.outlets.push(*index),
                    What::Starting(index) => ready.starting.push(*index),
                }
            }
        }
        Ok(ready)
    }

    /// Whether a client that is attached to a stream is so far behind that the stream is not read.
    fn is_held_up(&self, stream: usize) -> bool {
        self.connections.iter().filter_map(|connection| connection.outlet(stream)).any(Outlet::is_full)
    }

    /// Hands attached clients what is left for them; where a stream is held up, whoever holds it too long is let go.
    fn flush(&mut self, ready: &Ready, held_up: bool) {
        let now = Instant::now();
        for (index, connection) in self.connections.iter_mut().enumerate() {
            if held_up || ready.outlets.contains(&index) {
                (0..2).for_each(|stream| connection.feed(stream, b"", now));
            }
        }
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
                let at = Instant::now();
                for connection in &mut self.connections {
                    connection.feed(stream, &buffer[..count], at);
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
            let Role::Attached { stdin, outputs } = &mut self.connections[*index].role else { continue };
            let Some(fd) = stdin else { continue };
            let mut buffer = [0; 4096];
            match fds::read(fd.as_fd(), &mut buffer) {
                Ok(count) if count > 0 => self.input.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                _ => {
                    *stdin = None;
                    // The container's input ends with its one client's, who stays for the output; where it stays open,
                    // the client is let go. The rule is containerd's.
                    match self.config.stdin_once && !self.config.tty {
                        true => self.streams.stdin = None,
                        false if self.config.stdin => *outputs = [None, None],
                        false => {}
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
                if let Role::Starting(starting) = &self.connections[index].role {
                    starting.kill();
                }
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
                if signal == libc::SIGKILL {
                    // Nothing outlives it, also where the pid namespace is shared.
                    crate::runtime::cgroups::kill(&self.config.cgroup);
                }
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
                    owner: self.config.uid,
                };
                match exec::start(&inside, &command, &received, tty) {
                    Ok(starting) => connection.role = Role::Starting(starting),
                    Err(refused) => {
                        connection
                            .reply(&Reply::Refused { code: refused.code, message: refused.message }, None);
                    }
                }
            }
            Request::Stop => match &connection.role {
                Role::Exec(pid) => drop(kill(*pid, Signal::SIGKILL)),
                Role::Starting(starting) => starting.kill(),
                Role::Idle | Role::Watcher | Role::Attached { .. } => {}
            },
            Request::Attach { stdin, stdout, stderr } => {
                let mut received = received.into_iter();
                let mut next = |wanted: bool| if wanted { received.next() } else { None };
                let (stdin, outputs) = (next(stdin), [next(stdout), next(stderr)]);
                let now = Instant::now();
                let outputs = outputs.map(|fd| Outlet::new(fd?, now).ok());
                connection.role = Role::Attached { stdin, outputs };
                let terminal = if self.config.tty { self.streams.outputs[0].as_ref() } else { None };
                connection.reply(&Reply::Started, terminal);
            }
        }
    }

    /// Takes in what became of processes. Returns code and signal when the container's first has ended.
    fn reap(&mut self) -> Option<(i32, Option<i32>)> {
        let mut ended = None;
        loop {
            let status = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) => return ended,
                Ok(status) => status,
                Err(nix::errno::Errno::EINTR) => continue,
                Err(_) => return ended,
            };
            match held::understand(status) {
                Came::ToProgram(pid) => self.at_program(pid),
                Came::ToEnd(pid, code, signal) => {
                    if pid == self.init {
                        ended = Some((code, signal));
                    }
                    self.exec_ended(pid, code);
                }
                Came::Elsewhere => {}
            }
        }
    }

    fn finish(mut self, (code, signal): (i32, Option<i32>)) -> io::Result<()> {
        // With a pid namespace of its own nobody is left; in a shared one the rest of the container goes too.
        crate::runtime::cgroups::kill(&self.config.cgroup);
        let until = Instant::now() + DRAIN_IN_ALL;
        while self.streams.outputs.iter().any(Option::is_some) && Instant::now() < until {
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
            if let Role::Watcher | Role::Idle = connection.role {
                connection.reply(&Reply::Exited, None);
            }
        }
        let _ = std::fs::remove_file(self.config.run_dir.join("s"));
        self.reap();
        // libcontainer's own removal looks for the cgroup in the list of all mounts, once for each controller.
        if let Err(error) = crate::runtime::cgroups::remove(&self.config.cgroup) {
            tracing::warn!(%error, "the cgroup is left to the container's removal");
        }
        self.part(code)?;
        std::fs::remove_dir_all(create::state_root(&self.config).join(&self.config.id))
    }

    /// The end is on record: attached clients may still fetch what is left for them.
    fn part(&mut self, code: i32) -> io::Result<()> {
        let until = Instant::now() + DRAIN_IN_ALL;
        self.streams.outputs = [None, None];
        let pending = |connections: &[Connection]| {
            let outlets = |c: &Connection| (0..2).any(|s| c.outlet(s).is_some_and(Outlet::is_pending));
            connections.iter().any(outlets)
        };
        while pending(&self.connections) && Instant::now() < until {
            let ready = self.wait(PollTimeout::from(STALLED_MILLISECONDS))?;
            self.flush(&ready, false);
            // Those who hang up now are not answered.
            for index in ready.connections.iter().rev() {
                self.connections.remove(*index);
            }
        }
        for connection in &self.connections {
            if let Role::Attached { .. } | Role::Exec(_) | Role::Starting(_) = connection.role {
                connection.reply(&Reply::Exit { code }, None);
            }
        }
        Ok(())
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
    outlets: Vec<usize>,
    starting: Vec<usize>,
}
