//! The shim's clients, none of whom it ever waits for.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::unistd::Pid;

use super::exec::Starting;
use super::protocol::Reply;
use crate::sys::fds;

/// What is kept for a client that does not read; then the container's stream waits for it.
const PENDING: usize = 64 << 10;
/// How long the container's stream waits for a client that reads nothing at all.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a connection is waiting for.
pub(super) enum Role {
    Idle,
    Watcher,
    Starting(Starting),
    Exec(Pid),
    Attached { stdin: Option<OwnedFd>, outputs: [Option<Outlet>; 2] },
}

pub(super) struct Connection {
    pub(super) socket: UnixStream,
    pub(super) text: Vec<u8>,
    pub(super) received: Vec<OwnedFd>,
    pub(super) role: Role,
}

// === impl Connection ===

impl Connection {
    pub(super) fn new(socket: UnixStream) -> io::Result<Connection> {
        socket.set_nonblocking(true)?;
        Ok(Connection { socket, text: Vec::new(), received: Vec::new(), role: Role::Idle })
    }

    pub(super) fn reply(&self, reply: &Reply, fd: Option<&OwnedFd>) {
        let Ok(mut text) = serde_json::to_vec(reply) else { return };
        text.push(b'\n');
        let fd: Vec<i32> = fd.into_iter().map(AsRawFd::as_raw_fd).collect();
        // A peer that is gone, or does not read its answers, needs none.
        let _ = fds::send(self.socket.as_fd(), &text, &fd);
    }

    pub(super) fn outlet(&self, stream: usize) -> Option<&Outlet> {
        match &self.role {
            Role::Attached { outputs, .. } => outputs[stream].as_ref(),
            Role::Idle | Role::Watcher | Role::Starting(_) | Role::Exec(_) => None,
        }
    }

    /// Tries to be rid of what is pending, after adding `bytes`; a client that is gone or hangs is let go.
    pub(super) fn feed(&mut self, stream: usize, bytes: &[u8], now: Instant) {
        if let Role::Attached { outputs, .. } = &mut self.role
            && let Some(outlet) = &mut outputs[stream]
            && !outlet.feed(bytes, now)
        {
            outputs[stream] = None;
        }
    }
}

/// A client's end of one of the container's streams.
pub(super) struct Outlet {
    fd: OwnedFd,
    pending: Vec<u8>,
    /// When it last took something.
    moved: Instant,
}

// === impl Outlet ===

impl Outlet {
    pub(super) fn new(fd: OwnedFd, now: Instant) -> io::Result<Outlet> {
        fds::set_nonblocking(fd.as_fd())?;
        Ok(Outlet { fd, pending: Vec::new(), moved: now })
    }

    pub(super) fn fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub(super) fn is_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Whether the container's stream is to wait.
    pub(super) fn is_full(&self) -> bool {
        self.pending.len() >= PENDING
    }

    /// False when the client is to be let go.
    fn feed(&mut self, bytes: &[u8], now: Instant) -> bool {
        if self.pending.is_empty() {
            self.moved = now;
        }
        self.pending.extend_from_slice(bytes);
        while !self.pending.is_empty() {
            match fds::write(self.fd.as_fd(), &self.pending) {
                Ok(count) => {
                    self.pending.drain(..count);
                    self.moved = now;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return !self.is_full() || now.duration_since(self.moved) < PATIENCE;
                }
                Err(_) => return false,
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn a_client_that_does_not_read_is_let_go_after_a_while() {
        let (mut theirs, ours) = UnixStream::pair().unwrap();
        let begin = Instant::now();
        let mut outlet = Outlet::new(ours.into(), begin).unwrap();
        assert!(outlet.feed(b"hello", begin));
        let mut buffer = [0; 5];
        theirs.read_exact(&mut buffer).unwrap();
        assert_eq!((&buffer, outlet.is_pending()), (b"hello", false));
        let much = vec![b'x'; 4 << 20];
        assert!(outlet.feed(&much, begin), "it may be slow");
        assert!(outlet.is_full());
        assert!(outlet.feed(b"", begin + PATIENCE / 2));
        assert!(!outlet.feed(b"", begin + PATIENCE), "but not for ever");
        drop(theirs);
        let (theirs, ours) = UnixStream::pair().unwrap();
        let mut outlet = Outlet::new(ours.into(), begin).unwrap();
        drop(theirs);
        assert!(!outlet.feed(b"hello", begin), "it is gone");
    }
}
