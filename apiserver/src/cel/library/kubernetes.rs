//! Quantities, URLs, semantic versions, named formats, and the escaping of JSON pointers.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::rc::Rc;

use coracle_api::quantity::Quantity;

use super::super::functions::Row;
use super::super::value::{Key, Result, Value, fail, no_overload};
use super::{length, text};
use crate::field_names;

/// A URL's parts as Go's `url.URL` tells them.
#[derive(Debug, PartialEq)]
pub struct Url {
    scheme: String,
    host: String,
    path: String,
    query: String,
}

/// A semantic version without its build.
#[derive(Debug, PartialEq)]
pub struct SemVer {
    numbers: [u64; 3],
    prerelease: Vec<String>,
}

/// A format that strings may be held against.
#[derive(Debug)]
pub struct Format {
    pub name: &'static str,
    check: fn(&str) -> Vec<String>,
}

static FORMATS: &[Format] = &[
    Format { name: "dns1123Label", check: field_names::dns1123_label },
    Format { name: "dns1123Subdomain", check: field_names::dns1123_subdomain },
    Format { name: "dns1035Label", check: field_names::dns1035_label },
    Format { name: "qualifiedName", check: field_names::qualified_name },
    Format { name: "dns1123LabelPrefix", check: |s| field_names::dns1123_label(&masked(s)) },
    Format { name: "dns1123SubdomainPrefix", check: |s| field_names::dns1123_subdomain(&masked(s)) },
    Format { name: "dns1035LabelPrefix", check: |s| field_names::dns1035_label(&masked(s)) },
    Format { name: "labelValue", check: field_names::label_value },
    Format {
        name: "uri",
        check: |s| unless(Url::parse(s).is_some(), &format!("parse {s:?}: invalid URI for request")),
    },
    Format {
        name: "uuid",
        check: |s| unless(uuid::Uuid::parse_str(s).is_ok(), "does not match the UUID format"),
    },
    Format {
        name: "byte",
        check: |s| {
            use base64::Engine;
            unless(base64::engine::general_purpose::STANDARD.decode(s).is_ok(), "invalid base64")
        },
    },
    Format { name: "date", check: |s| unless(s.parse::<jiff::civil::Date>().is_ok(), "invalid date") },
    Format { name: "datetime", check: |s| unless(s.parse::<jiff::Timestamp>().is_ok(), "invalid datetime") },
];

