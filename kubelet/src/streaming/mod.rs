//! The HTTPS endpoints of a node, under upstream's kubelet paths: logs, exec, attach, port-forward, health, pods, metrics.
//!
//! Every request is judged (`access`) before anything else; nothing is served in plain text.

mod access;
mod channels;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod hostile;
mod logs;
mod node_logs;
mod port_forward;
mod sessions;
mod spdy;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::Router;
use axum::body::Body;
use axum::extract::{FromRequestParts, Path, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use coracle_api::query::decoded;
use coracle_listener::Limits;
use futures::StreamExt;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::ResolvesServerCert;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::time_provider::TimeProvider;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::config::Serving;
use crate::cri::ContainerRecord;
use crate::runtime::Runtime;
use crate::sys::inotify::Watcher;
use access::{Access, Shown};

/// What the endpoints ask of the pod side.
pub trait Pods: Send + Sync + 'static {
    /// The newest container of that name in a pod (`previous`: the one before it).
    fn container(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        previous: bool,
    ) -> Result<ContainerRecord, Absent>;

    /// The network namespace file of a pod; `None` for a pod in the host's network.
    fn network(&self, namespace: &str, pod: &str) -> Result<Option<PathBuf>, Absent>;

    /// Is cancelled when the container has ended and its log is complete.
    fn ended(&self, container_id: &str) -> CancellationToken;

    /// `GET /pods`: a `PodList` as JSON.
    fn list(&self) -> serde_json::Value;

    /// `GET /stats/summary`, as JSON.
    fn summary(&self) -> futures::future::BoxFuture<'_, serde_json::Value>;

    /// One of the pages below `/metrics`, in Prometheus' text form.
    fn metrics(&self, page: MetricsPage) -> futures::future::BoxFuture<'_, String>;

    /// `GET /runningpods/`: a `PodList` of what the runtime runs, as JSON.
    fn running(&self) -> serde_json::Value;

    /// `GET /configz`, as JSON.
    fn configz(&self) -> serde_json::Value;
}

/// What `/metrics`, `/metrics/resource`, `/metrics/cadvisor` and `/metrics/probes` tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricsPage {
    Kubelet,
    Resource,
    Cadvisor,
    Probes,
}

/// What was asked for and is not on this node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Absent {
    #[error("pod does not exist")]
    Pod,
    #[error("container not found ({0:?})")]
    Container(String),
    #[error("previous terminated container {container:?} in pod {pod:?} not found")]
    Previous { container: String, pod: String },
    #[error("container {container:?} in pod {pod:?} is waiting to start: {reason}")]
    Waiting { container: String, pod: String, reason: String },
}

/// The endpoints' view of the node.
#[derive(Clone)]
pub struct Endpoints {
    pub runtime: Runtime,
    pub pods: Arc<dyn Pods>,
    /// The directory of all logs.
    pub log_dir: PathBuf,
}

#[derive(Clone)]
struct Node {
    endpoints: Endpoints,
    access: Arc<Access>,
    watcher: Arc<Watcher>,
}

/// A bound listener; `serve` runs it.
pub struct Listener {
    tcp: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    time: Arc<dyn TimeProvider>,
    idle_timeout: Duration,
}

// === impl Listener ===

impl Listener {
    /// Binds and prepares TLS.
    pub async fn bind(serving: &Serving, names: Vec<String>) -> Result<Self> {
        let address = SocketAddr::new(serving.listen, serving.port);
        let tcp = TcpListener::bind(address).await.with_context(|| format!("listen on {address}"))?;
        let tls = Arc::new(tls(serving, names)?);
        Ok(Listener { tcp, tls, time: serving.time.clone(), idle_timeout: serving.idle_timeout })
    }

    pub fn port(&self) -> u16 {
        self.tcp.local_addr().map(|a| a.port()).unwrap_or_default()
    }

