//! A connection to a shim.

use std::io;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::path::Path;

use tokio::io::Interest;
use tokio::net::UnixStream;

use crate::cri::RuntimeError;
use crate::shim::protocol::{Reply, Request};
use crate::sys::fds;

pub(super) struct Link {
    stream: UnixStream,
    text: Vec<u8>,
    pub(super) received: Vec<OwnedFd>,
}

impl Link {
    pub(super) fn new(stream: UnixStream) -> Link {
        Link { stream, text: Vec::new(), received: Vec::new() }
    }

    pub(super) async fn connect(socket: &Path) -> io::Result<Link> {
        Ok(Link::new(UnixStream::connect(socket).await?))
    }

    /// The process at the other end of a connection that was made with `connect`.
    pub(super) fn peer(&self) -> Option<i32> {
        self.stream.peer_cred().ok()?.pid()
    }

    pub(super) async fn send(&self, request: &Request, descriptors: &[RawFd]) -> io::Result<()> {
        let mut bytes = serde_json::to_vec(request).map_err(io::Error::other)?;
        bytes.push(b'\n');
        let (mut sent, mut descriptors) = (0, descriptors);
        while sent < bytes.len() {
            let rest = &bytes[sent..];
            sent += self
                .stream
                .async_io(Interest::WRITABLE, || fds::send(self.stream.as_fd(), rest, descriptors))
                .await?;
            descriptors = &[];
        }
        Ok(())
    }

    /// The next reply; `None` when the shim has hung up.
    pub(super) async fn next(&mut self) -> io::Result<Option<Reply>> {
        loop {
            if let Some(end) = self.text.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.text.drain(..=end).collect();
                return serde_json::from_slice(&line).map(Some).map_err(io::Error::other);
            }
            let mut buffer = [0; 4096];
            self.stream.readable().await?;
            let (stream, received) = (&self.stream, &mut self.received);
            match stream.try_io(Interest::READABLE, || fds::receive(stream.as_fd(), &mut buffer, received)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
                Ok(0) => return Ok(None),
                Ok(count) => self.text.extend_from_slice(&buffer[..count]),
            }
        }
    }

    /// One question, one answer; a refusal is an error.
    pub(super) async fn ask(
        &mut self,
        request: &Request,
        descriptors: &[RawFd],
    ) -> Result<Reply, RuntimeError> {
        let io = |source| RuntimeError::Io { context: "talk to the shim".to_owned(), source };
        self.send(request, descriptors).await.map_err(io)?;
        match self.next().await.map_err(io)? {
            Some(Reply::Refused { code, message }) => Err(RuntimeError::ExecFailed { code, message }),
            Some(reply) => Ok(reply),
            None => Err(RuntimeError::NotRunning),
        }
    }
}
