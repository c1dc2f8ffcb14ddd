//! HTTPS for whoever connects: the API server's and the kubelet's listener.
//!
//! Everything a peer can make a listener hold has a bound and a time here: handshakes, silent and idle connections, open
//! ones in all, request heads, streams on one connection, and answers that are asked for and never read. Where there is no
//! place left, those who ask for nothing make room, those of the busiest address first: a client that has something to ask
//! is never shut out by ones that have not.

mod body;
mod connections;
mod cork;
mod idle;
mod stream;

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::header::{CONNECTION, HeaderValue};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rustls::pki_types::CertificateDer;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::{Service, ServiceExt};

use connections::{Connections, Place};
use cork::Corked;
use idle::Idle;
use stream::Stream;

/// HTTP/2 streams on one connection: what Go's server, and so upstream, allows.
const STREAMS: u32 = 250;
/// How often an HTTP/2 peer is asked whether it still lives, and how long it may take to answer.
const PING: Duration = Duration::from_secs(30);
/// The bytes of a request's head: long selectors are part of it.
const HEAD: u32 = 256 << 10;
/// How long a peer may take to hear that its connection is closed.
const FAREWELL: Duration = Duration::from_secs(5);
/// What is kept for one stream's peer who reads slower than is written.
const UNREAD: usize = 256 << 10;
/// The pause after an `accept` that failed, doubled while it goes on.
const PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(1));

/// What all peers together may hold, and for how long.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Open connections.
    pub connections: usize,
    /// Those among them that have asked for nothing yet.
    pub silent: usize,
    /// Connections of one address that are answered at the same time.
    pub per_address: usize,
    /// From the first byte to the end of the TLS handshake.
    pub handshake: Duration,
    /// From there to the first request's head, and for each head that is begun.
    pub head: Duration,
    /// How long a connection may stay open that nothing goes on on.
    pub idle: Duration,
    /// How long an answer may wait for its peer to read.
    pub stalled: Duration,
    /// How long nothing may go over a connection, an upgraded one too; zero: for ever.
    pub quiet: Duration,
    /// Answers 401 in a row after which a connection is ended. Upstream has no such bound.
    pub unauthorized: usize,
}

/// Raises the number of files that this process may open to what the system lets it, and says how many that are.
pub fn raise_open_files() -> u64 {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1024, 1024));
    match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(_) => soft,
    }
}

// === impl Limits ===

impl Limits {
    /// What this process may offer, by the number of files that it may open.
    pub fn of_process() -> Self {
        Limits::within(getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft))
    }

    /// What a process may offer that can have so many open files, upstream's times for the rest.
    pub fn within(files: u64) -> Self {
        let connections = usize::try_from(files / 2).unwrap_or(usize::MAX).min(10_000);
        Limits {
            connections,
            silent: (connections / 10).max(1),
            per_address: (connections / 2).max(1),
            handshake: Duration::from_secs(10),
            head: Duration::from_secs(32),
            idle: Duration::from_secs(90),
            stalled: Duration::from_secs(60),
            quiet: Duration::ZERO,
            unauthorized: 10,
        }
    }
}

/// Serves `accept`ed connections until `stop`; then waits until what is under way has ended.
///
/// `service` makes a connection's service from the peer's certificates (leaf first; empty where it showed none).
pub async fn serve<M, S>(
    tcp: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    limits: Limits,
    service: M,
    stop: CancellationToken,
) where
    M: Fn(&[CertificateDer<'static>]) -> S + Clone + Send + 'static,
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    let connections = Arc::new(Connections::new(limits));
    let acceptor = TlsAcceptor::from(tls);
    let open = TaskTracker::new();
    let mut pause = PAUSE.0;
    loop {
        let accepted = tokio::select! {
            accepted = tcp.accept() => accepted,
            () = stop.cancelled() => break,
        };
        let (socket, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(e) => {
                // Out of descriptors, most likely. Nothing that a peer does ends this loop or makes it spin.
                tracing::warn!(error = %e, "a connection was not accepted");
                connections.make_room();
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE.1);
                continue;
            }
        };
        pause = PAUSE.0;
        let Some(place) = connections.enter(address(peer)) else { continue };
        let (acceptor, service, stop) = (acceptor.clone(), service.clone(), stop.clone());
        open.spawn(async move {
            let evicted = place.evicted().clone();
            tokio::select! {
                () = connection(socket, acceptor, place, service, stop) => {}
                () = evicted.cancelled() => {}
            }
        });
    }
    drop(tcp);
    // Every connection finishes what is under way.
    open.close();
    open.wait().await;
}

/// An address as its owner is known: an IPv6 network of 64 bits is one machine's.
fn address(peer: SocketAddr) -> IpAddr {
    match peer.ip().to_canonical() {
        IpAddr::V6(ip) => {
            let network = u128::from(ip) & (u128::MAX << 64);
            IpAddr::V6(network.into())
        }
        ip @ IpAddr::V4(_) => ip,
    }
}

async fn connection<M, S>(
    socket: TcpStream,
    acceptor: TlsAcceptor,
    place: Place,
    service: M,
    stop: CancellationToken,
) where
    M: Fn(&[CertificateDer<'static>]) -> S,
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    // Without it small answers wait; that it fails is no reason not to serve.
    let _ = socket.set_nodelay(true);
    let limits = place.limits().clone();
    let handshake = tokio::select! {
        shaken = tokio::time::timeout(limits.handshake, acceptor.accept(socket)) => shaken,
        () = stop.cancelled() => return,
    };
    let tls = match handshake {
        Ok(Ok(tls)) => tls,
        Ok(Err(e)) => return tracing::debug!(error = %e, "a TLS handshake failed"),
        Err(_) => return tracing::debug!("a TLS handshake took too long"),
    };
    let session = tls.get_ref().1;
    let service = service(session.peer_certificates().unwrap_or_default());
    let http2 = session.alpn_protocol() == Some(b"h2");
    let state = place.state().clone();
    // The place goes with the stream, which outlives the HTTP connection where that is upgraded.
    let io =
        TokioIo::new(Corked::new(Idle::new(Stream::new(tls, place, limits.stalled), limits.quiet), http2));
    let counted = state.clone();
    let service = tower::service_fn(move |request: Request<Incoming>| {
        let asked = counted.ask();
        let service = service.clone();
        async move {
            let mut response = service.oneshot(request).await?;
            if asked.answered(response.status()) && !http2 {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response.map(|body| body::Counted::new(body, asked)))
        }
    });

    let builder = auto::Builder::new(TokioExecutor::new());
    // What the handshake has settled is not guessed again: a peer could be silent about it.
    let mut builder = if http2 { builder.http2_only() } else { builder.http1_only() };
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(HEAD)
        .max_send_buf_size(UNREAD)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING);
    builder.http1().timer(TokioTimer::new()).header_read_timeout(limits.head);
    let served = builder.serve_connection_with_upgrades(io, TowerToHyperService::new(service));
    let mut served = pin!(served.into_owned());
    let ended = tokio::select! {
        ended = &mut served => ended,
        why = state.worn_out() => {
            tracing::debug!("a connection is closed: {why}");
            served.as_mut().graceful_shutdown();
            // A peer that reads is told; one that does not is not waited for.
            tokio::time::timeout(FAREWELL, served).await.unwrap_or(Ok(()))
        }
        () = stop.cancelled() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(e) = ended {
        tracing::debug!(error = %e, "a connection ended");
    }
}

/// What a body's frames carry.
type Data = Bytes;

#[cfg(test)]
mod tests;
