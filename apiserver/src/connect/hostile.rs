//! Hostile queries and names of what is connected to, and hostile pages of what is proxied.

use axum::body::Body;
use bytes::Bytes;
use futures::{FutureExt, stream};
use http::Response;
use http::header::{CONTENT_TYPE, LOCATION};
use http_body_util::BodyExt;

use super::links::Mounted;
use super::proxy;
use super::query::Query;
use crate::cluster::testing::Fixed;
use crate::request::{RequestInfo, params};

/// A raw query is read as everywhere else, and what is passed on of it says the same.
pub(crate) fn query(text: &str, info: &RequestInfo) {
    let query = Query::parse(text);
    // Each of them is looked for in all.
    for (name, value) in params(text).take(8) {
        assert!(query.all(&name).any(|v| v == value), "{name:?} in {text:?}");
        // Options have plain names.
        if !name.bytes().all(|b| b.is_ascii_alphanumeric()) {
            continue;
        }
        let only = query.only(&[&name]);
        let passed: Vec<_> = params(&only).map(|(_, v)| v.into_owned()).collect();
        let given: Vec<_> = params(text).filter(|(n, _)| *n == name).map(|(_, v)| v.into_owned()).collect();
        assert_eq!(passed, given, "{name:?} in {text:?}");
    }
    if let Ok((_, path)) = proxy::target(&Fixed::new(vec![]), info) {
        assert!(path.starts_with('/'));
    }
}

/// A line with a `Location`, and a page, which comes in pieces. However it is cut, it is rewritten as the same.
pub(crate) fn page(bytes: &[u8]) {
    let (location, page) = crate::fuzz::first_line(bytes);
    let mounted = || Mounted {
        prefix: "/api/v1/namespaces/n/pods/p/proxy".to_owned(),
        hosts: ["10.0.0.1:80".to_owned(), "server:6443".to_owned()],
    };
    if let Ok(moved) = Response::builder().header(LOCATION, &*location).body(Body::empty()) {
        let moved = mounted().apply(moved);
        let to = moved.headers().get(LOCATION).and_then(|to| to.to_str().ok()).unwrap_or_default();
        // An absolute path is one below the proxy's.
        assert!(!to.starts_with('/') || to.starts_with("//") || to.starts_with(&mounted().prefix), "{to:?}");
    }
    let rewritten = |size: usize| {
        let pieces: Vec<_> =
            page.chunks(size).map(|p| Ok::<_, std::io::Error>(Bytes::copy_from_slice(p))).collect();
        let answer = Response::builder().header(CONTENT_TYPE, "text/html");
        let answer = answer.body(Body::from_stream(stream::iter(pieces))).expect("a header");
        let whole = mounted().apply(answer).into_body().collect().now_or_never().expect("all is there");
        whole.map(|whole| whole.to_bytes()).map_err(|error| error.to_string())
    };
    let whole = rewritten(page.len().max(1));
    if let Ok(whole) = &whole {
        // Each link grows by the prefix, and nothing else grows; quotes may be added.
        assert!(whole.len() <= page.len() * (mounted().prefix.len() + 8));
        // Small pages, in many pieces.
        if page.len() <= 2048 {
            assert_eq!(rewritten(7).as_ref(), Ok(whole));
        }
    }
}
