//! A registry that serves whatever it was told to, right or wrong, from an address of loopback.

use std::collections::HashMap;
use std::convert::Infallible;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use futures::stream;
use http::{Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use super::layers::digest;

/// Where it listens; names of its images begin so.
pub(super) const ADDRESS: &str = "127.0.0.1:5001";
pub(super) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const PIECE: usize = 1 << 20;

/// What is sent for a name.
#[derive(Clone, Debug)]
pub(super) enum Served {
    Bytes(Bytes),
    /// As many bytes, none of them kept here.
    Zeros(u64),
    /// A byte a second.
    Slow,
    /// To itself, for ever.
    Redirected,
}

/// One repository: what its manifest is, and its blobs by digest.
#[derive(Clone, Debug)]
pub(super) struct Repository {
    pub(super) manifest: Served,
    /// What the header says that the manifest's digest is, if not the truth.
    pub(super) claimed: Option<String>,
    pub(super) blobs: HashMap<String, Served>,
    /// The only `Authorization` that is let in, and what others are told to do.
    pub(super) guarded: Option<(String, String)>,
}

/// All repositories, by name.
#[derive(Clone, Default)]
pub(in crate::hostile) struct Shelf(Arc<Mutex<HashMap<String, Repository>>>);

pub(in crate::hostile) struct HostileRegistry {
    pub(in crate::hostile) shelf: Shelf,
    task: tokio::task::JoinHandle<()>,
}

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

// === impl Shelf ===

impl Shelf {
    pub(super) fn put(&self, name: &str, repository: Repository) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), repository);
    }

    fn find(&self, name: &str) -> Option<Repository> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }
}

// === impl HostileRegistry ===

impl HostileRegistry {
    pub(in crate::hostile) fn serve(runtime: &tokio::runtime::Runtime) -> Result<Self> {
        let shelf = Shelf::default();
        let listener = runtime.block_on(TcpListener::bind(ADDRESS))?;
        let served = shelf.clone();
        let task = runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let shelf = served.clone();
                tokio::spawn(async move {
                    let service = hyper::service::service_fn(|request| {
                        let shelf = shelf.clone();
                        async move { Ok::<_, Infallible>(answer(&shelf, &request)) }
                    });
                    // A client that goes away in the middle is what this is about.
                    let connection = hyper::server::conn::http1::Builder::new();
                    let _ = connection.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Ok(HostileRegistry { shelf, task })
    }

    /// Writes the mirrors file that sends nodes to the tests' registry and here; gives the flags for `coracle up`.
    pub(in crate::hostile) fn flags(&self, file: &Path) -> Result<Vec<String>> {
        let good = crate::registry::ADDRESS;
        std::fs::write(file, format!("mirrors:\n  docker.io: [\"http://{good}\"]\n"))?;
        let file = file.to_string_lossy().into_owned();
        let flag = "--insecure-loopback-registry";
        Ok(["--registries", &file, flag, good, flag, ADDRESS].map(str::to_owned).to_vec())
    }
}

impl Drop for HostileRegistry {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn answer(shelf: &Shelf, request: &Request<Incoming>) -> Answer {
    let path = request.uri().path();
    if path == "/v2/" {
        return plain(StatusCode::OK);
    }
    let parts: Vec<&str> = path.trim_start_matches("/v2/").rsplitn(3, '/').collect();
    let [reference, kind, name] = parts[..] else { return plain(StatusCode::NOT_FOUND) };
    let Some(repository) = shelf.find(name) else { return plain(StatusCode::NOT_FOUND) };
    if let Some((let_in, challenge)) = &repository.guarded {
        let shown = request.headers().get("authorization").and_then(|v| v.to_str().ok());
        if shown != Some(let_in) {
            let mut answer = plain(StatusCode::UNAUTHORIZED);
            if let Ok(challenge) = challenge.parse() {
                answer.headers_mut().insert("www-authenticate", challenge);
            }
            return answer;
        }
    }
    let served = match kind {
        "manifests" => Some(&repository.manifest),
        _ => repository.blobs.get(reference),
    };
    let Some(served) = served else { return plain(StatusCode::NOT_FOUND) };
    let mut answer = match served {
        Served::Redirected => {
            let mut answer = plain(StatusCode::TEMPORARY_REDIRECT);
            if let Ok(itself) = path.parse() {
                answer.headers_mut().insert("location", itself);
            }
            return answer;
        }
        Served::Bytes(bytes) => Response::new(Full::new(bytes.clone()).boxed_unsync()),
        Served::Zeros(bytes) => Response::new(zeros(*bytes)),
        Served::Slow => Response::new(slow()),
    };
    if kind == "manifests" {
        let truth = if let Served::Bytes(bytes) = served { digest(bytes) } else { digest(b"") };
        let claimed = repository.claimed.clone().unwrap_or(truth);
        for (name, value) in [("content-type", MANIFEST), ("docker-content-digest", claimed.as_str())] {
            if let Ok(value) = value.parse() {
                answer.headers_mut().insert(name, value);
            }
        }
    }
    answer
}

fn plain(status: StatusCode) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::new()).boxed_unsync());
    *answer.status_mut() = status;
    answer
}

fn zeros(bytes: u64) -> UnsyncBoxBody<Bytes, Infallible> {
    let pieces = stream::unfold(bytes, |left| async move {
        let piece = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
        (piece > 0).then(|| (Ok(Frame::data(Bytes::from(vec![0; piece]))), left - piece as u64))
    });
    StreamBody::new(pieces).boxed_unsync()
}

fn slow() -> UnsyncBoxBody<Bytes, Infallible> {
    let pieces = stream::unfold((), |()| async move {
        tokio::time::sleep(Duration::from_secs(1)).await;
        Some((Ok(Frame::data(Bytes::from_static(b"\x1f"))), ()))
    });
    StreamBody::new(pieces).boxed_unsync()
}
