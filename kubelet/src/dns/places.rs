//! Who is connected or has a question under way, and who gives up a place when there are none left: a few who hold all they may
//! keep nobody out.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

/// Places for all clients together, and how many of them one may have.
#[derive(Clone)]
pub(super) struct Places {
    all: usize,
    each: usize,
    open: Arc<Mutex<Open>>,
}

#[derive(Default)]
struct Open {
    /// Numbers of places, and of the times at which they became idle.
    next: u64,
    held: HashMap<u64, Held>,
    clients: HashMap<IpAddr, Count>,
}

/// A client's places.
#[derive(Clone, Copy, Default)]
struct Count {
    all: usize,
    idle: usize,
}

struct Held {
    client: IpAddr,
    answering: bool,
    /// When it was taken or last answered.
    since: u64,
    evicted: CancellationToken,
}

/// A place, until it is dropped or evicted.
pub(super) struct Place {
    id: u64,
    evicted: CancellationToken,
    open: Arc<Mutex<Open>>,
}

// === impl Places ===

impl Places {
    pub(super) fn new(all: usize, each: usize) -> Self {
        Places { all, each, open: Arc::default() }
    }

    /// A place for one more connection of this client. If it has all it may, its own that has been idle for longest makes room;
    /// if all are taken, one of the client with most does.
    pub(super) fn take(&self, client: IpAddr) -> Option<Place> {
        self.take_as(client, false)
    }

    /// A place for one more question of this client, which is being answered from the beginning.
    pub(super) fn take_answering(&self, client: IpAddr) -> Option<Place> {
        self.take_as(client, true)
    }

    fn take_as(&self, client: IpAddr, answering: bool) -> Option<Place> {
        let mut open = self.open.lock();
        let room = match open.count(client) {
            own if own.all >= self.each => {
                own.idle > 0 && open.evict(|held, _| held.client == client && !held.answering)
            }
            own if open.held.len() >= self.all => open.make_room(own.all),
            _ => true,
        };
        if !room {
            return None;
        }
        let (id, evicted) = (open.tick(), CancellationToken::new());
        open.held.insert(id, Held { client, answering, since: id, evicted: evicted.clone() });
        let count = open.clients.entry(client).or_default();
        count.all += 1;
        count.idle += usize::from(!answering);
        Some(Place { id, evicted, open: self.open.clone() })
    }
}

// === impl Open ===

impl Open {
    fn tick(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn count(&self, client: IpAddr) -> Count {
        self.clients.get(&client).copied().unwrap_or_default()
    }

    /// Ends what another client holds, for one that has `own`.
    fn make_room(&mut self, own: usize) -> bool {
        // What is being answered ends only where its client keeps more than the newcomer will have.
        let may = |held: usize, answering: bool| if answering { held > own + 1 } else { held >= own };
        // Asked of the clients first: those who come in vain shall not cost a look at every place.
        let anyone = self.clients.values().any(|c| may(c.all, true) || c.idle > 0 && may(c.all, false));
        anyone && self.evict(|held, count| may(count, held.answering))
    }

    /// Ends one of those that may be ended: of the client with most, the idle before the answered, the oldest first.
    fn evict(&mut self, may: impl Fn(&Held, usize) -> bool) -> bool {
        let candidates = self.held.iter().map(|(id, held)| (*id, held, self.count(held.client).all));
        let chosen = candidates
            .filter(|(_, held, count)| may(held, *count))
            .min_by_key(|(_, held, count)| (Reverse(*count), held.answering, held.since))
            .map(|(id, ..)| id);
        chosen.is_some_and(|id| self.remove(id))
    }

    /// Whether it was there.
    fn remove(&mut self, id: u64) -> bool {
        let Some(held) = self.held.remove(&id) else { return false };
        held.evicted.cancel();
        if let Some(count) = self.clients.get_mut(&held.client) {
            count.all -= 1;
            count.idle -= usize::from(!held.answering);
            if count.all == 0 {
                self.clients.remove(&held.client);
            }
        }
        true
    }
}

// === impl Place ===

impl Place {
    /// Cancelled when another has this place.
    pub(super) fn evicted(&self) -> &CancellationToken {
        &self.evicted
    }

