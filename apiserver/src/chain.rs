//! The way of every request, from the top: who asks, what is asked, whether it may be, who serves it.

use std::collections::HashSet;
use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use bytes::Bytes;
use coracle_api::duration;
use coracle_api::names::GROUP_MASTERS;
use coracle_api::panics;
use futures::FutureExt;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::authn::{Peer, User, impersonation};
use crate::authz::{Asked, Decision, refused};
use crate::flow_control::{Flow, Held, Seated, width};
use crate::health::{self, Check};
use crate::metrics::{Counted, RequestLabels};
use crate::registry::{Catalog, Registry};
use crate::request::{self, RequestInfo};
use crate::resource::SubresourceHandler;
use crate::route::{self, Route};
use crate::server::Server;
use crate::status::{Result, Status};
use crate::verbs::{answer, apart, serve};
use crate::{aggregation, connect, discovery, openapi, zpages};

/// The part of a request's time that it may wait for seats: upstream's.
const PATIENCE: u32 = 4;

/// Where the log tells of every request whose user is known, at `debug`: `--log coracle_apiserver::requests=debug`.
pub const REQUESTS: &str = "coracle_apiserver::requests";

/// Upstream's code for a request whose client has gone away before it was answered.
const ABANDONED: StatusCode = StatusCode::GATEWAY_TIMEOUT;

/// How a connection shows who is asking.
#[derive(Clone, Debug)]
pub enum Caller {
    /// A component in this process, or a test.
    Known(Arc<User>),
    Network(Peer),
}

const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");

/// Answers a request; never fails.
pub async fn handle(
    server: Arc<Server>,
    caller: Caller,
    request: Request<Body>,
) -> Result<Response<Body>, Infallible> {
    let begun = Instant::now();
    let info =
        request::parse(request.method(), request.uri().path(), request.uri().query().unwrap_or_default());
    let audit_id = request.headers().get(&AUDIT_ID).cloned().unwrap_or_else(new_audit_id);
    let in_flight = Arc::new(count(&server, &info));
    let mut finish = Finish { server: &server, info: &info, begun, code: ABANDONED };
    let lines = answer::wants_lines(&info, request.headers());
    let mut flow = None;
    let answered = AssertUnwindSafe(answer(&server, caller, &info, request, &in_flight, &mut flow));
    let answered = answered.catch_unwind().await;
    let mut response = match answered {
        Ok(Ok(response)) => response,
        Ok(Err(failure)) => {
            let mut refusal = answer::failure(&failure, lines);
            if failure.code() == 403 {
                // The text repeats what the client has sent.
                refusal
                    .headers_mut()
                    .insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
            }
            refusal
        }
        Err(panic) => {
            let why = panics::count("request", &*panic);
            tracing::error!(verb = info.verb, path = info.path, panic = why, "a request panicked");
            answer::status(&Status::internal("a handler failed; this request was logged"))
        }
    };
    let headers = response.headers_mut();
    headers.insert(AUDIT_ID, audit_id);
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache, private"));
    if let Some(flow) = flow {
        flow.mark(headers);
    }
    finish.code = response.status();
    drop(finish);
    Ok(response)
}

/// Counts a request once, however it ends.
struct Finish<'a> {
    server: &'a Server,
    info: &'a RequestInfo,
    begun: Instant,
    code: StatusCode,
}

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        let labels = labels(&self.server.registry, self.info, self.code.as_u16());
        self.server.metrics.finished(&labels, self.begun.elapsed());
    }
}

/// Counts this request while it is answered; what lasts, to its end.
fn count(server: &Server, info: &RequestInfo) -> Counted {
    Counted::new(match lasts(info) {
        true => server.metrics.long_running().clone(),
        false => server.metrics.inflight(!is_read(info)),
    })
}