pub(super) static ROWS: &[Row] = &[
    Row("quantity(string): Quantity", |_, a| match text(&a[0]).parse::<Quantity>() {
        Ok(q) => Ok(Value::Quantity(q)),
        Err(e) => fail(e.to_string()),
    }),
    Row("isQuantity(string): bool", |_, a| Ok(Value::Bool(text(&a[0]).parse::<Quantity>().is_ok()))),
    Row("sign(Quantity): int", |_, a| quantity(&a[0]).map(|q| Value::Int(sign(q.cmp(&Quantity::default()))))),
    Row("Quantity.isGreaterThan(Quantity): bool", |_, a| {
        Ok(Value::Bool(quantity(&a[0])? > quantity(&a[1])?))
    }),
    Row("Quantity.isLessThan(Quantity): bool", |_, a| Ok(Value::Bool(quantity(&a[0])? < quantity(&a[1])?))),
    Row("Quantity.compareTo(Quantity): int", |_, a| {
        Ok(Value::Int(sign(quantity(&a[0])?.cmp(&quantity(&a[1])?))))
    }),
    Row("Quantity.asApproximateFloat(): double", |_, a| quantity(&a[0]).map(|q| Value::Double(q.as_f64()))),
    Row("Quantity.asInteger(): int", |_, a| match quantity(&a[0])? {
        q if q.is_integer() => Ok(Value::Int(q.value())),
        _ => fail("cannot convert value to integer"),
    }),
    Row("Quantity.isInteger(): bool", |_, a| quantity(&a[0]).map(|q| Value::Bool(q.is_integer()))),
    Row("Quantity.add(Quantity): Quantity", |_, a| Ok(Value::Quantity(quantity(&a[0])? + quantity(&a[1])?))),
    Row("Quantity.add(int): Quantity", |_, a| Ok(Value::Quantity(quantity(&a[0])? + whole(&a[1])?))),
    Row("Quantity.sub(Quantity): Quantity", |_, a| Ok(Value::Quantity(quantity(&a[0])? - quantity(&a[1])?))),
    Row("Quantity.sub(int): Quantity", |_, a| Ok(Value::Quantity(quantity(&a[0])? - whole(&a[1])?))),
    Row("url(string): URL", |_, a| match Url::parse(text(&a[0])) {
        Some(url) => Ok(Value::Url(Rc::new(url))),
        None => fail(format!(
            "URL parse error during conversion from string: parse {:?}: invalid URI for request",
            text(&a[0])
        )),
    }),
    Row("isURL(string): bool", |_, a| Ok(Value::Bool(Url::parse(text(&a[0])).is_some()))),
    Row("URL.getScheme(): string", |_, a| url(&a[0], |u| Value::string(&*u.scheme))),
    Row("URL.getHost(): string", |_, a| url(&a[0], |u| Value::string(&*u.host))),
    Row("URL.getHostname(): string", |_, a| url(&a[0], |u| Value::string(u.host_and_port().0))),
    Row("URL.getPort(): string", |_, a| url(&a[0], |u| Value::string(u.host_and_port().1))),
    Row("URL.getEscapedPath(): string", |_, a| url(&a[0], |u| Value::string(&*u.path))),
    Row("URL.getQuery(): map(string, list(string))", |_, a| url(&a[0], Url::parameters)),
    Row("semver(string): Semver", |_, a| semver(text(&a[0]))),
    Row("semver(string, bool): Semver", |_, a| semver(&normalized(text(&a[0]), &a[1]))),
    Row("isSemver(string): bool", |_, a| Ok(Value::Bool(SemVer::parse(text(&a[0])).is_some()))),
    Row("isSemver(string, bool): bool", |_, a| {
        Ok(Value::Bool(SemVer::parse(&normalized(text(&a[0]), &a[1])).is_some()))
    }),
    Row("Semver.isGreaterThan(Semver): bool", |_, a| versions(a, |o| Value::Bool(o.is_gt()))),
    Row("Semver.isLessThan(Semver): bool", |_, a| versions(a, |o| Value::Bool(o.is_lt()))),
    Row("Semver.compareTo(Semver): int", |_, a| versions(a, |o| Value::Int(sign(o)))),
    Row("Semver.major(): int", |_, a| number(&a[0], 0)),
    Row("Semver.minor(): int", |_, a| number(&a[0], 1)),
    Row("Semver.patch(): int", |_, a| number(&a[0], 2)),
    Row("format.named(string): optional(Format)", |_, a| {
        let found = FORMATS.iter().find(|f| f.name == text(&a[0]));
        Ok(found.map_or(Value::Optional(None), |f| Value::some(Value::Format(f))))
    }),
    Row("Format.validate(string): optional(list(string))", |_, a| {
        let Value::Format(format) = a[0] else { return no_overload("") };
        let wrong = (format.check)(text(&a[1]));
        Ok(match wrong.is_empty() {
            true => Value::Optional(None),
            false => Value::some(Value::list(wrong.into_iter().map(Value::string).collect())),
        })
    }),
    Row("format.dns1123Label(): Format", |_, _| Ok(Value::Format(&FORMATS[0]))),
    Row("format.dns1123Subdomain(): Format", |_, _| Ok(Value::Format(&FORMATS[1]))),
    Row("format.dns1035Label(): Format", |_, _| Ok(Value::Format(&FORMATS[2]))),
    Row("format.qualifiedName(): Format", |_, _| Ok(Value::Format(&FORMATS[3]))),
    Row("format.dns1123LabelPrefix(): Format", |_, _| Ok(Value::Format(&FORMATS[4]))),
    Row("format.dns1123SubdomainPrefix(): Format", |_, _| Ok(Value::Format(&FORMATS[5]))),
    Row("format.dns1035LabelPrefix(): Format", |_, _| Ok(Value::Format(&FORMATS[6]))),
    Row("format.labelValue(): Format", |_, _| Ok(Value::Format(&FORMATS[7]))),
    Row("format.uri(): Format", |_, _| Ok(Value::Format(&FORMATS[8]))),
    Row("format.uuid(): Format", |_, _| Ok(Value::Format(&FORMATS[9]))),
    Row("format.byte(): Format", |_, _| Ok(Value::Format(&FORMATS[10]))),
    Row("format.date(): Format", |_, _| Ok(Value::Format(&FORMATS[11]))),
    Row("format.datetime(): Format", |_, _| Ok(Value::Format(&FORMATS[12]))),
    Row("jsonpatch.escapeKey(string): string", |_, a| {
        Ok(Value::string(text(&a[0]).replace('~', "~0").replace('/', "~1")))
    }),
];

