//! Which address belongs to which pod on this node. Pure: whoever calls it keeps it on disk and in the kernel.

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;

use super::Cidr;

/// Hands out the addresses of one node's pod network. A freed address comes back only after all others were used,
/// so that late packets to a dead pod do not reach a new one.
#[derive(Debug)]
pub(super) struct AddressPool {
    cidr: Cidr,
    used: HashSet<Ipv4Addr>,
    by_pod: HashMap<String, Ipv4Addr>,
    /// Offset in the network where the next search starts.
    next: u64,
}

// === impl AddressPool ===

impl AddressPool {
    pub(super) fn new(cidr: Cidr) -> Self {
        AddressPool { cidr, used: HashSet::new(), by_pod: HashMap::new(), next: 0 }
    }

    /// The pod's address: the one it has, or the next free one. `None` when the network is full.
    pub(super) fn assign(&mut self, pod_uid: &str) -> Option<Ipv4Addr> {
        if let Some(addr) = self.by_pod.get(pod_uid) {
            return Some(*addr);
        }
        let (first, count) = self.usable();
        let addr = (0..count)
            .filter_map(|i| self.cidr.nth(first + (self.next + i) % count))
            .find(|addr| !self.used.contains(addr))?;
        self.next =
            (u64::from(u32::from(addr)) - u64::from(u32::from(self.cidr.address())) - first + 1) % count;
        self.take(pod_uid, addr);
        Some(addr)
    }

    /// Records an address found after a restart; the search goes on behind it.
    pub(super) fn adopt(&mut self, pod_uid: &str, addr: Ipv4Addr) {
        let (first, count) = self.usable();
        if self.cidr.contains(addr) {
            let offset = u64::from(u32::from(addr)) - u64::from(u32::from(self.cidr.address()));
            self.next = self.next.max((offset + 1).saturating_sub(first) % count.max(1));
        }
        self.take(pod_uid, addr);
    }

    pub(super) fn release(&mut self, pod_uid: &str) -> Option<Ipv4Addr> {
        let addr = self.by_pod.remove(pod_uid)?;
        self.used.remove(&addr);
        Some(addr)
    }

    fn take(&mut self, pod_uid: &str, addr: Ipv4Addr) {
        self.used.insert(addr);
        self.by_pod.insert(pod_uid.to_owned(), addr);
    }

    /// First offset and count of what pods may have: not the network and broadcast addresses, nor `.1`, which
    /// other pod networks use for a bridge and people expect to be no pod.
    fn usable(&self) -> (u64, u64) {
        match self.cidr.size() {
            1 => (0, 1),
            2 | 4 => (1, self.cidr.size() - 1),
            size => (2, size - 3),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_stable_unique_and_reused_last() {
        let mut pool = AddressPool::new("10.1.0.0/29".parse().unwrap());
        let a = pool.assign("a").unwrap();
        assert_eq!(a, Ipv4Addr::new(10, 1, 0, 2));
        assert_eq!(pool.assign("a"), Some(a));
        pool.release("a");
        let rest: Vec<_> = ["b", "c", "d", "e"].iter().map(|p| pool.assign(p).unwrap().octets()[3]).collect();
        assert_eq!(rest, [3, 4, 5, 6]);
        assert_eq!(pool.assign("f"), Some(a), "the freed address comes last");
        assert_eq!(pool.assign("g"), None, "full: .0, .1 and .7 are not for pods");
    }

    #[test]
    fn adopted_addresses_are_not_given_again() {
        let mut pool = AddressPool::new("10.1.0.0/24".parse().unwrap());
        pool.adopt("old", [10, 1, 0, 9].into());
        assert_eq!(pool.assign("new"), Some([10, 1, 0, 10].into()));
        assert_eq!(pool.release("old"), Some([10, 1, 0, 9].into()));
        assert_eq!(pool.release("old"), None);
    }
}
