//! Answers below `/openapi`: which document, in which form, and whether the client has it already.

use std::io::Write;
use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use jiff::{Timestamp, ToSpan};

use super::documents::{self, Form};
use super::v2;
use crate::registry::Catalog;
use crate::request::RequestInfo;
use crate::status::{Result, Status};
use crate::verbs::answer;
use crate::{Server, openapi};

/// Media types that the document of everything is asked for by, and what is answered.
const SWAGGER: [(&str, &str, Form); 3] = [
    ("json", JSON, Form::Json),
    ("com.github.proto-openapi.spec.v2@v1.0+protobuf", PROTOBUF, Form::Protobuf),
    ("com.github.proto-openapi.spec.v2.v1.0+protobuf", PROTOBUF, Form::Protobuf),
];
const JSON: &str = "application/json";
const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// The answer to a request whose path begins with `/openapi`.
pub async fn serve(
    server: &Arc<Server>,
    info: &RequestInfo,
    headers: &HeaderMap,
    now: Timestamp,
) -> Result<Response<Body>> {
    let segments: Vec<&str> = info.path.trim_matches('/').split('/').skip(1).collect();
    let catalog = server.registry.snapshot();
    match segments[..] {
        ["v2"] => swagger(server, catalog, headers).await,
        ["v3"] => Ok(index(&catalog, headers)),
        ["v3", "api", version] => group_version(server, catalog, ("", version), info, headers, now).await,
        ["v3", "apis", group, version] => {
            group_version(server, catalog, (group, version), info, headers, now).await
        }
        _ => Err(Status::no_such_path()),
    }
}

async fn swagger(server: &Server, catalog: Arc<Catalog>, headers: &HeaderMap) -> Result<Response<Body>> {
    let Some((media, form)) = negotiate(headers, &SWAGGER) else { return Ok(not_acceptable()) };
    let document = server.openapi.swagger(&catalog, form);
    let tag = format!("\"{}\"", document.hash);
    if has(headers, &tag) {
        return Ok(unchanged(&tag));
    }
    let packed = server.openapi.packed(&document, move |out| v2::write(&catalog, form, out)).await?;
    Ok(send(packed, media, &tag, headers))
}

async fn group_version(
    server: &Server,
    catalog: Arc<Catalog>,
    (group, version): (&str, &str),
    info: &RequestInfo,
    headers: &HeaderMap,
    now: Timestamp,
) -> Result<Response<Body>> {
    let known = catalog.version(group, version).ok_or_else(Status::no_such_path)?;
    let Some((media, _)) = negotiate(headers, &SWAGGER[..1]) else { return Ok(not_acceptable()) };
    let document = server.openapi.version(group, known);
    let asked = info.param("hash").filter(|h| !h.is_empty());
    if asked.as_ref().is_some_and(|h| *h != document.hash) {
        return Ok(moved(&openapi::url(&openapi::path(group, version), &document.hash)));
    }
    let tag = format!("\"{}\"", document.hash);
    let mut response = if has(headers, &tag) {
        unchanged(&tag)
    } else {
        let (catalog, group, version) = (catalog.clone(), group.to_owned(), version.to_owned());
        let write = move |out: &mut dyn Write| match catalog.version(&group, &version) {
            Some(version) => documents::write_version(&group, version, out),
            None => Ok(()),
        };
        send(server.openapi.packed(&document, write).await?, media, &tag, headers)
    };
    if asked.is_some() {
        keep(response.headers_mut(), now);
    }
    Ok(response)
}

fn index(catalog: &Catalog, headers: &HeaderMap) -> Response<Body> {
    let versions = catalog.groups().iter().flat_map(|g| g.versions.iter().map(move |v| (g, v)));
    let urls = versions.filter_map(|(g, v)| {
        let path = openapi::path(&g.name, &v.name);
        let url = match &v.remote {
            Some(remote) => remote.discovered().openapi.clone()?,
            None => openapi::url(&path, &openapi::hash(&g.name, &v.name, &v.resources)),
        };
        Some((path, url))
    });
    let body = Bytes::from(openapi::index(urls).to_string());
    let tag = crate::discovery::etag(&body);
    if has(headers, &tag) {
        return unchanged(&tag);
    }
    let mut response = answer::bytes(StatusCode::OK, JSON, body);
    set(response.headers_mut(), header::ETAG, &tag);
    response
}

