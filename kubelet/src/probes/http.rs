//! GET requests of probes and lifecycle hooks, over TLS without asking who answers, as upstream.

use std::{
    net::IpAddr,
    sync::{Arc, LazyLock},
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, header};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction};
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, timeout_at},
};
use tokio_rustls::TlsConnector;

use super::{
    dial::{DialError, dial, join, words},
    handler::port,
};

/// Most of a reply's body that is read.
const BODY: usize = 10 * 1024;
const REDIRECTS: usize = 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Probe,
    Lifecycle,
}

#[derive(Clone, Debug)]
pub(crate) struct Get {
    https: bool,
    host: String,
    port: u16,
    /// Path and query.
    target: String,
    headers: Vec<(HeaderName, HeaderValue)>,
}

pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) body: String,
    location: Option<String>,
}

/// In the words of Go's client.
#[derive(Debug, thiserror::Error)]
#[error("Get {url:?}: {why}")]
pub(crate) struct GetError {
    url: String,
    why: Why,
}

#[derive(Debug, thiserror::Error)]
enum Why {
    #[error("{0} (Client.Timeout exceeded while awaiting headers)")]
    DialTimedOut(DialError),
    #[error("{0}")]
    Dial(DialError),
    #[error("context deadline exceeded (Client.Timeout exceeded while awaiting headers)")]
    TimedOut,
    #[error("http: server gave HTTP response to HTTPS client")]
    PlainReply,
    #[error("{0}")]
    Broken(String),
    #[error("stopped after {REDIRECTS} redirects")]
    Redirects,
}

// === impl Get ===

impl Get {
    pub(crate) fn new(
        action: &HTTPGetAction,
        c: &Container,
        pod_ip: IpAddr,
        purpose: Purpose,
    ) -> Result<Get, String> {
        let host = action.host.clone().filter(|h| !h.is_empty()).unwrap_or_else(|| pod_ip.to_string());
        let mut headers = Vec::new();
        for h in action.http_headers.iter().flatten() {
            let name = HeaderName::try_from(&h.name)
                .map_err(|_| format!("net/http: invalid header field name {:?}", h.name))?;
            let value = HeaderValue::try_from(&h.value)
                .map_err(|_| format!("net/http: invalid header field value for {:?}", h.name))?;
            headers.push((name, value));
        }
        let has = |headers: &[(HeaderName, HeaderValue)], name| headers.iter().any(|(n, _)| *n == name);
        if !has(&headers, header::USER_AGENT) {
            let agent = match purpose {
                Purpose::Probe => "kube-probe/1.36",
                Purpose::Lifecycle => "kube-lifecycle/1.36",
            };
            headers.push((header::USER_AGENT, HeaderValue::from_static(agent)));
        }
        if !has(&headers, header::ACCEPT) {
            headers.push((header::ACCEPT, HeaderValue::from_static("*/*")));
        }
        // An empty value asks for no such header at all.
        headers.retain(|(name, value)| *name != header::ACCEPT || !value.is_empty());
        Ok(Get {
            https: action.scheme.as_deref().is_some_and(|s| s.eq_ignore_ascii_case("https")),
            host,
            port: port(&action.port, c)?,
            target: request_target(action.path.as_deref().unwrap_or_default()),
            headers,
        })
    }

    pub(crate) fn authority(&self) -> String {
        join(&self.host, self.port)
    }

    pub(crate) fn into_plain(mut self) -> Get {
        self.https = false;
        self.headers.retain(|(name, _)| *name != header::AUTHORIZATION);
        self
    }

    fn url(&self) -> String {
        format!("{}://{}{}", if self.https { "https" } else { "http" }, self.authority(), self.target)
    }

    /// The reply, after redirects that stay on the same host.
    pub(crate) async fn send(&self, deadline: Instant) -> Result<Reply, GetError> {
        let mut get = self.clone();
        for _ in 0..REDIRECTS {
            let reply = get.once(deadline).await.map_err(|why| GetError { url: get.url(), why })?;
            match reply.location.as_deref().and_then(|l| get.redirected(l)) {
                Some(next) if next.host == self.host => get = next,
                Some(_) | None => return Ok(reply),
            }
        }
        Err(GetError { url: get.url(), why: Why::Redirects })
    }

    fn redirected(&self, location: &str) -> Option<Get> {
        let mut next = self.clone();
        let uri: http::Uri = location.parse().ok()?;
        if let Some(scheme) = uri.scheme_str() {
            next.https = scheme.eq_ignore_ascii_case("https");
        }
        if let Some(authority) = uri.authority() {
            next.host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
            next.port = authority.port_u16().unwrap_or(if next.https { 443 } else { 80 });
        }
        let target = uri.path_and_query().map_or("/", |p| p.as_str());
        next.target = if target.starts_with('/') {
            target.to_owned()
        } else {
            let directory = self.target.split('?').next().and_then(|p| p.rfind('/').map(|at| &p[..=at]));
            format!("{}{target}", directory.unwrap_or("/"))
        };
        Some(next)
    }

