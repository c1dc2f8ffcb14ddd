//! Single values: what each leaf type accepts, in Go's words, and its canonical form.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use coracle_api::{duration, quantity};
use jiff::Timestamp;
use serde_json::Value;

use super::normalize::{Mismatch, Target};
use super::types::{Leaf, LeafKind};

/// 0001-01-01T00:00:00Z.
const GO_ZERO: i64 = -62_135_596_800;

/// Checks a leaf's value and brings it into the form Go prints.
pub(super) fn canonicalize(leaf: &Leaf, value: &mut Value) -> Result<(), Mismatch> {
    match leaf.kind {
        LeafKind::Raw | LeafKind::Json => Ok(()),
        LeafKind::Fields | LeafKind::SchemaOrBool | LeafKind::SchemaOrArray | LeafKind::SchemaOrStrings => {
            Ok(())
        }
        _ if value.is_null() => {
            *value = leaf.kind.zero();
            Ok(())
        }
        LeafKind::String if value.is_string() => Ok(()),
        LeafKind::Bool if value.is_boolean() => Ok(()),
        LeafKind::String => Err(Mismatch::of(value, &leaf.go_type, Target::Basic("string"))),
        LeafKind::Bool => Err(Mismatch::of(value, &leaf.go_type, Target::Basic("bool"))),
        LeafKind::Int32 => integer(value, &leaf.go_type, Target::Basic("int32"), INT32),
        LeafKind::Int64 => integer(value, &leaf.go_type, Target::Basic("int64"), i64::MIN..=i64::MAX),
        LeafKind::Double => match value {
            Value::Number(_) => Ok(()),
            other => Err(Mismatch::of(other, &leaf.go_type, Target::Basic("float64"))),
        },
        LeafKind::Bytes => bytes(value, &leaf.go_type),
        LeafKind::Quantity => quantity(value),
        LeafKind::Time => time(value, Precision::Seconds),
        LeafKind::MicroTime => time(value, Precision::Micros),
        LeafKind::Duration => canonical_duration(value),
        LeafKind::IntOrString if value.is_string() => Ok(()),
        LeafKind::IntOrString => integer(value, "int32", Target::Custom, INT32),
    }
}

const INT32: std::ops::RangeInclusive<i64> = i32::MIN as i64..=i32::MAX as i64;

fn integer(
    value: &Value,
    ty: &str,
    target: Target,
    range: std::ops::RangeInclusive<i64>,
) -> Result<(), Mismatch> {
    match value {
        Value::Number(n) if n.as_i64().is_some_and(|n| range.contains(&n)) => Ok(()),
        Value::Number(n) => Err(Mismatch::described(format!("number {n}"), value, ty, target)),
        other => Err(Mismatch::of(other, ty, target)),
    }
}

fn bytes(value: &mut Value, ty: &str) -> Result<(), Mismatch> {
    let Value::String(text) = value else { return Err(Mismatch::of(value, ty, Target::Slice)) };
    // Go's decoder skips line ends inside base64.
    if text.contains(['\n', '\r']) {
        text.retain(|c| c != '\n' && c != '\r');
    }
    match STANDARD.decode(text.as_bytes()) {
        Ok(_) => Ok(()),
        Err(e) => {
            let at = match e {
                base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _) => at,
                base64::DecodeError::InvalidLength(_) | base64::DecodeError::InvalidPadding => {
                    text.len() / 4 * 4
                }
            };
            Err(Mismatch::Words(format!("illegal base64 data at input byte {at}")))
        }
    }
}

fn quantity(value: &mut Value) -> Result<(), Mismatch> {
    let number;
    let text = match &*value {
        Value::String(s) => s.trim(),
        Value::Number(n) => {
            number = n.to_string();
            &number
        }
        _ => "{}",
    };
    let canonical = quantity::canonical(text).map_err(|e| Mismatch::Words(e.to_string()))?;
    if value.as_str() != Some(&*canonical) {
        *value = canonical.into_owned().into();
    }
    Ok(())
}

#[derive(Clone, Copy)]
enum Precision {
    Seconds,
    Micros,
}

fn time(value: &mut Value, precision: Precision) -> Result<(), Mismatch> {
    let Value::String(text) = value else { return Err(Mismatch::of(value, "string", Target::Custom)) };
    if is_canonical_time(text.as_bytes(), precision) {
        return Ok(());
    }
    let exact = matches!(precision, Precision::Seconds) || has_micros(text);
    let at = rfc3339(text).filter(|_| exact).ok_or_else(|| time_error(text, precision))?;
    // Go prints its zero time as null.
    *value = if at.as_second() == GO_ZERO { Value::Null } else { print_time(at, precision).into() };
    Ok(())
}