/// The form that the client would rather have, of those there are.
fn negotiate(headers: &HeaderMap, offered: &[(&str, &'static str, Form)]) -> Option<(&'static str, Form)> {
    let accept = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let accept = if accept.trim().is_empty() { "*/*" } else { accept };
    let mut clauses: Vec<(&str, f32)> = accept
        .split(',')
        .map(|clause| {
            let mut parts = clause.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default();
            let weight = parts.find_map(|p| p.strip_prefix("q=")).and_then(|q| q.parse().ok());
            (media, weight.unwrap_or(1.0))
        })
        .collect();
    clauses.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    clauses.into_iter().find_map(|(media, _)| {
        let (kind, subtype) = media.split_once('/')?;
        let takes = |offer: &str| matches!(kind, "*" | "application") && (subtype == "*" || subtype == offer);
        offered.iter().find(|(offer, ..)| takes(offer)).map(|(_, answer, form)| (*answer, *form))
    })
}

/// A document that the client does not have.
fn send(packed: Bytes, media: &'static str, tag: &str, headers: &HeaderMap) -> Response<Body> {
    let taken = headers.get(header::ACCEPT_ENCODING).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let as_packed = taken.split(',').any(|coding| {
        let (name, weight) = coding.split_once(';').unwrap_or((coding, ""));
        matches!(name.trim(), "gzip" | "*")
            && !matches!(weight.trim(), "q=0" | "q=0.0" | "q=0.00" | "q=0.000")
    });
    let mut response = match as_packed {
        true => answer::bytes(StatusCode::OK, media, packed),
        false => {
            let mut response = Response::new(Body::from_stream(documents::unpacked(packed)));
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
            response
        }
    };
    let headers = response.headers_mut();
    set(headers, header::ETAG, tag);
    headers.insert(header::VARY, HeaderValue::from_static("Accept, Accept-Encoding"));
    if as_packed {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

/// Whether the client has the document with this tag.
fn has(headers: &HeaderMap, tag: &str) -> bool {
    let known = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|v| v.to_str().ok());
    known
        .flat_map(|list| list.split(','))
        .any(|one| matches!(one.trim(), one if one == "*" || one.trim_start_matches("W/") == tag))
}

fn unchanged(tag: &str) -> Response<Body> {
    let mut response = empty(StatusCode::NOT_MODIFIED);
    set(response.headers_mut(), header::ETAG, tag);
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept, Accept-Encoding"));
    response
}

/// The client's hash is that of an older document, or of none.
fn moved(url: &str) -> Response<Body> {
    let mut response = empty(StatusCode::MOVED_PERMANENTLY);
    set(response.headers_mut(), header::LOCATION, url);
    response
}

fn not_acceptable() -> Response<Body> {
    empty(StatusCode::NOT_ACCEPTABLE)
}

fn empty(code: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = code;
    response
}

/// A URL with a hash is that of one document for ever.
fn keep(headers: &mut HeaderMap, now: Timestamp) {
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
    let year = now.to_zoned(jiff::tz::TimeZone::UTC).saturating_add(1.year());
    set(headers, header::EXPIRES, &year.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string());
}

fn set(headers: &mut HeaderMap, name: header::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_is_what_the_client_asks_for() {
        for (accept, form) in [
            ("", Some(Form::Json)),
            ("*/*", Some(Form::Json)),
            ("application/json, */*", Some(Form::Json)),
            ("application/com.github.proto-openapi.spec.v2@v1.0+protobuf", Some(Form::Protobuf)),
            (
                "application/com.github.proto-openapi.spec.v2.v1.0+protobuf;q=0.9, application/json;q=0.1",
                Some(Form::Protobuf),
            ),
            (
                "application/json;q=0.1, application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
                Some(Form::Protobuf),
            ),
            ("application/yaml", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, accept.parse().unwrap());
            assert_eq!(negotiate(&headers, &SWAGGER).map(|(_, form)| form), form, "{accept}");
        }
    }
}
