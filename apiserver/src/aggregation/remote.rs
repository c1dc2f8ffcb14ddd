//! One group version that another server answers: where it is, how it is believed, and what is known of it.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::body::Body;
use coracle_api::{Object, conditions};
use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::pki_types::ServerName;
use rustls::sign::CertifiedKey;
use serde_json::Value;

use crate::Server;
use crate::authn::{User, front_proxy};
use crate::connect;
use crate::openapi::RemoteSwagger;
use crate::pki::ClientCertificate;
use crate::pki::trust;
use crate::webhook;

const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections that wait for the next request, and how long.
const MAX_IDLE: usize = 8;
const MAX_IDLE_TIME: Duration = Duration::from_secs(30);

/// A group version and the Service that answers it.
pub struct Remote {
    /// Of its `APIService`.
    pub name: String,
    pub group: String,
    pub version: String,
    pub group_priority: i64,
    pub version_priority: i64,
    pub(super) service: Service,
    trust: Trust,
    client: ArcSwap<Made>,
    available: AtomicBool,
    discovered: ArcSwap<Discovered>,
}

/// Where a server is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Service {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) port: u16,
}

/// How a server is believed, and what is shown to it.
struct Trust {
    insecure: bool,
    bundle: String,
    identity: Arc<ClientCertificate>,
}

/// A client with its connections, and the certificate that these were made with.
struct Made {
    shows: Arc<CertifiedKey>,
    client: Result<Client<HttpsConnector<HttpConnector>, Body>, String>,
}

/// What a server has said of itself.
#[derive(Debug, Default)]
pub struct Discovered {
    /// The group version's resources in the aggregated form of discovery.
    pub resources: Value,
    /// Whether it could be asked when that was last tried.
    pub is_current: bool,
    /// Where its OpenAPI document is, with the document's hash.
    pub openapi: Option<String>,
    /// Its part of the document of everything.
    pub swagger: Option<RemoteSwagger>,
}

/// Why a server did not answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    /// The Service has no endpoint to ask.
    #[error("{0}")]
    Unresolved(String),
    /// What it is to be believed by is of no use.
    #[error("{0}")]
    Unusable(String),
    #[error("{0}")]
    Unreachable(String),
}

// === impl Remote ===

impl Remote {
    /// From an `APIService` with a Service, which has been validated when it was written.
    pub(super) fn new(object: &Object, identity: &Arc<ClientCertificate>) -> Self {
        let spec = |key: &str| object.str_at(&["spec", key]).to_owned();
        let text = |key: &str| object.str_at(&["spec", "service", key]).to_owned();
        let number = |path: &[&str]| object.i64_at(path).unwrap_or_default();
        let port = u16::try_from(number(&["spec", "service", "port"])).unwrap_or(443);
        let service = Service { namespace: text("namespace"), name: text("name"), port };
        let insecure = object.at(&["spec", "insecureSkipTLSVerify"]) == Some(&Value::Bool(true));
        let bundle = object.str_at(&["spec", "caBundle"]).to_owned();
        let trust = Trust { insecure, bundle, identity: identity.clone() };
        let remote = Remote {
            name: object.name().to_owned(),
            group: spec("group"),
            version: spec("version"),
            group_priority: number(&["spec", "groupPriorityMinimum"]),
            version_priority: number(&["spec", "versionPriority"]),
            client: ArcSwap::from_pointee(trust.client(&service)),
            trust,
            service,
            available: AtomicBool::new(false),
            discovered: ArcSwap::default(),
        };
        remote.see(object);
        remote
    }

    /// Takes over what the `APIService` says of its availability.
    pub(super) fn see(&self, object: &Object) {
        self.set_available(conditions::is_true(object.items_at(&["status", "conditions"]), "Available"));
    }

    pub(super) fn set_available(&self, available: bool) {
        self.available.store(available, Ordering::Release);
    }

    pub(super) fn is_available(&self) -> bool {
        self.available.load(Ordering::Acquire)
    }

    pub fn discovered(&self) -> Arc<Discovered> {
        self.discovered.load_full()
    }

