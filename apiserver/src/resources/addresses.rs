//! Addresses and networks in text: what upstream takes, refuses and warns about, in its words.

use std::net::{IpAddr, Ipv4Addr};

use super::located::Located;
use super::validation::Errors;

const NO_IP: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
const NO_CIDR: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
const MAPPED: &str = "must not be an IPv4-mapped IPv6 address";

/// A network in text: the address as it is written, and how many of its bits count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Network {
    pub address: IpAddr,
    pub bits: u8,
}

// === impl Network ===

impl Network {
    /// As Go's older parser reads it: leading zeros do not matter.
    pub(super) fn sloppy(text: &str) -> Option<Network> {
        let (address, bits) = text.split_once('/')?;
        let address = sloppy_ip(address)?;
        let digits = !bits.is_empty() && bits.bytes().all(|b| b.is_ascii_digit());
        let bits = bits.parse::<u8>().ok().filter(|b| digits && *b <= width(address))?;
        Some(Network { address, bits })
    }

    /// The address with all but the bits that count set to zero.
    pub(super) fn masked(self) -> Network {
        let keep = u128::MAX.checked_shl(u32::from(width(self.address) - self.bits)).unwrap_or(0);
        let address = match self.address {
            IpAddr::V4(ip) => IpAddr::V4(Ipv4Addr::from_bits(
                u32::try_from(u128::from(ip.to_bits()) & keep).unwrap_or_default(),
            )),
            IpAddr::V6(ip) => IpAddr::V6((ip.to_bits() & keep).into()),
        };
        Network { address, ..self }
    }

    pub(super) fn contains(self, address: IpAddr) -> bool {
        address.is_ipv4() == self.address.is_ipv4()
            && Network { address, ..self }.masked().address == self.masked().address
    }

    fn text(self) -> String {
        format!("{}/{}", self.address, self.bits)
    }
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// As Go's older parser reads an address: IPv4 may have leading zeros.
pub(super) fn sloppy_ip(text: &str) -> Option<IpAddr> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Some(ip);
    }
    let parts: Vec<&str> = text.split('.').collect();
    let octet = |part: &&str| {
        let digits = !part.is_empty() && part.len() <= 16 && part.bytes().all(|b| b.is_ascii_digit());
        part.parse::<u64>().ok().filter(|_| digits).and_then(|n| u8::try_from(n).ok())
    };
    let octets: Vec<u8> = parts.iter().map_while(octet).collect();
    let four: [u8; 4] = octets.try_into().ok()?;
    (parts.len() == 4).then(|| Ipv4Addr::from(four).into())
}

fn is_mapped(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some())
}

/// What is wrong with an address in a field that is older than the strict rules.
fn wrong_ip(text: &str) -> Vec<String> {
    let why = match (text.parse::<IpAddr>().ok(), sloppy_ip(text)) {
        (_, None) => NO_IP,
        (None, Some(_)) => "must not have leading 0s",
        (Some(ip), _) if is_mapped(ip) => MAPPED,
        _ => return vec![],
    };
    vec![why.to_owned()]
}

/// What is wrong with an address in a newer field: it has one form only.
pub(super) fn strict_ip(text: &str) -> Vec<String> {
    let wrong = wrong_ip(text);
    match text.parse::<IpAddr>() {
        Ok(ip) if wrong.is_empty() && ip.to_string() != text => {
            vec![format!("must be in canonical form (\"{ip}\")")]
        }
        _ => wrong,
    }
}

/// What is wrong with a network in a field that is older than the strict rules.
pub(super) fn legacy_cidr(text: &str) -> Vec<String> {
    let Some(network) = Network::sloppy(text) else { return vec![NO_CIDR.to_owned()] };
    let (address, bits) = text.split_once('/').unwrap_or_default();
    let padded = address.parse::<IpAddr>().is_err() || bits.len() > 1 && bits.starts_with('0');
    let why = match network {
        _ if padded => "must not have leading 0s in IP or prefix length",
        n if is_mapped(n.address) => "must not have an IPv4-mapped IPv6 address",
        n if n.masked() != n => "must not have bits set beyond the prefix length",
        _ => return vec![],
    };
    vec![why.to_owned()]
}

/// What is wrong with a network in a newer field.
pub(super) fn strict_cidr(text: &str) -> Vec<String> {
    let wrong = legacy_cidr(text);
    match Network::sloppy(text) {
        Some(network) if wrong.is_empty() && network.text() != text => {
            vec![format!("must be in canonical form (\"{}\")", network.text())]
        }
        _ => wrong,
    }
}

/// What is wrong with the address of an interface and its network: `192.168.1.5/24`.
pub(super) fn interface_address(text: &str) -> Vec<String> {
    let Some(network) = Network::sloppy(text) else {
        return vec!["must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)".to_owned()];
    };
    if network.text() == text {
        vec![]
    } else {
        vec![format!("must be in canonical form ({:?})", network.text())]
    }
}

/// An older field's address; what the object had before may stay.
pub(super) fn legacy_ip(at: &Located<'_>, before: &[&str], errors: &mut Errors) {
    if !before.contains(&at.text()) {
        at.obeys(wrong_ip, errors);
    }
}

/// The warning about an address that is taken and not in its usual form.
pub(super) fn ip_warning(path: &str, text: &str) -> Option<String> {
    let sloppy = sloppy_ip(text)?;
    match text.parse::<IpAddr>() {
        Ok(ip) if !is_mapped(ip) => (ip.is_ipv6() && ip.to_string() != text).then(|| {
            format!("{path}: IPv6 address {text:?} should be in RFC 5952 canonical format (\"{ip}\")")
        }),
        _ => Some(format!(
            "{path}: non-standard IP address {text:?} is invalid: use \"{}\"",
            sloppy.to_canonical()
        )),
    }
}

/// The warnings about a network that is taken and not in its usual form.
pub(super) fn cidr_warnings(path: &str, text: &str) -> Vec<String> {
    let Some(network) = Network::sloppy(text) else { return vec![] };
    let mut all = vec![];
    if network.masked() != network {
        let single = Network { bits: width(network.address), ..network };
        all.push(format!(
            "{path}: CIDR value {text:?} is ambiguous in this context (should be {:?} or {:?}?)",
            network.masked().text(),
            single.text()
        ));
    }
    let (address, bits) = text.split_once('/').unwrap_or_default();
    let padded = address.parse::<IpAddr>().is_err() || bits.len() > 1 && bits.starts_with('0');
    if padded || is_mapped(network.address) {
        all.push(format!(
            "{path}: non-standard CIDR value {text:?} is invalid: use {:?}",
            network.masked().text()
        ));
    }
    if all.is_empty() && network.address.is_ipv6() && network.text() != text {
        all.push(format!(
            "{path}: IPv6 CIDR value {text:?} should be in RFC 5952 canonical format ({:?})",
            network.text()
        ));
    }
    all
}
