//! HTTP/2 frame by frame: what a well-behaved library would not send.

use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::wire::Endpoint;

pub(in crate::hostile) const DATA: u8 = 0;
pub(in crate::hostile) const HEADERS: u8 = 1;
pub(in crate::hostile) const PRIORITY: u8 = 2;
pub(in crate::hostile) const RESET: u8 = 3;
pub(in crate::hostile) const SETTINGS: u8 = 4;
pub(in crate::hostile) const PING: u8 = 6;
const GOAWAY: u8 = 7;
pub(in crate::hostile) const WINDOW_UPDATE: u8 = 8;
pub(in crate::hostile) const CONTINUATION: u8 = 9;

pub(in crate::hostile) const ACK: u8 = 1;
pub(in crate::hostile) const END_STREAM: u8 = 1;
pub(in crate::hostile) const END_HEADERS: u8 = 4;

/// The setting that bounds what may be sent on a new stream.
pub(in crate::hostile) const INITIAL_WINDOW: u16 = 4;

/// What the server has sent so far.
#[derive(Clone, Debug, Default)]
pub(in crate::hostile) struct Seen {
    pub(in crate::hostile) answers: usize,
    pub(in crate::hostile) resets: usize,
    pub(in crate::hostile) data: usize,
    /// The code of the farewell.
    pub(in crate::hostile) goaway: Option<u32>,
    pub(in crate::hostile) closed: bool,
}

/// A connection of which each frame is written by hand.
pub(in crate::hostile) struct Peer {
    write: WriteHalf<TlsStream<TcpStream>>,
    /// Kept, and never read, where a peer does not read.
    _unread: Option<ReadHalf<TlsStream<TcpStream>>>,
    reader: Option<tokio::task::JoinHandle<()>>,
    seen: Arc<Mutex<Seen>>,
    authority: String,
    token: Option<String>,
    next: u32,
}

pub(in crate::hostile) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or_default().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A header as HPACK has it without any table: name and value in full.
pub(in crate::hostile) fn literal(name: &str, value: &str) -> Vec<u8> {
    let mut out = vec![0];
    for text in [name, value] {
        length(&mut out, 7, 0, text.len());
        out.extend(text.as_bytes());
    }
    out
}

/// An integer of HPACK: what does not fit in the first `bits` follows in sevens.
pub(in crate::hostile) fn length(out: &mut Vec<u8>, bits: u8, flags: u8, value: usize) {
    let most = (1_usize << bits) - 1;
    if value < most {
        out.push(flags | u8::try_from(value).unwrap_or_default());
        return;
    }
    out.push(flags | u8::try_from(most).unwrap_or_default());
    let mut rest = value - most;
    while rest >= 128 {
        out.push(u8::try_from(rest % 128).unwrap_or_default() | 128);
        rest /= 128;
    }
    out.push(u8::try_from(rest).unwrap_or_default());
}

// === impl Peer ===

impl Peer {
    /// Connects and says hello with these settings; what comes is read and counted.
    pub(in crate::hostile) async fn open(
        endpoint: &Endpoint,
        from: Option<IpAddr>,
        settings: &[(u16, u32)],
    ) -> Result<Self> {
        let mut peer = Peer::deaf(endpoint, from, settings).await?;
        if let Some(read) = peer._unread.take() {
            peer.reader = Some(tokio::spawn(count(read, peer.seen.clone())));
        }
        Ok(peer)
    }

    /// The same, but nothing is ever read.
    pub(in crate::hostile) async fn deaf(
        endpoint: &Endpoint,
        from: Option<IpAddr>,
        settings: &[(u16, u32)],
    ) -> Result<Self> {
        let (read, write) = tokio::io::split(endpoint.tls(b"h2", from).await?);
        let mut peer = Peer {
            write,
            _unread: Some(read),
            reader: None,
            seen: Arc::default(),
            authority: endpoint.authority(),
            token: endpoint.token().map(str::to_owned),
            next: 1,
        };
        let payload: Vec<u8> = settings
            .iter()
            .flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
            .collect();
        let mut hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        hello.extend(frame(SETTINGS, 0, 0, &payload));
        hello.extend(frame(SETTINGS, ACK, 0, &[]));
        peer.send(&hello).await?;
        Ok(peer)
    }

