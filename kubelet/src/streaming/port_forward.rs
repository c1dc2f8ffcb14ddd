//! Port-forward: connections of a client, each to a port inside a pod's network namespace.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use axum::extract::ws::{Message, WebSocket};
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::spdy;

/// Serves the stream pairs of a SPDY client: an `error` and a `data` stream for each connection, joined by `requestid`.
pub(super) async fn over_spdy(mut streams: mpsc::Receiver<spdy::Stream>, netns: Option<PathBuf>) {
    let mut errors: HashMap<String, spdy::Writer> = HashMap::new();
    let mut connections = tokio::task::JoinSet::new();
    while let Some(stream) = streams.recv().await {
        while connections.try_join_next().is_some() {}
        let request = stream.header("requestid").unwrap_or_default().to_owned();
        match stream.header("streamtype") {
            Some("error") if errors.len() < MAX_WAITING => drop(errors.insert(request, stream.writer)),
            Some("data") => {
                let port = stream.header("port").and_then(|p| p.parse().ok()).unwrap_or(0);
                let Some(error) = errors.remove(&request) else { continue };
                connections.spawn(forward(stream, error, port, netns.clone()));
            }
            _ => {}
        }
    }
    while connections.join_next().await.is_some() {}
}

/// Connections whose second stream has not come yet.
const MAX_WAITING: usize = 1024;

async fn forward(stream: spdy::Stream, error: spdy::Writer, port: u16, netns: Option<PathBuf>) {
    let spdy::Stream { mut reader, writer, .. } = stream;
    match connect(netns.as_deref(), port).await {
        Ok(socket) => {
            let (mut from, mut to) = socket.into_split();
            let upload = tokio::spawn(async move {
                // Either side may end first.
                let _ = tokio::io::copy(&mut reader, &mut to).await;
                let _ = to.shutdown().await;
            });
            let mut buffer = bytes::BytesMut::with_capacity(32 << 10);
            while let Ok(1..) = from.read_buf(&mut buffer).await {
                if !writer.send(buffer.split().freeze()).await {
                    break;
                }
                buffer.reserve(32 << 10);
            }
            upload.abort();
        }
        Err(e) => {
            error.send(Bytes::from(refused(port, &e))).await;
        }
    }
    writer.close().await;
    error.close().await;
}

fn refused(port: u16, error: &io::Error) -> String {
    format!(
        "error forwarding port {port} to pod: failed to connect to localhost:{port} inside namespace: {error}"
    )
}

/// The older WebSocket form (kube-rs): two channels for each port, data and error, all ports named in advance. Each channel
/// begins with the port as two little-endian bytes.
pub(super) async fn over_websocket(socket: WebSocket, ports: Vec<u16>, netns: Option<PathBuf>) {
    let (mut sink, mut source) = socket.split();
    let (outgoing, mut messages) = mpsc::channel::<Vec<u8>>(BACKLOG);
    let mut inputs: Vec<Option<tokio::net::tcp::OwnedWriteHalf>> = vec![];
    let mut downloads = tokio::task::JoinSet::new();
    for (n, port) in ports.into_iter().enumerate() {
        let Ok(data) = u8::try_from(2 * n) else { break };
        for channel in [data, data + 1] {
            let first = [&[channel][..], &port.to_le_bytes()].concat();
            if sink.send(Message::Binary(first.into())).await.is_err() {
                return;
            }
        }
        match connect(netns.as_deref(), port).await {
            Ok(socket) => {
                let (from, to) = socket.into_split();
                inputs.push(Some(to));
                downloads.spawn(download(from, data, outgoing.clone()));
            }
            Err(e) => {
                inputs.push(None);
                let text = [&[data + 1][..], refused(port, &e).as_bytes()].concat();
                // Room is left: nothing has been sent yet.
                let _ = outgoing.try_send(text);
            }
        }
    }
    drop(outgoing);
    loop {
        tokio::select! {
            message = messages.recv() => match message {
                Some(message) => if sink.send(Message::Binary(message.into())).await.is_err() { return },
                None => break,
            },
            message = source.next() => match message {
                Some(Ok(Message::Binary(data))) => if let Some((channel, data)) = data.split_first()
                    && channel % 2 == 0
                    && let Some(Some(to)) = inputs.get_mut(usize::from(channel / 2))
                    && to.write_all(data).await.is_err()
                {
                    inputs[usize::from(channel / 2)] = None;
                },
                Some(Ok(Message::Close(_)) | Err(_)) | None => break,
                Some(Ok(_)) => {}
            },
        }
    }
    // The peer may be gone already.
    let _ = sink.close().await;
}

const BACKLOG: usize = 64;

async fn download(mut from: tokio::net::tcp::OwnedReadHalf, channel: u8, to: mpsc::Sender<Vec<u8>>) {
    let mut message = vec![0; 32 << 10];
    message[0] = channel;
    while let Ok(n @ 1..) = from.read(&mut message[1..]).await {
        if to.send(message[..=n].to_vec()).await.is_err() {
            return;
        }
    }
}

/// Connects to `localhost:port` inside a network namespace (`None`: the host's).
async fn connect(netns: Option<&Path>, port: u16) -> io::Result<TcpStream> {
    let netns = netns.map(Path::to_owned);
    // A thread of its own: the namespace belongs to the thread, and the blocking pool's are used again.
    let (send, receive) = tokio::sync::oneshot::channel();
    std::thread::Builder::new().name("port-forward".to_owned()).spawn(move || {
        // The client may have given up meanwhile.
        let _ = send.send(connect_blocking(netns.as_deref(), port));
    })?;
    let socket = receive.await.map_err(|_| io::Error::other("the connecting thread died"))??;
    socket.set_nonblocking(true)?;
    TcpStream::from_std(socket)
}

fn connect_blocking(netns: Option<&Path>, port: u16) -> io::Result<std::net::TcpStream> {
    if let Some(file) = netns {
        let file = std::fs::File::open(file)?;
        nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET)?;
    }
    let both = [SocketAddr::from((Ipv4Addr::LOCALHOST, port)), SocketAddr::from((Ipv6Addr::LOCALHOST, port))];
    std::net::TcpStream::connect(&both[..1])
        .or_else(|first| std::net::TcpStream::connect(&both[1..]).map_err(|_| first))
}
