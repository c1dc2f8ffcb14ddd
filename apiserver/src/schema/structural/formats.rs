//! The formats of strings that are enforced; others are only told.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use coracle_api::duration;
use serde_json::Value;

use crate::regexp::Regexp;

type Check = fn(&str) -> bool;

macro_rules! matches_regex {
    ($pattern:expr) => {
        |text: &str| {
            static REGEX: LazyLock<Regexp> =
                LazyLock::new(|| Regexp::new($pattern).expect("a fixed pattern"));
            REGEX.is_match(text)
        }
    };
}

/// By upstream's normalised name: without dashes, but for those of Kubernetes.
const STRINGS: &[(&str, Check)] = &[
    ("bsonobjectid", matches_regex!("^[0-9a-fA-F]{24}$")),
    ("uri", is_uri),
    ("email", matches_regex!(r"^[^@\s]+@[^@\s]+$")),
    ("hostname", is_hostname),
    ("ipv4", |t| t.parse::<Ipv4Addr>().is_ok()),
    ("ipv6", |t| t.parse::<Ipv6Addr>().is_ok()),
    ("cidr", is_cidr),
    (
        "mac",
        matches_regex!(
            "^([0-9a-fA-F]{2}[:-]){5}([0-9a-fA-F]{2})$|^([0-9a-fA-F]{2}[:-]){7}([0-9a-fA-F]{2})$|^([0-9a-fA-F]{4}\\.){2}([0-9a-fA-F]{4})$"
        ),
    ),
    ("uuid", matches_regex!("(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}$")),
    ("uuid3", matches_regex!("(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?3[0-9a-f]{3}-?[0-9a-f]{4}-?[0-9a-f]{12}$")),
    (
        "uuid4",
        matches_regex!("(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?4[0-9a-f]{3}-?[89ab][0-9a-f]{3}-?[0-9a-f]{12}$"),
    ),
    (
        "uuid5",
        matches_regex!("(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?5[0-9a-f]{3}-?[89ab][0-9a-f]{3}-?[0-9a-f]{12}$"),
    ),
    ("isbn", |t| is_isbn10(t) || is_isbn13(t)),
    ("isbn10", is_isbn10),
    ("isbn13", is_isbn13),
    ("creditcard", is_credit_card),
    ("ssn", matches_regex!(r"^\d{3}[- ]?\d{2}[- ]?\d{4}$")),
    ("hexcolor", matches_regex!("^#?([0-9a-fA-F]{3}|[0-9a-fA-F]{6})$")),
    (
        "rgbcolor",
        matches_regex!(
            r"^rgb\(\s*(0|[1-9]\d?|1\d\d?|2[0-4]\d|25[0-5])\s*,\s*(0|[1-9]\d?|1\d\d?|2[0-4]\d|25[0-5])\s*,\s*(0|[1-9]\d?|1\d\d?|2[0-4]\d|25[0-5])\s*\)$"
        ),
    ),
    // Of the last character no bit is looked at, and nothing at all is not base64.
    (
        "byte",
        matches_regex!("^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=|[A-Za-z0-9+/]{4})$"),
    ),
    ("password", |_| true),
    ("date", is_date),
    ("duration", |t| duration::parse(t).is_ok() || is_word_duration(t)),
    ("datetime", is_date_time),
    ("k8s-short-name", |t| crate::field_names::dns1123_label(t).is_empty()),
    ("k8s-long-name", |t| crate::field_names::dns1123_subdomain(t).is_empty()),
];

/// The format of a schema, if its values are held to it.
pub(super) fn enforced(schema: &Value) -> &str {
    let format = schema["format"].as_str().unwrap_or_default();
    let kind = schema["type"].as_str().unwrap_or_default();
    if is_known(kind, format) { format } else { "" }
}

/// Whether a type has a format of this name.
pub(crate) fn is_known(kind: &str, format: &str) -> bool {
    match kind {
        "" | "string" => check(format).is_some(),
        "integer" => matches!(format, "int32" | "int64"),
        "number" => matches!(format, "float" | "double"),
        _ => false,
    }
}