    /// Serves until `shutdown`; open sessions are cut off then.
    pub async fn serve(
        self,
        endpoints: Endpoints,
        client: kube::Client,
        node_name: String,
        shutdown: CancellationToken,
    ) {
        let access = Arc::new(Access::new(client, node_name, self.time));
        let watcher = Watcher::new();
        watcher.prepare();
        let node = Node { endpoints, access, watcher };
        let router = router(node);
        let service = move |certificates: &[CertificateDer<'_>]| {
            let shown = certificates.first().and_then(|c| Shown::of_certificate(c));
            router.clone().layer(axum::Extension(shown))
        };
        let sessions =
            coracle_listener::serve(self.tcp, self.tls, limits(self.idle_timeout), service, shutdown.clone());
        tokio::select! {
            () = sessions => {}
            () = shutdown.cancelled() => {}
        }
    }
}

/// A node's endpoints are asked by the API server and by those who collect metrics.
fn limits(quiet: Duration) -> Limits {
    let all = Limits::of_process();
    let connections = all.connections.min(2_000);
    Limits {
        connections,
        silent: (connections / 10).max(1),
        per_address: (connections / 2).max(1),
        quiet,
        ..all
    }
}

/// The TLS of the node's endpoints.
pub fn tls(serving: &Serving, names: Vec<String>) -> Result<rustls::ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let certificate: Arc<dyn ResolvesServerCert> = match &serving.certificate {
        Some(certificate) => certificate.clone(),
        None => {
            let own = rcgen::generate_simple_self_signed(names).context("a serving certificate")?;
            let key = PrivateKeyDer::try_from(own.signing_key.serialize_der()).map_err(anyhow::Error::msg)?;
            let own = CertifiedKey::from_der(vec![own.cert.der().clone()], key, &provider)?;
            Arc::new(SingleCertAndKey::from(own))
        }
    };
    let config = rustls::ServerConfig::builder_with_details(provider.clone(), serving.time.clone())
        .with_safe_default_protocol_versions()?;
    let config = match &serving.client_ca {
        Some(bundle) => {
            let mut roots = rustls::RootCertStore::empty();
            for certificate in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
                roots.add(certificate.context("client CA")?)?;
            }
            let verifier =
                rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            config.with_client_cert_verifier(verifier.allow_unauthenticated().build()?)
        }
        None => config.with_no_client_auth(),
    };
    Ok(config.with_cert_resolver(certificate))
}

fn router(node: Node) -> Router {
    let sessions = |name: &str| {
        [
            format!("/{name}/{{namespace}}/{{pod}}/{{container}}"),
            format!("/{name}/{{namespace}}/{{pod}}/{{uid}}/{{container}}"),
        ]
    };
    let page = |page: MetricsPage| get(move |State(node): State<Node>| metrics(node, page));
    let mut router = Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/healthz/ping", get(|| async { "ok" }))
        .route("/healthz/log", get(|| async { "ok" }))
        .route("/healthz/syncloop", get(|| async { "ok" }))
        .route("/pods", get(pods))
        .route("/pods/", get(pods))
        .route("/runningpods", get(running))
        .route("/runningpods/", get(running))
        .route("/configz", get(configz))
        .route("/logs/", get(|| node_logs::answer(node_logs::DIRECTORY, String::new())))
        .route("/logs/{*path}", get(|Path(path): Path<String>| node_logs::answer(node_logs::DIRECTORY, path)))
        .route("/stats/summary", get(summary))
        .route("/metrics", page(MetricsPage::Kubelet))
        .route("/metrics/resource", page(MetricsPage::Resource))
        .route("/metrics/cadvisor", page(MetricsPage::Cadvisor))
        .route("/metrics/probes", page(MetricsPage::Probes))
        .route("/containerLogs/{namespace}/{pod}/{container}", get(container_logs))
        .route("/portForward/{namespace}/{pod}", any(sessions::port_forward))
        .route("/portForward/{namespace}/{pod}/{uid}", any(sessions::port_forward));
    for path in sessions("exec") {
        router = router.route(&path, any(sessions::exec));
    }
    for path in sessions("attach") {
        router = router.route(&path, any(sessions::attach));
    }
    router.layer(middleware::from_fn_with_state(node.clone(), judge)).with_state(node)
}

