//! The server as a whole: what all requests share, how it starts, and how it stops.

mod api;
mod expiry;
mod listener;

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::access::{self, Access};
use crate::authn::User;
use crate::flow_control::{Bodies, FlowControl, Streams};
use crate::ip_allocator::ServiceAllocator;
use crate::metrics::Metrics;
use crate::openapi::Documents;
use crate::pki::{Pki, PkiError};
use crate::registry::Registry;
use crate::status::Status;
use crate::store::{History, OpenError, Options, Store};
use crate::{admission, aggregation, apart, bootstrap, crd, flow_control, pki, resources};

pub use api::Api;

/// How long open requests may go on once the server is told to stop.
const DRAIN: Duration = Duration::from_secs(5);

/// What the composition decides. Everything else is derived.
#[derive(Clone)]
pub struct Config {
    /// Where the store lives; `None` keeps it in memory (tests).
    pub data_dir: Option<PathBuf>,
    /// The cluster's certificates; `None` opens (or makes) them in `data_dir/pki`.
    pub pki: Option<Arc<Pki>>,
    /// Where to listen; `None` serves in process only. There is no plain-text listener.
    pub listen: Option<Listen>,
    pub service_cidr: (Ipv4Addr, u8),
    pub node_ports: std::ops::RangeInclusive<u16>,
    /// The address under which pods and nodes reach this server. Port 0 becomes the listener's.
    pub advertise: SocketAddr,
    pub history: History,
    /// Requests at once that change nothing / that change something: together the seats that priority levels share.
    pub max_reads: usize,
    pub max_writes: usize,
    /// Watches, and sessions (log, exec, attach, port-forward, proxy), that one user may have at once.
    pub max_watches_per_user: usize,
    pub max_sessions_per_user: usize,
    pub request_timeout: Duration,
    pub access: access::Options,
}

/// An address, and the TLS identity shown there.
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
    /// Certificates, authentication, authorisation, admission.
    pub access: Access,
    /// Cluster IPs and node ports.
    pub services: Arc<ServiceAllocator>,
    pub openapi: Documents,
    pub metrics: Metrics,
    pub(crate) flows: FlowControl,
    /// Request bodies on their way.
    pub(crate) bodies: Bodies,
    /// What lasts, by user.
    pub(crate) streams: Streams,
    /// Everything that this server does beside the requests that wait for it; the end waits for all of it, so long as
    /// [`DRAIN`] lasts.
    pub(crate) tasks: TaskTracker,
    ready: AtomicBool,
    /// When this program began to serve.
    pub(crate) started: Timestamp,
    /// Cancelled when the server is to stop: streams end then, and answers under way get [`DRAIN`] to finish.
    pub(crate) stop: CancellationToken,
}

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("open the store")]
    Store(#[from] OpenError),
    #[error("the cluster's certificates")]
    Pki(#[from] PkiError),
    #[error("listen on {addr}")]
    Listen { addr: SocketAddr, source: std::io::Error },
    #[error("write the first objects: {0}")]
    Bootstrap(Status),
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
            pki: None,
            listen: None,
            service_cidr: (Ipv4Addr::new(10, 96, 0, 0), 16),
            node_ports: 30000..=32767,
            advertise: SocketAddr::from(([127, 0, 0, 1], 6443)),
            history: History::default(),
            max_reads: 400,
            max_writes: 200,
            max_watches_per_user: 2_000,
            max_sessions_per_user: 500,
            request_timeout: Duration::from_secs(60),
            access: access::Options::default(),
        }
    }
}

// === impl Server ===

