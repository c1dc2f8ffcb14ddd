//! Who is connected: places, and who gives up theirs when there are none left.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use http::StatusCode;
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::Limits;

/// How many give up their place at once: a look at all of them is for a sixteenth of the places.
const PORTION: usize = 16;

/// All connections of a listener.
pub(crate) struct Connections {
    limits: Arc<Limits>,
    /// What the states' times are counted from.
    epoch: Instant,
    open: Mutex<Open>,
    silent: AtomicUsize,
}

/// Those that have a place; an evicted one has none any more, though its descriptor may live a moment longer.
#[derive(Default)]
struct Open {
    next: u64,
    states: HashMap<u64, Arc<State>>,
    addresses: HashMap<IpAddr, usize>,
    /// Evicted, and not gone yet.
    leaving: usize,
}

/// What one connection is doing.
pub(crate) struct State {
    id: u64,
    address: IpAddr,
    evicted: CancellationToken,
    epoch: Instant,
    /// Whether a request has ever come.
    asked: AtomicBool,
    /// Requests whose answer has not been sent to its end.
    answering: AtomicUsize,
    /// When that last became none, in milliseconds since the epoch.
    idle_since: AtomicU64,
    /// When the answer that waits longest for its reader began to wait, in milliseconds since the epoch; 0: none does.
    unread_since: Mutex<HashMap<u64, u64>>,
    next_answer: AtomicU64,
    /// Answers 401 since the last other one, and whether they were too many.
    unauthorized: AtomicUsize,
    refused: CancellationToken,
    connections: Arc<Connections>,
}

/// A connection's place, until it is dropped.
pub(crate) struct Place {
    state: Arc<State>,
}

/// A request that is being answered; ends when it is dropped.
pub(crate) struct Asked {
    id: u64,
    state: Arc<State>,
    waiting: bool,
}

// === impl Connections ===

impl Connections {
    pub(crate) fn new(limits: Limits) -> Self {
        let (open, silent) = (Mutex::default(), AtomicUsize::new(0));
        Connections { limits: Arc::new(limits), epoch: Instant::now(), open, silent }
    }

    /// A place for one more of this address, if need be that of another who asks for nothing.
    pub(crate) fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let of_address = |open: &Open| open.addresses.get(&address).copied().unwrap_or_default();
        let mut open = self.open.lock();
        if self.silent.load(Relaxed) >= self.limits.silent {
            self.evict(&mut open, None, |s| !s.asked.load(Relaxed));
        }
        if of_address(&open) >= self.limits.per_address {
            self.evict(&mut open, Some(address), |_| true);
        }
        if open.states.len() >= self.limits.connections {
            self.evict(&mut open, None, |_| true);
        }
        if open.states.len() >= self.limits.connections
            || of_address(&open) >= self.limits.per_address
            || open.leaving >= self.limits.connections
        {
            // All that are there are being answered, or have not gone yet.
            return None;
        }
        let id = open.next;
        open.next += 1;
        let state = Arc::new(State {
            id,
            address,
            evicted: CancellationToken::new(),
            epoch: self.epoch,
            asked: AtomicBool::new(false),
            answering: AtomicUsize::new(0),
            idle_since: AtomicU64::new(since(self.epoch)),
            unread_since: Mutex::default(),
            next_answer: AtomicU64::new(0),
            unauthorized: AtomicUsize::new(0),
            refused: CancellationToken::new(),
            connections: self.clone(),
        });
        open.states.insert(id, state.clone());
        *open.addresses.entry(address).or_default() += 1;
        self.silent.fetch_add(1, Relaxed);
        Some(Place { state })
    }

    /// Ends some connections on which nothing goes on.
    pub(crate) fn make_room(&self) {
        self.evict(&mut self.open.lock(), None, |_| true);
    }

    /// Ends a portion of the connections that are not answered: the silent before the idle, those of the address with most
    /// connections first, the oldest first.
    fn evict(&self, open: &mut Open, of: Option<IpAddr>, also: impl Fn(&State) -> bool) {
        let mut idle: Vec<Arc<State>> = open
            .states
            .values()
            .filter(|s| s.answering.load(Relaxed) == 0)
            .filter(|s| of.is_none_or(|address| s.address == address) && also(s))
            .cloned()
            .collect();
        let busiest = |s: &State| std::cmp::Reverse(open.addresses.get(&s.address).copied());
        idle.sort_by_cached_key(|s| (s.asked.load(Relaxed), busiest(s), s.idle_since.load(Relaxed), s.id));
        idle.truncate(idle.len().div_ceil(PORTION));
        for state in idle {
            self.remove(open, &state);
            open.leaving += 1;
            state.evicted.cancel();
        }
    }

    fn remove(&self, open: &mut Open, state: &State) {
        open.states.remove(&state.id);
        if let Some(count) = open.addresses.get_mut(&state.address) {
            *count -= 1;
            if *count == 0 {
                open.addresses.remove(&state.address);
            }
        }
        // As in `ask`: counted as silent once.
        if !state.asked.swap(true, Relaxed) {
            self.silent.fetch_sub(1, Relaxed);
        }
    }
}

