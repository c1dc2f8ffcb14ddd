//! A connection that ends when nothing has gone over it for a while.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep},
};

pub(crate) struct Idle<S> {
    stream: S,
    /// `None`: it may be silent for ever.
    limit: Option<Duration>,
    timer: Pin<Box<Sleep>>,
}

// === impl Idle ===

impl<S> Idle<S> {
    /// Zero stands for no limit.
    pub(crate) fn new(stream: S, limit: Duration) -> Self {
        Self { stream, limit: (!limit.is_zero()).then_some(limit), timer: Box::pin(sleep(limit)) }
    }

    fn moved(&mut self) {
        if let Some(limit) = self.limit {
            self.timer.as_mut().reset(Instant::now() + limit);
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Idle<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let done = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if done.is_ready() {
            self.moved();
            return done;
        }
        // Whoever uses a connection reads from it: here is where silence is noticed.
        if self.limit.is_some() && self.timer.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the connection was idle")));
        }
        Poll::Pending
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Idle<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.stream).poll_write(cx, data);
        if done.is_ready() {
            self.moved();
        }
        done
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.stream).poll_write_vectored(cx, data);
        if done.is_ready() {
            self.moved();
        }
        done
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn silence_ends_a_connection_and_what_goes_over_it_keeps_it() {
        let limit = Duration::from_secs(4 * 3600);
        let start = Instant::now();
        let (near, mut far) = duplex(64);
        let mut idle = Idle::new(near, limit);
        let talk = async {
            for _ in 0..3 {
                sleep(limit / 2).await;
                far.write_all(b"x").await.unwrap();
            }
            far
        };
        let listen = async {
            let mut byte = [0];
            for _ in 0..3 {
                idle.read_exact(&mut byte).await.unwrap();
            }
            sleep(limit / 2).await;
            idle.write_all(b"y").await.unwrap();
            let ended = idle.read(&mut byte).await.unwrap_err();
            assert_eq!(ended.kind(), io::ErrorKind::TimedOut);
        };
        let (_far, ()) = tokio::join!(talk, listen);
        assert_eq!(start.elapsed(), limit * 3);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_limit_silence_is_no_matter() {
        let (near, _far) = duplex(64);
        let mut idle = Idle::new(near, Duration::ZERO);
        let mut byte = [0];
        let read = tokio::time::timeout(Duration::from_secs(1_000_000), idle.read(&mut byte));
        assert!(read.await.is_err());
    }
}
