//! Requests on large bodies and objects: worked on in threads of their own, a few at once, which take turns at half of the
//! processors, so that the async workers go on answering everybody else.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};

use axum::body::Body;
use http::{Response, header};
use parking_lot::{Condvar, Mutex};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::serve::Request;
use crate::limits;
use crate::status::{Result, Status};

const JSON_PATCH: &str = "application/json-patch+json";
/// The bytes of a JSON patch that cannot copy much.
const FEW_OPERATIONS: usize = 512;

/// Each holds its body and what is made of it: so their number is a bound on memory.
static PLACES: Semaphore = Semaphore::const_new(limits::APART_AT_ONCE);
/// Of each user who has large requests under way: the places of its own.
static LANES: LazyLock<Mutex<HashMap<String, Arc<Semaphore>>>> = LazyLock::new(Mutex::default);
/// Half of the processors compute for large requests; the others are for everybody.
static TURNS: LazyLock<Turns> = LazyLock::new(|| {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    Turns { free: Mutex::new((processors / 2).max(1)), given_back: Condvar::new() }
});

/// Serves a request, apart if it is large.
pub async fn serve(request: Request<'_>) -> Result<Response<Body>> {
    if weight(&request) < limits::APART_BYTES {
        return request.serve().await;
    }
    let closed = |_| Status::unavailable("apiserver is shutting down");
    let lane = Lane::of(&request.user.name);
    // First among the user's own: who has many is behind others who have one.
    let own = lane.places.clone().acquire_owned().await.map_err(closed)?;
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
        let served = gone.run_until_cancelled(request.serve());
        let answer = runtime.block_on(InTurns(Box::pin(served)));
        drop((place, own, lane));
        answer
    };
    match tasks.spawn_blocking(work).await {
        Ok(answer) => answer.unwrap_or_else(|| Err(Status::unavailable("the client has gone"))),
        Err(e) if e.is_panic() => std::panic::resume_unwind(e.into_panic()),
        Err(_) => Err(Status::unavailable("apiserver is shutting down")),
    }
}

/// The places of one user.
struct Lane {
    user: String,
    places: Arc<Semaphore>,
}

/// How many may compute at once.
struct Turns {
    free: Mutex<usize>,
    given_back: Condvar,
}

/// The right to compute, until it is dropped.
struct Turn<'a>(&'a Turns);

/// A future of a thread of its own that computes when it is its turn, and lets others while it waits for something.
struct InTurns<F>(Pin<Box<F>>);

// === impl Lane ===

impl Lane {
    fn of(user: &str) -> Self {
        let mut lanes = LANES.lock();
        let places = match lanes.get(user) {
            Some(places) => places.clone(),
            None => {
                let places = Arc::new(Semaphore::new(limits::APART_OF_USER));
                lanes.insert(user.to_owned(), places.clone());
                places
            }
        };
        Lane { user: user.to_owned(), places }
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        let mut lanes = LANES.lock();
        // The map's own and this one: nobody else is here or waits.
        if Arc::strong_count(&self.places) == 2 {
            lanes.remove(&self.user);
        }
    }
}

// === impl Turns ===

impl Turns {
    fn take(&self) -> Turn<'_> {
        let mut free = self.free.lock();
        while *free == 0 {
            self.given_back.wait(&mut free);
        }
        *free -= 1;
        Turn(self)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.0.free.lock() += 1;
        self.0.given_back.notify_one();
    }
}

// === impl InTurns ===

impl<F: Future> Future for InTurns<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let _turn = TURNS.take();
        self.0.as_mut().poll(cx)
    }
}

/// The bytes a request is about: its body, and the object that it changes. A JSON patch of some operations may copy more
/// than that.
fn weight(request: &Request<'_>) -> usize {
    let media = request.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if request.info.verb == "patch" && media.starts_with(JSON_PATCH) && request.body.len() > FEW_OPERATIONS {
        return limits::APART_BYTES;
    }
    let changes = matches!(request.info.verb.as_str(), "update" | "patch" | "delete");
    let stored = changes.then(|| {
        let key = request.ask(false).key(&request.info.name);
        request.server.store.get(&request.resource.storage, &key)
    });
    request.body.len() + stored.flatten().map_or(0, |stored| stored.value.len())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn no_more_compute_at_once_than_there_are_turns_and_who_waits_lets_others() {
        let turns = Turns { free: Mutex::new(2), given_back: Condvar::new() };
        let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        let _turn = turns.take();
                        most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        std::thread::yield_now();
                        now.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert!(most.load(Ordering::SeqCst) <= 2);
        assert_eq!(*turns.free.lock(), 2);
    }

    #[tokio::test]
    async fn a_user_has_a_few_places_and_is_forgotten_with_the_last() {
        let user = "apart::tests";
        let lane = Lane::of(user);
        let taken: Vec<_> = (0..limits::APART_OF_USER).map(|_| lane.places.try_acquire().unwrap()).collect();
        let again = Lane::of(user);
        assert!(again.places.try_acquire().is_err());
        assert!(Lane::of("apart::tests::other").places.try_acquire().is_ok());
        drop(taken);
        drop(lane);
        assert!(LANES.lock().contains_key(user), "another request is under way");
        drop(again);
        assert!(!LANES.lock().contains_key(user));
    }
}
