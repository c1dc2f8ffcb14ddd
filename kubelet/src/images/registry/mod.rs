//! The registry protocol, as far as pulling needs it. The other side may be an enemy: each answer has a bound in bytes and
//! in time, its digest is that of what was read and never what a header says, and redirects end.

mod auth;

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, LOCATION};
use http::{HeaderMap, HeaderValue, StatusCode};
use parking_lot::Mutex;
use reqwest::{Response, Url, redirect};
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::digest::Digest;
use super::manifest::{Descriptor, IMAGE_TYPES, INDEX_TYPES};
use super::mirrors::Host;
use super::reference::ImageName;
use crate::cri::{RegistryCredential, with_causes};

/// From the request to the head of the answer.
const ANSWER: Duration = Duration::from_secs(60);
/// A whole small document.
const DOCUMENT: Duration = Duration::from_secs(60);
/// Between two pieces of a layer.
const SILENCE: Duration = Duration::from_secs(60);
/// A layer that brings less than this in such a time is not going to end.
const PACE: (u64, Duration) = (64 << 10, Duration::from_secs(120));
const REDIRECTS: usize = 5;
/// What is read of an error's text, and what of it is passed on.
const MAX_ERROR: u64 = 64 << 10;
const MAX_WORDS: usize = 512;

#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("not found")]
    NotFound,
    /// The registry wants another, or any, identity.
    #[error("{0}")]
    Denied(String),
    #[error("failed to do request: {}", with_causes(.0))]
    Request(#[from] reqwest::Error),
    #[error("{0} did not answer in time")]
    Slow(&'static str),
    #[error("unexpected status {0}")]
    Status(String),
    /// It sent something else than it was asked for, or more.
    #[error("{0}")]
    Content(String),
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// One repository at one host.
pub(super) struct Registry<'a> {
    http: reqwest::Client,
    base: Url,
    repository: &'a str,
    credential: Option<&'a RegistryCredential>,
    token_servers: &'a [String],
    /// What the host has been answered to its challenge.
    authorization: Mutex<Option<HeaderValue>>,
}

/// Plain HTTP is for registries on this machine only.
pub(super) fn is_loopback(registry: &str) -> bool {
    let host = registry.rsplit_once(':').map_or(registry, |(host, _)| host).trim_matches(['[', ']']);
    let address = registry.trim_matches(['[', ']']).parse::<IpAddr>().or_else(|_| host.parse::<IpAddr>());
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// `host` or `host:port`
fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

impl<'a> Registry<'a> {
    pub(super) fn new(
        host: &'a Host,
        name: &'a ImageName,
        credential: Option<&'a RegistryCredential>,
    ) -> Result<Registry<'a>, Error> {
        let http = reqwest::Client::builder()
            .user_agent("coracle")
            .redirect(redirect::Policy::none())
            .referer(false)
            .connect_timeout(Duration::from_secs(30))
            .build()?;
        let address = if host.address == "docker.io" { "registry-1.docker.io" } else { &host.address };
        let scheme = if host.plain { "http" } else { "https" };
        let base = Url::parse(&format!("{scheme}://{address}/v2/"))
            .map_err(|error| Error::Content(format!("registry {address:?}: {error}")))?;
        Ok(Registry {
            http,
            base,
            repository: &name.repository,
            credential,
            token_servers: &host.token_servers,
            authorization: Mutex::new(None),
        })
    }

    /// The manifest that a tag or a digest stands for.
    pub(super) async fn manifest(&self, reference: &str, most: u64) -> Result<Vec<u8>, Error> {
        let mut accept = HeaderMap::new();
        let types = [IMAGE_TYPES, INDEX_TYPES].concat().join(", ");
        if let Ok(types) = HeaderValue::try_from(types) {
            accept.insert(ACCEPT, types);
        }
        let response = self.get(&format!("manifests/{reference}"), accept).await?;
        within(DOCUMENT, read_bounded(response, most)).await?
    }

    /// A small blob, whole.
    pub(super) async fn document(&self, blob: &Descriptor, most: u64) -> Result<Vec<u8>, Error> {
        if blob.size > most {
            return Err(too_much(most));
        }
        let response = self.get(&format!("blobs/{}", blob.digest), HeaderMap::new()).await?;
        let bytes = within(DOCUMENT, read_bounded(response, most)).await??;
        check_length(blob, bytes.len() as u64)?;
        let found = Digest::of(&bytes);
        if found != blob.digest {
            return Err(Error::Content(format!("blob {} has digest {found}", blob.digest)));
        }
        Ok(bytes)
    }

    /// Sends a blob to `out` piece by piece, as many bytes as it is said to have. Whoever gets them checks the digest.
    /// `progress` is told the number of bytes so far.
    pub(super) async fn blob(
        &self,
        blob: &Descriptor,
        out: mpsc::Sender<Bytes>,
        progress: impl Fn(u64),
    ) -> Result<(), Error> {
        let mut response = self.get(&format!("blobs/{}", blob.digest), HeaderMap::new()).await?;
        let mut length = 0_u64;
        let mut pace = Pace { since: Instant::now(), at: 0 };
        while let Some(piece) = within(SILENCE, response.chunk()).await?? {
            length = length.saturating_add(piece.len() as u64);
            if length > blob.size {
                return Err(too_much(blob.size));
            }
            if out.send(piece).await.is_err() {
                // The receiver has failed, and tells why.
                return Ok(());
            }
            progress(length);
            pace.check(Instant::now(), length)?;
        }
        check_length(blob, length)
    }

    async fn get(&self, path: &str, headers: HeaderMap) -> Result<Response, Error> {
        let first = self
            .base
            .join(&format!("{}/{path}", self.repository))
            .map_err(|error| Error::Content(format!("{path}: {error}")))?;
        let mut url = first.clone();
        let mut answered = false;
        for _ in 0..=REDIRECTS {
            let own = auth::same_origin(&url, &self.base);
            let mut request = self.http.get(url.clone()).headers(headers.clone());
            if let Some(authorization) = self.authorization.lock().clone().filter(|_| own) {
                request = request.header(AUTHORIZATION, authorization);
            }
            let response = within(ANSWER, request.send()).await??;
            match response.status() {
                StatusCode::OK => return Ok(response),
                StatusCode::UNAUTHORIZED if own && !answered => {
                    answered = true;
                    let authorization = auth::answer(
                        &self.http,
                        &self.base,
                        self.repository,
                        response.headers(),
                        self.credential,
                        self.token_servers,
                    )
                    .await?;
                    if authorization.is_none() {
                        return Err(refusal(response).await);
                    }
                    *self.authorization.lock() = authorization;
                    url = first.clone();
                }
                status if status.is_redirection() => url = self.next(&url, response.headers())?,
                _ => return Err(refusal(response).await),
            }
        }
        Err(Error::Content(format!("more than {REDIRECTS} redirects")))
    }

    /// Where a redirect leads. It may not leave TLS, nor reach plain services of this machine that are not the registry's.
    fn next(&self, from: &Url, headers: &HeaderMap) -> Result<Url, Error> {
        let location = headers.get(LOCATION).and_then(|location| location.to_str().ok());
        let next = location.and_then(|location| from.join(location).ok());
        let next = next.ok_or_else(|| Error::Content("redirect without a place".to_owned()))?;
        let plain = self.base.scheme() == "http" && is_loopback(next.host_str().unwrap_or_default());
        if next.scheme() != "https" && !(next.scheme() == "http" && plain) {
            return Err(Error::Content(format!(
                "redirect from {} to plain {}",
                from.scheme(),
                authority(&next)
            )));
        }
        Ok(next)
    }
}

/// How fast a layer comes.
struct Pace {
    since: Instant,
    at: u64,
}

impl Pace {
    fn check(&mut self, now: Instant, length: u64) -> Result<(), Error> {
        let (bytes, time) = PACE;
        if now.duration_since(self.since) >= time {
            if length - self.at < bytes {
                return Err(Error::Content(format!("fewer than {bytes} bytes in {} s", time.as_secs())));
            }
            (self.since, self.at) = (now, length);
        }
        Ok(())
    }
}

async fn within<T>(time: Duration, work: impl Future<Output = T>) -> Result<T, Error> {
    tokio::time::timeout(time, work).await.map_err(|_| Error::Slow("the registry"))
}

fn too_much(most: u64) -> Error {
    Error::Content(format!("more than {most} bytes"))
}

fn check_length(wanted: &Descriptor, length: u64) -> Result<(), Error> {
    if length != wanted.size {
        return Err(Error::Content(format!(
            "blob {} has {length} bytes, not {}",
            wanted.digest, wanted.size
        )));
    }
    Ok(())
}

async fn read_bounded(mut response: Response, most: u64) -> Result<Vec<u8>, Error> {
    if response.content_length().is_some_and(|length| length > most) {
        return Err(too_much(most));
    }
    let mut bytes = Vec::new();
    while let Some(piece) = response.chunk().await? {
        if (bytes.len() + piece.len()) as u64 > most {
            return Err(too_much(most));
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

/// The registry's refusal in the words a user of upstream knows.
async fn refusal(response: Response) -> Error {
    let status = response.status();
    let body = match within(DOCUMENT, read_bounded(response, MAX_ERROR)).await {
        Ok(Ok(body)) => body,
        // The status says enough.
        _ => Vec::new(),
    };
    let codes = codes(&body);
    let unknown = ["MANIFEST_UNKNOWN", "NAME_UNKNOWN", "NOT_FOUND", "BLOB_UNKNOWN"];
    if status == StatusCode::NOT_FOUND || codes.iter().any(|code| unknown.contains(&code.as_str())) {
        return Error::NotFound;
    }
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Error::Denied(told(status, &body)),
        _ => Error::Status(told(status, &body)),
    }
}

fn codes(body: &[u8]) -> Vec<String> {
    #[derive(Deserialize)]
    struct Envelope {
        errors: Vec<Code>,
    }
    #[derive(Deserialize)]
    struct Code {
        #[serde(default)]
        code: String,
    }
    let envelope = serde_json::from_slice::<Envelope>(body);
    envelope.map(|envelope| envelope.errors.into_iter().map(|error| error.code).collect()).unwrap_or_default()
}

/// Status and the beginning of the text, on one line: it ends in a pod's status.
fn told(status: StatusCode, body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(4 * MAX_WORDS)]);
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_WORDS).collect();
    match text.trim() {
        "" => status.to_string(),
        text => format!("{status}: {text}"),
    }
}

