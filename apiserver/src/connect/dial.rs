//! One HTTP/1.1 exchange with a kubelet, a pod or a node, streaming; upgraded connections are copied both ways.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::header::{CONNECTION, HOST, HeaderName, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::proxy;
use crate::authn::front_proxy;
use crate::flow_control::Held;
use crate::status::{Result, Status};
use crate::{Server, apart};

const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a handshake of TLS may take, as upstream's transports have it.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How much of a kubelet's error text is passed on.
const MAX_ERROR_BYTES: usize = 10 * 1024;
/// Headers that end at this server: those of one connection, and the client's credentials.
const NOT_FORWARDED: [&str; 8] = [
    "authorization",
    "host",
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
];

/// The other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) tls: bool,
    /// Whether it is a kubelet: our certificate is shown there, and its errors become a `Status`.
    pub(super) kubelet: bool,
    /// Whether addresses of this machine and of its link are refused, whatever the host's name is looked up to be.
    pub(super) guarded: bool,
}

/// Sends the client's request to the target under another path, and its answer back.
pub(super) async fn forward(
    server: &Arc<Server>,
    target: &Target,
    path: &str,
    mut request: Request<Body>,
    held: Held,
) -> Result<Response<Body>> {
    let unreachable = |why: String| match target.kubelet {
        true => Status::new(500, "InternalError", format!("error dialing backend: {why}")),
        false => Status::unavailable(format!("error trying to reach service: {why}")),
    };
    let addresses = addresses(target).await.map_err(unreachable)?;
    if target.guarded && !addresses.iter().all(|address| proxy::is_global_unicast(address.ip())) {
        return Err(Status::bad_request("address not allowed"));
    }
    let mut sender = connect(server, target, &addresses).await.map_err(unreachable)?;
    let client = asks_to_upgrade(request.headers()).then(|| hyper::upgrade::on(&mut request));
    let onward = onward(target, path, request)?;
    let answer = sender.send_request(onward).await.map_err(|e| unreachable(e.to_string()))?;
    if target.kubelet && (answer.status().is_client_error() || answer.status().is_server_error()) {
        return Err(kubelet_error(answer).await);
    }
    relay(server, client, held, answer)
}

/// Another server's answer as the client's; where it is an upgrade, what the two then say is carried both ways. The
/// session's place is held as long: to the end of either, or of the server. Who wanted to upgrade gets that, or an error: no redirect, by which the server would
/// have the client ask something else with the client's own rights.
pub(crate) fn relay(
    server: &Server,
    client: Option<OnUpgrade>,
    held: Held,
    mut answer: Response<Incoming>,
) -> Result<Response<Body>> {
    let code = answer.status();
    if client.is_some() && code != StatusCode::SWITCHING_PROTOCOLS && code.as_u16() < 400 {
        return Err(Status::internal(format!("invalid upgrade response: status code {}", code.as_u16())));
    }
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        let Some(client) = client else { return Err(Status::internal("upgrade without request")) };
        let far = hyper::upgrade::on(&mut answer);
        let session = async move {
            let _held = held;
            if let (Ok(client), Ok(far)) = tokio::join!(client, far) {
                // Either end may close at any time: that is the end of the session, not an error.
                let _ =
                    tokio::io::copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(far)).await;
            }
        };
        let session = server.stop.clone().run_until_cancelled_owned(session);
        server.tasks.spawn_on(session, &apart::workers());
        let (parts, _) = answer.into_parts();
        return Ok(Response::from_parts(parts, Body::empty()));
    }
    let (mut parts, body) = answer.into_parts();
    for name in [CONNECTION, TRANSFER_ENCODING] {
        parts.headers.remove(name);
    }
    Ok(Response::from_parts(parts, held.until_end_of(apart::body(Body::new(body)))))
}

/// The request as the target shall see it.
fn onward(target: &Target, path: &str, request: Request<Body>) -> Result<Request<Body>> {
    let (parts, body) = request.into_parts();
    let mut headers = forwarded(&parts.headers);
    let host = HeaderValue::from_str(&authority(target)).map_err(Status::internal)?;
    headers.insert(HOST, host);
    let mut onward = Request::builder()
        .method(parts.method)
        .uri(path)
        .body(body)
        .map_err(|e| Status::bad_request(e.to_string()))?;
    *onward.headers_mut() = headers;
    Ok(onward)
}

