//! Hostile replies of probed servers.

use std::io::{self, Read};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{grpc, http};
use crate::fuzz::block_on;

/// Bytes that a server sends whatever it is asked; then the connection ends.
struct Said(io::Cursor<Vec<u8>>);

impl AsyncRead for Said {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = self.0.read(buffer.initialize_unfilled())?;
        buffer.advance(read);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Said {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A reply by HTTP, and the same bytes as one by HTTP/2.
pub(crate) fn reply(bytes: &[u8]) {
    let said = || Said(io::Cursor::new(bytes.to_vec()));
    block_on(async {
        http::hostile_reply(said()).await;
        grpc::hostile_reply(said(), bytes).await;
    });
}
