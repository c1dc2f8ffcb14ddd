//! The streams of one exec or attach, whatever carries them: SPDY streams, or numbered channels of a WebSocket.

use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, WebSocket};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::{SinkExt, Stream, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::io::StreamReader;
use tokio_util::task::AbortOnDropHandle;

use super::spdy;

/// The client's end of a session.
pub(super) struct Channels {
    pub stdin: Option<Box<dyn AsyncRead + Send + Unpin>>,
    pub stdout: Option<Output>,
    pub stderr: Option<Output>,
    /// Where the outcome is told, once, at the end.
    pub status: Output,
    /// Columns and rows, as the client's terminal changes.
    pub resizes: mpsc::Receiver<(u16, u16)>,
    /// Whether the outcome is a `Status` (protocol v4 and v5) or plain text.
    pub structured: bool,
}

/// Somewhere to send a stream of bytes.
#[derive(Clone)]
pub(super) enum Output {
    Spdy(spdy::Writer),
    /// Channel number, and the way to the socket.
    WebSocket(u8, mpsc::Sender<(u8, Bytes)>),
}

/// Which streams the client asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
}

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STATUS: u8 = 3;
const RESIZE: u8 = 4;
/// v5: the client closes the channel whose number follows.
const CLOSE: u8 = 255;

const BACKLOG: usize = 16;
/// Upstream waits this long for the streams a client has promised.
const STREAMS_WITHIN: Duration = Duration::from_secs(30);

// === impl Output ===

impl Output {
    pub(super) async fn send(&self, data: Bytes) -> bool {
        match self {
            Output::Spdy(writer) => writer.send(data).await,
            Output::WebSocket(channel, socket) => socket.send((*channel, data)).await.is_ok(),
        }
    }

    pub(super) async fn close(&self) {
        if let Output::Spdy(writer) = self {
            writer.close().await;
        }
    }

    /// Copies until the source ends or the client is gone.
    pub(super) async fn copy_from(&self, source: &mut (impl AsyncRead + Unpin)) {
        let mut buffer = bytes::BytesMut::with_capacity(32 << 10);
        while let Ok(1..) = source.read_buf(&mut buffer).await {
            if !self.send(buffer.split().freeze()).await {
                break;
            }
            buffer.reserve(32 << 10);
        }
        self.close().await;
    }
}

// === impl Channels ===

impl Channels {
    /// Waits for the streams of a SPDY client: each says in `streamtype` what it is.
    pub(super) async fn over_spdy(
        streams: &mut mpsc::Receiver<spdy::Stream>,
        wanted: Wanted,
    ) -> Option<Self> {
        let stderr = wanted.stderr && !wanted.tty;
        let expected = 1 + [wanted.stdin, wanted.stdout, stderr, wanted.tty].iter().filter(|w| **w).count();
        let (mut stdin, mut stdout, mut stderr, mut status) = (None, None, None, None);
        let (sizes, resizes) = mpsc::channel(BACKLOG);
        let deadline = tokio::time::Instant::now() + STREAMS_WITHIN;
        for _ in 0..expected {
            let stream = tokio::time::timeout_at(deadline, streams.recv()).await.ok()??;
            let output = Output::Spdy(stream.writer.clone());
            match stream.header("streamtype") {
                Some("stdin") => stdin = Some(Box::new(stream.reader) as Box<dyn AsyncRead + Send + Unpin>),
                Some("stdout") => stdout = Some(output),
                Some("stderr") => stderr = Some(output),
                Some("error") => status = Some(output),
                Some("resize") => drop(tokio::spawn(read_sizes(stream.reader, sizes.clone()))),
                _ => return None,
            }
        }
        Some(Channels { stdin, stdout, stderr, status: status?, resizes, structured: true })
    }

    /// The channels of a WebSocket; `protocol` is the one agreed on.
    pub(super) fn over_websocket(socket: WebSocket, protocol: &str, wanted: Wanted) -> Self {
        let (outgoing, messages) = mpsc::channel(BACKLOG);
        let (input, pieces) = mpsc::channel(BACKLOG);
        let (sizes, resizes) = mpsc::channel(BACKLOG);
        let base64 = protocol.contains("base64");
        tokio::spawn(pump(socket, messages, base64, wanted.stdin.then_some(input), sizes));
        let output = |channel: u8| Output::WebSocket(channel, outgoing.clone());
        Channels {
            stdin: wanted.stdin.then(|| Box::new(StreamReader::new(ReceiverStream::new(pieces))) as _),
            stdout: wanted.stdout.then(|| output(STDOUT)),
            stderr: (wanted.stderr && !wanted.tty).then(|| output(STDERR)),
            status: output(STATUS),
            resizes,
            structured: protocol.starts_with("v4.") || protocol.starts_with("v5."),
        }
    }

    /// Tells the outcome and ends the session.
    pub(super) async fn finish(self, outcome: Value) {
        let text = match (self.structured, outcome["status"].as_str()) {
            (true, _) => outcome.to_string(),
            (false, Some("Success")) => String::new(),
            (false, _) => outcome["message"].as_str().unwrap_or_default().to_owned(),
        };
        if !text.is_empty() {
            self.status.send(text.into()).await;
        }
        self.status.close().await;
    }
}