fn print_time(at: Timestamp, precision: Precision) -> String {
    let format = match precision {
        Precision::Seconds => "%Y-%m-%dT%H:%M:%SZ",
        Precision::Micros => "%Y-%m-%dT%H:%M:%S.%6fZ",
    };
    at.strftime(format).to_string()
}

/// Whether the seconds have just six digits behind the point, which is what Go's layout of `MicroTime` wants.
fn has_micros(text: &str) -> bool {
    let b = text.as_bytes();
    b.len() > 26 && b[19] == b'.' && b[20..26].iter().all(u8::is_ascii_digit) && !b[26].is_ascii_digit()
}

/// The instant of an RFC 3339 text; Go takes neither spaces nor lower-case letters.
fn rfc3339(text: &str) -> Option<Timestamp> {
    let b = text.as_bytes();
    let shape =
        b.len() >= 20 && b[10] == b'T' && b[4] == b'-' && b[7] == b'-' && b[13] == b':' && b[16] == b':';
    let zone = text.ends_with('Z')
        || (b.len() > 6 && matches!(b[b.len() - 6], b'+' | b'-') && b[b.len() - 3] == b':');
    if shape && zone { text.parse().ok() } else { None }
}

/// `2006-01-02T15:04:05Z` with plausible digits: nothing to do, which is the case for all that the server wrote itself.
fn is_canonical_time(b: &[u8], precision: Precision) -> bool {
    let shape: &[u8] = match precision {
        Precision::Seconds => b"dddd-dd-ddTdd:dd:ddZ",
        Precision::Micros => b"dddd-dd-ddTdd:dd:dd.ddddddZ",
    };
    let two = |at: usize| (b[at] - b'0') * 10 + (b[at + 1] - b'0');
    b.len() == shape.len()
        && b.iter().zip(shape).all(|(b, s)| if *s == b'd' { b.is_ascii_digit() } else { b == s })
        && &b[..3] != b"000"
        && (1..=12).contains(&two(5))
        && (1..=28).contains(&two(8))
        && two(11) < 24
        && two(14) < 60
        && two(17) < 60
}

/// Go's words, naming the first layout element that does not match.
fn time_error(text: &str, precision: Precision) -> Mismatch {
    let layout = match precision {
        Precision::Seconds => "2006-01-02T15:04:05Z07:00",
        Precision::Micros => "2006-01-02T15:04:05.000000Z07:00",
    };
    const ELEMENTS: [(&str, usize, &str); 11] = [
        ("2006", 4, "d"),
        ("-", 1, "-"),
        ("01", 2, "d"),
        ("-", 1, "-"),
        ("02", 2, "d"),
        ("T", 1, "T"),
        ("15", 2, "d"),
        (":", 1, ":"),
        ("04", 2, "d"),
        (":", 1, ":"),
        ("05", 2, "d"),
    ];
    let mut at = 0;
    for (name, width, kind) in ELEMENTS {
        let part = text.get(at..at + width).unwrap_or_default();
        let fits = match kind {
            "d" => part.len() == width && part.bytes().all(|b| b.is_ascii_digit()),
            literal => part == literal,
        };
        if !fits {
            let rest = text.get(at..).unwrap_or_default();
            return Mismatch::Words(format!(
                "parsing time {text:?} as {layout:?}: cannot parse {rest:?} as {name:?}"
            ));
        }
        at += width;
    }
    let mut rest = text.get(at..).unwrap_or_default();
    if matches!(precision, Precision::Micros) {
        let digits =
            rest.strip_prefix('.').and_then(|r| r.get(..6)).filter(|d| d.bytes().all(|b| b.is_ascii_digit()));
        if digits.is_none() {
            return Mismatch::Words(format!(
                "parsing time {text:?} as {layout:?}: cannot parse {rest:?} as \".000000\""
            ));
        }
        rest = &rest[7..];
    }
    match rest {
        "" => {
            Mismatch::Words(format!("parsing time {text:?} as {layout:?}: cannot parse \"\" as \"Z07:00\""))
        }
        "Z" => Mismatch::Words(format!("parsing time {text:?}: day out of range")),
        rest => Mismatch::Words(format!(
            "parsing time {text:?} as {layout:?}: cannot parse {rest:?} as \"Z07:00\""
        )),
    }
}

fn canonical_duration(value: &mut Value) -> Result<(), Mismatch> {
    let Value::String(text) = &*value else {
        return Err(Mismatch::of(value, "string", Target::Custom));
    };
    let nanos = duration::parse(text).map_err(|e| Mismatch::Words(e.to_string()))?;
    *value = duration::print(nanos).into();
    Ok(())
}

/// The RFC 3339 text of seconds and nanoseconds since the epoch, with as many digits as the type has.
pub(crate) fn print_instant(seconds: i64, nanos: i32, micro: bool) -> Option<String> {
    let precision = if micro { Precision::Micros } else { Precision::Seconds };
    Some(print_time(Timestamp::new(seconds, nanos).ok()?, precision))
}
