//! SPDY/3.1 frames: what clients of `exec`, `attach` and `port-forward` send, and what they must be answered.

use std::io;

use bytes::Bytes;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::dictionary;

/// Names and values; names are in lower case.
pub(crate) type Headers = Vec<(String, String)>;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    SynStream {
        id: u32,
        headers: Headers,
        fin: bool,
    },
    SynReply {
        id: u32,
    },
    /// Part of a stream's data: long frames come in pieces.
    Data {
        id: u32,
        data: Bytes,
        fin: bool,
    },
    Reset {
        id: u32,
    },
    Ping {
        id: u32,
    },
    GoAway {
        last: u32,
    },
    /// SETTINGS, WINDOW_UPDATE, HEADERS and what else needs no answer.
    Other,
}

const VERSION: u16 = 3;
const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const FLAG_FIN: u8 = 1;
const STREAM_ID: u32 = 0x7fff_ffff;

/// No client of ours has more header text than this; more is an attack.
const MAX_HEADERS: usize = 64 << 10;
/// The largest piece of data handed on at once.
const MAX_PIECE: usize = 32 << 10;

/// Reads frames; header blocks share one decompression state over the whole connection.
pub(super) struct Decoder {
    inflate: Decompress,
    /// The data frame that is being handed on in pieces: stream, bytes left, whether it ends the stream.
    data: Option<(u32, usize, bool)>,
}

/// Writes frames; header blocks share one compression state.
pub(super) struct Encoder {
    deflate: Compress,
}

// === impl Decoder ===

impl Decoder {
    pub(super) fn new() -> Self {
        Decoder { inflate: Decompress::new(true), data: None }
    }

    /// The next frame; `None` at the end of the connection.
    pub(super) async fn read(&mut self, from: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Frame>> {
        if let Some((id, left, fin)) = self.data.take() {
            return self.piece(from, id, left, fin).await.map(Some);
        }
        let mut head = [0; 8];
        match from.read_exact(&mut head).await {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            read => read?,
        };
        let first = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
        let flags = head[4];
        let length = u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize;
        if first & !STREAM_ID == 0 {
            return self.piece(from, first, length, flags & FLAG_FIN != 0).await.map(Some);
        }
        if (first >> 16) & 0x7fff != u32::from(VERSION) {
            return Err(invalid("not SPDY/3"));
        }
        if length > MAX_HEADERS {
            return Err(invalid("control frame too long"));
        }
        let mut body = vec![0; length];
        from.read_exact(&mut body).await?;
        self.control((first & 0xffff) as u16, flags, &body).map(Some)
    }

    async fn piece(
        &mut self,
        from: &mut (impl AsyncRead + Unpin),
        id: u32,
        left: usize,
        fin: bool,
    ) -> io::Result<Frame> {
        let mut data = vec![0; left.min(MAX_PIECE)];
        from.read_exact(&mut data).await?;
        let left = left - data.len();
        if left > 0 {
            self.data = Some((id, left, fin));
        }
        Ok(Frame::Data { id, data: data.into(), fin: fin && left == 0 })
    }

    fn control(&mut self, kind: u16, flags: u8, body: &[u8]) -> io::Result<Frame> {
        let word = |at: usize| {
            let bytes = body.get(at..at + 4).ok_or_else(|| invalid("control frame too short"))?;
            Ok::<_, io::Error>(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
        };
        Ok(match kind {
            SYN_STREAM => {
                let id = word(0)? & STREAM_ID;
                let block = body.get(10..).ok_or_else(|| invalid("SYN_STREAM too short"))?;
                Frame::SynStream { id, headers: self.headers(block)?, fin: flags & FLAG_FIN != 0 }
            }
            // Their headers say nothing to us, but the compression state must see them.
            SYN_REPLY | HEADERS => {
                self.headers(body.get(4..).unwrap_or_default())?;
                Frame::Other
            }
            RST_STREAM => Frame::Reset { id: word(0)? & STREAM_ID },
            PING => Frame::Ping { id: word(0)? },
            GOAWAY => Frame::GoAway { last: word(0)? },
            _ => Frame::Other,
        })
    }

    fn headers(&mut self, block: &[u8]) -> io::Result<Headers> {
        let text = self.inflate(block)?;
        let mut rest = text.as_slice();
        let mut number = || -> io::Result<usize> {
            let (head, tail) = rest.split_at_checked(4).ok_or_else(|| invalid("header block too short"))?;
            rest = tail;
            Ok(u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize)
        };
        let count = number()?;
        let mut headers = vec![];
        for _ in 0..count {
            let mut field = || -> io::Result<String> {
                let (head, tail) =
                    rest.split_at_checked(4).ok_or_else(|| invalid("header block too short"))?;
                let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
                let (value, tail) =
                    tail.split_at_checked(length).ok_or_else(|| invalid("header longer than its block"))?;
                rest = tail;
                String::from_utf8(value.to_vec()).map_err(|_| invalid("header is not UTF-8"))
            };
            let (name, value) = (field()?, field()?);
            headers.push((name.to_lowercase(), value));
        }
        Ok(headers)
    }

    fn inflate(&mut self, mut block: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::with_capacity(1024);
        while !block.is_empty() {
            if out.len() == out.capacity() {
                if out.len() >= MAX_HEADERS {
                    return Err(invalid("headers too long"));
                }
                out.reserve(out.len());
            }
            let before = self.inflate.total_in();
            let result = self.inflate.decompress_vec(block, &mut out, FlushDecompress::Sync);
            block = &block[(self.inflate.total_in() - before) as usize..];
            match result {
                Ok(Status::StreamEnd) => return Err(invalid("compression ended")),
                Ok(Status::BufError) if out.len() < out.capacity() => {
                    return Err(invalid("compressed headers cut off"));
                }
                Ok(_) => {}
                Err(e) if e.needs_dictionary().is_some() => {
                    self.inflate
                        .set_dictionary(&dictionary::bytes())
                        .map_err(|_| invalid("unknown dictionary"))?;
                }
                Err(_) => return Err(invalid("compressed headers are damaged")),
            }
        }
        Ok(out)
    }
}

// === impl Encoder ===

impl Encoder {
    pub(super) fn new() -> Self {
        let mut deflate = Compress::new(Compression::best(), true);
        // Cannot fail on a fresh zlib stream.
        let _ = deflate.set_dictionary(&dictionary::bytes());
        Encoder { deflate }
    }

    pub(super) fn encode(&mut self, frame: &Frame) -> Vec<u8> {
        match frame {
            Frame::SynStream { id, headers, fin } => {
                let mut body = id.to_be_bytes().to_vec();
                body.extend_from_slice(&[0; 6]);
                body.extend(self.headers(headers));
                control(SYN_STREAM, u8::from(*fin), &body)
            }
            Frame::SynReply { id } => {
                let mut body = id.to_be_bytes().to_vec();
                body.extend(self.headers(&vec![]));
                control(SYN_REPLY, 0, &body)
            }
            Frame::Data { id, data, fin } => {
                let mut out = Vec::with_capacity(8 + data.len());
                out.extend_from_slice(&id.to_be_bytes());
                out.extend_from_slice(&flags_and_length(u8::from(*fin), data.len()));
                out.extend_from_slice(data);
                out
            }
            Frame::Reset { id } => control(RST_STREAM, 0, &[id.to_be_bytes(), 5u32.to_be_bytes()].concat()),
            Frame::Ping { id } => control(PING, 0, &id.to_be_bytes()),
            Frame::GoAway { last } => control(GOAWAY, 0, &[last.to_be_bytes(), [0; 4]].concat()),
            Frame::Other => vec![],
        }
    }

    fn headers(&mut self, headers: &Headers) -> Vec<u8> {
        let length = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).to_be_bytes();
        let mut text = length(headers.len()).to_vec();
        for (name, value) in headers {
            for part in [name, value] {
                text.extend_from_slice(&length(part.len()));
                text.extend_from_slice(part.as_bytes());
            }
        }
        let mut out = Vec::with_capacity(text.len() + 64);
        let mut rest = text.as_slice();
        loop {
            let before = self.deflate.total_in();
            // Fails only when misused; an empty block then makes the client close the connection.
            if self.deflate.compress_vec(rest, &mut out, FlushCompress::Sync).is_err() {
                return vec![];
            }
            rest = &rest[(self.deflate.total_in() - before) as usize..];
            if rest.is_empty() && out.len() < out.capacity() {
                return out;
            }
            out.reserve(64);
        }
    }
}

fn control(kind: u16, flags: u8, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(8 + body.len());
    out.extend_from_slice(&(0x8000 | VERSION).to_be_bytes());
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&flags_and_length(flags, body.len()));
    out.extend_from_slice(body);
    out
}