/// Whether a request wants to go on in another protocol.
pub(crate) fn asks_to_upgrade(headers: &HeaderMap) -> bool {
    let asks =
        |value: &HeaderValue| value.as_bytes().to_ascii_lowercase().windows(7).any(|w| w == b"upgrade");
    headers.contains_key(UPGRADE) && headers.get_all(CONNECTION).iter().any(asks)
}

/// The headers of a client that go on to another server: none that end here, none that say who asks.
pub(crate) fn forwarded(headers: &HeaderMap) -> HeaderMap {
    let ends_here = |name: &HeaderName| {
        NOT_FORWARDED.contains(&name.as_str())
            || name.as_str().starts_with("impersonate-")
            || front_proxy::is_identity(name)
    };
    let mut onward = HeaderMap::new();
    for (name, value) in headers.iter().filter(|(name, _)| !ends_here(name)) {
        onward.append(name.clone(), value.clone());
    }
    match asks_to_upgrade(headers) {
        true => drop(onward.insert(CONNECTION, HeaderValue::from_static("Upgrade"))),
        false => drop(onward.remove(UPGRADE)),
    }
    onward
}

pub(super) fn authority(target: &Target) -> String {
    match target.host.contains(':') {
        true => format!("[{}]:{}", target.host, target.port),
        false => format!("{}:{}", target.host, target.port),
    }
}

/// Where the target is found; looked up once, so that what is dialled is what was looked at.
async fn addresses(target: &Target) -> Result<Vec<SocketAddr>, String> {
    let found = tokio::net::lookup_host((target.host.as_str(), target.port));
    match tokio::time::timeout(DIAL_TIMEOUT, found).await {
        Ok(Ok(found)) => Ok(found.collect()),
        Ok(Err(e)) => Err(format!("dial tcp: lookup {}: {e}", target.host)),
        Err(_) => Err(format!("dial tcp: lookup {}: i/o timeout", target.host)),
    }
}

async fn connect(
    server: &Arc<Server>,
    target: &Target,
    addresses: &[SocketAddr],
) -> Result<SendRequest<Body>, String> {
    let dial = TcpStream::connect(addresses);
    let reached = tokio::time::timeout(DIAL_TIMEOUT, dial).await;
    let stream = match reached {
        Ok(Ok(stream)) => stream,
        Ok(Err(e)) => return Err(format!("dial tcp {}: {e}", authority(target))),
        Err(_) => return Err(format!("dial tcp {}: i/o timeout", authority(target))),
    };
    // Interactive sessions send single key strokes.
    stream.set_nodelay(true).map_err(|e| e.to_string())?;
    if !target.tls {
        return handshake(stream).await;
    }
    let config = match target.kubelet {
        true => server.access.node_client.clone(),
        false => server.access.pod_client.clone(),
    };
    let name = ServerName::try_from(target.host.clone()).map_err(|e| e.to_string())?;
    let connecting = tokio_rustls::TlsConnector::from(config).connect(name, stream);
    let connected = tokio::time::timeout(HANDSHAKE_TIMEOUT, connecting).await;
    let tls = connected.map_err(|_| "net/http: TLS handshake timeout")?.map_err(|e| e.to_string())?;
    handshake(tls).await
}

async fn handshake<S>(stream: S) -> Result<SendRequest<Body>, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    // Lives as long as the exchange: it ends when the sender and the body are dropped.
    // What the other end says, and how much, is its own choice: it is read by workers that yield.
    apart::workers().spawn(connection.with_upgrades());
    Ok(sender)
}

/// A kubelet answers errors as text; clients get a `Status`.
async fn kubelet_error(answer: Response<Incoming>) -> Status {
    let code = answer.status().as_u16();
    let body = Limited::new(answer.into_body(), MAX_ERROR_BYTES)
        .collect()
        .await
        .map(|b| b.to_bytes())
        .unwrap_or_default();
    let text = String::from_utf8_lossy(&body).trim().to_owned();
    let reason = match code {
        400 => "BadRequest",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "NotFound",
        405 => "MethodNotAllowed",
        429 => "TooManyRequests",
        503 => "ServiceUnavailable",
        _ => "InternalError",
    };
    Status::new(code, reason, text)
}
