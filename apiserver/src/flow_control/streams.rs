//! What lasts beyond its answer's head: watches, and sessions (log, exec, attach, port-forward, proxy). Seats do not count
//! them, and so each user may have so many at once. Upstream has no such bound.

use std::collections::HashMap;
use std::sync::Arc;

use axum::body::Body;
use http_body_util::BodyExt;
use parking_lot::Mutex;

use super::Flow;
use crate::authn::User;
use crate::metrics::Counted;
use crate::status::{Result, Status};

/// When somebody is told to try again who has too many, in seconds.
const RETRY: u32 = 5;

/// All that lasts.
pub struct Streams {
    pub watches: Lasting,
    pub sessions: Lasting,
}

/// What lasts of one kind, by user.
pub struct Lasting {
    what: &'static str,
    flag: &'static str,
    most: usize,
    users: Arc<Mutex<HashMap<Arc<str>, usize>>>,
}

/// One of them: its place is free again, and it is counted no more, when all clones are dropped.
#[derive(Clone, Default)]
pub struct Held {
    _place: Option<Arc<Place>>,
    _counted: Option<Arc<Counted>>,
}

struct Place {
    users: Arc<Mutex<HashMap<Arc<str>, usize>>>,
    user: Arc<str>,
}

// === impl Streams ===

impl Streams {
    pub fn new(watches: usize, sessions: usize) -> Self {
        let lasting = |what, flag, most| Lasting { what, flag, most, users: Arc::default() };
        Streams {
            watches: lasting("watches", "--max-watches-per-user", watches),
            sessions: lasting("sessions", "--max-sessions-per-user", sessions),
        }
    }
}

// === impl Lasting ===

impl Lasting {
    /// A place for one more of this user, `counted` as long. Exempt flows need no place.
    ///
    /// # Errors
    /// 429 where the user has as many as one may have.
    pub fn hold(&self, user: &User, flow: &Flow, counted: &Arc<Counted>) -> Result<Held> {
        if flow.exempt {
            return Ok(Held { _place: None, _counted: Some(counted.clone()) });
        }
        let mut users = self.users.lock();
        let name: Arc<str> = match users.get_key_value(&*user.name) {
            Some((name, _)) => name.clone(),
            None => user.name.as_str().into(),
        };
        if users.get(&name).copied().unwrap_or_default() >= self.most {
            let Lasting { what, flag, most, .. } = self;
            let who = &user.name;
            return Err(Status::too_many_requests(
                format!("too many {what} of {who:?}: no more than {most} at once ({flag})"),
                RETRY,
            ));
        }
        *users.entry(name.clone()).or_default() += 1;
        let place = Place { users: self.users.clone(), user: name };
        Ok(Held { _place: Some(Arc::new(place)), _counted: Some(counted.clone()) })
    }
}

// === impl Held ===

impl Held {
    /// The same body; the place is held until its end.
    pub fn until_end_of(self, body: Body) -> Body {
        Body::new(body.map_frame(move |frame| {
            let _held = &self;
            frame
        }))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut users = self.users.lock();
        if let Some(count) = users.get_mut(&self.user) {
            *count -= 1;
            if *count == 0 {
                users.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::gauge::Gauge;

    use super::*;

    fn flow(exempt: bool) -> Flow {
        Flow {
            schema: "s".into(),
            level: "l".into(),
            schema_uid: "".into(),
            level_uid: "".into(),
            exempt,
            hash: 0,
        }
    }

    #[test]
    fn a_user_has_so_many_and_no_more() {
        let streams = Streams::new(2, 1);
        let user = |name: &str| User::component(name, &[]);
        let gauge = Gauge::default();
        let counted = || Arc::new(Counted::new(gauge.clone()));
        let hold = |name| streams.watches.hold(&user(name), &flow(false), &counted());
        let (first, second) = (hold("a").unwrap(), hold("a").unwrap());
        let refused = hold("a").err().unwrap();
        assert_eq!((refused.code(), &*refused.0.reason), (429, "TooManyRequests"));
        assert_eq!(
            refused.to_string(),
            "too many watches of \"a\": no more than 2 at once (--max-watches-per-user)"
        );
        assert!(hold("b").is_ok(), "each user has its own");
        assert!(
            streams.sessions.hold(&user("a"), &flow(false), &counted()).is_ok(),
            "sessions are counted apart"
        );
        assert!(
            streams.watches.hold(&user("a"), &flow(true), &counted()).is_ok(),
            "and what is exempt is not counted"
        );
        let clone = first.clone();
        drop(first);
        assert!(hold("a").is_err(), "a clone holds the place");
        assert_eq!(gauge.get(), 2, "whoever has a place is counted");
        drop(clone);
        assert!(hold("a").is_ok());
        drop(second);
        assert!(streams.watches.users.lock().is_empty(), "nobody is remembered who has none");
        let none = Streams::new(0, 0).watches;
        assert!(none.hold(&user("a"), &flow(false), &counted()).is_err());
        assert!(none.users.lock().is_empty(), "nor who was refused");
        assert_eq!(gauge.get(), 0);
    }
}