/// Labels of what is served only: clients invent paths, and nothing grows without bound.
fn labels(registry: &Registry, info: &RequestInfo, code: u16) -> RequestLabels {
    let resource = if info.is_resource { registry.lookup(&info.gvr()) } else { None };
    let known = resource.is_some();
    let of = |text: &str| if known { text.to_owned() } else { String::new() };
    let scope = match (known, info.name.is_empty(), info.namespace.is_empty()) {
        (false, ..) => "",
        (true, false, _) => "resource",
        (true, true, false) => "namespace",
        (true, true, true) => "cluster",
    };
    let part = resource.is_some_and(|r| {
        matches!(&*info.subresource, "status" | "scale") || r.subresource(&info.subresource).is_some()
    });
    RequestLabels {
        verb: if known { info.verb.to_uppercase() } else { "GET".to_owned() },
        group: of(&info.group),
        version: of(&info.version),
        resource: of(&info.resource),
        subresource: if part { info.subresource.clone() } else { String::new() },
        scope,
        code,
    }
}

fn is_read(info: &RequestInfo) -> bool {
    matches!(info.verb.as_str(), "get" | "list" | "watch")
}

fn new_audit_id() -> HeaderValue {
    HeaderValue::from_str(&uuid::Uuid::new_v4().to_string()).expect("a UUID is ASCII")
}

async fn answer(
    server: &Arc<Server>,
    caller: Caller,
    info: &RequestInfo,
    request: Request<Body>,
    in_flight: &Arc<Counted>,
    flow: &mut Option<Flow>,
) -> Result<Response<Body>> {
    let now = server.access.pki.clock().now();
    let asking = authenticate(server, caller, request.headers(), now).await?;
    let user = impersonate(server, asking.clone(), info, request.headers())?;
    tell(&asking, &user, info, request.headers());
    let flow = &*flow.insert(server.flows.classify(&**server, &user, info));
    // What the path leads to is known before anybody is asked, and told only after.
    let route = route::route(&server.registry.snapshot(), info);
    authorize(server, &user, &Asked::from(info))?;
    let resource = match route? {
        Route::Remote(remote) if is_long_running(info) => {
            let held = match info.verb.as_str() {
                "watch" => server.streams.watches.hold(&user, flow, in_flight)?,
                _ => server.streams.sessions.hold(&user, flow, in_flight)?,
            };
            return aggregation::serve(server, &remote, &user, request, held).await;
        }
        Route::Remote(remote) => {
            let served = async {
                let (parts, body) = request.into_parts();
                let body = server.bodies.read(&user.name, body).await?;
                let _seated = seat(server, flow, info, || 0).await?;
                let request = Request::from_parts(parts, body.into());
                aggregation::serve(server, &remote, &user, request, Held::default()).await
            };
            return in_time(time_limit(server.config.request_timeout, info)?, served).await;
        }
        Route::Document if info.path.starts_with("/openapi/") => {
            return openapi::serve(server, info, request.headers(), now).await;
        }
        Route::Document => {
            let page = zpages::serve(server, &info.path, request.headers(), now);
            return page.unwrap_or_else(|| non_resource(server, info, request.headers()));
        }
        Route::Nowhere => return nowhere(server.is_ready()),
        Route::Resource(resource) => resource,
    };
    if let Some(SubresourceHandler::Connect(kind)) =
        resource.subresource(&info.subresource).map(|s| &s.handler)
    {
        connect::admit(server, &user, &resource, *kind, info).await?;
        let held = server.streams.sessions.hold(&user, flow, in_flight)?;
        return connect::serve(server, *kind, info, request, held).await;
    }
    let held = match info.verb.as_str() {
        "watch" => Some(server.streams.watches.hold(&user, flow, in_flight)?),
        _ => None,
    };
    let (parts, body) = request.into_parts();
    let served = async {
        // First the body, then the seat: who does not send theirs keeps nobody from one.
        let body = server.bodies.read(&user.name, body).await?;
        let _seated = seat(server, flow, info, || server.store.count(&resource.storage)).await?;
        let Parts { headers, .. } = &parts;
        let served = apart::serve(serve::Request { server, user: &user, info, headers, body, resource, now });
        let answer = served.await?;
        Ok(match held {
            Some(held) => answer.map(|body| held.until_end_of(body)),
            None => answer,
        })
    };
    // A watch is answered at once; its stream has a deadline of its own.
    in_time(time_limit(server.config.request_timeout, info)?, served).await
}

