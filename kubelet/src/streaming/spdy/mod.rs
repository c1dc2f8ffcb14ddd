//! SPDY/3.1, the server's side: streams opened by the client over one connection.
//!
//! Only what Kubernetes clients use: no priorities, no pushes, no flow control (theirs has none either); a stream whose
//! reader is slow holds back the connection, as it does upstream.

mod dictionary;
mod frame;

use std::collections::HashMap;
use std::io;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::io::StreamReader;

pub(crate) use frame::Headers;
#[cfg(any(test, feature = "fuzzing"))]
pub(super) use frame::hostile::frames as hostile_frames;
use frame::{Decoder, Encoder, Frame};

/// Streams and pieces of data that may wait.
const BACKLOG: usize = 32;

/// A stream the client opened.
pub(crate) struct Stream {
    pub headers: Headers,
    pub reader: Reader,
    pub writer: Writer,
}

/// What the client sends on a stream, until it closes its half.
pub(crate) type Reader = StreamReader<ReceiverStream<io::Result<Bytes>>, Bytes>;

/// Our half of a stream.
#[derive(Clone)]
pub(crate) struct Writer {
    id: u32,
    frames: mpsc::Sender<Frame>,
}

// === impl Stream ===

impl Stream {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

// === impl Writer ===

impl Writer {
    /// Whether the connection is still there to take it.
    pub(crate) async fn send(&self, data: Bytes) -> bool {
        self.frames.send(Frame::Data { id: self.id, data, fin: false }).await.is_ok()
    }

    /// Closes our half.
    pub(crate) async fn close(&self) {
        // A connection that is gone is closed.
        let _ = self.frames.send(Frame::Data { id: self.id, data: Bytes::new(), fin: true }).await;
    }
}

/// Serves a connection: gives the streams as the client opens them. Reading ends when the client ends it or the receiver
/// is dropped; the connection closes when, besides, all writers are dropped.
pub(crate) fn serve(io: impl AsyncRead + AsyncWrite + Send + 'static) -> mpsc::Receiver<Stream> {
    let (reader, mut writer) = tokio::io::split(io);
    let (frames, mut outgoing) = mpsc::channel::<Frame>(BACKLOG);
    let (opened, streams) = mpsc::channel(BACKLOG);
    let reading = tokio::spawn(read(reader, frames, opened));
    tokio::spawn(async move {
        let mut encoder = Encoder::new();
        while let Some(frame) = outgoing.recv().await {
            if writer.write_all(&encoder.encode(&frame)).await.is_err() || writer.flush().await.is_err() {
                break;
            }
        }
        reading.abort();
        // The peer may be gone already.
        let _ = writer.shutdown().await;
    });
    streams
}

async fn read(mut from: impl AsyncRead + Unpin, frames: mpsc::Sender<Frame>, opened: mpsc::Sender<Stream>) {
    let mut decoder = Decoder::new();
    let mut readers: HashMap<u32, mpsc::Sender<io::Result<Bytes>>> = HashMap::new();
    loop {
        let next = tokio::select! {
            next = decoder.read(&mut from) => next,
            () = opened.closed() => return,
        };
        let frame = match next {
            Ok(Some(frame)) => frame,
            Ok(None) => return,
            Err(e) => {
                tracing::debug!("SPDY connection ends: {e}");
                return;
            }
        };
        match frame {
            Frame::SynStream { id, headers, fin } => {
                let (data, pieces) = mpsc::channel(BACKLOG);
                if !fin {
                    readers.insert(id, data);
                }
                let reader = StreamReader::new(ReceiverStream::new(pieces));
                let stream = Stream { headers, reader, writer: Writer { id, frames: frames.clone() } };
                if frames.send(Frame::SynReply { id }).await.is_err() || opened.send(stream).await.is_err() {
                    return;
                }
            }
            Frame::Data { id, data, fin } => {
                if let Some(reader) = readers.get(&id)
                    && !data.is_empty()
                {
                    // Nobody may want the rest of a stream.
                    let _ = reader.send(Ok(data)).await;
                }
                if fin {
                    readers.remove(&id);
                }
            }
            Frame::Reset { id } => drop(readers.remove(&id)),
            Frame::Ping { id } => {
                if frames.send(Frame::Ping { id }).await.is_err() {
                    return;
                }
            }
            Frame::GoAway { .. } => return,
            Frame::SynReply { .. } | Frame::Other => {}
        }
    }
}
