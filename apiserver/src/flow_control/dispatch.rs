//! The seats of all priority levels, and the queues before them. Values in, values out: no clock, no task.
//!
//! A level may take a seat while that leaves the others what they do not lend: the sum over all levels of what each
//! has taken or keeps for itself, whichever is more, never passes the server's seats. Lent seats come back as requests end.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use tokio::sync::oneshot;

/// How a level is to be.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct LevelConfig {
    pub name: Arc<str>,
    /// Never waits and takes nobody's seats.
    pub exempt: bool,
    pub nominal: u32,
    /// What of them is kept for this level.
    pub kept: u32,
    /// With what it may borrow.
    pub most: u32,
    /// `None`: who finds no seat is refused.
    pub queuing: Option<Queuing>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Queuing {
    pub queues: usize,
    /// How many of them a flow is dealt.
    pub hand: usize,
    /// How many may wait in one.
    pub length: usize,
}

pub(super) struct Dispatcher {
    seats: u32,
    levels: Vec<Level>,
    /// The next ticket.
    next: u64,
}

struct Level {
    config: LevelConfig,
    taken: u32,
    waiting: usize,
    queues: Vec<Queue>,
    /// The start of the request that was seated last, in seats of service. Start-time fair queuing (Goyal et al. 1996).
    now: f64,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    /// Requests of this queue that have a seat.
    seated: usize,
    /// When the next request of this queue starts, on the level's clock.
    next: f64,
}

struct Waiting {
    id: u64,
    width: u32,
    turn: oneshot::Sender<()>,
}

/// A request's place, seated or waiting.
#[derive(Clone, Debug)]
pub(super) struct Ticket {
    id: u64,
    level: Arc<str>,
    queue: Option<usize>,
    width: u32,
}

pub(super) enum Arrival {
    Seated(Ticket),
    /// The receiver is told when the seats are there.
    Waiting(Ticket, oneshot::Receiver<()>),
    /// With upstream's reason.
    Refused(&'static str),
}

// === impl Dispatcher ===

impl Dispatcher {
    pub(super) fn new(seats: u32) -> Self {
        Dispatcher { seats, levels: vec![], next: 0 }
    }

    /// Takes over what is configured now. Who holds a seat keeps it; who waits in a level that is gone is refused.
    pub(super) fn configure(&mut self, configs: Vec<LevelConfig>) {
        let mut before: HashMap<Arc<str>, Level> =
            self.levels.drain(..).map(|l| (l.config.name.clone(), l)).collect();
        self.levels = configs
            .into_iter()
            .map(|config| match before.remove(&config.name) {
                Some(level) if level.config.queuing == config.queuing => Level { config, ..level },
                Some(level) => Level { taken: level.taken, ..Level::new(config) },
                None => Level::new(config),
            })
            .collect();
        self.seat_others(0);
    }

    pub(super) fn levels(&self) -> Vec<(Arc<str>, u32, u32)> {
        self.levels.iter().map(|l| (l.config.name.clone(), l.taken, l.config.nominal)).collect()
    }

    /// A request of a flow that wants so many seats.
    pub(super) fn arrive(&mut self, level: &Arc<str>, hash: u64, width: u32) -> Arrival {
        let Some(at) = self.position(level) else { return Arrival::Refused("concurrency-limit") };
        let id = self.next;
        self.next += 1;
        let config = &self.levels[at].config;
        let width = width.clamp(1, config.nominal.max(1));
        let mut ticket = Ticket { id, level: level.clone(), queue: None, width };
        if config.exempt {
            self.levels[at].taken += width;
            return Arrival::Seated(ticket);
        }
        let fits = self.fits(at, width);
        let Some(queuing) = config.queuing else {
            if !fits {
                return Arrival::Refused("concurrency-limit");
            }
            self.levels[at].taken += width;
            return Arrival::Seated(ticket);
        };
        let level = &mut self.levels[at];
        let shortest = |q: &usize| (level.queues[*q].waiting.len(), level.queues[*q].seated);
        let Some(chosen) = deal(hash, queuing).min_by_key(shortest) else {
            return Arrival::Refused("queue-full");
        };
        ticket.queue = Some(chosen);
        if fits && level.waiting == 0 {
            level.seat(chosen, width);
            return Arrival::Seated(ticket);
        }
        let queue = &mut level.queues[chosen];
        if queue.waiting.len() >= queuing.length {
            return Arrival::Refused("queue-full");
        }
        if queue.waiting.is_empty() {
            queue.next = queue.next.max(level.now);
        }
        let (turn, told) = oneshot::channel();
        queue.waiting.push_back(Waiting { id, width, turn });
        level.waiting += 1;
        Arrival::Waiting(ticket, told)
    }

