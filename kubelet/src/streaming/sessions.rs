//! Exec, attach and port-forward: agreeing on a protocol, then handing the connection over.

use axum::extract::ws::{CloseFrame, Message, WebSocket};
use axum::extract::{FromRequestParts, Path, Request, State, WebSocketUpgrade};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use futures::{SinkExt, StreamExt};
use hyper_util::rt::TokioIo;

use super::channels::{self, Channels, Wanted};
use super::{Node, absent, port_forward, query, spdy};
use crate::cri::{AttachSpec, ContainerRecord, ExecSpec};
use crate::runtime::{Runtime, Session};

/// WebSocket protocols of exec and attach, best first.
const REMOTE_COMMAND: [&str; 5] = [
    "v5.channel.k8s.io",
    "v4.channel.k8s.io",
    "v4.base64.channel.k8s.io",
    "channel.k8s.io",
    "base64.channel.k8s.io",
];
/// SPDY protocols of exec and attach.
const REMOTE_COMMAND_SPDY: [&str; 1] = ["v4.channel.k8s.io"];
const PORT_FORWARD: &str = "portforward.k8s.io";
const PORT_FORWARD_TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
const STREAM_PROTOCOL: &str = "x-stream-protocol-version";

/// `{namespace}/{pod}/{container}`, or with the pod's uid in between.
type Target = Path<Vec<String>>;

/// What a session does with its container.
enum Job {
    Exec(ExecSpec),
    Attach(AttachSpec),
}

pub(super) async fn exec(State(node): State<Node>, target: Target, request: Request) -> Response {
    let pairs = query(request.uri());
    let command: Vec<String> = pairs.iter().filter(|(n, _)| n == "command").map(|(_, v)| v.clone()).collect();
    if command.is_empty() {
        return (StatusCode::BAD_REQUEST, "you must specify at least 1 command for the container")
            .into_response();
    }
    let Wanted { stdin, stdout, stderr, tty } = wanted(&pairs);
    let spec = ExecSpec { command, tty, stdin, stdout, stderr: stderr && !tty };
    session(node, &target, request, Job::Exec(spec)).await
}

pub(super) async fn attach(State(node): State<Node>, target: Target, request: Request) -> Response {
    let Wanted { stdin, stdout, stderr, tty } = wanted(&query(request.uri()));
    let spec = AttachSpec { stdin, stdout, stderr: stderr && !tty };
    session(node, &target, request, Job::Attach(spec)).await
}

/// The kubelet's own names of these parameters, and those of the API server's `PodExecOptions`.
fn wanted(pairs: &[(String, String)]) -> Wanted {
    let flag = |names: [&str; 2]| {
        pairs.iter().any(|(n, v)| names.contains(&n.as_str()) && coracle_api::query::flag(v))
    };
    Wanted {
        stdin: flag(["input", "stdin"]),
        stdout: flag(["output", "stdout"]),
        stderr: flag(["error", "stderr"]),
        tty: flag(["tty", "tty"]),
    }
}

async fn session(node: Node, target: &Target, mut request: Request, job: Job) -> Response {
    let [namespace, pod, .., container] = target.as_slice() else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let record = match node.endpoints.pods.container(namespace, pod, container, false) {
        Ok(record) => record,
        Err(why) => return absent(&why),
    };
    let wanted = wanted(&query(request.uri()));
    if is_websocket(&request) {
        let (mut parts, _) = request.into_parts();
        return match WebSocketUpgrade::from_request_parts(&mut parts, &()).await {
            Ok(upgrade) => upgrade.protocols(REMOTE_COMMAND).on_upgrade(move |socket| async move {
                let protocol =
                    socket.protocol().and_then(|p| p.to_str().ok()).unwrap_or("channel.k8s.io").to_owned();
                let channels = Channels::over_websocket(socket, &protocol, wanted);
                run(&node.endpoints.runtime, &record, job, channels).await;
            }),
            Err(rejection) => rejection.into_response(),
        };
    }
    let protocol = match spdy_protocol(request.headers(), &REMOTE_COMMAND_SPDY) {
        Ok(protocol) => protocol,
        Err(refusal) => return refusal,
    };
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Ok(io) = upgraded.await else { return };
        let mut streams = spdy::serve(TokioIo::new(io));
        // `streams` is kept to the end: the connection is read for as long as it lives.
        if let Some(channels) = Channels::over_spdy(&mut streams, wanted).await {
            run(&node.endpoints.runtime, &record, job, channels).await;
        }
    });
    switching(protocol)
}

