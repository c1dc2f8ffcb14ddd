//! Cluster IPs and node ports: who holds which, and which is free. In memory; the stored Services are the truth.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rand::Rng;

use crate::store::Hold;

/// A range of service addresses and one of node ports, and what of them is taken.
pub struct ServiceAllocator {
    network: u32,
    prefix: u8,
    ports: RangeInclusive<u16>,
    /// `None` until the stored Services have been read.
    taken: Mutex<Option<Claims>>,
}

/// Addresses and ports that belong together: those of one Service, or all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    pub ips: HashSet<Ipv4Addr>,
    pub ports: HashSet<u16>,
}

/// Why something cannot be had, in upstream's words.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum AllocationError {
    #[error("the provided IP ({0}) is not in the valid range. The range of valid IPs is {1}")]
    IpOutOfRange(Ipv4Addr, String),
    #[error("provided IP is already allocated")]
    IpTaken,
    #[error("range is full")]
    Full,
    #[error("provided port is not in the valid range. The range of valid ports is {0}-{1}")]
    PortOutOfRange(u16, u16),
    #[error("provided port is already allocated")]
    PortTaken,
}

// === impl ServiceAllocator ===

impl ServiceAllocator {
    pub fn new((network, prefix): (Ipv4Addr, u8), ports: RangeInclusive<u16>) -> Self {
        let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
        ServiceAllocator { network: network.to_bits() & mask, prefix, ports, taken: Mutex::new(None) }
    }

    /// Runs a change of what is taken as one step. `stored` reads what the stored Services hold, the first time.
    pub fn with<T>(&self, stored: impl FnOnce() -> Claims, change: impl FnOnce(&mut Ledger<'_>) -> T) -> T {
        let mut guard = self.taken.lock();
        let taken = guard.get_or_insert_with(stored);
        change(&mut Ledger { range: self, taken })
    }

    fn cidr(&self) -> String {
        format!("{}/{}", Ipv4Addr::from_bits(self.network), self.prefix)
    }

    fn size(&self) -> u32 {
        1u32.checked_shl(32 - u32::from(self.prefix)).unwrap_or(u32::MAX)
    }

    /// The network and broadcast addresses are nobody's.
    fn contains(&self, ip: Ipv4Addr) -> bool {
        let offset = ip.to_bits().wrapping_sub(self.network);
        (1..self.size().saturating_sub(1)).contains(&offset)
    }
}

/// What is taken, while it is changed.
pub struct Ledger<'a> {
    range: &'a ServiceAllocator,
    taken: &'a mut Claims,
}

// === impl Ledger ===

impl Ledger<'_> {
    pub fn take_ip(&mut self, ip: Ipv4Addr) -> Result<(), AllocationError> {
        if !self.range.contains(ip) {
            return Err(AllocationError::IpOutOfRange(ip, self.range.cidr()));
        }
        if self.taken.ips.insert(ip) { Ok(()) } else { Err(AllocationError::IpTaken) }
    }

    /// Any free address. The low end of the range is left to those who ask for an address by number, while the rest lasts.
    pub fn any_ip(&mut self) -> Result<Ipv4Addr, AllocationError> {
        let size = self.range.size();
        let reserved = (size / 16).clamp(16, 256).min(size);
        let (first, last) = (1, size.saturating_sub(1));
        let start = rand::rng().random_range(reserved.min(last - 1).max(first)..last);
        let free = (start..last)
            .chain(reserved..start)
            .chain(first..reserved.min(last))
            .map(|offset| Ipv4Addr::from_bits(self.range.network + offset))
            .find(|ip| !self.taken.ips.contains(ip))
            .ok_or(AllocationError::Full)?;
        self.taken.ips.insert(free);
        Ok(free)
    }

    pub fn take_port(&mut self, port: i64) -> Result<u16, AllocationError> {
        let ports = &self.range.ports;
        let number = u16::try_from(port).ok().filter(|p| ports.contains(p));
        let number = number.ok_or(AllocationError::PortOutOfRange(*ports.start(), *ports.end()))?;
        if self.taken.ports.insert(number) { Ok(number) } else { Err(AllocationError::PortTaken) }
    }

    /// Any free node port.
    pub fn any_port(&mut self) -> Result<u16, AllocationError> {
        let (first, last) = (*self.range.ports.start(), *self.range.ports.end());
        let start = rand::rng().random_range(first..=last);
        let free = (start..=last)
            .chain(first..start)
            .find(|p| !self.taken.ports.contains(p))
            .ok_or(AllocationError::Full)?;
        self.taken.ports.insert(free);
        Ok(free)
    }

    pub fn release(&mut self, claims: &Claims) {
        for ip in &claims.ips {
            self.taken.ips.remove(ip);
        }
        for port in &claims.ports {
            self.taken.ports.remove(port);
        }
    }
}

