//! Fewer and larger writes on a connection of many streams.
//!
//! HTTP/2 flushes after every frame, and each flush is a TLS record and a system call. When one change goes to a hundred
//! watchers of one client, that costs more than everything else. So a flush waits until the tasks that are ready now
//! have added their frames, unless the client has just spoken: an answer to a request goes out at once.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What is gathered at most: one TLS record. A write of half of it gains nothing by waiting.
const MOST: usize = 16 << 10;

/// A stream whose reader is polled before each round of writes, as HTTP/2 does: what a round has left is written then.
pub(crate) struct Corked<S> {
    inner: S,
    waiting: BytesMut,
    /// Whether the client has sent something since the last write.
    asked: bool,
    /// Whether the task has been woken to write what is waiting.
    woken: bool,
    /// Not every protocol reads while it writes; those that may not are written through.
    enabled: bool,
}

// === impl Corked ===

impl<S: AsyncRead + AsyncWrite + Unpin> Corked<S> {
    pub(crate) fn new(inner: S, enabled: bool) -> Self {
        Corked { inner, waiting: BytesMut::new(), asked: true, woken: false, enabled }
    }

    fn drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.waiting.is_empty() {
            let written = ready!(Pin::new(&mut self.inner).poll_write(cx, &self.waiting))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.waiting.advance(written);
            self.asked = false;
        }
        // Not before: while the client does not read, its socket wakes the task.
        self.woken = false;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Corked<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.waiting.is_empty() && this.drain(cx)?.is_ready() {
            // What is still on its way goes on with the flush at the end of this round.
            let _ = Pin::new(&mut this.inner).poll_flush(cx)?;
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut this.inner).poll_read(cx, buf);
        this.asked |= buf.filled().len() > before;
        read
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Corked<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let size = bufs.iter().map(|b| b.len()).sum::<usize>();
        if !this.enabled || size >= MOST / 2 {
            ready!(this.drain(cx))?;
            this.asked = false;
            return Pin::new(&mut this.inner).poll_write_vectored(cx, bufs);
        }
        if this.waiting.len() + size > MOST {
            ready!(this.drain(cx))?;
        }
        for buf in bufs {
            this.waiting.extend_from_slice(buf);
        }
        Poll::Ready(Ok(size))
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.enabled && !this.asked && !this.waiting.is_empty() {
            if !std::mem::replace(&mut this.woken, true) {
                cx.waker().wake_by_ref();
            }
            return Poll::Ready(Ok(()));
        }
        ready!(this.drain(cx))?;
        Pin::new(&mut this.inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.drain(cx))?;
        Pin::new(&mut this.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    /// What has arrived at the other end.
    fn arrived(client: &mut DuplexStream) -> String {
        let mut buf = [0; 64];
        let read = client.read(&mut buf).now_or_never().map_or(0, Result::unwrap);
        String::from_utf8(buf[..read].to_vec()).unwrap()
    }

    /// A round of a connection: it reads until there is nothing, then writes what it has, flushing after each.
    async fn round(server: &mut Corked<DuplexStream>, frames: &[&str]) {
        while server.read(&mut [0; 64]).now_or_never().is_some() {}
        for frame in frames {
            server.write_all(frame.as_bytes()).await.unwrap();
            server.flush().await.unwrap();
        }
    }

    #[tokio::test]
    async fn an_answer_goes_out_at_once_and_events_together() {
        let (mut client, server) = duplex(64);
        let mut server = Corked::new(server, true);
        client.write_all(b"?").await.unwrap();
        round(&mut server, &["answer"]).await;
        assert_eq!(arrived(&mut client), "answer");
        round(&mut server, &["a", "b"]).await;
        assert_eq!(arrived(&mut client), "");
        round(&mut server, &["c"]).await;
        assert_eq!(arrived(&mut client), "ab", "at the beginning of the next round");
        server.shutdown().await.unwrap();
        assert_eq!(arrived(&mut client), "c");
    }

    #[tokio::test]
    async fn who_does_not_read_holds_the_writer_up() {
        let (mut client, server) = duplex(64);
        let mut server = Corked::new(server, true);
        let text = "x".repeat(3 * MOST);
        let writing = async {
            for piece in text.as_bytes().chunks(1000) {
                server.write_all(piece).await.unwrap();
                server.flush().await.unwrap();
            }
            server.shutdown().await.unwrap();
        };
        futures::pin_mut!(writing);
        assert!(writing.as_mut().now_or_never().is_none());
        let mut got = String::new();
        tokio::join!(writing, async { client.read_to_string(&mut got).await.unwrap() });
        assert!(got == text);
    }

    #[tokio::test]
    async fn other_protocols_are_written_through() {
        let (mut client, server) = duplex(64);
        let mut server = Corked::new(server, false);
        for part in ["a", "b"] {
            server.write_all(part.as_bytes()).await.unwrap();
            assert_eq!(arrived(&mut client), part);
        }
    }
}