async fn in_time(
    limit: Duration,
    served: impl Future<Output = Result<Response<Body>>>,
) -> Result<Response<Body>> {
    let late =
        |_| Status::new(504, "Timeout", "Timeout: request did not complete within the allotted timeout");
    tokio::time::timeout(limit, served).await.map_err(late)?
}

/// How long an answer may take: the server's limit, or less where the client asks for less with `timeout`.
fn time_limit(most: Duration, info: &RequestInfo) -> Result<Duration> {
    let Some(asked) = info.param("timeout").filter(|t| !t.is_empty() && !is_long_running(info)) else {
        return Ok(most);
    };
    let nanoseconds = duration::parse(&asked).map_err(|why| {
        Status::bad_request(format!("invalid timeout specified in the request URL - {why}"))
    })?;
    let asked = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(0));
    Ok(if asked.is_zero() { most } else { asked.min(most) })
}

async fn authenticate(
    server: &Server,
    caller: Caller,
    headers: &HeaderMap,
    now: Timestamp,
) -> Result<Arc<User>> {
    match caller {
        Caller::Known(user) => Ok(user),
        Caller::Network(peer) => {
            if let Peer::Named { not_after, .. } | Peer::FrontProxy { not_after } = &peer {
                server.metrics.authenticated_until(not_after - now.as_second());
            }
            server.access.authn.authenticate(server, &peer, headers, now).await
        }
    }
}

/// Who is served: the user that `Impersonate-*` headers name, where the caller may act as it.
fn impersonate(
    server: &Server,
    user: Arc<User>,
    info: &RequestInfo,
    headers: &HeaderMap,
) -> Result<Arc<User>> {
    let may = |user: &User, asked: &Asked<'_>| server.access.authz.decide(server, user, asked);
    let other = impersonation::user(&user, &Asked::from(info), headers, &may)?;
    Ok(other.map_or(user, Arc::new))
}

/// Logs who asks, and as whom, with which program, whoever refuses it later. Nothing is done while nobody reads it.
fn tell(asking: &Arc<User>, user: &Arc<User>, info: &RequestInfo, headers: &HeaderMap) {
    tracing::debug!(
        target: REQUESTS,
        user = asking.name,
        acts_as = (!Arc::ptr_eq(asking, user)).then_some(&*user.name),
        masters = asking.in_group(GROUP_MASTERS) || user.in_group(GROUP_MASTERS),
        agent = headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok()),
        verb = info.verb,
        path = info.path,
    );
}

/// Upstream's long-running requests.
fn lasts(info: &RequestInfo) -> bool {
    info.verb == "watch"
        || matches!(info.subresource.as_str(), "attach" | "exec" | "proxy" | "log" | "portforward")
}

/// What no limit counts: what lasts, and what is about no resource.
fn is_long_running(info: &RequestInfo) -> bool {
    lasts(info) || !info.is_resource
}

/// The request's seats among those that are served at once, waited for as priority and fairness has it.
async fn seat(
    server: &Server,
    flow: &Flow,
    info: &RequestInfo,
    stored: impl FnOnce() -> usize,
) -> Result<Seated> {
    let patience = time_limit(server.config.request_timeout, info)? / PATIENCE;
    server.flows.enter(&server.metrics, flow, width(info, stored), patience).await
}

fn authorize(server: &Server, user: &User, asked: &Asked<'_>) -> Result<()> {
    match server.access.authz.decide(server, user, asked) {
        Decision::Allow(_) => Ok(()),
        Decision::Deny(why) => Err(refused(user, asked, &why)),
    }
}