impl Server {
    /// Opens the store, listens, and writes the first objects. Once this answers, the server is ready.
    pub async fn start(mut config: Config, stop: CancellationToken) -> Result<Running, StartError> {
        let pki = match (&config.pki, &config.data_dir) {
            (Some(pki), _) => pki.clone(),
            (None, Some(dir)) => Arc::new(Pki::open(&dir.join("pki"), Timestamp::now())?),
            (None, None) => Arc::new(Pki::ephemeral(Timestamp::now())?),
        };
        let now = pki.clock().now();
        let listener = match config.listen.take() {
            Some(Listen { addr, tls }) => {
                let socket = listener::bind(addr).map_err(|source| StartError::Listen { addr, source })?;
                Some((socket, tls))
            }
            None => None,
        };
        let addr = listener.as_ref().and_then(|(socket, _)| socket.local_addr().ok());
        if let (0, Some(addr)) = (config.advertise.port(), addr) {
            config.advertise.set_port(addr.port());
        }
        let server = Arc::new(Server::new(config, &pki, now, stop).await?);
        let tasks = server.tasks.clone();
        if let Some((socket, tls)) = listener {
            let limits = coracle_listener::Limits::of_process();
            tasks.spawn(listener::run(server.clone(), socket, tls, limits, server.stop.clone()));
        }
        bootstrap::reconcile(&server).await.map_err(StartError::Bootstrap)?;
        tasks.spawn(bootstrap::publish_authorities(server.clone(), server.stop.clone()));
        tasks.spawn(bootstrap::tell_failures(server.clone(), server.stop.clone()));
        let renewed = server.access.renewed.clone();
        tasks.spawn(pki::renewal::run(renewed, pki.clock(), server.stop.clone()));
        if let Some(uses) = server.access.authn.tokens.uses() {
            tasks.spawn(crate::authn::note_uses(server.clone(), uses, server.stop.clone()));
        }
        if let Some(provider) = server.access.authn.provider.clone() {
            tasks.spawn(provider.run(server.stop.clone()));
        }
        tasks.spawn(bootstrap::aggregate_roles(server.clone(), server.stop.clone()));
        tasks.spawn(flow_control::tell_dangling(server.clone(), server.stop.clone()));
        let mut definitions = crd::Definitions::default();
        definitions.settle(&server).await;
        // Definitions are large.
        tasks.spawn_on(crd::run(server.clone(), definitions, server.stop.clone()), &apart::workers());
        let mut services = aggregation::Services::default();
        services.settle(&server).await;
        tasks.spawn(aggregation::run(server.clone(), services, server.stop.clone()));
        tasks.spawn(crate::openapi::forget(server.clone(), server.stop.clone()));
        tasks.spawn(admission::follow_policies(server.clone(), server.stop.clone()));
        expiry::spawn(&server, &tasks);
        server.ready.store(true, Ordering::Release);
        Ok(Running { server, addr })
    }

    async fn new(
        config: Config,
        pki: &Arc<Pki>,
        now: Timestamp,
        stop: CancellationToken,
    ) -> Result<Server, StartError> {
        let registry = Registry::new(resources::builtins());
        let mut fields = HashMap::new();
        for resource in registry.snapshot().resources().filter(|r| r.conversion.is_none()) {
            fields.entry(resource.storage.clone()).or_insert_with(|| resource.fields.clone());
        }
        let options = Options { dir: config.data_dir.clone(), history: config.history.clone(), fields };
        Ok(Server {
            store: Store::open(options).await?,
            access: Access::new(pki.clone(), &config.access, now)?,
            services: Arc::new(ServiceAllocator::new(config.service_cidr, config.node_ports.clone())),
            openapi: Documents::default(),
            metrics: Metrics::default(),
            flows: FlowControl::new(u32::try_from(config.max_reads + config.max_writes).unwrap_or(u32::MAX)),
            bodies: Bodies::default(),
            streams: Streams::new(config.max_watches_per_user, config.max_sessions_per_user),
            tasks: TaskTracker::new(),
            ready: AtomicBool::new(false),
            started: now,
            stop,
            registry,
            config,
        })
    }

    /// Whether the first objects are there.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    pub fn is_stopping(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Does to its end what consists of several writes, whoever still waits for it.
    pub(crate) async fn see_through<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Status>> + Send + 'static,
    ) -> Result<T, Status> {
        let done = apart::joined(self.tasks.spawn(work)).await;
        done.unwrap_or_else(|| Err(Status::unavailable("apiserver is shutting down")))
    }
}

// === impl Running ===

impl Running {
    /// The API as a service in this process, for one identity: what `kube::Client::new` takes.
    pub fn router(&self, user: User) -> Api {
        Api::known(self.server.clone(), user)
    }

    /// Takes no more requests, lets open ones end, and closes the store.
    pub async fn stop(self) {
        self.server.stop.cancel();
        self.server.tasks.close();
        if tokio::time::timeout(DRAIN, self.server.tasks.wait()).await.is_err() {
            tracing::warn!("some requests did not end in time");
        }
        self.server.store.close().await;
    }
}
