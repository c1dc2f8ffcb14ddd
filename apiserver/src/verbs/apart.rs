//! Requests on large bodies and objects: worked on in threads of their own, a few at once, so that the async workers go on
//! answering everybody else.

use axum::body::Body;
use http::Response;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::serve::Request;
use crate::limits;
use crate::status::{Result, Status};

/// Each holds its body and what is made of it: so their number is a bound on memory.
static PLACES: Semaphore = Semaphore::const_new(limits::APART_AT_ONCE);

/// Serves a request, apart if it is large.
pub async fn serve(request: Request<'_>) -> Result<Response<Body>> {
    if weight(&request) < limits::APART_BYTES {
        return request.serve().await;
    }
    let closed = |_| Status::unavailable("apiserver is shutting down");
    let place = PLACES.acquire().await.map_err(closed)?;
    let Request { server, user, info, headers, body, resource, now } = request;
    let (server, user, info, headers) = (server.clone(), user.clone(), info.clone(), headers.clone());
    let (runtime, tasks) = (Handle::current(), server.tasks.clone());
    // Nobody waits any more: what has not been committed is not.
    let gone = CancellationToken::new();
    let _waits = gone.clone().drop_guard();
    let work = move || {
        let request =
            Request { server: &server, user: &user, info: &info, headers: &headers, body, resource, now };
        let answer = runtime.block_on(gone.run_until_cancelled(request.serve()));
        drop(place);
        answer
    };
    match tasks.spawn_blocking(work).await {
        Ok(answer) => answer.unwrap_or_else(|| Err(Status::unavailable("the client has gone"))),
        Err(e) if e.is_panic() => std::panic::resume_unwind(e.into_panic()),
        Err(_) => Err(Status::unavailable("apiserver is shutting down")),
    }
}

/// The bytes a request is about: its body, and the object that it changes.
fn weight(request: &Request<'_>) -> usize {
    let changes = matches!(request.info.verb.as_str(), "update" | "patch" | "delete");
    let stored = changes.then(|| {
        let key = request.ask(false).key(&request.info.name);
        request.server.store.get(&request.resource.storage, &key)
    });
    request.body.len() + stored.flatten().map_or(0, |stored| stored.value.len())
}
