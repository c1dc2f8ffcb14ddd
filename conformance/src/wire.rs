//! A lean HTTP/2 client over TLS: little more than hyper, so that what is measured is the server.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use bytes::Bytes;
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use kube::config::Kubeconfig;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::client::TlsStream;

/// Where a cluster's API server is, and who to be there.
#[derive(Clone)]
pub(crate) struct Endpoint {
    uri: Uri,
    tls: Arc<rustls::ClientConfig>,
    roots: Arc<RootCertStore>,
    token: Option<String>,
}

/// One HTTP/2 connection; clones share it.
#[derive(Clone)]
pub(crate) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    authority: String,
    token: Option<String>,
}

/// What came back.
pub(crate) struct Answer {
    pub code: u16,
    pub headers: http::HeaderMap,
    pub body: Bytes,
}

// === impl Endpoint ===

impl Endpoint {
    /// The current context of a kubeconfig with client certificates.
    pub(crate) fn of(kubeconfig: &Path) -> Result<Self> {
        let config = Kubeconfig::read_from(kubeconfig)?;
        let cluster =
            config.clusters.first().and_then(|c| c.cluster.clone()).context("kubeconfig has no cluster")?;
        let user =
            config.auth_infos.first().and_then(|u| u.auth_info.clone()).context("kubeconfig has no user")?;
        // As JSON the fields have the names of the file, and secrets can be read.
        let (cluster, user) = (serde_json::to_value(cluster)?, serde_json::to_value(user)?);
        let certificate = pem(&user, "client-certificate")?;
        let key = pem(&user, "client-key")?;
        let ca = pem(&cluster, "certificate-authority")?;

        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&ca) {
            roots.add(certificate?)?;
        }
        let roots = Arc::new(roots);
        let chain = CertificateDer::pem_slice_iter(&certificate).collect::<Result<Vec<_>, _>>()?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots.clone())
            .with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(&key)?)?;
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let server = cluster["server"].as_str().context("the cluster has no server")?;
        Ok(Endpoint { uri: server.parse()?, tls: Arc::new(tls), roots, token: None })
    }

    /// The same server for whoever has this token; for nobody without one.
    pub(crate) fn bearing(&self, token: Option<&str>) -> Result<Self> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Endpoint { tls: Arc::new(tls), token: token.map(str::to_owned), ..self.clone() })
    }

    /// Another server that has a certificate of the same authority.
    pub(crate) fn at(&self, host: &str, port: u16) -> Result<Self> {
        Ok(Endpoint { uri: format!("https://{host}:{port}").parse()?, ..self.clone() })
    }

    pub(crate) fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    pub(crate) fn authority(&self) -> String {
        format!("{}:{}", self.uri.host().unwrap_or_default(), self.port())
    }

    /// A TLS connection on which nothing has been said yet, from an address of this machine's where one is given.
    pub(crate) async fn tls(&self, protocol: &[u8], from: Option<IpAddr>) -> Result<TlsStream<TcpStream>> {
        let host = self.uri.host().context("the server has no host")?.to_owned();
        let to = SocketAddr::new(host.parse()?, self.port());
        let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if let Some(from) = from {
            socket.bind(SocketAddr::new(from, 0))?;
        }
        let tcp = socket.connect(to).await?;
        tcp.set_nodelay(true)?;
        let mut tls = rustls::ClientConfig::clone(&self.tls);
        tls.alpn_protocols = vec![protocol.to_vec()];
        let connector = tokio_rustls::TlsConnector::from(Arc::new(tls));
        Ok(connector.connect(ServerName::try_from(host)?, tcp).await?)
    }

    pub(crate) fn port(&self) -> u16 {
        self.uri.port_u16().unwrap_or(443)
    }

    pub(crate) async fn connect(&self) -> Result<Connection> {
        let host = self.uri.host().context("the server has no host")?.to_owned();
        let tcp = TcpStream::connect((host.as_str(), self.port())).await?;
        tcp.set_nodelay(true)?;
        let connector = tokio_rustls::TlsConnector::from(self.tls.clone());
        let tls = connector.connect(ServerName::try_from(host)?, tcp).await?;
        let (sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
            .initial_connection_window_size(16 << 20)
            .initial_stream_window_size(4 << 20)
            .handshake(TokioIo::new(tls))
            .await?;
        tokio::spawn(async move {
            // The requests on it report the failure.
            let _ = connection.await;
        });
        Ok(Connection { sender, authority: self.authority(), token: self.token.clone() })
    }
}

/// A PEM text given in the kubeconfig itself (`<name>-data`) or by the name of a file.
fn pem(section: &Value, name: &str) -> Result<Vec<u8>> {
    if let Some(data) = section[format!("{name}-data")].as_str() {
        return Ok(base64::engine::general_purpose::STANDARD.decode(data)?);
    }
    let file = section[name].as_str().with_context(|| format!("the kubeconfig has no {name}"))?;
    std::fs::read(file).with_context(|| format!("reading {file}"))
}

// === impl Connection ===

impl Connection {
    fn request(&self, method: Method, path: &str) -> http::request::Builder {
        let request = Request::builder().method(method).uri(format!("https://{}{path}", self.authority));
        match &self.token {
            Some(token) => request.header("authorization", format!("Bearer {token}")),
            None => request,
        }
    }

    async fn send(
        &mut self,
        method: Method,
        path: &str,
        accept: &str,
        body: Bytes,
    ) -> Result<http::Response<Incoming>> {
        let request = self
            .request(method, path)
            .header("accept", accept)
            .header("content-type", "application/json")
            .body(Full::new(body))?;
        self.sender.ready().await?;
        Ok(self.sender.send_request(request).await?)
    }

    /// One request with headers of its own; its whole answer, whatever it is.
    pub(crate) async fn exchange(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(String, String)],
        body: Bytes,
    ) -> Result<Answer> {
        let mut request = self.request(method, path);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        self.sender.ready().await?;
        let response = self.sender.send_request(request.body(Full::new(body))?).await?;
        let (parts, body) = response.into_parts();
        Ok(Answer {
            code: parts.status.as_u16(),
            headers: parts.headers,
            body: body.collect().await?.to_bytes(),
        })
    }

    /// One request, its whole answer; anything but success is an error.
    pub(crate) async fn call(
        &mut self,
        method: Method,
        path: &str,
        accept: &str,
        body: Bytes,
    ) -> Result<Bytes> {
        let response = self.send(method, path, accept, body).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        ensure!(status.is_success(), "{path}: {status}: {}", String::from_utf8_lossy(&body));
        Ok(body)
    }

    /// A request whose answer is read as it comes; gives the number of bytes.
    pub(crate) async fn drain(&mut self, path: &str, accept: &str) -> Result<usize> {
        let mut body = self.send(Method::GET, path, accept, Bytes::new()).await?.into_body();
        let mut bytes = 0;
        while let Some(frame) = body.frame().await {
            bytes += frame?.data_ref().map_or(0, Bytes::len);
        }
        Ok(bytes)
    }

    /// An endless answer.
    pub(crate) async fn stream(&mut self, path: &str) -> Result<Incoming> {
        let response = self.send(Method::GET, path, JSON, Bytes::new()).await?;
        ensure!(response.status() == StatusCode::OK, "{path}: {}", response.status());
        Ok(response.into_body())
    }
}

pub(crate) const JSON: &str = "application/json";
pub(crate) const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
pub(crate) const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";
