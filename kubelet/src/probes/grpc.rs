//! The gRPC health checking protocol: one call of `grpc.health.v1.Health/Check` over plain HTTP/2.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use coracle_api::query::percent_decoded;
use http::{HeaderMap, Request, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::time::{Instant, timeout_at};

use super::{Outcome, dial};

/// A health reply has two bytes; what is longer is none.
const REPLY: usize = 4096;
const UNIMPLEMENTED: usize = 12;
/// By number, in the spelling of Go's client.
const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];
const STATES: [&str; 4] = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"];

pub(super) async fn check(host: &str, port: u16, service: &str, limit: Duration) -> Outcome {
    let deadline = Instant::now() + limit;
    let address = dial::join(host, port);
    let shown = dial::seconds(limit);
    // Upstream goes on dialling until the time is over, and says so.
    let unreachable = || {
        Outcome::Failure(format!(
            "timeout: failed to connect service {address:?} within {shown}: context deadline exceeded"
        ))
    };
    let Ok(stream) = dial::dial(host, port, deadline).await else { return unreachable() };
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let Ok(Ok((sender, connection))) = timeout_at(deadline, handshake).await else { return unreachable() };
    let driver = tokio::spawn(connection);
    let reply = timeout_at(deadline, call(sender, &address, service)).await;
    driver.abort();
    match reply {
        Err(_) => Outcome::Failure(format!("timeout: health rpc did not complete within {shown}")),
        Ok(Ok(1)) => Outcome::Success,
        Ok(Ok(state)) => {
            let name = usize::try_from(state)
                .ok()
                .and_then(|s| STATES.get(s))
                .map_or_else(|| state.to_string(), |n| (*n).to_owned());
            Outcome::Failure(format!("service unhealthy (responded with {name:?})"))
        }
        Ok(Err((UNIMPLEMENTED, message))) => Outcome::Failure(format!(
            "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {message}"
        )),
        Ok(Err((code, message))) => {
            let name = CODES.get(code).map_or_else(|| format!("Code({code})"), |n| (*n).to_owned());
            Outcome::Failure(format!(
                "error: health rpc probe failed: rpc error: code = {name} desc = {message}"
            ))
        }
    }
}

/// A reply and its parts, each by itself.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) async fn hostile_reply(
    stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
    bytes: &[u8],
) {
    state(bytes);
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let Ok((sender, connection)) = handshake.await else { return };
    let driver = tokio::spawn(connection);
    let _ = call(sender, "10.0.0.1:80", "s").await;
    driver.abort();
}

/// The state the server gives, or gRPC's code and message.
async fn call(
    mut sender: hyper::client::conn::http2::SendRequest<Full<Bytes>>,
    address: &str,
    service: &str,
) -> Result<u64, (usize, String)> {
    let unavailable = |error: hyper::Error| (14, error.to_string());
    let request = Request::post(format!("http://{address}/grpc.health.v1.Health/Check"))
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .header(header::USER_AGENT, "kube-probe/1.36 coracle")
        .body(Full::new(request(service)))
        .map_err(|error| (13, error.to_string()))?;
    let reply = sender.send_request(request).await.map_err(unavailable)?;
    if reply.status() != http::StatusCode::OK {
        let status = reply.status();
        let message = format!(
            "unexpected HTTP status code received from server: {} ({})",
            status.as_u16(),
            status.canonical_reason().unwrap_or_default()
        );
        return Err((if status == http::StatusCode::NOT_FOUND { UNIMPLEMENTED } else { 2 }, message));
    }
    // A failure without a message has its status among the headers.
    status(reply.headers())?;
    let body =
        Limited::new(reply.into_body(), REPLY).collect().await.map_err(|error| (13, error.to_string()))?;
    if let Some(trailers) = body.trailers() {
        status(trailers)?;
    }
    let bytes = body.to_bytes();
    let message = bytes.get(5..).ok_or_else(|| (13, "the reply has no message".to_owned()))?;
    Ok(state(message))
}

fn status(headers: &HeaderMap) -> Result<(), (usize, String)> {
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok());
    match text("grpc-status").map(str::parse::<usize>) {
        None | Some(Ok(0)) => Ok(()),
        Some(code) => {
            Err((code.unwrap_or(2), percent_decoded(text("grpc-message").unwrap_or_default()).into_owned()))
        }
    }
}

/// `HealthCheckRequest { string service = 1; }` with gRPC's length prefix.
fn request(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(0x0a);
        varint(&mut message, service.len());
        message.put_slice(service.as_bytes());
    }
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).expect("a service name is short"));
    frame.put(message);
    frame.freeze()
}

fn varint(out: &mut BytesMut, mut value: usize) {
    while value >= 0x80 {
        out.put_u8((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

/// The field `ServingStatus status = 1` of a `HealthCheckResponse`; other fields are stepped over.
fn state(mut message: &[u8]) -> u64 {
    let mut state = 0;
    while let Some(tag) = read_varint(&mut message) {
        let Some(value) = read_varint(&mut message) else { break };
        match tag & 7 {
            0 if tag >> 3 == 1 => state = value,
            0 => {}
            2 => message = usize::try_from(value).ok().and_then(|n| message.get(n..)).unwrap_or_default(),
            _ => break,
        }
    }
    state
}

fn read_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, tail) = bytes.split_first()?;
        *bytes = tail;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_coded_as_protobuf() {
        assert_eq!(&request("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&request("ab")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        for (bytes, want) in [
            (&[][..], 0),
            (&[0x08, 1], 1),
            (&[0x08, 3], 3),
            (&[0x12, 2, 9, 9, 0x08, 2], 2),
            (&[0x12, 200], 0),
        ] {
            assert_eq!(state(bytes), want, "{bytes:?}");
        }
    }
}