    pub(in crate::hostile) async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        // A server that takes nothing more is as good as one that closes.
        tokio::time::timeout(Duration::from_secs(5), async {
            self.write.write_all(bytes).await?;
            self.write.flush().await
        })
        .await??;
        Ok(())
    }

    /// Opens the window of the whole connection as far as it goes.
    pub(in crate::hostile) async fn widen(&mut self) -> Result<()> {
        self.send(&frame(WINDOW_UPDATE, 0, 0, &0x7fff_0000_u32.to_be_bytes())).await
    }

    /// The number of the next stream.
    pub(in crate::hostile) fn stream(&mut self) -> u32 {
        let stream = self.next;
        self.next += 2;
        stream
    }

    /// The head of a request, compressed by nothing.
    pub(in crate::hostile) fn head(&self, method: &str, path: &str, more: &[(&str, &str)]) -> Vec<u8> {
        let mut block = vec![];
        for (name, value) in [
            (":method", method),
            (":scheme", "https"),
            (":path", path),
            (":authority", self.authority.as_str()),
        ] {
            block.extend(literal(name, value));
        }
        if let Some(token) = &self.token {
            block.extend(literal("authorization", &format!("Bearer {token}")));
        }
        for (name, value) in more {
            block.extend(literal(name, value));
        }
        block
    }

    /// Asks on a new stream; with `END_STREAM` nothing follows.
    pub(in crate::hostile) async fn ask(
        &mut self,
        method: &str,
        path: &str,
        more: &[(&str, &str)],
        flags: u8,
    ) -> Result<u32> {
        let (block, stream) = (self.head(method, path, more), self.stream());
        self.send(&frame(HEADERS, END_HEADERS | flags, stream, &block)).await?;
        Ok(stream)
    }

    pub(in crate::hostile) fn seen(&self) -> Seen {
        self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// Sends what is made for each number until all are sent or the server has had enough; how many were taken.
    pub(in crate::hostile) async fn flood(
        &mut self,
        count: usize,
        mut make: impl FnMut(&mut Peer, usize) -> Vec<u8>,
    ) -> usize {
        const TOGETHER: usize = 50;
        for n in (0..count).step_by(TOGETHER) {
            let mut bytes = vec![];
            for n in n..(n + TOGETHER).min(count) {
                bytes.extend(make(self, n));
            }
            if self.send(&bytes).await.is_err() || self.seen().goaway.is_some() {
                return n;
            }
        }
        count
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if let Some(reader) = &self.reader {
            reader.abort();
        }
    }
}

async fn count(mut read: ReadHalf<TlsStream<TcpStream>>, seen: Arc<Mutex<Seen>>) {
    let note = |change: &dyn Fn(&mut Seen)| {
        change(&mut seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    };
    let mut head = [0; 9];
    let mut payload = vec![];
    while read.read_exact(&mut head).await.is_ok() {
        payload.resize(usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]), 0);
        if read.read_exact(&mut payload).await.is_err() {
            break;
        }
        match head[3] {
            DATA => note(&|s| s.data += payload.len()),
            HEADERS => note(&|s| s.answers += 1),
            RESET => note(&|s| s.resets += 1),
            GOAWAY => {
                let code = payload.get(4..8).and_then(|c| c.try_into().ok()).map_or(0, u32::from_be_bytes);
                note(&|s| s.goaway = Some(code));
            }
            _ => {}
        }
    }
    note(&|s| s.closed = true);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_and_lengths_are_as_the_standard_has_them() {
        assert_eq!(frame(PING, 0, 1, b"abc"), [0, 0, 3, 6, 0, 0, 0, 0, 1, b'a', b'b', b'c']);
        let mut out = vec![];
        // RFC 7541, C.1.2: 1337 in five bits.
        length(&mut out, 5, 0, 1337);
        assert_eq!(out, [31, 154, 10]);
        assert_eq!(literal("a", "bc"), [0, 1, b'a', 2, b'b', b'c']);
    }
}
