//! What each client may have under way, so that one of them does not take all there is.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;

/// Places for all clients together, and how many of them one may have.
#[derive(Clone)]
pub(super) struct Shares {
    all: usize,
    each: usize,
    taken: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// A place, until it is dropped.
pub(super) struct Share {
    client: IpAddr,
    taken: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

// === impl Shares ===

impl Shares {
    pub(super) fn new(all: usize, each: usize) -> Self {
        Shares { all, each, taken: Arc::default() }
    }

    /// A place for one more thing of this client, if there is one.
    pub(super) fn take(&self, client: IpAddr) -> Option<Share> {
        let mut taken = self.taken.lock();
        if taken.values().sum::<usize>() >= self.all {
            return None;
        }
        let of_client = taken.entry(client).or_default();
        if *of_client >= self.each {
            return None;
        }
        *of_client += 1;
        Some(Share { client, taken: self.taken.clone() })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = self.taken.lock();
        if let Some(of_client) = taken.get_mut(&self.client) {
            *of_client -= 1;
            if *of_client == 0 {
                taken.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_client_leaves_places_for_others() {
        let shares = Shares::new(5, 3);
        let (greedy, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let mut held: Vec<_> = std::iter::from_fn(|| shares.take(greedy)).collect();
        assert_eq!(held.len(), 3);
        let others: Vec<_> = std::iter::from_fn(|| shares.take(other)).collect();
        assert_eq!(others.len(), 2, "all are taken");
        held.pop();
        assert!(shares.take(greedy).is_some());
        drop((held, others));
        assert!(shares.taken.lock().is_empty());
    }
}
