//! Times and durations.

use coracle_api::duration;
use jiff::{SignedDuration, Timestamp, Zoned, tz::TimeZone};

use super::super::functions::Row;
use super::super::value::{Result, Value, fail, no_overload};
use super::convert::unconvertible;
use super::text;

/// One part of a time, in UTC or in a time zone that an argument names.
macro_rules! parts {
    ($($name:literal $part:expr),* $(,)?) => {
        &[$(
            Row(concat!("timestamp.", $name, "(): int"), |_, a| part(&a[0], "UTC", $part)),
            Row(concat!("timestamp.", $name, "(string): int"), |_, a| part(&a[0], text(&a[1]), $part)),
        )*]
    };
}

pub(super) static PARTS: &[Row] = parts![
    "getFullYear" | z | i64::from(z.year()),
    "getMonth" | z | i64::from(z.month()) - 1,
    "getDayOfYear" | z | i64::from(z.day_of_year()) - 1,
    "getDayOfMonth" | z | i64::from(z.day()) - 1,
    "getDate" | z | i64::from(z.day()),
    "getDayOfWeek" | z | i64::from(z.weekday().to_sunday_zero_offset()),
    "getHours" | z | i64::from(z.hour()),
    "getMinutes" | z | i64::from(z.minute()),
    "getSeconds" | z | i64::from(z.second()),
    "getMilliseconds" | z | i64::from(z.millisecond()),
];

pub(super) static ROWS: &[Row] = &[
    Row("timestamp(timestamp): timestamp", |_, a| Ok(a[0].clone())),
    Row("timestamp(string): timestamp", |_, a| {
        let parsed = parse_timestamp(text(&a[0]));
        parsed.map_or_else(|| unconvertible("google.protobuf.Timestamp"), |t| Ok(Value::Timestamp(t)))
    }),
    Row("timestamp(int): timestamp", |_, a| {
        let at = Timestamp::from_second(super::int(&a[0]));
        at.map_or_else(|_| fail("timestamp overflow"), |t| Ok(Value::Timestamp(t)))
    }),
    Row("duration(duration): duration", |_, a| Ok(a[0].clone())),
    Row("duration(string): duration", |_, a| match duration::parse(text(&a[0])) {
        Ok(nanoseconds) => Ok(Value::Duration(SignedDuration::from_nanos(nanoseconds))),
        Err(_) => unconvertible("google.protobuf.Duration"),
    }),
    Row("duration(int): duration", |_, a| Ok(Value::Duration(SignedDuration::from_secs(super::int(&a[0]))))),
    Row("duration.getHours(): int", |_, a| span(&a[0], |d| d.as_hours())),
    Row("duration.getMinutes(): int", |_, a| span(&a[0], |d| d.as_mins())),
    Row("duration.getSeconds(): int", |_, a| span(&a[0], |d| d.as_secs())),
    Row("duration.getMilliseconds(): int", |_, a| {
        span(&a[0], |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX))
    }),
];

/// A time as Go reads RFC 3339: capital letters, two digits each, and a comma may stand before a fraction.
pub(in crate::cel) fn parse_timestamp(text: &str) -> Option<Timestamp> {
    const FORM: &[u8] = b"0000-00-00T00:00:00";
    let (head, rest) = text.split_at_checked(FORM.len())?;
    let fits = |(c, form): (u8, &u8)| if *form == b'0' { c.is_ascii_digit() } else { c == *form };
    if !head.bytes().zip(FORM).all(fits) || head.ends_with(":60") {
        return None;
    }
    let (fraction, zone) = match rest.strip_prefix(['.', ',']) {
        Some(digits) => {
            let end = digits.find(|c: char| !c.is_ascii_digit())?;
            (digits[..end].get(..end.min(9)).filter(|d| !d.is_empty())?, &digits[end..])
        }
        None => ("", rest),
    };
    let offset = |zone: &str| {
        let form = b"+00:00";
        let signed = zone.starts_with(['+', '-']) && zone.len() == form.len();
        signed && zone.bytes().zip(form).skip(1).all(fits)
    };
    if zone != "Z" && !offset(zone) {
        return None;
    }
    let dot = if fraction.is_empty() { "" } else { "." };
    format!("{head}{dot}{fraction}{zone}").parse().ok()
}

fn part<'a>(value: &Value<'a>, zone: &str, part: fn(&Zoned) -> i64) -> Result<Value<'a>> {
    let Value::Timestamp(at) = value else { return no_overload("") };
    let zone = match zone {
        "UTC" | "" => TimeZone::UTC,
        // `+01:00`, or a name.
        zone => match offset(zone).or_else(|| TimeZone::get(zone).ok()) {
            Some(zone) => zone,
            None => return fail(format!("unknown time zone {zone}")),
        },
    };
    Ok(Value::Int(part(&at.to_zoned(zone))))
}

fn offset(text: &str) -> Option<TimeZone> {
    let (sign, rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let (hours, minutes) = rest.split_once(':')?;
    let seconds = sign * (hours.parse::<i32>().ok()? * 3600 + minutes.parse::<i32>().ok()? * 60);
    Some(TimeZone::fixed(jiff::tz::Offset::from_seconds(seconds).ok()?))
}

fn span<'a>(value: &Value<'a>, part: fn(&SignedDuration) -> i64) -> Result<Value<'a>> {
    let Value::Duration(d) = value else { return no_overload("") };
    Ok(Value::Int(part(d)))
}
