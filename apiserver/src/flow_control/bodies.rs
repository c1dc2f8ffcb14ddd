//! Request bodies on their way: read before a seat is taken, bounded in size, in number, and in what all of them hold.

use std::collections::HashMap;
use std::sync::Arc;

use axum::body::{Body, HttpBody};
use bytes::{Bytes, BytesMut};
use futures::FutureExt;
use http_body_util::BodyExt;
use parking_lot::Mutex;

use crate::limits::REQUEST_BYTES;
use crate::status::{Result, Status};

/// What is read, and dropped, beyond it, so that the client gets to see the refusal.
const EXCESS: usize = 16 << 20;
/// Bodies that one user may have on the way, and what they may hold; what those of all users may.
const BODIES_OF_USER: usize = 1_000;
const BYTES_OF_USER: usize = 32 << 20;
const BYTES: usize = 128 << 20;

/// What is being read for whom.
#[derive(Default)]
pub struct Bodies {
    held: Arc<Mutex<Held>>,
}

#[derive(Default)]
struct Held {
    bytes: usize,
    /// Bodies and bytes.
    users: HashMap<Arc<str>, (usize, usize)>,
}

/// A body on the way.
struct Share {
    held: Arc<Mutex<Held>>,
    user: Arc<str>,
    bytes: usize,
}

// === impl Bodies ===

impl Bodies {
    /// The whole body.
    ///
    /// # Errors
    /// 413 where it is too large, 429 where the user has too many on the way, 400 where it breaks off.
    pub async fn read(&self, user: &str, mut body: Body) -> Result<Bytes> {
        let mut gathered = BytesMut::new();
        // What is there already needs no account.
        let mut share = None;
        loop {
            let frame = match body.frame().now_or_never() {
                Some(frame) => frame,
                None => {
                    if share.is_none() {
                        share = Some(self.share(user)?);
                    }
                    body.frame().await
                }
            };
            let data = match frame {
                None => return Ok(gathered.freeze()),
                Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
                Some(Err(e)) => {
                    return Err(Status::bad_request(format!("cannot read the request body: {e}")));
                }
            };
            if gathered.len() + data.len() > REQUEST_BYTES {
                drop((gathered, share));
                return Err(too_large(body).await);
            }
            if let Some(share) = &mut share {
                share.grow(gathered.len() + data.len())?;
            }
            // One frame is the usual case: then nothing is copied.
            if gathered.is_empty() && body.is_end_stream() {
                return Ok(data);
            }
            gathered.extend_from_slice(&data);
        }
    }

    fn share(&self, user: &str) -> Result<Share> {
        let mut held = self.held.lock();
        let user: Arc<str> = match held.users.get_key_value(user) {
            Some((user, _)) => user.clone(),
            None => user.into(),
        };
        let (bodies, _) = held.users.entry(user.clone()).or_default();
        if *bodies >= BODIES_OF_USER {
            return Err(too_many());
        }
        *bodies += 1;
        drop(held);
        Ok(Share { held: self.held.clone(), user, bytes: 0 })
    }
}

/// A client that is still sending would see a broken connection, not the answer.
async fn too_large(mut body: Body) -> Status {
    let mut excess = 0;
    while excess < EXCESS
        && let Some(Ok(frame)) = body.frame().await
    {
        excess += frame.data_ref().map_or(0, Bytes::len);
    }
    Status::request_entity_too_large(format!("limit is {REQUEST_BYTES}"))
}

fn too_many() -> Status {
    Status::too_many_requests("Too many requests, please try again later.", 1)
}

// === impl Share ===

impl Share {
    fn grow(&mut self, to: usize) -> Result<()> {
        let more = to - self.bytes;
        let mut held = self.held.lock();
        let all = held.bytes + more;
        let (_, bytes) = held.users.entry(self.user.clone()).or_default();
        if *bytes + more > BYTES_OF_USER || all > BYTES {
            return Err(too_many());
        }
        *bytes += more;
        held.bytes = all;
        self.bytes = to;
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut held = self.held.lock();
        held.bytes -= self.bytes;
        if let Some((bodies, bytes)) = held.users.get_mut(&self.user) {
            *bodies -= 1;
            *bytes -= self.bytes;
            if *bodies == 0 {
                held.users.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;

    use super::*;

    fn endless() -> Body {
        Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>())
    }

    #[tokio::test]
    async fn bodies_that_are_there_are_read_at_once() {
        let bodies = Bodies::default();
        for (parts, expected) in [(&[][..], ""), (&["a"][..], "a"), (&["a", "b"][..], "ab")] {
            let parts: Vec<_> = parts.iter().map(|p| Ok::<_, std::io::Error>(Bytes::from(*p))).collect();
            let read = bodies.read("u", Body::from_stream(stream::iter(parts))).now_or_never().unwrap();
            assert_eq!(read.unwrap(), expected);
        }
        let large = Body::from(vec![b'x'; REQUEST_BYTES + 1]);
        assert_eq!(bodies.read("u", large).await.unwrap_err().0.code, 413);
        assert!(bodies.read("u", Body::from(vec![b'x'; REQUEST_BYTES])).await.is_ok());
    }

    #[tokio::test]
    async fn a_user_whose_bodies_never_come_is_refused_others_are_not() {
        let bodies = Bodies::default();
        let mut stalled = vec![];
        for _ in 0..BODIES_OF_USER {
            let mut reading = Box::pin(bodies.read("greedy", endless()));
            assert!(reading.as_mut().now_or_never().is_none());
            stalled.push(reading);
        }
        assert_eq!(bodies.read("greedy", endless()).await.unwrap_err().0.code, 429);
        assert!(bodies.read("other", endless()).now_or_never().is_none());
        drop(stalled);
        assert!(bodies.held.lock().users.is_empty());
    }

    #[tokio::test]
    async fn what_bodies_hold_is_bounded_and_given_back() {
        let bodies = Bodies::default();
        let half_sent = || {
            let first = stream::once(async {
                tokio::task::yield_now().await;
                Ok::<_, std::io::Error>(Bytes::from(vec![b'x'; 2 << 20]))
            });
            Body::from_stream(stream::StreamExt::chain(first, stream::pending()))
        };
        let mut reading = vec![];
        let refused = loop {
            let mut one = Box::pin(bodies.read("u", half_sent()));
            let mut now = one.as_mut().now_or_never();
            if now.is_none() {
                now = one.as_mut().now_or_never();
            }
            match now {
                Some(refused) => break refused,
                None => reading.push(one),
            }
        };
        assert_eq!(refused.unwrap_err().0.code, 429);
        assert_eq!(reading.len(), BYTES_OF_USER / (2 << 20));
        drop(reading);
        assert_eq!(bodies.held.lock().bytes, 0);
    }
}