/// What a write has taken, and what it gives up once it has happened. Until then both are taken: nobody else gets what a write
/// that fails would have to have back.
pub struct Reservation {
    allocator: Arc<ServiceAllocator>,
    taken: Claims,
    given_up: Claims,
    kept: AtomicBool,
}

// === impl Reservation ===

impl Reservation {
    pub fn new(allocator: &Arc<ServiceAllocator>, taken: Claims, given_up: Claims) -> Self {
        Reservation { allocator: allocator.clone(), taken, given_up, kept: AtomicBool::new(false) }
    }

    fn release(&self, claims: &Claims) {
        // What has been reserved was reserved in a ledger that is there.
        if let Some(taken) = &mut *self.allocator.taken.lock() {
            Ledger { range: &self.allocator, taken }.release(claims);
        }
    }
}

impl Hold for Reservation {
    fn keep(&self) {
        if !self.kept.swap(true, Ordering::Relaxed) {
            self.release(&self.given_up);
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if !*self.kept.get_mut() {
            self.release(&self.taken);
        }
    }
}

// === impl Claims ===

impl Claims {
    /// What is here and not in the other.
    pub fn without(&self, other: &Claims) -> Claims {
        Claims {
            ips: self.ips.difference(&other.ips).copied().collect(),
            ports: self.ports.difference(&other.ports).copied().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_ports_are_handed_out_once() {
        let a = ServiceAllocator::new((Ipv4Addr::new(10, 0, 0, 0), 28), 30000..=30001);
        a.with(Claims::default, |l| {
            assert_eq!(l.take_ip(Ipv4Addr::new(10, 0, 0, 1)), Ok(()));
            assert_eq!(l.take_ip(Ipv4Addr::new(10, 0, 0, 1)), Err(AllocationError::IpTaken));
            let outside = l.take_ip(Ipv4Addr::new(10, 0, 0, 16)).unwrap_err();
            assert_eq!(
                outside.to_string(),
                "the provided IP (10.0.0.16) is not in the valid range. The range of valid IPs is 10.0.0.0/28"
            );
            let got: HashSet<_> = (0..13).map(|_| l.any_ip().unwrap()).collect();
            assert_eq!(got.len(), 13);
            assert_eq!(l.any_ip(), Err(AllocationError::Full));
            l.take_port(30000).unwrap();
            assert_eq!(l.any_port(), Ok(30001));
            assert_eq!(l.any_port(), Err(AllocationError::Full));
            l.release(&Claims { ips: got, ports: [30000].into() });
            assert_eq!(l.any_port(), Ok(30000));
            assert!(l.any_ip().is_ok());
        });
    }

    #[test]
    fn a_write_that_fails_gives_back_what_it_took_and_one_that_happens_what_it_gave_up() {
        let a = Arc::new(ServiceAllocator::new((Ipv4Addr::new(10, 0, 0, 0), 28), 30000..=30003));
        let ports = |ports: &[u16]| Claims { ips: HashSet::new(), ports: ports.iter().copied().collect() };
        let taken = || a.with(Claims::default, |l| l.taken.clone());
        a.with(Claims::default, |l| [30000, 30001].map(|p| l.take_port(p).unwrap()));
        let moving = || Reservation::new(&a, ports(&[30001]), ports(&[30000]));
        // Meanwhile both are taken.
        let failed = moving();
        assert_eq!(taken(), ports(&[30000, 30001]));
        drop(failed);
        assert_eq!(taken(), ports(&[30000]));
        a.with(Claims::default, |l| l.take_port(30001)).unwrap();
        let happened = moving();
        happened.keep();
        assert_eq!(taken(), ports(&[30001]));
        // Somebody else has it by now.
        a.with(Claims::default, |l| l.take_port(30000)).unwrap();
        happened.keep();
        drop(happened);
        assert_eq!(taken(), ports(&[30000, 30001]));
    }
}
