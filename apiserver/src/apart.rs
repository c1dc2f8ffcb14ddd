//! Work that takes long to compute: on workers of its own, which yield to those that answer everybody.

use std::sync::LazyLock;

use axum::body::Body;
use bytes::Bytes;
use futures::{StreamExt, stream};
use tokio::runtime::{Builder, Handle, Runtime, RuntimeFlavor};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// How much these workers yield: a third of a processor where another thread wants it, too, and all of it otherwise. What
/// they hold a lock on is not kept from others for long.
const NICE: i32 = 5;
/// Each worker's stack, in bytes; memory is taken as it is used.
const STACK: usize = 16 << 20;

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

/// Makes a body's pieces as long as somebody takes them.
async fn make(body: Body, taken: mpsc::Sender<Result<Bytes, axum::Error>>) {
    let mut pieces = body.into_data_stream();
    while let Some(piece) = pieces.next().await {
        if taken.send(piece).await.is_err() {
            break;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http_body_util::BodyExt;

    use super::*;

    fn pieces(each: impl FnMut(usize) -> Bytes + Send + 'static) -> Body {
        Body::from_stream(stream::iter((0..4).map(each).map(Ok::<_, axum::Error>)))
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_body_made_apart_is_the_same_and_one_that_breaks_off_is_no_whole_one() {
        let made = pieces(|n| Bytes::from(format!("{n} on {:?};", std::thread::current().name())));
        let text = body(made).collect().await.unwrap().to_bytes();
        assert_eq!(text, r#"0 on Some("apart");1 on Some("apart");2 on Some("apart");3 on Some("apart");"#);

        let broken =
            pieces(|n| if n == 2 { panic!("a piece that cannot be made") } else { Bytes::from("x") });
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
