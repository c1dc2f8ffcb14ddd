//! Calls to webhooks: HTTPS to a Service or a URL that a configuration names, always with the certificate verified.
//!
//! A [`Hook`] is made once per configuration and keeps its connections. Errors are the texts that upstream's client (Go's
//! `net/http`) gives, for they end up in what users see.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HOST, USER_AGENT};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::Server;
use crate::connect;
use crate::pki::trust;

/// How much of an answer is read.
const MAX_ANSWER: usize = 8 * 1024 * 1024;
/// Connections that wait for the next call, and how long.
const MAX_IDLE: usize = 8;
const MAX_IDLE_TIME: Duration = Duration::from_secs(30);

/// One webhook's address, what it is trusted by, and connections to it.
#[derive(Debug)]
pub struct Hook {
    target: Target,
    /// As errors show it and the `Host` header says it: `name.namespace.svc:443`.
    authority: String,
    path: String,
    tls: Arc<ClientConfig>,
    name: ServerName<'static>,
    idle: Mutex<Vec<Idle>>,
}

#[derive(Debug)]
enum Target {
    Service { namespace: String, name: String, port: u16 },
    Address { host: String, port: u16 },
}

#[derive(Debug)]
struct Idle {
    /// The endpoint it leads to: those of a Service come and go.
    address: (String, u16),
    since: Instant,
    sender: SendRequest<Full<Bytes>>,
}

// === impl Hook ===

