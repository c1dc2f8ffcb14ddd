//! The API on the network: each connection sees it as the one whose certificate it has shown.

use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;

use coracle_listener::Limits;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{Api, Server};

pub(super) fn bind(addr: SocketAddr) -> std::io::Result<StdListener> {
    let listener = StdListener::bind(addr)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

pub(super) async fn run(
    server: Arc<Server>,
    listener: StdListener,
    tls: Arc<rustls::ServerConfig>,
    limits: Limits,
    stop: CancellationToken,
) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(e) => return tracing::error!(error = %e, "cannot listen"),
    };
    let service = move |certificates: &[_]| Api::network(server.clone(), certificates);
    coracle_listener::serve(listener, tls, limits, service, stop).await;
}
