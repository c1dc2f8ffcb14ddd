//! IPv4 address ranges: parsing, membership, the addresses and the smaller ranges they are made of.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// An IPv4 network such as `10.244.0.0/24`. Host bits are cleared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cidr {
    base: u32,
    prefix: u8,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not an IPv4 network such as 10.244.0.0/24")]
pub struct InvalidCidr(String);

// === impl Cidr ===

impl Cidr {
    /// Takes the network that holds `addr`; prefixes above 32 count as 32.
    pub fn new(addr: Ipv4Addr, prefix: u8) -> Cidr {
        let prefix = prefix.min(32);
        Cidr { base: u32::from(addr) & mask(prefix), prefix }
    }

    pub fn address(&self) -> Ipv4Addr {
        self.base.into()
    }

    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    pub fn contains(&self, addr: Ipv4Addr) -> bool {
        u32::from(addr) & mask(self.prefix) == self.base
    }

    /// Whether any address is in both.
    pub fn overlaps(&self, other: &Cidr) -> bool {
        self.contains(other.address()) || other.contains(self.address())
    }

    /// The `n`th address of the network, from 0; `None` past its end.
    pub fn nth(&self, n: u64) -> Option<Ipv4Addr> {
        (n < self.size()).then(|| Ipv4Addr::from(self.base + n as u32))
    }

    /// How many addresses the network spans.
    pub fn size(&self) -> u64 {
        1 << (32 - self.prefix)
    }
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

impl FromStr for Cidr {
    type Err = InvalidCidr;

    fn from_str(text: &str) -> Result<Self, InvalidCidr> {
        let parsed = text.split_once('/').and_then(|(addr, prefix)| {
            Some((addr.parse::<Ipv4Addr>().ok()?, prefix.parse::<u8>().ok().filter(|p| *p <= 32)?))
        });
        parsed.map(|(addr, prefix)| Cidr::new(addr, prefix)).ok_or_else(|| InvalidCidr(text.to_owned()))
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address(), self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_prints_and_contains() {
        let net: Cidr = "10.244.3.7/24".parse().unwrap();
        assert_eq!(net.to_string(), "10.244.3.0/24");
        assert!(net.contains([10, 244, 3, 255].into()));
        assert!(!net.contains([10, 244, 4, 0].into()));
        assert_eq!((net.nth(5), net.nth(256)), (Some([10, 244, 3, 5].into()), None));
        assert!(
            net.overlaps(&"10.244.0.0/16".parse().unwrap())
                && !net.overlaps(&"10.244.4.0/24".parse().unwrap())
        );
        assert_eq!("0.0.0.0/0".parse::<Cidr>().unwrap().size(), 1 << 32);
        for bad in ["10.0.0.0", "10.0.0.0/33", "fd00::/64", "10.0.0/8"] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
    }
}