    /// A request has ended, or its client has gone while it waited.
    pub(super) fn leave(&mut self, ticket: &Ticket) {
        let Some(at) = self.position(&ticket.level) else { return };
        let level = &mut self.levels[at];
        let queue = ticket.queue.and_then(|q| level.queues.get_mut(q));
        if let Some(queue) = queue {
            if let Some(place) = queue.waiting.iter().position(|w| w.id == ticket.id) {
                queue.waiting.remove(place);
                level.waiting -= 1;
                return;
            }
            queue.seated = queue.seated.saturating_sub(1);
        }
        level.taken = level.taken.saturating_sub(ticket.width);
        self.seat_others(at);
    }

    fn position(&self, level: &Arc<str>) -> Option<usize> {
        self.levels.iter().position(|l| l.config.name == *level)
    }

    /// Whether a level can have so many seats more.
    fn fits(&self, at: usize, more: u32) -> bool {
        let wanted = self.levels[at].taken + more;
        if wanted > self.levels[at].config.most {
            return false;
        }
        let used = self.levels.iter().enumerate().filter(|(_, l)| !l.config.exempt).map(|(n, l)| {
            let taken = if n == at { wanted } else { l.taken };
            u64::from(taken.max(l.config.kept))
        });
        used.sum::<u64>() <= u64::from(self.seats)
    }

    /// Seats those whose turn it is, those of the given level first.
    fn seat_others(&mut self, first: usize) {
        let count = self.levels.len();
        for n in 0..count {
            let at = (first + n) % count;
            while let Some((queue, width)) = self.levels[at].first_waiting() {
                if !self.fits(at, width) {
                    break;
                }
                let level = &mut self.levels[at];
                let Some(waiting) = level.queues[queue].waiting.pop_front() else { break };
                level.waiting -= 1;
                level.seat(queue, width);
                if waiting.turn.send(()).is_err() {
                    // Its client is going: what it holds comes back with its ticket.
                    continue;
                }
            }
        }
    }
}

// === impl Level ===

impl Level {
    fn new(config: LevelConfig) -> Self {
        let queues = config.queuing.map_or(0, |q| q.queues);
        let queues = std::iter::repeat_with(Queue::default).take(queues).collect();
        Level { config, taken: 0, waiting: 0, queues, now: 0.0 }
    }

    /// The queue whose turn it is, and the seats its first request wants.
    fn first_waiting(&self) -> Option<(usize, u32)> {
        if self.waiting == 0 {
            return None;
        }
        let queues =
            self.queues.iter().enumerate().filter_map(|(n, q)| Some((n, q.next, q.waiting.front()?.width)));
        queues.min_by(|a, b| a.1.total_cmp(&b.1)).map(|(n, _, width)| (n, width))
    }