async fn run(runtime: &Runtime, record: &ContainerRecord, job: Job, mut channels: Channels) {
    let started = match &job {
        Job::Exec(spec) => runtime.exec(&record.id, spec).await,
        Job::Attach(spec) => runtime.attach(&record.id, *spec).await,
    };
    let outcome = match started {
        Ok(session) => copy(session, &mut channels, &job).await,
        Err(e) => {
            let what = if matches!(job, Job::Exec(_)) {
                "error executing command in container"
            } else {
                "error attaching to container"
            };
            channels::failure(format_args!("{what}: {e}"))
        }
    };
    channels.finish(outcome).await;
}

async fn copy(mut session: Session, channels: &mut Channels, job: &Job) -> serde_json::Value {
    let stdio = std::mem::take(&mut session.stdio);
    let resizing = session.resizer.take().map(|resizer| {
        let mut sizes = std::mem::replace(&mut channels.resizes, tokio::sync::mpsc::channel(1).1);
        tokio::spawn(async move {
            while let Some((columns, rows)) = sizes.recv().await {
                if let Err(e) = resizer.resize(columns, rows) {
                    tracing::debug!("resize: {e}");
                }
            }
        })
    });
    let feeding = channels::feed(channels, stdio.stdin);
    let outputs = stdio.stdout.is_some() || stdio.stderr.is_some();
    channels::copy(channels, stdio.stdout, stdio.stderr).await;
    let outcome = match job {
        Job::Exec(_) => match session.wait().await {
            Ok(code) => channels::outcome(code),
            Err(e) => channels::failure(e),
        },
        // Whether the container has ended, and how, is its own affair.
        Job::Attach(_) if outputs => channels::outcome(0),
        Job::Attach(_) => tokio::select! {
            () = feeding.ended() => channels::outcome(0),
            _ = session.wait() => channels::outcome(0),
        },
    };
    if let Some(task) = resizing {
        task.abort();
    }
    outcome
}

pub(super) async fn port_forward(State(node): State<Node>, target: Target, mut request: Request) -> Response {
    let [namespace, pod, ..] = target.as_slice() else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let network = match node.endpoints.pods.network(namespace, pod) {
        Ok(network) => network,
        Err(why) => return absent(&why),
    };
    if is_websocket(&request) {
        let ports = query(request.uri());
        let ports = ports.iter().filter(|(n, _)| n == "ports" || n == "port").flat_map(|(_, v)| v.split(','));
        let ports: Vec<u16> = ports.filter_map(|p| p.parse().ok()).collect();
        let (mut parts, _) = request.into_parts();
        let upgrade = match WebSocketUpgrade::from_request_parts(&mut parts, &()).await {
            Ok(upgrade) => upgrade,
            Err(rejection) => return rejection.into_response(),
        };
        return upgrade.protocols([PORT_FORWARD_TUNNEL, "v4.channel.k8s.io"]).on_upgrade(
            move |socket| async move {
                if socket.protocol().is_some_and(|p| p == PORT_FORWARD_TUNNEL) {
                    port_forward::over_spdy(spdy::serve(tunnel(socket)), network).await;
                } else {
                    port_forward::over_websocket(socket, ports, network).await;
                }
            },
        );
    }
    let protocol = match spdy_protocol(request.headers(), &[PORT_FORWARD]) {
        Ok(protocol) => protocol,
        Err(refusal) => return refusal,
    };
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        if let Ok(io) = upgraded.await {
            port_forward::over_spdy(spdy::serve(TokioIo::new(io)), network).await;
        }
    });
    switching(protocol)
}

/// A WebSocket whose binary messages are a stream of bytes.
fn tunnel(socket: WebSocket) -> tokio::io::DuplexStream {
    let (near, far) = tokio::io::duplex(64 << 10);
    tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (mut from, mut to) = tokio::io::split(far);
        let (mut sink, mut source) = socket.split();
        let mut buffer = bytes::BytesMut::with_capacity(32 << 10);
        loop {
            tokio::select! {
                read = from.read_buf(&mut buffer) => match read {
                    Ok(1..) => {
                        if sink.send(Message::Binary(buffer.split().freeze())).await.is_err() {
                            return;
                        }
                        buffer.reserve(32 << 10);
                    }
                    _ => break,
                },
                message = source.next() => match message {
                    Some(Ok(Message::Binary(data))) => if to.write_all(&data).await.is_err() { break },
                    Some(Ok(Message::Close(_)) | Err(_)) | None => break,
                    Some(Ok(_)) => {}
                },
            }
        }
        // The peer may be gone already.
        let _ = sink.send(Message::Close(Some(CloseFrame { code: 1000, reason: "".into() }))).await;
    });
    near
}