fn unless(holds: bool, why: &str) -> Vec<String> {
    if holds { vec![] } else { vec![why.to_owned()] }
}

/// A prefix may end in a dash; what will follow it is a letter.
fn masked(prefix: &str) -> String {
    prefix.strip_suffix('-').map_or(prefix.to_owned(), |p| format!("{p}a"))
}

fn sign(order: Ordering) -> i64 {
    order as i64
}

fn quantity(value: &Value<'_>) -> Result<Quantity> {
    if let Value::Quantity(q) = value { Ok(*q) } else { no_overload("") }
}

fn whole(value: &Value<'_>) -> Result<Quantity> {
    super::int(value).to_string().parse().map_or_else(|_| no_overload(""), Ok)
}

fn url<'a>(value: &Value<'a>, of: impl Fn(&Url) -> Value<'a>) -> Result<Value<'a>> {
    if let Value::Url(url) = value { Ok(of(url)) } else { no_overload("") }
}

fn semver<'a>(text: &str) -> Result<Value<'a>> {
    match SemVer::parse(text) {
        Some(version) => Ok(Value::SemVer(Rc::new(version))),
        None => fail(SemVer::wrong(text)),
    }
}

/// `v1.02` is `1.2.0` where normalisation is asked for.
fn normalized(text: &str, wanted: &Value<'_>) -> String {
    if !matches!(wanted, Value::Bool(true)) {
        return text.to_owned();
    }
    let text = text.trim_start_matches('v');
    let end = text.find(['-', '+']).unwrap_or(text.len());
    let mut numbers: Vec<&str> = text[..end].split('.').collect();
    numbers.resize(numbers.len().max(3), "0");
    let plain = |n: &&str| match n.trim_start_matches('0') {
        "" => "0".to_owned(),
        digits => digits.to_owned(),
    };
    let numbers: Vec<String> = numbers.iter().map(plain).collect();
    format!("{}{}", numbers.join("."), &text[end..])
}

fn versions<'a>(a: &[Value<'a>], of: impl Fn(Ordering) -> Value<'a>) -> Result<Value<'a>> {
    match (&a[0], &a[1]) {
        (Value::SemVer(x), Value::SemVer(y)) => Ok(of(x.compare(y))),
        _ => no_overload(""),
    }
}

fn number<'a>(value: &Value<'a>, part: usize) -> Result<Value<'a>> {
    match value {
        Value::SemVer(v) => Ok(length(usize::try_from(v.numbers[part]).unwrap_or(usize::MAX))),
        _ => no_overload(""),
    }
}

// === impl Url ===

impl Url {
    /// As Go's `url.ParseRequestURI`: absolute, or a path.
    fn parse(text: &str) -> Option<Url> {
        if text.is_empty() || text.contains(|c: char| c.is_ascii_control() || c == ' ') {
            return None;
        }
        let (before, query) = text.split_once('?').unwrap_or((text, ""));
        let (scheme, rest) = match before.split_once(':') {
            _ if before.starts_with('/') => ("", before),
            Some((scheme, rest)) => (scheme, rest),
            None => return None,
        };
        let well = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
        let named = scheme.is_empty() && before.starts_with('/')
            || scheme.starts_with(|c: char| c.is_ascii_alphabetic()) && scheme.chars().all(well);
        if !named {
            return None;
        }
        let (host, path) = match rest.strip_prefix("//") {
            Some(rest) => rest.find('/').map_or((rest, ""), |at| rest.split_at(at)),
            None => ("", rest),
        };
        let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
        if !path.is_empty() && !path.starts_with('/') && scheme.is_empty() {
            return None;
        }
        let port = host.rsplit_once(':').filter(|(h, _)| !h.contains(':') || h.ends_with(']'));
        if port.is_some_and(|(_, port)| !port.chars().all(|c| c.is_ascii_digit())) {
            return None;
        }
        Some(Url {
            scheme: scheme.to_lowercase(),
            host: host.to_owned(),
            path: path.to_owned(),
            query: query.to_owned(),
        })
    }

