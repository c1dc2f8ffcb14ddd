//! TCP connections, with failures in the words of Go's dialer.

use std::{io, net::IpAddr};

use tokio::{
    net::TcpStream,
    time::{Instant, timeout_at},
};

#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    #[error("dial tcp {0}: i/o timeout")]
    TimedOut(String),
    #[error("dial tcp {address}: connect: {}", words(error))]
    Refused { address: String, error: io::Error },
    #[error("dial tcp: lookup {0}: no such host")]
    NoSuchHost(String),
}

pub(super) async fn dial(host: &str, port: u16, deadline: Instant) -> Result<TcpStream, DialError> {
    let address = join(host, port);
    let name = host.trim_start_matches('[').trim_end_matches(']');
    let connect = async {
        if let Ok(ip) = name.parse::<IpAddr>() {
            return TcpStream::connect((ip, port))
                .await
                .map_err(|error| DialError::Refused { address: address.clone(), error });
        }
        let found: Vec<_> = match tokio::net::lookup_host((name, port)).await {
            Ok(found) => found.collect(),
            Err(_) => return Err(DialError::NoSuchHost(name.to_owned())),
        };
        let shown = found.first().map_or_else(|| address.clone(), ToString::to_string);
        TcpStream::connect(&found[..]).await.map_err(|error| DialError::Refused { address: shown, error })
    };
    timeout_at(deadline, connect).await.unwrap_or_else(|_| Err(DialError::TimedOut(address.clone())))
}

/// `host:port`, with brackets round an IPv6 address.
pub(super) fn join(host: &str, port: u16) -> String {
    if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// Go writes the kernel's messages in lower case.
pub(super) fn words(error: &io::Error) -> String {
    let text = match error.raw_os_error() {
        Some(code) => nix::errno::Errno::from_raw(code).desc().to_owned(),
        None => error.to_string(),
    };
    let mut chars = text.chars();
    chars.next().map(|c| c.to_lowercase().chain(chars).collect()).unwrap_or_default()
}

/// A duration as Go prints whole seconds.
pub(super) fn seconds(limit: std::time::Duration) -> String {
    let s = limit.as_secs();
    match (s / 3600, s / 60 % 60, s % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m{s}s"),
        (h, m, s) => format!("{h}h{m}m{s}s"),
    }
}
