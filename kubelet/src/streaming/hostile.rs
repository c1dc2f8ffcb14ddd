//! Hostile logs, frames and messages of clients.

use std::convert::Infallible;
use std::sync::Arc;

use axum::http::{Method, Request, Response};
use futures::FutureExt;
use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::TokenReview;
use k8s_openapi::api::authorization::v1::SubjectAccessReview;
use kube::client::Body;
use rustls::time_provider::DefaultTimeProvider;

use super::access::Access;
use super::logs::LogOptions;
use super::{channels, query, spdy};
use crate::fuzz::{block_on, first_line, parts};

/// A query for a log, and the log's file.
pub(crate) fn log(bytes: &[u8]) {
    let (line, file) = first_line(bytes);
    let Ok(uri) = axum::http::Uri::builder().path_and_query(format!("/?{line}")).build() else { return };
    let Ok(options) = LogOptions::parse(&query(&uri), Timestamp::UNIX_EPOCH) else { return };
    for line in file.split_inclusive(|byte| *byte == b'\n') {
        let shown = options.show(line).unwrap_or_default();
        assert!(shown.len() <= line.len());
    }
    if let Some(lines) = options.tail_lines {
        super::logs::hostile_tail(file, lines).now_or_never();
    }
}

/// What is shown of a log of standard output.
pub(crate) fn shown(file: &[u8]) -> Vec<u8> {
    let options = LogOptions { stream: Some("stdout"), ..LogOptions::default() };
    file.split_inclusive(|byte| *byte == b'\n').filter_map(|line| options.show(line)).flatten().collect()
}

/// Frames as they come; the same bytes as a block of headers, and as a message.
pub(crate) fn frames(bytes: &[u8]) {
    spdy::hostile_frames(bytes);
    channels::hostile_message(bytes);
}

/// A line with two codes; then the API server's answer to who bears a token, and after a NUL that to whether they may.
/// Nobody passes whom both do not let pass.
pub(crate) fn verdict(bytes: &[u8]) {
    let (line, answers) = first_line(bytes);
    let codes: Vec<u16> = line.split(' ').map(|code| code.parse().unwrap_or(200)).collect();
    let code = |at: usize| codes.get(at).copied().filter(|code| (200..600).contains(code)).unwrap_or(200);
    let bodies: [&[u8]; 2] = parts(answers);
    let said = bodies.map(<[u8]>::to_vec);
    let codes = [code(0), code(1)];
    let service = tower::service_fn(move |request: Request<Body>| {
        let at = usize::from(!request.uri().path().contains("tokenreviews"));
        let answer = Response::builder().status(codes[at]).body(Body::from(said[at].clone()));
        async { Ok::<_, Infallible>(answer.expect("a code")) }
    });
    let passed = block_on(async {
        let client = kube::Client::new(service, "default");
        let access = Access::new(client, "n".to_owned(), Arc::new(DefaultTimeProvider));
        let token = Some("Bearer token");
        let first = access.check(None, token, &Method::GET, "/metrics").await;
        // What is remembered is what was said.
        let again = access.check(None, token, &Method::GET, "/metrics").await;
        assert_eq!(first.is_ok(), again.is_ok());
        assert!(access.check(None, None, &Method::GET, "/metrics").await.is_err());
        first.is_ok()
    });
    if passed {
        let who: TokenReview = serde_json::from_slice(bodies[0]).expect("it was read");
        let may: SubjectAccessReview = serde_json::from_slice(bodies[1]).expect("it was read");
        assert!(codes.iter().all(|code| (200..300).contains(code)), "{codes:?}");
        assert_eq!(who.status.and_then(|s| s.authenticated), Some(true));
        assert!(may.status.is_some_and(|s| s.allowed));
    }
}