/// Carries the client's input to the process until either is at its end; what is dropped carries no more.
pub(super) fn feed(channels: &mut Channels, stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>) -> Feeding {
    let both = channels.stdin.take().zip(stdin);
    Feeding(both.map(|(mut from, mut to)| {
        AbortOnDropHandle::new(tokio::spawn(async move {
            // The process may end before its input does.
            let _ = tokio::io::copy(&mut from, &mut to).await;
            let _ = to.shutdown().await;
        }))
    }))
}

/// Input on its way.
pub(super) struct Feeding(Option<AbortOnDropHandle<()>>);

impl Feeding {
    /// Returns when there is no more of it; at once where there is none.
    pub(super) async fn ended(self) {
        if let Some(task) = self.0 {
            // One that panics has ended, too.
            let _ = task.await;
        }
    }
}

/// Carries the outputs to the client until they end or it is gone.
pub(super) async fn copy(
    channels: &mut Channels,
    stdout: Option<Box<dyn AsyncRead + Send + Unpin>>,
    stderr: Option<Box<dyn AsyncRead + Send + Unpin>>,
) {
    let forward = |to: Option<Output>, from: Option<Box<dyn AsyncRead + Send + Unpin>>| async move {
        if let (Some(to), Some(mut from)) = (to, from) {
            to.copy_from(&mut from).await;
        }
    };
    tokio::join!(forward(channels.stdout.clone(), stdout), forward(channels.stderr.clone(), stderr));
}

/// `{"Width":80,"Height":24}`, one after the other.
async fn read_sizes(mut from: spdy::Reader, sizes: mpsc::Sender<(u16, u16)>) {
    let mut text = vec![];
    let mut piece = [0; 1024];
    while let Ok(n @ 1..) = from.read(&mut piece).await {
        text.extend_from_slice(&piece[..n]);
        while let Some(end) = text.iter().position(|b| *b == b'}') {
            let one: Vec<u8> = text.drain(..=end).collect();
            if let Some(size) = size(&one)
                && sizes.send(size).await.is_err()
            {
                return;
            }
        }
        if text.len() > 4096 {
            return;
        }
    }
}

fn size(text: &[u8]) -> Option<(u16, u16)> {
    let value: Value = serde_json::from_slice(text.trim_ascii()).ok()?;
    let side = |name: &str| value[name].as_u64().and_then(|n| u16::try_from(n).ok());
    Some((side("Width")?, side("Height")?))
}

/// Moves messages between the socket and the session until the session is done or the client is gone. Both ways at once: a
/// process that waits for its output to be taken takes no input.
async fn pump(
    socket: WebSocket,
    mut outgoing: mpsc::Receiver<(u8, Bytes)>,
    base64: bool,
    stdin: Option<mpsc::Sender<std::io::Result<Bytes>>>,
    sizes: mpsc::Sender<(u16, u16)>,
) {
    let (mut sink, source) = socket.split();
    let sent = async {
        while let Some((channel, data)) = outgoing.recv().await {
            if sink.send(encode(channel, &data, base64)).await.is_err() {
                return;
            }
        }
        // Without a normal close clients report an error even after a good outcome.
        let _ = sink.send(Message::Close(Some(CloseFrame { code: 1000, reason: "".into() }))).await;
        let _ = sink.close().await;
    };
    tokio::select! {
        () = sent => {}
        // The client is gone: what the process still says goes nowhere.
        () = receive(source, base64, stdin, sizes) => {}
    }
}

/// Takes in what the client says, until it is gone.
async fn receive(
    mut source: impl Stream<Item = Result<Message, axum::Error>> + Unpin,
    base64: bool,
    mut stdin: Option<mpsc::Sender<std::io::Result<Bytes>>>,
    sizes: mpsc::Sender<(u16, u16)>,
) {
    while let Some(Ok(message)) = source.next().await {
        // Clients send what they hold as text in a text message, whatever the protocol.
        let data = match message {
            Message::Binary(data) => decode(data, base64),
            Message::Text(text) => decode(Bytes::copy_from_slice(text.as_bytes()), base64),
            Message::Ping(_) | Message::Pong(_) => continue,
            Message::Close(_) => return,
        };
        match data.first() {
            Some(&STDIN) if data.len() > 1 => {
                if let Some(to) = &stdin {
                    let _ = to.send(Ok(data.slice(1..))).await;
                }
            }
            Some(&RESIZE) => {
                if let Some(size) = size(&data[1..]) {
                    let _ = sizes.send(size).await;
                }
            }
            Some(&CLOSE) if data.get(1) == Some(&STDIN) => stdin = None,
            _ => {}
        }
    }
}

fn encode(channel: u8, data: &Bytes, base64: bool) -> Message {
    if base64 {
        return Message::Text(format!("{channel}{}", STANDARD.encode(data)).into());
    }
    let mut message = Vec::with_capacity(data.len() + 1);
    message.push(channel);
    message.extend_from_slice(data);
    Message::Binary(message.into())
}

