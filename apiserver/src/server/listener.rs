//! TCP and TLS: accepts connections, learns the client's certificate, speaks HTTP/1.1 and HTTP/2, drains at the end.

use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::cork::Corked;
use super::{Api, Server};

/// Connections at once.
const MOST_CONNECTIONS: usize = 10_000;
/// A client that has not finished its handshake by then is cut off.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// HTTP/2 streams on one connection, and how often an idle one is probed.
const STREAMS: u32 = 1000;
const KEEP_ALIVE: Duration = Duration::from_secs(30);

pub(super) fn bind(addr: SocketAddr) -> std::io::Result<StdListener> {
    let listener = StdListener::bind(addr)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

pub(super) async fn run(
    server: Arc<Server>,
    listener: StdListener,
    tls: Arc<rustls::ServerConfig>,
    stop: CancellationToken,
) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(e) => return tracing::error!(error = %e, "cannot listen"),
    };
    let acceptor = TlsAcceptor::from(tls);
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let graceful = GracefulShutdown::new();
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { break };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(e) => {
                // Out of file descriptors, most likely: give the others time to end.
                tracing::warn!(error = %e, "a connection was not accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let (server, acceptor, drain) = (server.clone(), acceptor.clone(), graceful.watcher());
        tokio::spawn(async move {
            serve(server, acceptor, stream, drain).await;
            drop(place);
        });
    }
    drop(listener);
    // Tells every connection to finish what is under way, and waits until the last one has ended.
    graceful.shutdown().await;
}

async fn serve(server: Arc<Server>, acceptor: TlsAcceptor, stream: TcpStream, drain: Watcher) {
    let _ = stream.set_nodelay(true);
    let stream = match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(e)) => return tracing::debug!(error = %e, "a TLS handshake failed"),
        Err(_) => return tracing::debug!("a TLS handshake took too long"),
    };
    let api = Api::network(server, stream.get_ref().1.peer_certificates().unwrap_or_default());
    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let stream = Corked::new(stream, http2);
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE);
    builder.http1().timer(TokioTimer::new());
    let connection =
        builder.serve_connection_with_upgrades(TokioIo::new(stream), TowerToHyperService::new(api));
    if let Err(e) = drain.watch(connection.into_owned()).await {
        tracing::debug!(error = %e, "a connection ended");
    }
}
