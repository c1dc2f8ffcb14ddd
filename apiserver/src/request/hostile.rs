//! Hostile request lines and headers: parsed, routed, negotiated and authenticated without more authority than they show.

use std::sync::LazyLock;

use http::{HeaderMap, HeaderName, HeaderValue, Method, header};

use super::parse;
use crate::codec;
use crate::fuzz::first_line;
use crate::patch::PatchKind;
use crate::registry::Registry;
use crate::route::{Route, route};
use crate::{authn, connect, health, resources, verbs};

static REGISTRY: LazyLock<Registry> = LazyLock::new(|| Registry::new(resources::builtins()));

/// A line `METHOD path?query`, and a line `name: value` for each header.
pub(crate) fn head(bytes: &[u8]) {
    let (line, rest) = first_line(bytes);
    let (method, uri) = line.split_once(' ').unwrap_or(("GET", &line));
    let method: Method = method.parse().unwrap_or_default();
    let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
    let info = parse(&method, path, query);
    if let Ok(Route::Resource(resource)) = route(&REGISTRY.snapshot(), &info) {
        assert!(info.is_resource && resource.gvr == info.gvr());
        // Nothing that lies in no namespace, or in another one, is reached through one.
        assert!(resource.namespaced() || !info.is_below_namespace);
        assert!(!resource.namespaced() || !info.is_item || !info.namespace.is_empty());
        verbs::hostile::parameters(&info, &resource);
    }
    assert!(info.tail.is_empty() || info.tail.starts_with('/'));
    connect::hostile::query(query, &info);
    health::answer(path, query, &[]);
    headers(&header_map(rest));
}

fn header_map(mut rest: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    while !rest.is_empty() {
        let end = rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len());
        let line = &rest[..end];
        rest = rest.get(end + 1..).unwrap_or_default();
        let Some(colon) = line.iter().position(|b| *b == b':') else { continue };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            // The server takes no more than so many.
            if headers.len() < 100 {
                headers.append(name, value);
            }
        }
    }
    headers
}

fn headers(headers: &HeaderMap) {
    let text = |name| headers.get(name).and_then(|v: &HeaderValue| v.to_str().ok());
    let accept = text(header::ACCEPT);
    let _ = (codec::negotiate(accept), codec::negotiate_plain(accept), codec::negotiate_stream(accept));
    let _ = (codec::negotiate_untyped(accept, true), codec::negotiate_untyped(accept, false));
    if let Some(media) = text(header::CONTENT_TYPE) {
        let _ = PatchKind::from_content_type(media);
    }
    authn::hostile::headers(headers);
}