/// A log over a WebSocket: each piece one message.
/// Sends the log until it or its reader is gone; what a reader says is not looked at.
pub(super) async fn send_log(socket: WebSocket, mut log: super::LogStream) {
    let base64 = socket.protocol().is_some_and(|p| p == "base64.binary.k8s.io");
    let (mut out, mut incoming) = socket.split();
    let gone = async { while let Some(Ok(_)) = incoming.next().await {} };
    let sent = async {
        while let Some(Ok(piece)) = log.next().await {
            let message = if base64 {
                Message::Text(base64::engine::general_purpose::STANDARD.encode(&piece).into())
            } else {
                Message::Binary(piece)
            };
            if out.send(message).await.is_err() {
                return;
            }
        }
        // The peer may be gone already.
        let _ = out.send(Message::Close(Some(CloseFrame { code: 1000, reason: "".into() }))).await;
    };
    tokio::select! {
        () = sent => {}
        () = gone => {}
    }
}

pub(super) fn is_websocket(request: &Request) -> bool {
    let upgrade = request.headers().get(header::UPGRADE).and_then(|v| v.to_str().ok());
    upgrade.is_some_and(|v| v.eq_ignore_ascii_case("websocket"))
}

/// The first protocol that both sides know, or the refusal upstream gives.
#[allow(clippy::result_large_err, reason = "the error is the response that is sent")]
fn spdy_protocol(headers: &HeaderMap, ours: &[&'static str]) -> Result<&'static str, Response> {
    let upgrade = headers.get(header::UPGRADE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if !upgrade.eq_ignore_ascii_case("SPDY/3.1") {
        let message = format!("unable to upgrade: missing upgrade headers in request: {upgrade:?}");
        return Err((StatusCode::BAD_REQUEST, message).into_response());
    }
    let theirs: Vec<&str> = headers
        .get_all(STREAM_PROTOCOL)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .map(str::trim)
        .collect();
    // Without any, upstream takes its own first choice.
    let agreed = if theirs.is_empty() { ours.first() } else { ours.iter().find(|p| theirs.contains(p)) };
    agreed.copied().ok_or_else(|| {
        let message = format!("unable to upgrade: unable to negotiate protocol: client supports {theirs:?}, server accepts {ours:?}");
        (StatusCode::FORBIDDEN, message).into_response()
    })
}

fn switching(protocol: &'static str) -> Response {
    let mut response = StatusCode::SWITCHING_PROTOCOLS.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("SPDY/3.1"));
    headers.insert(STREAM_PROTOCOL, HeaderValue::from_static(protocol));
    response
}

#[cfg(test)]
mod tests {
    use std::future::IntoFuture;
    use std::time::Duration;

    use axum::routing::get;
    use bytes::Bytes;
    use futures::stream;
    use tokio_util::sync::CancellationToken;

    use super::*;

    #[tokio::test]
    async fn a_log_ends_when_its_reader_goes_though_nothing_more_is_written() {
        let gone = CancellationToken::new();
        let ended = gone.clone();
        let handler = async move |upgrade: WebSocketUpgrade| {
            let held = gone.clone().drop_guard();
            let log = stream::once(async { Ok(Bytes::from("a\n")) }).chain(stream::pending());
            let log = log.inspect(move |_| _ = &held).boxed();
            upgrade.on_upgrade(|socket| send_log(socket, log))
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving =
            tokio::spawn(axum::serve(listener, axum::Router::new().route("/", get(handler))).into_future());
        let (mut reader, _) = tokio_tungstenite::connect_async(format!("ws://{address}/")).await.unwrap();
        assert_eq!(reader.next().await.unwrap().unwrap().into_data(), "a\n");
        assert!(!ended.is_cancelled());
        reader.close(None).await.unwrap();
        tokio::time::timeout(Duration::from_secs(10), ended.cancelled()).await.expect("the log is let go");
        serving.abort();
    }
}