    async fn once(&self, deadline: Instant) -> Result<Reply, Why> {
        let stream = dial(&self.host, self.port, deadline).await.map_err(|error| match error {
            DialError::TimedOut(_) => Why::DialTimedOut(error),
            DialError::Refused { .. } | DialError::NoSuchHost(_) => Why::Dial(error),
        })?;
        let exchange = async {
            if !self.https {
                return self.exchange(stream).await;
            }
            let name = ServerName::try_from(self.host.clone()).map_err(|e| Why::Broken(e.to_string()))?;
            let connector = TlsConnector::from(TLS.clone());
            let stream = connector.connect(name, stream).await.map_err(|error| tls_failure(&error))?;
            self.exchange(stream).await
        };
        timeout_at(deadline, exchange).await.unwrap_or(Err(Why::TimedOut))
    }

    async fn exchange(
        &self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    ) -> Result<Reply, Why> {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| broken(&e))?;
        // Ends with the sender, or with this future's end.
        let mut driver = tokio::task::JoinSet::new();
        driver.spawn(connection);
        let mut request = Request::get(&self.target);
        if !self.headers.iter().any(|(name, _)| *name == header::HOST) {
            request = request.header(header::HOST, self.authority());
        }
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let request = request.header(header::CONNECTION, "close").body(Empty::<Bytes>::new());
        let request = request.map_err(|e| Why::Broken(e.to_string()))?;
        let reply = sender.send_request(request).await.map_err(|e| broken(&e))?;
        let status = reply.status().as_u16();
        let redirect = matches!(status, 301 | 302 | 303 | 307 | 308);
        let location = reply.headers().get(header::LOCATION).filter(|_| redirect);
        let location = location.and_then(|l| l.to_str().ok()).map(str::to_owned);
        let mut body = reply.into_body();
        let mut read = Vec::new();
        while read.len() < BODY {
            match body.frame().await {
                Some(Ok(frame)) => read.extend_from_slice(frame.data_ref().map_or(&[][..], |d| d)),
                Some(Err(error)) => return Err(broken(&error)),
                None => break,
            }
        }
        read.truncate(BODY);
        Ok(Reply { status, body: String::from_utf8_lossy(&read).into_owned(), location })
    }
}

/// A reply is read up to its bound, and leads nowhere but where it says.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) async fn hostile_reply(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) {
    let get = Get {
        https: false,
        host: "10.0.0.1".to_owned(),
        port: 80,
        target: request_target("/healthz?a=b"),
        headers: vec![],
    };
    let Ok(reply) = get.exchange(stream).await else { return };
    assert!(reply.body.len() <= 3 * BODY, "bad UTF-8 becomes three bytes");
    if let Some(next) = reply.location.as_deref().and_then(|location| get.redirected(location)) {
        assert!(next.target.starts_with('/'));
        let _ = next.url();
    }
}

impl GetError {
    /// The server speaks HTTP where HTTPS was asked for.
    pub(crate) fn is_plain_reply(&self) -> bool {
        matches!(self.why, Why::PlainReply)
    }
}

fn broken(error: &hyper::Error) -> Why {
    let io = std::error::Error::source(error).and_then(|s| s.downcast_ref::<std::io::Error>());
    Why::Broken(match io {
        Some(io) => format!("read: {}", words(io)),
        None if error.is_incomplete_message() => "EOF".to_owned(),
        None if error.is_parse() => {
            "net/http: HTTP/1.x transport connection broken: malformed HTTP response".to_owned()
        }
        None => error.to_string(),
    })
}

fn tls_failure(error: &std::io::Error) -> Why {
    match error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidMessage(_)) => Why::PlainReply,
        Some(error) => Why::Broken(format!("tls: {error}")),
        None if error.kind() == std::io::ErrorKind::UnexpectedEof => Why::Broken("EOF".to_owned()),
        None => Why::Broken(format!("read: {}", words(error))),
    }
}

/// What may stand in a request line: the rest is percent-encoded.
fn request_target(path: &str) -> String {
    let mut out = String::from(if path.starts_with('/') { "" } else { "/" });
    let path = path.split('#').next().unwrap_or_default();
    for byte in path.bytes() {
        if byte.is_ascii_graphic() && !br#""<>\^`{|}"#.contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

static TLS: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let schemes = provider.signature_verification_algorithms.supported_schemes();
    let builder = ClientConfig::builder_with_provider(provider as Arc<CryptoProvider>)
        .with_safe_default_protocol_versions()
        .expect("the provider has the default protocol versions");
    let verifier = Arc::new(AnyServer(schemes));
    Arc::new(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
});

/// Probes look whether somebody answers, not who: containers have certificates of their own making.
#[derive(Debug)]
struct AnyServer(Vec<SignatureScheme>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.clone()
    }
}