async fn judge(State(node): State<Node>, request: Request, next: Next) -> Response {
    let shown = request.extensions().get::<Option<Shown>>().cloned().flatten();
    let authorization =
        request.headers().get(header::AUTHORIZATION).and_then(|v| v.to_str().ok()).map(str::to_owned);
    let verdict =
        node.access.check(shown.as_ref(), authorization.as_deref(), request.method(), request.uri().path());
    match verdict.await {
        Ok(()) => next.run(request).await,
        Err((status, message)) => (status, message).into_response(),
    }
}

async fn pods(State(node): State<Node>) -> Response {
    json(&node.endpoints.pods.list())
}

async fn summary(State(node): State<Node>) -> Response {
    json(&node.endpoints.pods.summary().await)
}

async fn running(State(node): State<Node>) -> Response {
    json(&node.endpoints.pods.running())
}

async fn configz(State(node): State<Node>) -> Response {
    json(&node.endpoints.pods.configz())
}

async fn metrics(node: Node, page: MetricsPage) -> Response {
    let text = node.endpoints.pods.metrics(page).await;
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

fn json(value: &serde_json::Value) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}

/// The decoded pairs of a query string.
fn query(uri: &axum::http::Uri) -> Vec<(String, String)> {
    let pairs = uri.query().unwrap_or_default().split('&').filter(|p| !p.is_empty());
    pairs
        .map(|p| p.split_once('=').unwrap_or((p, "")))
        .map(|(n, v)| (decoded(n).into_owned(), decoded(v).into_owned()))
        .collect()
}

/// The answer to a request for something that is not here, with upstream's codes.
fn absent(absent: &Absent) -> Response {
    let status = match absent {
        Absent::Pod => StatusCode::NOT_FOUND,
        Absent::Container(_) => StatusCode::INTERNAL_SERVER_ERROR,
        Absent::Previous { .. } | Absent::Waiting { .. } => StatusCode::BAD_REQUEST,
    };
    (status, absent.to_string()).into_response()
}

async fn container_logs(
    State(node): State<Node>,
    Path((namespace, pod, container)): Path<(String, String, String)>,
    request: Request,
) -> Response {
    let options = match logs::LogOptions::parse(&query(request.uri()), jiff::Timestamp::now()) {
        Ok(options) => options,
        Err(message) => return (StatusCode::BAD_REQUEST, message).into_response(),
    };
    let record = match node.endpoints.pods.container(&namespace, &pod, &container, options.previous) {
        Ok(record) => record,
        Err(why) => return absent(&why),
    };
    let ended = node.endpoints.pods.ended(&record.id);
    let log_dir = node.endpoints.log_dir.clone();
    let log = boxed(logs::read(log_dir, record.log_path, options, node.watcher.clone(), ended));
    if !sessions::is_websocket(&request) {
        return ([(header::CONTENT_TYPE, "text/plain")], Body::from_stream(log)).into_response();
    }
    let (mut parts, _) = request.into_parts();
    match axum::extract::WebSocketUpgrade::from_request_parts(&mut parts, &()).await {
        Ok(upgrade) => upgrade
            .protocols(["binary.k8s.io", "base64.binary.k8s.io"])
            .max_message_size(MAX_WORDS)
            .on_upgrade(|socket| sessions::send_log(socket, log)),
        Err(rejection) => rejection.into_response(),
    }
}

/// What a reader of a log may say at once: there is nothing to say.
const MAX_WORDS: usize = 4 << 10;

/// Boxed so that both carriers of a log are the same to their callers.
type LogStream = futures::stream::BoxStream<'static, std::io::Result<bytes::Bytes>>;

fn boxed(log: impl futures::Stream<Item = std::io::Result<bytes::Bytes>> + Send + 'static) -> LogStream {
    log.boxed()
}
