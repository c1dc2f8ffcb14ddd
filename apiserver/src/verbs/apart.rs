//! Requests on large bodies and objects: worked on by the workers that yield, a few at once and of each user, so that the
//! async workers go on answering everybody else.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use axum::body::Body;
use http::{Response, header};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tokio_util::sync::CancellationToken;

use super::serve::Request;
use crate::apart::{joined, workers};
use crate::limits;
use crate::status::{Result, Status};

const JSON_PATCH: &str = "application/json-patch+json";
/// The bytes of a JSON patch that cannot copy much, and what one is taken for that can.
const FEW_OPERATIONS: usize = 512;
const MANY_COPIES: usize = limits::APART_OF_USER / 2;

/// Each request holds its bytes and what is made of them: so their number is a bound on memory.
static ROOM: Semaphore = Semaphore::const_new(limits::APART_AT_ONCE);
/// Of each user who has large requests under way: the room of its own.
static LANES: LazyLock<Mutex<HashMap<String, Arc<Semaphore>>>> = LazyLock::new(Mutex::default);

/// Serves a request, apart if it is large.
pub async fn serve(request: Request<'_>) -> Result<Response<Body>> {
    let weight = weight(&request);
    if weight < limits::APART_BYTES {
        return request.serve().await;
    }
    let room = room(&request.user.name, weight).await?;
    let Request { server, user, info, headers, body, resource, now } = request;
    let (server, user, info, headers) = (server.clone(), user.clone(), info.clone(), headers.clone());
    let tasks = server.tasks.clone();
    // Nobody waits any more: what has not been committed is not.
    let gone = CancellationToken::new();
    let _waits = gone.clone().drop_guard();
    let work = async move {
        let request =
            Request { server: &server, user: &user, info: &info, headers: &headers, body, resource, now };
        let answer = gone.run_until_cancelled(request.serve()).await;
        drop(room);
        answer.unwrap_or_else(|| Err(Status::unavailable("the client has gone")))
    };
    let answer = joined(tasks.spawn_on(work, &workers())).await;
    answer.unwrap_or_else(|| Err(Status::unavailable("apiserver is shutting down")))
}

/// Waits for the room that so many bytes of a user's take.
pub(super) async fn room(user: &str, bytes: usize) -> Result<Room> {
    let bytes = u32::try_from(bytes.min(limits::APART_OF_USER)).unwrap_or(u32::MAX);
    let closed = |_| Status::unavailable("apiserver is shutting down");
    let lane = Lane::of(user);
    // First among the user's own: who has many is behind others who have one.
    let own = lane.room.clone().acquire_many_owned(bytes).await.map_err(closed)?;
    let all = ROOM.acquire_many(bytes).await.map_err(closed)?;
    Ok(Room { _all: all, _own: own, _lane: lane })
}

/// What is given back when it is dropped; the lane last, since it looks whether anybody is in it.
pub(super) struct Room {
    _all: SemaphorePermit<'static>,
    _own: OwnedSemaphorePermit,
    _lane: Lane,
}

/// The room of one user.
struct Lane {
    user: String,
    room: Arc<Semaphore>,
}

// === impl Lane ===

impl Lane {
    fn of(user: &str) -> Self {
        let mut lanes = LANES.lock();
        let room = match lanes.get(user) {
            Some(room) => room.clone(),
            None => {
                let room = Arc::new(Semaphore::new(limits::APART_OF_USER));
                lanes.insert(user.to_owned(), room.clone());
                room
            }
        };
        Lane { user: user.to_owned(), room }
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        let mut lanes = LANES.lock();
        // The map's own and this one: nobody else is here or waits.
        if Arc::strong_count(&self.room) == 2 {
            lanes.remove(&self.user);
        }
    }
}

/// The bytes a request is about: its body, and the object that it changes. A JSON patch of some operations may copy more
/// than that.
fn weight(request: &Request<'_>) -> usize {
    let verb = request.info.verb.as_str();
    let media = request.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let copies = verb == "patch" && media.starts_with(JSON_PATCH) && request.body.len() > FEW_OPERATIONS;
    let changes = matches!(verb, "update" | "patch" | "delete");
    let stored = changes.then(|| {
        let key = request.ask(false).key(&request.info.name);
        request.server.store.get(&request.resource.storage, &key)
    });
    let copied = if copies { MANY_COPIES } else { 0 };
    request.body.len() + copied + stored.flatten().map_or(0, |stored| stored.value.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_user_has_some_room_and_is_forgotten_with_the_last() {
        let user = "apart::tests";
        let lane = Lane::of(user);
        let all = u32::try_from(limits::APART_OF_USER).unwrap();
        let taken = lane.room.try_acquire_many(all).unwrap();
        let again = Lane::of(user);
        assert!(again.room.try_acquire().is_err());
        assert!(Lane::of("apart::tests::other").room.try_acquire_many(all).is_ok());
        drop(taken);
        drop(lane);
        assert!(LANES.lock().contains_key(user), "another request is under way");
        drop(again);
        assert!(!LANES.lock().contains_key(user));
    }
}