    fn host_and_port(&self) -> (&str, &str) {
        let bare = |host: &'_ str| host.len() > 1 && host.starts_with('[');
        let (host, port) = match self.host.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, port),
            _ => (&*self.host, ""),
        };
        (if bare(host) { host.trim_start_matches('[').trim_end_matches(']') } else { host }, port)
    }

    fn parameters<'a>(&self) -> Value<'a> {
        let mut all: BTreeMap<Key, Vec<Value<'a>>> = BTreeMap::new();
        for (name, value) in crate::request::params(&self.query) {
            all.entry(Key::String(name.into_owned())).or_default().push(Value::string(value));
        }
        Value::Map(Rc::new(all.into_iter().map(|(name, values)| (name, Value::list(values))).collect()))
    }
}

// === impl SemVer ===

impl SemVer {
    fn parse(text: &str) -> Option<SemVer> {
        let (rest, build) = text.split_once('+').map_or((text, None), |(r, b)| (r, Some(b)));
        let (numbers, prerelease) = rest.split_once('-').map_or((rest, None), |(n, p)| (n, Some(p)));
        let plain = |n: &str| (n == "0" || !n.starts_with('0')).then(|| n.parse().ok()).flatten();
        let numbers: Vec<u64> = numbers.split('.').map(plain).collect::<Option<_>>()?;
        let zeroed = |w: &str| w.len() > 1 && w.starts_with('0') && w.bytes().all(|b| b.is_ascii_digit());
        if prerelease.is_some_and(|p| p.split('.').any(zeroed)) {
            return None;
        }
        let word = |w: &str| !w.is_empty() && w.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        let words = |text: Option<&str>| -> Option<Vec<String>> {
            let Some(text) = text else { return Some(vec![]) };
            text.split('.').map(|w| word(w).then(|| w.to_owned())).collect()
        };
        words(build)?;
        Some(SemVer { numbers: numbers.try_into().ok()?, prerelease: words(prerelease)? })
    }

    /// Why a text is no version.
    fn wrong(text: &str) -> String {
        if text.is_empty() {
            return "Version string empty".to_owned();
        }
        let (rest, build) = text.split_once('+').map_or((text, None), |(r, b)| (r, Some(b)));
        let (numbers, prerelease) = rest.split_once('-').map_or((rest, None), |(n, p)| (n, Some(p)));
        let parts: Vec<&str> = text.splitn(3, '.').collect();
        if parts.len() != 3 {
            return "No Major.Minor.Patch elements found".to_owned();
        }
        for (name, number) in ["Major", "Minor", "Patch"].into_iter().zip(numbers.splitn(3, '.')) {
            if !number.bytes().all(|b| b.is_ascii_digit()) {
                return format!("Invalid character(s) found in {} number {number:?}", name.to_lowercase());
            }
            if number.len() > 1 && number.starts_with('0') {
                return format!("{name} number must not contain leading zeroes {number:?}");
            }
        }
        let zeroed = |w: &&str| w.len() > 1 && w.starts_with('0') && w.bytes().all(|b| b.is_ascii_digit());
        if let Some(part) = prerelease.and_then(|p| p.split('.').find(zeroed)) {
            return format!("Numeric PreRelease version must not contain leading zeroes {part:?}");
        }
        match (prerelease, build) {
            (Some(p), _) if p.split('.').any(str::is_empty) => "Prerelease is empty".to_owned(),
            (_, Some(b)) if b.split('.').any(str::is_empty) => "Build meta data is empty".to_owned(),
            _ => format!("Invalid character(s) found in {text:?}"),
        }
    }

    pub fn compare(&self, other: &SemVer) -> Ordering {
        let words = |a: &String, b: &String| match (a.parse::<u64>(), b.parse::<u64>()) {
            (Ok(a), Ok(b)) => a.cmp(&b),
            (Ok(_), Err(_)) => Ordering::Less,
            (Err(_), Ok(_)) => Ordering::Greater,
            (Err(_), Err(_)) => a.cmp(b),
        };
        let release = self.prerelease.is_empty().cmp(&other.prerelease.is_empty());
        let each = self.prerelease.iter().zip(&other.prerelease).map(|(a, b)| words(a, b));
        let length = self.prerelease.len().cmp(&other.prerelease.len());
        self.numbers
            .cmp(&other.numbers)
            .then(release)
            .then_with(|| each.into_iter().find(|o| o.is_ne()).unwrap_or(length))
    }
}
