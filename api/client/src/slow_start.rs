//! Writes that may all fail alike: begun one by one, then more and more at once.

use futures::future::join_all;

/// Runs all of `items`, 1, 2, 4 ... at a time, so that a quota that is full is asked once and not 500 times. After a batch in
/// which one has failed no other begins. Gives what was made, and the last error.
pub async fn slow_start<I, T, E, F: Future<Output = Result<T, E>>>(
    items: &[I],
    run: impl Fn(&I) -> F,
) -> (Vec<T>, Option<E>) {
    let (mut made, mut rest, mut batch) = (Vec::new(), items, 1);
    while !rest.is_empty() {
        let (now, later) = rest.split_at(batch.min(rest.len()));
        let mut failure = None;
        for result in join_all(now.iter().map(&run)).await {
            match result {
                Ok(one) => made.push(one),
                Err(error) => failure = Some(error),
            }
        }
        if failure.is_some() {
            return (made, failure);
        }
        (rest, batch) = (later, batch * 2);
    }
    (made, None)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn a_batch_that_fails_is_the_last() {
        for (fails_at, made, asked) in
            [(100, 20, 20), (0, 0, 1), (4, 6, 7), (6, 6, 7), (7, 14, 15), (19, 19, 20)]
        {
            let count = AtomicUsize::new(0);
            let items: Vec<usize> = (0..20).collect();
            let run = |item: &usize| {
                count.fetch_add(1, Ordering::Relaxed);
                let result = if *item == fails_at { Err("full") } else { Ok(*item) };
                async move { result }
            };
            let (done, failure) = slow_start(&items, run).await;
            let told = (done.len(), failure.is_some(), count.load(Ordering::Relaxed));
            assert_eq!(told, (made, fails_at < 20, asked), "{fails_at}");
        }
    }
}