/// A message as the number of its channel and the data. In base64 protocols the number is a digit.
fn decode(message: Bytes, base64: bool) -> Bytes {
    if !base64 {
        return message;
    }
    let mut data = vec![];
    if let Some((digit @ b'0'..=b'9', text)) = message.split_first() {
        data.push(digit - b'0');
        data.extend(STANDARD.decode(text).unwrap_or_default());
    }
    data.into()
}

/// A message of either protocol, and a terminal's size.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn hostile_message(bytes: &[u8]) {
    for base64 in [false, true] {
        let data = decode(Bytes::copy_from_slice(bytes), base64);
        let Some((channel, text)) = data.split_first() else { continue };
        size(text);
        let again = match encode(*channel, &Bytes::copy_from_slice(text), base64) {
            Message::Binary(message) => decode(message, base64),
            Message::Text(message) => decode(Bytes::copy_from_slice(message.as_bytes()), base64),
            _ => Bytes::new(),
        };
        assert_eq!(again, data);
    }
}

/// The outcome of a session that ran a process to its end.
pub(super) fn outcome(exit_code: i32) -> Value {
    if exit_code == 0 {
        return json!({"metadata": {}, "status": "Success"});
    }
    json!({"metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
           "message": format!("command terminated with non-zero exit code: exit status {exit_code}"),
           "details": {"causes": [{"reason": "ExitCode", "message": exit_code.to_string()}]}})
}

/// The outcome of a session that could not be had.
pub(super) fn failure(message: impl std::fmt::Display) -> Value {
    json!({"metadata": {}, "status": "Failure", "reason": "InternalError", "code": 500,
           "message": format!("Internal error occurred: {message}"),
           "details": {"causes": [{"message": message.to_string()}]}})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_channels_carry_the_number_as_a_digit() {
        assert_eq!(encode(1, &Bytes::from_static(b"hi"), true), Message::Text("1aGk=".into()));
        let decoded = |text: &'static [u8]| decode(Bytes::from_static(text), true);
        assert_eq!(decoded(b"0aGk="), Bytes::from_static(b"\0hi"));
        assert_eq!(decoded(b""), Bytes::new());
        assert_eq!(decode(Bytes::from_static(b"\0hi"), false), Bytes::from_static(b"\0hi"));
    }

    /// As `kubectl exec -i POD -- cat`, with more than any buffer on the way holds.
    #[tokio::test]
    async fn a_process_that_says_what_it_hears_is_heard_while_it_is_told() {
        const PIECES: usize = 1000;
        let handler = async |upgrade: axum::extract::WebSocketUpgrade| {
            upgrade.protocols(["v5.channel.k8s.io"]).on_upgrade(|socket| async move {
                let wanted = Wanted { stdin: true, stdout: true, ..Wanted::default() };
                let mut channels = Channels::over_websocket(socket, "v5.channel.k8s.io", wanted);
                // A pipe's capacity.
                let (process, ours) = tokio::io::duplex(64 << 10);
                let (from, to) = tokio::io::split(ours);
                let (mut input, mut output) = tokio::io::split(process);
                tokio::spawn(async move {
                    let _ = tokio::io::copy(&mut input, &mut output).await;
                    let _ = output.shutdown().await;
                });
                let _feeding = feed(&mut channels, Some(Box::new(to)));
                copy(&mut channels, Some(Box::new(from)), None).await;
                channels.finish(outcome(0)).await;
            })
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}/", listener.local_addr().unwrap());
        let router = axum::Router::new().route("/", axum::routing::get(handler));
        let serving = tokio::spawn(async move { axum::serve(listener, router).await });
        let (client, _) = tokio_tungstenite::connect_async(url).await.unwrap();
        let (mut say, mut hear) = client.split();
        let piece = [&[STDIN][..], &[b'x'; 32 << 10]].concat();
        let (mut heard, mut closed) = (0, false);
        let talk = async {
            for _ in 0..PIECES {
                say.send(tokio_tungstenite::tungstenite::Message::Binary(piece.clone().into()))
                    .await
                    .unwrap();
            }
            say.send(tokio_tungstenite::tungstenite::Message::Binary(vec![CLOSE, STDIN].into()))
                .await
                .unwrap();
        };
        let listen = async {
            while let Some(Ok(message)) = hear.next().await {
                closed |= message.is_close();
                let data = message.into_data();
                heard += data.strip_prefix(&[STDOUT]).map_or(0, <[u8]>::len);
            }
        };
        let both = async { tokio::join!(talk, listen) };
        tokio::time::timeout(Duration::from_secs(60), both).await.expect("neither waits for the other");
        assert_eq!((heard, closed), (PIECES * (32 << 10), true));
        serving.abort();
    }

    #[test]
    fn sizes_are_read_as_clients_write_them() {
        assert_eq!(size(br#"{"Width":101,"Height":33}"#), Some((101, 33)));
        assert_eq!(size(b"{}"), None);
    }
}
