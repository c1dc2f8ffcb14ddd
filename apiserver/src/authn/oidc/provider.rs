//! The provider itself: its keys are asked for at the start, and again where a token is signed with another one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT, HOST, USER_AGENT};
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use super::keys::Keys;
use super::{Options, Token, User};
use crate::pki::trust;
use crate::webhook::dialling;

/// The pause after a provider could not be asked at the start; upstream's.
const AGAIN: Duration = Duration::from_secs(10);
/// How long one question may take; upstream's.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often tokens of unknown keys may cause a question. Upstream's has no such bound.
const SELDOM: Duration = Duration::from_secs(5);
/// How much of an answer is read.
const MAX_ANSWER: usize = 1 << 20;
const WELL_KNOWN: &str = "/.well-known/openid-configuration";

/// An OpenID Connect provider whose users are users of this cluster.
pub struct Provider {
    options: Options,
    tls: Arc<ClientConfig>,
    /// What it has answered last; nothing before the first answer.
    found: ArcSwapOption<Found>,
    /// When keys were last asked for because of a token. Held while they are.
    asked: Mutex<Option<Instant>>,
}

struct Found {
    keys_at: Uri,
    keys: Keys,
}

// === impl Provider ===

impl Provider {
    /// Nothing is asked of it before [`Provider::run`].
    pub fn new(options: Options) -> Result<Self, String> {
        address(&options.issuer)?;
        let bundle = options.ca.as_ref().map(|pem| STANDARD.encode(pem)).unwrap_or_default();
        let mut tls = trust::client(&bundle, None)?;
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Provider { options, tls: Arc::new(tls), found: ArcSwapOption::empty(), asked: Mutex::default() })
    }

    /// Asks the provider for its keys until it answers; ends then, or at `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let asked = async {
            while let Err(why) = self.discover().await {
                tracing::error!(
                    issuer = self.options.issuer,
                    "oidc authenticator: initializing plugin: {why}"
                );
                tokio::time::sleep(AGAIN).await;
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = asked => {}
        }
    }

    /// Who shows this token; `None` where it does not even claim to be the provider's.
    pub async fn user(&self, token: &str, now: Timestamp) -> Option<Result<User, String>> {
        let token = Token::parse(token).filter(|token| token.issuer() == self.options.issuer)?;
        Some(self.verify(&token, now).await.and_then(|()| self.options.user(&token.claims)))
    }

    async fn verify(&self, token: &Token<'_>, now: Timestamp) -> Result<(), String> {
        let found = self.found.load_full().ok_or("oidc: authenticator not initialized")?;
        let algorithm = self.options.check(token, now).map_err(|why| format!("oidc: verify token: {why}"))?;
        let by = |found: &Found| {
            let message = token.signed.as_bytes();
            found.keys.verify(algorithm, token.key.as_deref(), message, &token.signature)
        };
        let verified = by(&found) || self.newer(&found).await.is_some_and(|newer| by(&newer));
        verified.then_some(()).ok_or_else(|| "oidc: verify token: failed to verify signature".to_owned())
    }

    /// Other keys than these, where there are some.
    async fn newer(&self, known: &Arc<Found>) -> Option<Arc<Found>> {
        let mut asked = self.asked.lock().await;
        let current = self.found.load_full()?;
        if !Arc::ptr_eq(&current, known) {
            return Some(current);
        }
        if asked.is_some_and(|at| at.elapsed() < SELDOM) {
            return None;
        }
        let keys = self.keys(&known.keys_at).await;
        *asked = Some(Instant::now());
        match keys {
            Ok(keys) => {
                let found = Arc::new(Found { keys_at: known.keys_at.clone(), keys });
                self.found.store(Some(found.clone()));
                Some(found)
            }
            Err(why) => {
                tracing::warn!(issuer = self.options.issuer, "its keys cannot be had: {why}");
                None
            }
        }
    }

    async fn discover(&self) -> Result<(), String> {
        let at = format!("{}{WELL_KNOWN}", self.options.issuer.trim_end_matches('/'));
        let document = self.get(&address(&at)?).await?;
        let document: Value = serde_json::from_slice(&document).map_err(|e| format!("{at}: {e}"))?;
        let named = document["issuer"].as_str().unwrap_or_default();
        if named != self.options.issuer {
            return Err(format!(
                "oidc: issuer did not match the issuer returned by provider, expected {:?} got {named:?}",
                self.options.issuer
            ));
        }
        let keys_at = address(document["jwks_uri"].as_str().ok_or("provider did not return JWKS URL")?)?;
        let keys = self.keys(&keys_at).await?;
        self.found.store(Some(Arc::new(Found { keys_at, keys })));
        Ok(())
    }

    async fn keys(&self, at: &Uri) -> Result<Keys, String> {
        Keys::parse(&self.get(at).await?).ok_or_else(|| format!("{at}: no key set"))
    }

    async fn get(&self, at: &Uri) -> Result<Bytes, String> {
        let answer = tokio::time::timeout(PATIENCE, self.exchange(at)).await;
        let (status, body) = answer
            .unwrap_or_else(|_| Err("context deadline exceeded".to_owned()))
            .map_err(|why| format!("Get \"{at}\": {why}"))?;
        if status == StatusCode::OK { Ok(body) } else { Err(format!("Get \"{at}\": {status}")) }
    }

    async fn exchange(&self, at: &Uri) -> Result<(StatusCode, Bytes), String> {
        let authority = at.authority().ok_or("no host")?;
        let host = authority.host().trim_matches(['[', ']']);
        let port = authority.port_u16().unwrap_or(443);
        let stream = TcpStream::connect((host, port)).await.map_err(|e| dialling(host, port, &e))?;
        let name = ServerName::try_from(host.to_owned()).map_err(|e| e.to_string())?;
        let connector = TlsConnector::from(self.tls.clone());
        let stream = connector.connect(name, stream).await.map_err(|e| trust::explain(&e))?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
        // Ends when the sender is dropped or the other end closes.
        tokio::spawn(connection);
        let path = at.path_and_query().map_or("/", |path| path.as_str());
        let request = Request::get(path)
            .header(HOST, authority.as_str())
            .header(ACCEPT, "application/json")
            .header(USER_AGENT, "kube-apiserver")
            .body(Empty::<Bytes>::new())
            .map_err(|e| e.to_string())?;
        let answer = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await.map_err(|e| e.to_string())?;
        Ok((status, body.to_bytes()))
    }
}

/// A URL that is asked with TLS only.
fn address(url: &str) -> Result<Uri, String> {
    let uri: Uri = url.parse().map_err(|e| format!("{url:?}: {e}"))?;
    match (uri.scheme_str(), uri.host()) {
        (Some("https"), Some(host)) if !host.is_empty() => Ok(uri),
        _ => Err(format!("{url:?}: URL scheme must be https")),
    }
}
