//! Times and durations.

use jiff::{SignedDuration, Timestamp, Zoned, tz::TimeZone};

use super::super::functions::Row;
use super::super::value::{Result, Value, fail};
use super::text;
use crate::schema::parse_duration;

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
        let written = text(&a[0]);
        let parsed = written.parse::<Timestamp>();
        parsed.map_or_else(|e| fail(format!("parsing time {written:?}: {e}")), |t| Ok(Value::Timestamp(t)))
    }),
    Row("timestamp(int): timestamp", |_, a| {
        let at = Timestamp::from_second(super::int(&a[0]));
        at.map_or_else(|_| fail("timestamp overflow"), |t| Ok(Value::Timestamp(t)))
    }),
    Row("duration(duration): duration", |_, a| Ok(a[0].clone())),
    Row("duration(string): duration", |_, a| match parse_duration(text(&a[0])) {
        Some(nanoseconds) => Ok(Value::Duration(SignedDuration::from_nanos(nanoseconds))),
        None => fail(format!("time: invalid duration {:?}", text(&a[0]))),
    }),
    Row("duration(int): duration", |_, a| Ok(Value::Duration(SignedDuration::from_secs(super::int(&a[0]))))),
    Row("duration.getHours(): int", |_, a| span(&a[0], |d| d.as_hours())),
    Row("duration.getMinutes(): int", |_, a| span(&a[0], |d| d.as_mins())),
    Row("duration.getSeconds(): int", |_, a| span(&a[0], |d| d.as_secs())),
    Row("duration.getMilliseconds(): int", |_, a| {
        span(&a[0], |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX))
    }),
];

fn part<'a>(value: &Value<'a>, zone: &str, part: fn(&Zoned) -> i64) -> Result<Value<'a>> {
    let Value::Timestamp(at) = value else { return fail("no such overload") };
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
    let Value::Duration(d) = value else { return fail("no such overload") };
    Ok(Value::Int(part(d)))
}
