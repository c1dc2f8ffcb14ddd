//! IP addresses and CIDRs.

use std::net::IpAddr;

use super::super::functions::Row;
use super::super::value::{Result, Value, fail, no_overload};
use super::{length, text};

pub(super) static ROWS: &[Row] = &[
    Row("ip(string): IP", |_, a| match address(text(&a[0])) {
        Some(ip) => Ok(Value::Ip(ip)),
        None => fail(no_address(text(&a[0]))),
    }),
    Row("isIP(string): bool", |_, a| Ok(Value::Bool(address(text(&a[0])).is_some()))),
    Row("ip.isCanonical(string): bool", |_, a| match address(text(&a[0])) {
        Some(ip) => Ok(Value::Bool(ip.to_string() == text(&a[0]))),
        None => fail(no_address(text(&a[0]))),
    }),
    Row("IP.family(): int", |_, a| ip(&a[0], |ip| Value::Int(if ip.is_ipv4() { 4 } else { 6 }))),
    Row("IP.isUnspecified(): bool", |_, a| ip(&a[0], |ip| Value::Bool(ip.is_unspecified()))),
    Row("IP.isLoopback(): bool", |_, a| ip(&a[0], |ip| Value::Bool(ip.is_loopback()))),
    Row("IP.isLinkLocalMulticast(): bool", |_, a| {
        ip(&a[0], |ip| {
            Value::Bool(match ip {
                IpAddr::V4(v4) => v4.octets()[..3] == [224, 0, 0],
                IpAddr::V6(v6) => v6.segments()[0] & 0xff0f == 0xff02,
            })
        })
    }),
    Row("IP.isLinkLocalUnicast(): bool", |_, a| {
        ip(&a[0], |ip| {
            Value::Bool(match ip {
                IpAddr::V4(v4) => v4.is_link_local(),
                IpAddr::V6(v6) => v6.segments()[0] & 0xffc0 == 0xfe80,
            })
        })
    }),
    Row("IP.isGlobalUnicast(): bool", |_, a| {
        ip(&a[0], |ip| {
            let link_local = match ip {
                IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
                IpAddr::V6(v6) => v6.segments()[0] & 0xffc0 == 0xfe80,
            };
            Value::Bool(!(ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || link_local))
        })
    }),
    Row("cidr(string): CIDR", |_, a| match range(text(&a[0])) {
        Some((ip, bits)) => Ok(Value::Cidr(ip, bits)),
        None => fail(no_range(text(&a[0]))),
    }),
    Row("isCIDR(string): bool", |_, a| Ok(Value::Bool(range(text(&a[0])).is_some()))),
    Row("CIDR.ip(): IP", |_, a| cidr(&a[0], |ip, _| Value::Ip(ip))),
    Row("CIDR.prefixLength(): int", |_, a| cidr(&a[0], |_, bits| length(bits.into()))),
    Row("CIDR.masked(): CIDR", |_, a| cidr(&a[0], |ip, bits| Value::Cidr(masked(ip, bits), bits))),
    Row("CIDR.containsIP(string): bool", |_, a| match address(text(&a[1])) {
        Some(inner) => cidr(&a[0], |ip, bits| Value::Bool(contains(ip, bits, inner, width(inner)))),
        None => fail(no_address(text(&a[1]))),
    }),
    Row("CIDR.containsIP(IP): bool", |_, a| {
        let Value::Ip(inner) = a[1] else { return no_overload("") };
        cidr(&a[0], |ip, bits| Value::Bool(contains(ip, bits, inner, width(inner))))
    }),
    Row("CIDR.containsCIDR(string): bool", |_, a| match range(text(&a[1])) {
        Some((inner, inner_bits)) => {
            cidr(&a[0], |ip, bits| Value::Bool(contains(ip, bits, inner, inner_bits)))
        }
        None => fail(no_range(text(&a[1]))),
    }),
    Row("CIDR.containsCIDR(CIDR): bool", |_, a| {
        let Value::Cidr(inner, inner_bits) = a[1] else { return no_overload("") };
        cidr(&a[0], |ip, bits| Value::Bool(contains(ip, bits, inner, inner_bits)))
    }),
];

/// An address as upstream reads it: no zone, and no IPv4 in IPv6's clothes.
fn address(text: &str) -> Option<IpAddr> {
    let ip: IpAddr = text.parse().ok()?;
    match ip {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => None,
        ip => Some(ip),
    }
}

/// Why a text is no address.
fn no_address(text: &str) -> String {
    if text.parse::<IpAddr>().is_ok() {
        return format!("IPv4-mapped IPv6 address {text:?} is not allowed");
    }
    if text
        .split_once('%')
        .is_some_and(|(ip, zone)| ip.parse::<std::net::Ipv6Addr>().is_ok() && !zone.is_empty())
    {
        return format!("IP address {text:?} with zone value is not allowed");
    }
    let four = !text.contains(':') && text.contains('.');
    let why = match four && text.split('.').all(|p| p.parse::<u8>().is_ok()) && text.split('.').count() < 4 {
        true => "IPv4 address too short",
        false => "unable to parse IP",
    };
    format!("IP Address {text:?} parse error during conversion from string: ParseAddr({text:?}): {why}")
}

/// Why a text is no range of addresses.
fn no_range(text: &str) -> String {
    const BEFORE: &str = "network address parse error during conversion from string";
    let why = match text.split_once('/') {
        None => "no '/'",
        Some((ip, bits)) if address(ip).is_some() && bits.parse::<u32>().is_ok() => {
            "prefix length out of range"
        }
        Some(_) => "unable to parse IP",
    };
    format!("{BEFORE}: {BEFORE}: netip.ParsePrefix({text:?}): {why}")
}

fn range(text: &str) -> Option<(IpAddr, u8)> {
    let (ip, bits) = text.split_once('/')?;
    let (ip, digits) = (address(ip)?, bits);
    let bits: u8 = digits.parse().ok()?;
    let plain = bits.to_string() == digits;
    (plain && bits <= width(ip)).then_some((ip, bits))
}

fn width(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

fn masked(ip: IpAddr, bits: u8) -> IpAddr {
    match ip {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            IpAddr::V4((v4.to_bits() & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            IpAddr::V6((v6.to_bits() & mask).into())
        }
    }
}

fn contains(ip: IpAddr, bits: u8, inner: IpAddr, inner_bits: u8) -> bool {
    ip.is_ipv4() == inner.is_ipv4() && inner_bits >= bits && masked(inner, bits) == masked(ip, bits)
}

fn ip<'a>(value: &Value<'a>, of: impl Fn(IpAddr) -> Value<'a>) -> Result<Value<'a>> {
    if let Value::Ip(ip) = value { Ok(of(*ip)) } else { no_overload("") }
}

fn cidr<'a>(value: &Value<'a>, of: impl Fn(IpAddr, u8) -> Value<'a>) -> Result<Value<'a>> {
    if let Value::Cidr(ip, bits) = value { Ok(of(*ip, *bits)) } else { no_overload("") }
}