    /// Whether a whole question has come and has no answer yet.
    pub(super) fn set_answering(&self, answering: bool) {
        let open = &mut *self.open.lock();
        let now = open.tick();
        let Some(held) = open.held.get_mut(&self.id) else { return };
        let was = std::mem::replace(&mut held.answering, answering);
        held.since = now;
        if let Some(count) = open.clients.get_mut(&held.client) {
            count.idle = count.idle + usize::from(was) - usize::from(answering);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.open.lock().remove(self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(n: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, n])
    }

    fn ended(places: &[Place]) -> Vec<usize> {
        (0..places.len()).filter(|n| places[*n].evicted().is_cancelled()).collect()
    }

    #[test]
    fn a_client_with_all_it_may_have_gives_up_its_own_oldest_idle_place() {
        let places = Places::new(10, 3);
        let mut own: Vec<_> = (0..3).filter_map(|_| places.take(client(1))).collect();
        let other = places.take(client(2)).unwrap();
        own[0].set_answering(true);
        own.push(places.take(client(1)).unwrap());
        assert_eq!(ended(&own), [1]);
        own.iter().for_each(|place| place.set_answering(true));
        assert!(places.take(client(1)).is_none(), "all it may have are being answered");
        assert!(!other.evicted().is_cancelled());
        own[0].set_answering(false);
        assert!(places.take(client(1)).is_some());
        assert_eq!(ended(&own), [0, 1]);
        drop((own, other));
        let open = places.open.lock();
        assert!(open.held.is_empty() && open.clients.is_empty());
    }

    #[test]
    fn clients_that_hold_all_places_make_room_for_who_has_fewer() {
        let places = Places::new(9, 4);
        let one: Vec<_> = (0..4).filter_map(|_| places.take(client(1))).collect();
        let two: Vec<_> = (0..3).filter_map(|_| places.take(client(2))).collect();
        let three: Vec<_> = (0..2).filter_map(|_| places.take(client(3))).collect();
        one.iter().for_each(|place| place.set_answering(true));
        // The client with most gives, though all of its own are being answered and others' are not.
        let mut four = vec![places.take(client(4)).unwrap()];
        assert_eq!((ended(&one), ended(&two), ended(&three)), (vec![0], vec![], vec![]));
        // Then of those with as many, an idle one.
        four.push(places.take(client(4)).unwrap());
        assert_eq!((ended(&one), ended(&two), ended(&three)), (vec![0], vec![0], vec![]));
        for place in one.iter().chain(&two).chain(&three).chain(&four) {
            place.set_answering(true);
        }
        // Who would have as many as the one with most takes nothing that is being answered.
        assert!(places.take(client(4)).is_none());
        assert!(places.take(client(5)).is_some());
        assert_eq!(
            (ended(&one), ended(&two), ended(&three), ended(&four)),
            (vec![0, 1], vec![0], vec![], vec![])
        );
    }

    #[test]
    fn questions_of_few_keep_nobody_out_and_one_client_has_its_part_only() {
        let places = Places::new(8, 4);
        let take = |n: u8| places.take_answering(client(n));
        let one: Vec<_> = (0..4).filter_map(|_| take(1)).collect();
        assert!(take(1).is_none(), "all it may have");
        let two: Vec<_> = (0..4).filter_map(|_| take(2)).collect();
        let three: Vec<_> = (0..4).filter_map(|_| take(3)).collect();
        assert_eq!(three.len(), 2, "nobody gets more than those keep from whom it is taken");
        assert_eq!((ended(&one), ended(&two), ended(&three)), (vec![0], vec![0], vec![]));
        drop((one, two, three));
        let open = places.open.lock();
        assert!(open.held.is_empty() && open.clients.is_empty());
    }
}