    fn seat(&mut self, queue: usize, width: u32) {
        self.taken += width;
        let queue = &mut self.queues[queue];
        let start = queue.next.max(self.now);
        self.now = start;
        queue.next = start + f64::from(width);
        queue.seated += 1;
    }
}

/// The queues a flow is dealt: so few of many that two flows hardly share all of theirs.
fn deal(hash: u64, queuing: Queuing) -> impl Iterator<Item = usize> {
    let (queues, hand) = (queuing.queues, queuing.hand.min(queuing.queues));
    let mut deck: Vec<usize> = vec![];
    let mut rest = hash;
    for n in 0..hand {
        let left = (queues - n) as u64;
        let mut card = usize::try_from(rest % left).unwrap_or(0);
        rest /= left;
        // The card's number among those that are left.
        let mut dealt: Vec<usize> = deck.clone();
        dealt.sort_unstable();
        for other in dealt {
            if card >= other {
                card += 1;
            }
        }
        deck.push(card);
    }
    deck.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn level(name: &str, nominal: u32, kept: u32, most: u32, queuing: Option<Queuing>) -> LevelConfig {
        LevelConfig { name: name.into(), exempt: false, nominal, kept, most, queuing }
    }

    const QUEUING: Option<Queuing> = Some(Queuing { queues: 16, hand: 4, length: 3 });

    fn ask(
        d: &mut Dispatcher,
        level: &str,
        flow: u64,
        width: u32,
    ) -> Result<Ticket, Option<(Ticket, oneshot::Receiver<()>)>> {
        match d.arrive(&level.into(), flow, width) {
            Arrival::Seated(ticket) => Ok(ticket),
            Arrival::Waiting(ticket, turn) => Err(Some((ticket, turn))),
            Arrival::Refused(_) => Err(None),
        }
    }

    #[test]
    fn a_level_borrows_what_others_do_not_keep_and_nobody_starves() {
        let mut d = Dispatcher::new(10);
        d.configure(vec![level("low", 6, 1, 10, None), level("high", 4, 3, 10, None)]);
        let low: Vec<_> = std::iter::from_fn(|| ask(&mut d, "low", 0, 1).ok()).collect();
        assert_eq!(low.len(), 7, "all but what the other keeps");
        let high: Vec<_> = std::iter::from_fn(|| ask(&mut d, "high", 0, 1).ok()).collect();
        assert_eq!(high.len(), 3);
        d.leave(&low[0]);
        assert!(ask(&mut d, "high", 0, 1).is_ok(), "a seat that was lent is anybody's");
        assert!(ask(&mut d, "low", 0, 1).is_err());
    }

    #[test]
    fn exempt_requests_never_wait() {
        let mut d = Dispatcher::new(1);
        let exempt = LevelConfig { exempt: true, ..level("exempt", 0, 0, 0, None) };
        d.configure(vec![exempt, level("low", 1, 1, 1, None)]);
        assert!(ask(&mut d, "low", 0, 1).is_ok());
        assert!((0..100).all(|_| ask(&mut d, "exempt", 0, 1).is_ok()));
    }

    #[test]
    fn a_flow_of_many_does_not_hold_up_a_flow_of_few() {
        let mut d = Dispatcher::new(1);
        d.configure(vec![level("low", 1, 1, 1, QUEUING)]);
        let (greedy, modest) = (7, 123_456_789);
        let mut seated = ask(&mut d, "low", greedy, 1).unwrap();
        let mut waiting = vec![];
        while let Err(Some(place)) = ask(&mut d, "low", greedy, 1) {
            waiting.push(place);
        }
        assert_eq!(waiting.len(), 12, "four queues of three");
        let (_mine, mut turn) = ask(&mut d, "low", modest, 1).unwrap_err().expect("there are other queues");
        let mut before = 0;
        while turn.try_recv().is_err() {
            d.leave(&seated);
            let next = waiting.iter_mut().position(|(_, turn)| turn.try_recv().is_ok());
            match next {
                Some(n) => (seated, before) = (waiting.remove(n).0, before + 1),
                None => break,
            }
        }
        assert!(before <= 4, "{before} of the other flow came first");
    }

    #[test]
    fn who_goes_while_waiting_leaves_no_gap() {
        let mut d = Dispatcher::new(1);
        d.configure(vec![level("low", 1, 1, 1, QUEUING)]);
        let first = ask(&mut d, "low", 1, 1).unwrap();
        let (second, gone) = ask(&mut d, "low", 1, 1).unwrap_err().unwrap();
        let (third, mut turn) = ask(&mut d, "low", 1, 1).unwrap_err().unwrap();
        drop(gone);
        d.leave(&second);
        d.leave(&first);
        assert_eq!(turn.try_recv(), Ok(()));
        d.leave(&third);
        assert_eq!(d.levels(), [("low".into(), 0, 1)]);
    }

    #[test]
    fn a_wide_request_takes_its_turn_and_all_its_seats() {
        let mut d = Dispatcher::new(10);
        d.configure(vec![level("low", 10, 10, 10, QUEUING)]);
        let small = ask(&mut d, "low", 1, 1).unwrap();
        let (wide, mut turn) = ask(&mut d, "low", 2, 50).unwrap_err().unwrap();
        let (later, mut others) = ask(&mut d, "low", 3, 1).unwrap_err().expect("nobody overtakes");
        d.leave(&small);
        assert_eq!((turn.try_recv().is_ok(), others.try_recv().is_ok()), (true, false));
        assert_eq!(d.levels()[0].1, 10);
        d.leave(&wide);
        assert_eq!(others.try_recv(), Ok(()));
        d.leave(&later);
        assert_eq!(d.levels()[0].1, 0);
    }

    #[test]
    fn a_change_of_configuration_keeps_seats_and_refuses_who_waits_for_what_is_gone() {
        let mut d = Dispatcher::new(2);
        d.configure(vec![level("a", 1, 1, 1, QUEUING), level("b", 1, 1, 1, QUEUING)]);
        let first = ask(&mut d, "a", 1, 1).unwrap();
        let (_, mut turn) = ask(&mut d, "a", 1, 1).unwrap_err().unwrap();
        d.configure(vec![level("a", 2, 2, 2, QUEUING)]);
        assert_eq!(turn.try_recv(), Ok(()), "there is more room now");
        assert_eq!(d.levels(), [("a".into(), 2, 2)]);
        let (_, mut turn) = ask(&mut d, "a", 1, 1).unwrap_err().unwrap();
        d.configure(vec![]);
        assert_eq!(turn.try_recv(), Err(oneshot::error::TryRecvError::Closed));
        d.leave(&first);
    }

    #[test]
    fn hands_are_of_different_queues() {
        for hash in [0, 1, u64::MAX, 0x1234_5678_9abc_def0] {
            let mut hand: Vec<_> = deal(hash, Queuing { queues: 128, hand: 6, length: 50 }).collect();
            hand.sort_unstable();
            hand.dedup();
            assert_eq!(hand.len(), 6);
            assert!(hand.iter().all(|q| *q < 128));
        }
    }
}
