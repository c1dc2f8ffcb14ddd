//! The client end of an exec or attach.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, oneshot};

use super::link::Link;
use crate::cri::{AttachSpec, ExecSpec, RuntimeError, StdioPipes};
use crate::shim::protocol::{Reply, Request};
use crate::sys::{fds, terminal};

/// A running exec, or a connection to a container's own streams.
pub struct Session {
    /// Take the streams out and copy; drop them to close.
    pub stdio: StdioPipes,
    /// There when the process has a terminal.
    pub resizer: Option<Resizer>,
    exit: oneshot::Receiver<i32>,
    stop: mpsc::Sender<()>,
}

impl Session {
    /// The exit code of the exec, or of the container for an attach.
    pub async fn wait(&mut self) -> Result<i32, RuntimeError> {
        (&mut self.exit).await.map_err(|_| RuntimeError::Shim("the shim went away".to_owned()))
    }

    /// Kills the process of an exec; an attach is not touched.
    pub fn kill(&self) {
        // A full queue means that it is being killed already.
        let _ = self.stop.try_send(());
    }
}

/// Changes the size of a terminal.
pub struct Resizer {
    terminal: Arc<AsyncFd<OwnedFd>>,
}

impl Resizer {
    pub fn resize(&self, columns: u16, rows: u16) -> Result<(), RuntimeError> {
        terminal::resize(self.terminal.get_ref(), columns, rows)
            .map_err(|source| RuntimeError::Io { context: "resize terminal".to_owned(), source })
    }
}

fn failed(source: io::Error) -> RuntimeError {
    RuntimeError::Io { context: "open a session".to_owned(), source }
}

/// Our ends of the streams, and the other ends for the shim.
fn pipes(stdin: bool, stdout: bool, stderr: bool) -> io::Result<(StdioPipes, [Option<OwnedFd>; 3])> {
    let mut stdio = StdioPipes::default();
    let mut theirs = [None, None, None];
    if stdin {
        let (ours, end) = pipe::pipe()?;
        stdio.stdin = Some(Box::new(ours));
        theirs[0] = Some(end.into_blocking_fd()?);
    }
    if stdout {
        let (end, ours) = pipe::pipe()?;
        stdio.stdout = Some(Box::new(ours));
        theirs[1] = Some(end.into_blocking_fd()?);
    }
    if stderr {
        let (end, ours) = pipe::pipe()?;
        stdio.stderr = Some(Box::new(ours));
        theirs[2] = Some(end.into_blocking_fd()?);
    }
    Ok((stdio, theirs))
}

pub(super) async fn exec(mut link: Link, spec: &ExecSpec) -> Result<Session, RuntimeError> {
    let request = Request::Exec { command: spec.command.clone(), tty: spec.tty };
    if spec.tty {
        link.ask(&request, &[]).await?;
        return with_terminal(link, spec.stdin, spec.stdout, StdioPipes::default());
    }
    let (stdio, theirs) = pipes(spec.stdin, spec.stdout, spec.stderr).map_err(failed)?;
    let null: OwnedFd =
        std::fs::File::options().read(true).write(true).open("/dev/null").map_err(failed)?.into();
    let numbers = theirs.each_ref().map(|fd| fd.as_ref().unwrap_or(&null).as_raw_fd());
    link.ask(&request, &numbers).await?;
    Ok(follow(link, stdio, None))
}

pub(super) async fn attach(mut link: Link, spec: AttachSpec) -> Result<Session, RuntimeError> {
    let (mut stdio, theirs) = pipes(spec.stdin, spec.stdout, spec.stderr).map_err(failed)?;
    let numbers: Vec<i32> = theirs.iter().flatten().map(AsRawFd::as_raw_fd).collect();
    let request = Request::Attach { stdin: spec.stdin, stdout: spec.stdout, stderr: spec.stderr };
    link.ask(&request, &numbers).await?;
    match link.received.pop() {
        Some(master) => {
            stdio.stderr = None;
            let terminal = Arc::new(fds::watched(master).map_err(failed)?);
            Ok(follow(link, stdio, Some(Resizer { terminal })))
        }
        None => Ok(follow(link, stdio, None)),
    }
}

fn with_terminal(
    mut link: Link,
    stdin: bool,
    stdout: bool,
    mut stdio: StdioPipes,
) -> Result<Session, RuntimeError> {
    let master =
        link.received.pop().ok_or_else(|| RuntimeError::Shim("the shim sent no terminal".to_owned()))?;
    fds::set_nonblocking(master.as_fd()).map_err(failed)?;
    let terminal = Arc::new(fds::watched(master).map_err(failed)?);
    if stdin {
        stdio.stdin = Some(Box::new(Terminal(terminal.clone())));
    }
    if stdout {
        stdio.stdout = Some(Box::new(Terminal(terminal.clone())));
    }
    Ok(follow(link, stdio, Some(Resizer { terminal })))
}

/// Waits for the exit in the background, so that the session may be dropped at any time.
fn follow(mut link: Link, stdio: StdioPipes, resizer: Option<Resizer>) -> Session {
    let (exited, exit) = oneshot::channel();
    let (stop, mut stopped) = mpsc::channel(1);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                reply = link.next() => {
                    if let Ok(Some(Reply::Exit { code })) = reply {
                        let _ = exited.send(code);
                    }
                    return;
                }
                Some(()) = stopped.recv() => {
                    let _ = link.send(&Request::Stop, &[]).await;
                }
            }
        }
    });
    Session { stdio, resizer, exit, stop }
}

/// A terminal's master; EIO is how it says that the other side is closed.
struct Terminal(Arc<AsyncFd<OwnedFd>>);

impl AsyncRead for Terminal {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.0.poll_read_ready(cx))?;
            let room = buffer.initialize_unfilled();
            match guard.try_io(|fd| fds::read(fd.get_ref().as_fd(), room)) {
                Ok(Ok(count)) => {
                    buffer.advance(count);
                    return Poll::Ready(Ok(()));
                }
                Ok(Err(error)) if error.raw_os_error() == Some(libc::EIO) => return Poll::Ready(Ok(())),
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_) => {}
            }
        }
    }
}

impl AsyncWrite for Terminal {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.0.poll_write_ready(cx))?;
            if let Ok(result) = guard.try_io(|fd| fds::write(fd.get_ref().as_fd(), bytes)) {
                return Poll::Ready(result);
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