impl Hook {
    /// From a `clientConfig`, which has been validated when it was written.
    pub fn new(config: &Value) -> Result<Self, String> {
        let text = |v: &Value, key: &str| v[key].as_str().unwrap_or_default().to_owned();
        let service = &config["service"];
        let (target, authority, path) = if service.is_object() {
            let (namespace, name) = (text(service, "namespace"), text(service, "name"));
            let port = service["port"].as_u64().and_then(|p| u16::try_from(p).ok()).unwrap_or(443);
            let authority = format!("{name}.{namespace}.svc:{port}");
            let path = text(service, "path");
            (Target::Service { namespace, name, port }, authority, path)
        } else {
            let url: http::Uri = text(config, "url").parse().map_err(|e| format!("Unparsable URL: {e}"))?;
            let host = url.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
            let authority = url.authority().map(ToString::to_string).unwrap_or_default();
            let path = url.path().to_owned();
            (Target::Address { host, port: url.port_u16().unwrap_or(443) }, authority, path)
        };
        let host = match &target {
            Target::Service { namespace, name, .. } => format!("{name}.{namespace}.svc"),
            Target::Address { host, .. } => host.clone(),
        };
        let mut tls = trust::client(&text(config, "caBundle"), None)?;
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Hook {
            tls: Arc::new(tls),
            name: ServerName::try_from(host).map_err(|e| e.to_string())?,
            path: if path.starts_with('/') { path } else { format!("/{path}") },
            target,
            authority,
            idle: Mutex::default(),
        })
    }

    /// Sends JSON and answers JSON, within a time that the hook is told, too.
    pub async fn post(&self, server: &Server, body: Bytes, limit: Duration) -> Result<Bytes, String> {
        let path = format!("{}?timeout={}s", self.path, limit.as_secs());
        let shown = |why: String| format!("Post \"https://{}{path}\": {why}", self.authority);
        let exchange = self.exchange(server, &path, body);
        match tokio::time::timeout(limit, exchange).await {
            Err(_) => Err(shown("context deadline exceeded".to_owned())),
            Ok(Err(why)) => Err(shown(why)),
            Ok(Ok((status, answer))) if status.is_success() => Ok(answer),
            Ok(Ok((status, answer))) => Err(refusal(status, &answer)),
        }
    }

    async fn exchange(
        &self,
        server: &Server,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), String> {
        let address = self.resolve(server)?;
        // A connection that waited may have been closed meanwhile; a new one then tells the truth.
        if let Some(sender) = self.waiting(&address)
            && let Ok(answer) = self.send(&address, sender, path, body.clone()).await
        {
            return Ok(answer);
        }
        let sender = self.dial(&address).await?;
        self.send(&address, sender, path, body).await
    }

    fn resolve(&self, server: &Server) -> Result<(String, u16), String> {
        match &self.target {
            Target::Address { host, port } => Ok((host.clone(), *port)),
            Target::Service { namespace, name, port } => {
                let end = connect::endpoint(server, namespace, name, &port.to_string());
                end.map_err(|e| match e.code() {
                    404 => format!("service {name:?} not found"),
                    _ => e.to_string(),
                })
            }
        }
    }

    fn waiting(&self, address: &(String, u16)) -> Option<SendRequest<Full<Bytes>>> {
        let mut idle = self.idle.lock();
        idle.retain(|i| !i.sender.is_closed() && i.since.elapsed() < MAX_IDLE_TIME);
        let at = idle.iter().position(|i| i.address == *address && i.sender.is_ready())?;
        Some(idle.swap_remove(at).sender)
    }

    async fn send(
        &self,
        address: &(String, u16),
        mut sender: SendRequest<Full<Bytes>>,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), String> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(HOST, &self.authority)
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json, */*")
            .header(USER_AGENT, "kube-apiserver-admission")
            .body(Full::new(body))
            .map_err(|e| e.to_string())?;
        let answer = sender.send_request(request).await.map_err(|e| transport(&e))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await.map_err(|e| e.to_string())?;
        let mut idle = self.idle.lock();
        if idle.len() < MAX_IDLE {
            idle.push(Idle { address: address.clone(), since: Instant::now(), sender });
        }
        Ok((status, body.to_bytes()))
    }

    async fn dial(&self, address: &(String, u16)) -> Result<SendRequest<Full<Bytes>>, String> {
        let (host, port) = address;
        let addresses = tokio::net::lookup_host((host.as_str(), *port)).await;
        let addresses: Vec<_> =
            addresses.map_err(|_| format!("dial tcp: lookup {host}: no such host"))?.collect();
        let stream = TcpStream::connect(&addresses[..]).await.map_err(|e| dialling(host, *port, &e))?;
        stream.set_nodelay(true).map_err(|e| e.to_string())?;
        let connector = TlsConnector::from(self.tls.clone());
        let stream = connector.connect(self.name.clone(), stream).await.map_err(|e| trust::explain(&e))?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| transport(&e))?;
        // Ends when the sender is dropped or the other end closes.
        tokio::spawn(connection);
        Ok(sender)
    }
}

/// Why a connection was not made, in the words of Go's `net`.
pub(crate) fn dialling(host: &str, port: u16, e: &std::io::Error) -> String {
    use std::io::ErrorKind;
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    match e.kind() {
        ErrorKind::ConnectionRefused => format!("dial tcp {host}:{port}: connect: connection refused"),
        ErrorKind::HostUnreachable => format!("dial tcp {host}:{port}: connect: no route to host"),
        ErrorKind::NetworkUnreachable => format!("dial tcp {host}:{port}: connect: network is unreachable"),
        ErrorKind::TimedOut => format!("dial tcp {host}:{port}: i/o timeout"),
        _ => format!("dial tcp {host}:{port}: {e}"),
    }
}

fn transport(e: &hyper::Error) -> String {
    if e.is_incomplete_message() || e.is_canceled() { "EOF".to_owned() } else { e.to_string() }
}

/// What upstream's client says of an answer that is no success.
fn refusal(status: StatusCode, body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let text = match text.trim() {
        "" => "unknown",
        text => text.split_at_checked(2048).map_or(text, |(head, _)| head),
    };
    match status.as_u16() {
        400 => "the server rejected our request for an unknown reason".to_owned(),
        401 => "the server has asked for the client to provide credentials".to_owned(),
        403 => text.to_owned(),
        404 => "the server could not find the requested resource".to_owned(),
        405 => "the server does not allow this method on the requested resource".to_owned(),
        429 => "the server has received too many requests and has asked us to try again later".to_owned(),
        503 => "the server is currently unable to handle the request".to_owned(),
        500.. => format!("an error on the server ({text:?}) has prevented the request from succeeding"),
        code => {
            format!("the server responded with the status code {code} but did not return more information")
        }
    }
}