/// What a registry answers: an error, a token, a challenge.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn hostile_answer(body: &[u8], challenge: &[u8]) {
    codes(body);
    assert!(!told(StatusCode::BAD_GATEWAY, body).contains(char::is_control));
    auth::hostile_challenge(challenge);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_this_machine() {
        for (registry, want) in [
            ("localhost", true),
            ("localhost:5000", true),
            ("127.0.0.1:5000", true),
            ("127.0.0.1", true),
            ("[::1]:5000", true),
            ("[::1]", true),
            ("10.0.0.1:5000", false),
            ("localhost.example.com", false),
            ("127.0.0.1.example.com", false),
        ] {
            assert_eq!(is_loopback(registry), want, "{registry}");
        }
    }

    #[test]
    fn a_trickle_ends() {
        let begin = Instant::now();
        let (bytes, time) = PACE;
        let mut pace = Pace { since: begin, at: 0 };
        assert!(pace.check(begin + time / 2, 1).is_ok());
        assert!(pace.check(begin + time, bytes).is_ok());
        assert!(pace.check(begin + 2 * time, 2 * bytes - 1).is_err());
    }

    #[test]
    fn errors_are_one_short_line() {
        let body = [b"a\nb".as_slice(), &[0xff; 10_000]].concat();
        let text = told(StatusCode::BAD_GATEWAY, &body);
        assert!(text.starts_with("502 Bad Gateway: a b") && text.chars().count() < 600, "{text}");
    }
}
