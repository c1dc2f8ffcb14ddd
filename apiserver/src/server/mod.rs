//! The server as a whole: what all requests share, how it starts, and how it stops.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::ip_allocator::ServiceAllocator;
use crate::registry::Registry;
use crate::store::{History, OpenError, Store};

/// What the composition decides. Everything else is derived.
#[derive(Clone)]
pub struct Config {
    /// Where the store lives; `None` keeps it in memory (tests).
    pub data_dir: Option<PathBuf>,
    /// The address to listen on and how to speak TLS there; `None` serves in process only.
    pub listen: Option<Listen>,
    pub service_cidr: (Ipv4Addr, u8),
    pub node_ports: std::ops::RangeInclusive<u16>,
    /// The address under which pods and nodes reach this server.
    pub advertise: SocketAddr,
    pub history: History,
    /// Requests at once that change nothing / that change something; more are answered 429.
    pub max_reads: usize,
    pub max_writes: usize,
    pub request_timeout: Duration,
    /// The cluster's certificates; `None` makes some that are forgotten with the process (tests).
    pub pki: Option<Arc<crate::pki::Pki>>,
}

/// An address and the TLS identity shown there. There is no plain-text listener.
#[derive(Clone)]
pub struct Listen {
    pub addr: SocketAddr,
    pub tls: Arc<rustls::ServerConfig>,
}

/// The running server: everything a request may need, shared by all of them.
pub struct Server {
    pub config: Config,
    pub registry: Registry,
    pub store: Store,
    /// Which cluster IPs and node ports are taken.
    pub services: ServiceAllocator,
    /// Certificates, authentication, authorisation, admission.
    pub access: crate::access::Access,
}

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("open the store")]
    Store(#[from] OpenError),
    #[error("listen on {addr}")]
    Listen { addr: SocketAddr, source: std::io::Error },
}

/// A started server.
pub struct Running {
    pub server: Arc<Server>,
    /// The bound address, where there is a listener.
    pub addr: Option<SocketAddr>,
}

// === impl Config ===

impl Default for Config {
    fn default() -> Self {
        Config {
            data_dir: None,
            listen: None,
            service_cidr: (Ipv4Addr::new(10, 96, 0, 0), 16),
            node_ports: 30000..=32767,
            advertise: SocketAddr::from(([127, 0, 0, 1], 6443)),
            history: History::default(),
            max_reads: 400,
            max_writes: 200,
            request_timeout: Duration::from_secs(60),
            pki: None,
        }
    }
}