fn flags_and_length(flags: u8, length: usize) -> [u8; 4] {
    let [_, a, b, c] = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    [flags, a, b, c]
}

fn invalid(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(any(test, feature = "fuzzing"))]
pub(in crate::streaming) mod hostile;

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(n: usize) -> Headers {
        vec![
            ("streamtype".into(), "data".into()),
            ("port".into(), "8080".into()),
            ("requestid".into(), n.to_string()),
        ]
    }

    #[tokio::test]
    async fn frames_survive_the_wire_and_share_compression_state() {
        let mut encoder = Encoder::new();
        let mut sent = vec![];
        for n in 0..5 {
            sent.push(Frame::SynStream { id: 2 * n + 1, headers: headers(n as usize), fin: n == 4 });
        }
        sent.push(Frame::Data { id: 1, data: Bytes::from_static(b"hello"), fin: true });
        sent.push(Frame::Ping { id: 7 });
        sent.push(Frame::GoAway { last: 9 });
        let wire: Vec<u8> = sent.iter().flat_map(|f| encoder.encode(f)).collect();
        let (mut decoder, mut from) = (Decoder::new(), wire.as_slice());
        for frame in sent {
            assert_eq!(decoder.read(&mut from).await.unwrap(), Some(frame));
        }
        assert_eq!(decoder.read(&mut from).await.unwrap(), None);
    }

    #[tokio::test]
    async fn long_data_comes_in_pieces_that_add_up() {
        let data = Bytes::from(vec![7; 100_000]);
        let wire = Encoder::new().encode(&Frame::Data { id: 3, data: data.clone(), fin: true });
        let (mut decoder, mut from, mut got, mut ended) = (Decoder::new(), wire.as_slice(), vec![], false);
        while let Some(Frame::Data { data, fin, .. }) = decoder.read(&mut from).await.unwrap() {
            assert!(!ended);
            got.extend_from_slice(&data);
            ended = fin;
        }
        assert!(ended && got == data);
    }

    #[tokio::test]
    async fn damaged_input_is_an_error_not_a_crash() {
        let whole = Encoder::new().encode(&Frame::SynStream { id: 1, headers: headers(1), fin: false });
        for cut in 1..whole.len() {
            let mut damaged = whole.clone();
            damaged[cut] ^= 0xff;
            // Whatever comes out, it comes out.
            let _ = Decoder::new().read(&mut damaged.as_slice()).await;
            let _ = Decoder::new().read(&mut &whole[..cut]).await;
        }
    }
}