fn non_resource(server: &Arc<Server>, info: &RequestInfo, headers: &HeaderMap) -> Result<Response<Body>> {
    let path = info.path.trim_end_matches('/');
    if let Some((code, text)) = health::answer(path, &info.query, &checks(server)) {
        let code = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        return Ok(answer::bytes(code, "text/plain; charset=utf-8", text.into()));
    }
    let segments: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let catalog = server.registry.snapshot();
    let value = match segments[..] {
        ["metrics"] => return Ok(metrics_text(server)),
        ["version"] => {
            // Read by people more than by programs; upstream writes it over several lines, too.
            let text = serde_json::to_vec_pretty(&discovery::version()).map_err(Status::internal)?;
            return Ok(answer::bytes(StatusCode::OK, "application/json", text.into()));
        }
        [""] => root(&catalog),
        ["openid", "v1", "jwks"] => {
            let keys = server.access.authn.tokens.key().jwks().to_string();
            return Ok(answer::bytes(StatusCode::OK, "application/jwk-set+json", keys.into()));
        }
        [".well-known", "openid-configuration"] => {
            let uri = format!("https://{}/openid/v1/jwks", server.config.advertise);
            crate::pki::openid_configuration(server.access.authn.tokens.issuer(), &uri)
        }
        _ => {
            let accept = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok());
            let address = server.config.advertise.to_string();
            let document = discovery::document(&catalog, path, accept, &address);
            let Some(document) = document else {
                return nowhere(server.is_ready());
            };
            let body = serde_json::to_vec(&document.body).map_err(Status::internal)?;
            let tag = discovery::etag(&body);
            return Ok(tagged(body.into(), document.content_type, &tag, headers));
        }
    };
    Ok(answer::json(StatusCode::OK, &value))
}

/// Nothing is served here: what Go's HTTP server says of that. While the server starts it does not know yet what it will
/// serve, and a 404 would tell clients that their kinds are gone.
fn nowhere(is_ready: bool) -> Result<Response<Body>> {
    if !is_ready {
        return Err(Status::starting());
    }
    Ok(answer::bytes(StatusCode::NOT_FOUND, "text/plain; charset=utf-8", "404 page not found\n".into()))
}

fn checks(server: &Server) -> Vec<Check> {
    let check = |name, well: bool, why: &str, readiness_only| Check {
        name,
        failure: (!well).then(|| why.to_owned()),
        readiness_only,
    };
    vec![
        check("ping", true, "", false),
        check("log", true, "", false),
        check("store", server.store.is_open(), "the store is closed", false),
        check("poststarthook/bootstrap", server.is_ready(), "not finished", true),
        check("shutdown", !server.is_stopping(), "process is shutting down", true),
    ]
}

fn metrics_text(server: &Server) -> Response<Body> {
    let catalog = server.registry.snapshot();
    let stored: HashSet<&str> = catalog.resources().map(|r| &*r.storage).collect();
    let counts = server.store.counts().into_iter().filter(|(storage, _)| stored.contains(&**storage));
    let objects = counts.map(|(storage, count)| {
        let (group, plural) = storage.split_once('/').unwrap_or(("", &storage));
        (if group.is_empty() { plural.to_owned() } else { format!("{plural}.{group}") }, count)
    });
    server.flows.show(server, &server.metrics);
    server.metrics.show_certificates(&server.access.pki.renewals());
    let text = server.metrics.text(server.store.revision(), objects);
    answer::bytes(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text.into())
}

/// Every path there is something at.
fn root(catalog: &Catalog) -> Value {
    let fixed = [
        "/.well-known/openid-configuration",
        "/api",
        "/apis",
        "/healthz",
        "/livez",
        "/metrics",
        "/openapi/v2",
        "/openapi/v3",
        "/flagz",
    ];
    let mut paths: Vec<String> = fixed.map(str::to_owned).into();
    paths.extend(["/openid/v1/jwks", "/readyz", "/statusz", "/version"].map(str::to_owned));
    for group in catalog.groups() {
        if !group.name.is_empty() {
            paths.push(format!("/apis/{}", group.name));
        }
        paths.extend(group.versions.iter().map(|v| format!("/{}", openapi::path(&group.name, &v.name))));
    }
    paths.sort();
    json!({"paths": paths})
}

/// A document with an `ETag`; 304 where the client has it already.
fn tagged(body: Bytes, media: &'static str, tag: &str, headers: &HeaderMap) -> Response<Body> {
    let known = headers.get(header::IF_NONE_MATCH).is_some_and(|t| t.as_bytes() == tag.as_bytes());
    let (code, body) = if known { (StatusCode::NOT_MODIFIED, Bytes::new()) } else { (StatusCode::OK, body) };
    let mut response = answer::bytes(code, media, body);
    if let Ok(tag) = HeaderValue::from_str(tag) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
    response
}

#[cfg(test)]
mod tests;
