//! Passes a request on to the server that answers its group version, in the name of the user it was authorised for.

use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use http::header::{HeaderName, LOCATION};
use http::{HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;

use super::remote::{CallError, Remote};
use crate::Server;
use crate::authn::User;
use crate::connect::dial;
use crate::flow_control::Held;
use crate::status::{Result, Status};
use crate::verbs::answer;

const NO_SNIFFING: (HeaderName, HeaderValue) =
    (HeaderName::from_static("x-content-type-options"), HeaderValue::from_static("nosniff"));

/// Upstream's words for a server that would have clients ask somebody else in their own names (CVE-2022-3172).
const NO_REDIRECTS: &str = "the backend attempted to redirect this request, which is not permitted";

/// Answers with what the other server answers; bodies stream both ways, and the place is held to their end.
pub async fn serve(
    server: &Arc<Server>,
    remote: &Remote,
    user: &User,
    mut request: Request<Body>,
    held: Held,
) -> Result<Response<Body>> {
    if !remote.is_available() {
        return Ok(unavailable("service unavailable"));
    }
    let Ok(address) = remote.resolve(server) else { return Ok(unavailable("service unavailable")) };
    let upgrade = dial::asks_to_upgrade(request.headers()).then(|| hyper::upgrade::on(&mut request));
    let (parts, body) = request.into_parts();
    let mut onward = Request::builder()
        .method(parts.method)
        .uri(parts.uri)
        .body(body)
        .map_err(|e| Status::bad_request(e.to_string()))?;
    *onward.headers_mut() = dial::forwarded(&parts.headers);
    match remote.call(&address, user, onward).await {
        Ok(answer) if upgrade.is_none() && redirects(&answer) => Ok(Response::builder()
            .status(StatusCode::BAD_GATEWAY)
            .body(Body::from(NO_REDIRECTS))
            .map_err(Status::internal)?),
        Ok(answer) => dial::relay(server, upgrade, held, answer),
        Err(CallError::Unusable(why)) => Ok(text(StatusCode::INTERNAL_SERVER_ERROR, &why)),
        Err(why) => Ok(unavailable(&format!("error trying to reach service: {why}"))),
    }
}

fn redirects(answer: &Response<Incoming>) -> bool {
    answer.status().is_redirection() && answer.headers().get(LOCATION).is_some_and(|to| !to.is_empty())
}

fn unavailable(why: &str) -> Response<Body> {
    text(StatusCode::SERVICE_UNAVAILABLE, why)
}

fn text(code: StatusCode, why: &str) -> Response<Body> {
    let mut response = answer::bytes(code, "text/plain; charset=utf-8", Bytes::from(format!("{why}\n")));
    let (name, value) = NO_SNIFFING;
    response.headers_mut().insert(name, value);
    response
}
