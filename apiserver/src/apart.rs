//! Work that takes long to compute: on workers of its own, which yield to those that answer everybody.

use std::sync::LazyLock;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures::{FutureExt, Stream, StreamExt, stream};
use tokio::runtime::{Builder, Handle, Runtime, RuntimeFlavor};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// How much these workers yield: a third of a processor where another thread wants it, too, and all of it otherwise. What
/// they hold a lock on is not kept from others for long.
const NICE: i32 = 5;
/// Each worker's stack, in bytes; memory is taken as it is used.
const STACK: usize = 16 << 20;

/// Pieces are tiny below this, in bytes: each costs those who send it on as much as a large one.
const TINY: usize = 8 << 10;

static WORKERS: LazyLock<Runtime> = LazyLock::new(|| {
    let yields = || {
        // Where it cannot be had, they are as eager as the others.
        let _ = rustix::process::setpriority_process(None, NICE);
    };
    let mut workers = Builder::new_multi_thread();
    workers.thread_name("apart").thread_stack_size(STACK).on_thread_start(yields).enable_all();
    workers.build().expect("threads can be started")
});

/// Where such work is spawned. A runtime of one thread is a test's, which has its own time: there is no other place.
pub(crate) fn workers() -> Handle {
    match Handle::try_current() {
        Ok(current) if current.runtime_flavor() == RuntimeFlavor::CurrentThread => current,
        _ => WORKERS.handle().clone(),
    }
}

/// Does some work apart; to its end, also where nobody waits for it any more.
pub(crate) fn spawn<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    workers().spawn(async { work() })
}

/// The same for who waits; a panic goes on here.
pub(crate) async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    joined(spawn(work)).await.expect("these workers do not end before the program")
}

/// What a task gave, its panic going on here; `None` where it was stopped.
pub(crate) async fn joined<T>(task: JoinHandle<T>) -> Option<T> {
    match task.await {
        Ok(outcome) => Some(outcome),
        Err(e) if e.is_panic() => std::panic::resume_unwind(e.into_panic()),
        Err(_) => None,
    }
}

/// A body whose pieces are made apart, the next one while one goes out. One that is whole stays as it is.
pub(crate) fn body(body: Body) -> Body {
    use axum::body::HttpBody;
    if body.size_hint().exact().is_some() {
        return body;
    }
    let (sender, receiver) = mpsc::channel(1);
    let making = workers().spawn(make(body, sender));
    let pieces = stream::unfold(Some((receiver, making)), |state| async {
        let (mut receiver, making) = state?;
        match receiver.recv().await {
            Some(piece) => Some((piece, Some((receiver, making)))),
            // An end that a panic made is none.
            None => making.await.err().map(|e| (Err(axum::Error::new(e)), None)),
        }
    });
    Body::from_stream(pieces)
}

/// Makes a body's pieces as long as somebody takes them; tiny ones that are there together go out together.
async fn make(body: Body, taken: mpsc::Sender<Result<Bytes, axum::Error>>) {
    let mut pieces = body.into_data_stream().fuse();
    while let Some(first) = pieces.next().await {
        let (piece, failure) = match first {
            Ok(first) if first.len() < TINY => gather(&first, &mut pieces),
            other => (other, None),
        };
        for piece in std::iter::once(piece).chain(failure.map(Err)) {
            if taken.send(piece).await.is_err() {
                return;
            }
        }
    }
}

/// A piece with those that follow at once, and why there is no more after them.
fn gather<E>(
    first: &[u8],
    pieces: &mut (impl Stream<Item = Result<Bytes, E>> + Unpin),
) -> (Result<Bytes, E>, Option<E>) {
    let mut all = BytesMut::from(first);
    while all.len() < TINY {
        match pieces.next().now_or_never() {
            Some(Some(Ok(more))) => all.extend_from_slice(&more),
            Some(Some(Err(e))) => return (Ok(all.freeze()), Some(e)),
            Some(None) | None => break,
        }
    }
    (Ok(all.freeze()), None)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn pieces(each: impl FnMut(usize) -> Bytes + Send + 'static) -> Body {
        Body::from_stream(stream::iter((0..4).map(each).map(Ok::<_, axum::Error>)))
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_body_made_apart_is_the_same_and_one_that_breaks_off_is_no_whole_one() {
        let made = pieces(|n| Bytes::from(format!("{n} on {:?};", std::thread::current().name())));
        let mut stream = body(made).into_data_stream();
        let first = stream.next().await.unwrap().unwrap();
        assert_eq!(first, r#"0 on Some("apart");1 on Some("apart");2 on Some("apart");3 on Some("apart");"#);
        assert!(stream.next().await.is_none(), "tiny pieces go out together");

        let broken = pieces(|n| {
            if n == 2 { panic!("a piece that cannot be made") } else { Bytes::from("x".repeat(TINY)) }
        });
        let mut stream = body(broken).into_data_stream();
        let mut ends = vec![];
        while let Some(piece) = stream.next().await {
            ends.push(piece.is_ok());
        }
        assert_eq!(ends, [true, true, false]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn nothing_is_made_for_who_has_gone() {
        let held = Arc::new(());
        let kept = held.clone();
        let mut stream = body(pieces(move |_| {
            let _ = &kept;
            Bytes::from("x")
        }))
        .into_data_stream();
        assert!(stream.next().await.is_some());
        drop(stream);
        while Arc::strong_count(&held) > 1 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn panics_are_the_callers() {
        let outcome = tokio::spawn(run(|| panic!("here"))).await;
        assert!(outcome.unwrap_err().is_panic());
    }
}