/// Milliseconds since then; never 0.
fn since(epoch: Instant) -> u64 {
    u64::try_from(epoch.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
}

// === impl State ===

impl State {
    /// A request has come.
    pub(crate) fn ask(self: &Arc<Self>) -> Asked {
        if !self.asked.swap(true, Relaxed) {
            self.connections.silent.fetch_sub(1, Relaxed);
        }
        self.answering.fetch_add(1, Relaxed);
        Asked { id: self.next_answer.fetch_add(1, Relaxed), state: self.clone(), waiting: false }
    }

    /// Ends with the reason when the connection has been open for nothing for too long, or for too many who are not known.
    pub(crate) async fn worn_out(&self) -> &'static str {
        tokio::select! {
            () = self.refused.cancelled() => "too many requests were not authenticated",
            why = self.unused(&self.connections.limits) => why,
        }
    }

    async fn unused(&self, limits: &Limits) -> &'static str {
        loop {
            let (now, answering) = (since(self.epoch), self.answering.load(Relaxed));
            let limit = if self.asked.load(Relaxed) { limits.idle } else { limits.head };
            let unread = self.unread_since.lock().values().min().copied();
            let over = |since: u64, limit: Duration| {
                let passed = Duration::from_millis(now.saturating_sub(since));
                limit.checked_sub(passed).filter(|rest| !rest.is_zero())
            };
            let idle = if answering == 0 { over(self.idle_since.load(Relaxed), limit) } else { Some(limit) };
            let stalled = unread.map_or(Some(limits.stalled), |since| over(since, limits.stalled));
            let (Some(idle), Some(stalled)) = (idle, stalled) else {
                return if idle.is_none() { "nothing was asked" } else { "an answer was not read" };
            };
            // Which limit holds may change meanwhile.
            tokio::time::sleep(idle.min(stalled).min(limits.idle).min(limits.head)).await;
        }
    }
}

// === impl Place ===

impl Place {
    pub(crate) fn state(&self) -> &Arc<State> {
        &self.state
    }

    pub(crate) fn limits(&self) -> &Arc<Limits> {
        &self.state.connections.limits
    }

    /// Cancelled when another is to have this place.
    pub(crate) fn evicted(&self) -> &CancellationToken {
        &self.state.evicted
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let connections = &self.state.connections;
        let mut open = connections.open.lock();
        match open.states.contains_key(&self.state.id) {
            true => connections.remove(&mut open, &self.state),
            false => open.leaving -= 1,
        }
    }
}

// === impl Asked ===

impl Asked {
    /// Takes note of an answer's code, and says whether it is the connection's last.
    pub(crate) fn answered(&self, code: StatusCode) -> bool {
        let state = &self.state;
        if code != StatusCode::UNAUTHORIZED {
            state.unauthorized.store(0, Relaxed);
            return false;
        }
        let last = state.unauthorized.fetch_add(1, Relaxed) + 1 >= state.connections.limits.unauthorized;
        if last {
            state.refused.cancel();
        }
        last
    }

    /// The answer has given out a piece, and waits until it is taken.
    pub(crate) fn wait(&mut self) {
        self.waiting = true;
        self.state.unread_since.lock().insert(self.id, since(self.state.epoch));
    }

    /// What was given out has been taken.
    pub(crate) fn go_on(&mut self) {
        if std::mem::take(&mut self.waiting) {
            self.state.unread_since.lock().remove(&self.id);
        }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.go_on();
        self.state.idle_since.store(since(self.state.epoch), Relaxed);
        self.state.answering.fetch_sub(1, Relaxed);
    }
}