fn check(format: &str) -> Option<Check> {
    let plain = format.replace('-', "");
    STRINGS.iter().find(|(name, _)| *name == format || *name == plain).map(|(_, check)| *check)
}

/// Whether a text is of a format; every text is of one that strings do not have.
pub(super) fn fits(format: &str, text: &str) -> bool {
    check(format).is_none_or(|check| check(text))
}

fn is_date(text: &str) -> bool {
    text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok()
}

/// A date, the letter T in either case, and a time of day with its zone; what follows another T is not looked at.
fn is_date_time(text: &str) -> bool {
    static TIME: LazyLock<regex::Regex> = LazyLock::new(|| {
        let pattern = "^([0-9]{2}):([0-9]{2}):([0-9]{2})(.[0-9]+)?(z|([+-][0-9]{2}:[0-9]{2}))$";
        regex::Regex::new(pattern).expect("a fixed pattern")
    });
    let text = text.to_lowercase();
    let mut parts = text.split('t');
    let (Some(date), Some(time)) = (parts.next(), parts.next()) else { return false };
    let Some(parts) = TIME.captures(time) else { return false };
    is_date(date) && &parts[1] <= "23" && &parts[2] <= "59" && &parts[3] <= "59"
}

fn is_uri(text: &str) -> bool {
    text.starts_with('/') || (text.contains(':') && text.parse::<http::Uri>().is_ok())
}

fn is_hostname(text: &str) -> bool {
    let label = |l: &str| {
        !l.is_empty()
            && l.len() <= 63
            && !l.starts_with('-')
            && !l.ends_with('-')
            && l.chars().all(|c| c.is_alphanumeric() || c == '-')
    };
    text.len() <= 253 && text.trim_end_matches('.').split('.').all(label)
}

fn is_cidr(text: &str) -> bool {
    let Some((address, bits)) = text.split_once('/') else { return false };
    let most = match address.parse() {
        Ok(IpAddr::V4(_)) => 32,
        Ok(IpAddr::V6(_)) => 128,
        Err(_) => return false,
    };
    bits.parse::<u8>().is_ok_and(|b| b <= most)
}

/// Digits, with the value of a closing `X`.
fn digits(text: &str) -> Vec<u32> {
    let digit = |c: char| if c == 'X' { Some(10) } else { c.to_digit(10) };
    text.chars().filter(|c| !matches!(c, '-' | ' ')).map(|c| digit(c).unwrap_or(100)).collect()
}

fn is_isbn10(text: &str) -> bool {
    let d = digits(text);
    let sum: u32 = d.iter().zip((1..=10).rev()).map(|(d, weight)| d * weight).sum();
    d.len() == 10 && d.iter().all(|d| *d <= 10) && d[..9].iter().all(|d| *d < 10) && sum.is_multiple_of(11)
}

fn is_isbn13(text: &str) -> bool {
    let d = digits(text);
    let sum: u32 = d.iter().zip([1, 3].iter().cycle()).map(|(d, weight)| d * weight).sum();
    d.len() == 13 && d.iter().all(|d| *d < 10) && sum.is_multiple_of(10)
}

fn is_credit_card(text: &str) -> bool {
    let d: Vec<u32> = text.chars().filter_map(|c| c.to_digit(10)).collect();
    let sum: u32 =
        d.iter().rev().enumerate().map(|(i, d)| if i % 2 == 1 { d * 2 / 10 + d * 2 % 10 } else { *d }).sum();
    (13..=16).contains(&d.len()) && sum.is_multiple_of(10)
}

/// `22 ns`, `3 days`: durations in words.
fn is_word_duration(text: &str) -> bool {
    const UNITS: [&str; 20] = [
        "ns", "nano", "nanos", "us", "µs", "micro", "micros", "ms", "milli", "millis", "s", "sec", "secs",
        "second", "min", "minute", "h", "hour", "d", "day",
    ];
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let unit = text[end..].trim();
    end > 0 && UNITS.iter().any(|u| unit == *u || unit.strip_suffix('s') == Some(u))
}