    pub(super) fn set_discovered(&self, discovered: Arc<Discovered>) {
        self.discovered.store(discovered);
    }

    /// The path of its discovery document.
    pub(super) fn path(&self) -> String {
        format!("/apis/{}/{}", self.group, self.version)
    }

    /// The client. Its idle connections are not used for longer than the certificate that they showed: a renewed one makes
    /// new connections, and what is under way goes on.
    fn made(&self) -> Arc<Made> {
        let made = self.client.load_full();
        if Arc::ptr_eq(&made.shows, &self.trust.identity.current()) {
            return made;
        }
        let anew = Arc::new(self.trust.client(&self.service));
        self.client.store(anew.clone());
        anew
    }

    /// The `host:port` of one of the Service's endpoints.
    pub(super) fn resolve(&self, server: &Server) -> Result<String, CallError> {
        let Service { namespace, name, port } = &self.service;
        let end = connect::endpoint(server, namespace, name, &port.to_string());
        let (host, port) = end.map_err(|e| CallError::Unresolved(e.to_string()))?;
        Ok(if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") })
    }

    /// Asks an endpoint in the name of a user. The request's URI is a path; its headers go as they are.
    pub(super) async fn call(
        &self,
        address: &str,
        user: &User,
        mut request: Request<Body>,
    ) -> Result<Response<Incoming>, CallError> {
        let made = self.made();
        let client = made.client.as_ref().map_err(|why| CallError::Unusable(why.clone()))?;
        let unusable = |e: http::Error| CallError::Unusable(e.to_string());
        front_proxy::name(user, request.headers_mut()).map_err(unusable)?;
        let path = request.uri().path_and_query().map_or("/", |p| p.as_str());
        let uri = Uri::builder().scheme("https").authority(address).path_and_query(path).build();
        *request.uri_mut() = uri.map_err(unusable)?;
        client.request(request).await.map_err(|e| CallError::Unreachable(explain(&e, address)))
    }
}

// === impl Trust ===

impl Trust {
    fn client(&self, service: &Service) -> Made {
        let shows = self.identity.current();
        let tls = match self.insecure {
            true => trust::insecure_client(&self.identity),
            false => trust::client(&self.bundle, Some(&self.identity)),
        };
        let host = format!("{}.{}.svc", service.name, service.namespace);
        Made { shows, client: tls.and_then(|tls| client(tls, host)) }
    }
}

fn client(
    tls: rustls::ClientConfig,
    host: String,
) -> Result<Client<HttpsConnector<HttpConnector>, Body>, String> {
    let name = ServerName::try_from(host).map_err(|e| e.to_string())?;
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(DIAL_TIMEOUT));
    let https = HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_only()
        .with_server_name_resolver(FixedServerNameResolver::new(name))
        .enable_http1()
        .wrap_connector(tcp);
    Ok(Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(MAX_IDLE_TIME)
        .pool_max_idle_per_host(MAX_IDLE)
        .build(https))
}

/// Connectors wrap the errors of TLS and of the system.
fn innermost(mut e: &std::io::Error) -> &std::io::Error {
    while let Some(inner) = e.get_ref().and_then(|inner| inner.downcast_ref::<std::io::Error>()) {
        e = inner;
    }
    e
}

/// A failed exchange in Go's words.
fn explain(e: &(dyn Error + 'static), address: &str) -> String {
    let mut cause = Some(e);
    let mut last = e.to_string();
    while let Some(e) = cause {
        if let Some(e) = e.downcast_ref::<std::io::Error>().map(innermost) {
            if e.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) {
                return trust::explain(e);
            }
            if e.raw_os_error().is_some() || e.kind() == std::io::ErrorKind::TimedOut {
                let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
                return webhook::dialling(host.trim_matches(['[', ']']), port.parse().unwrap_or(0), e);
            }
        }
        if e.downcast_ref::<hyper::Error>().is_some_and(|e| e.is_incomplete_message() || e.is_canceled()) {
            return "EOF".to_owned();
        }
        last = e.to_string();
        cause = e.source();
    }
    last
}
