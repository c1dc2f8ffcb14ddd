//! Cron schedules, as the five fields and the descriptors of upstream's parser mean them.

use std::time::Duration;

use jiff::{RoundMode, Timestamp, Unit, Zoned, ZonedRound, tz::TimeZone};

/// A schedule that has not come due for so long never will.
const HORIZON_YEARS: i16 = 5;

const MONTHS: &[&str] = &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Schedule {
    Fields(Fields),
    Every(Duration),
}

/// Each a set of bits.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Fields {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// If one of the two day fields is open, both must match; else either is enough.
    any_day: bool,
}

#[derive(Debug, thiserror::Error, PartialEq)]
pub(super) enum ScheduleError {
    #[error("expected exactly 5 fields, found {0}: {1:?}")]
    FieldCount(usize, String),
    #[error("failed to parse {0:?}")]
    Field(String),
    #[error("unrecognized descriptor: {0}")]
    Descriptor(String),
}

impl Schedule {
    pub(super) fn parse(text: &str) -> Result<Self, ScheduleError> {
        let fields = match text.trim() {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            text if text.starts_with('@') => return every(text),
            text => text,
        };
        let parts: Vec<&str> = fields.split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = parts[..] else {
            return Err(ScheduleError::FieldCount(parts.len(), text.to_owned()));
        };
        let open = |field: &str| field.split(',').any(|part| matches!(part, "*" | "?" | "*/1" | "?/1"));
        Ok(Schedule::Fields(Fields {
            minutes: bits(minutes, 0, 59, &[])?,
            hours: bits(hours, 0, 23, &[])?,
            days: bits(days, 1, 31, &[])?,
            months: bits(months, 1, 12, MONTHS)?,
            weekdays: bits(weekdays, 0, 6, DAYS)?,
            any_day: !open(days) && !open(weekdays),
        }))
    }

    /// The first time after the given one; None if there is none for years.
    pub(super) fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        match self {
            Schedule::Every(period) => {
                let whole = Timestamp::from_second(after.as_second()).ok()?;
                whole.checked_add(*period).ok()
            }
            Schedule::Fields(fields) => fields.next(&after.to_zoned(zone.clone())),
        }
    }
}

impl Fields {
    /// Walks over instants, not over dates, so that hours that occur twice or never need no rule of their own.
    fn next(&self, after: &Zoned) -> Option<Timestamp> {
        let minute = ZonedRound::new().smallest(Unit::Minute).mode(RoundMode::Trunc);
        let mut at = after.round(minute).ok()?.checked_add(Duration::from_secs(60)).ok()?;
        let last_year = at.year() + HORIZON_YEARS;
        while at.year() <= last_year {
            if !has(self.months, at.month()) || !self.matches_day(&at) {
                at = at.tomorrow().ok()?.start_of_day().ok()?;
            } else if !has(self.hours, at.hour()) {
                let left = 60 - u64::try_from(at.minute()).unwrap_or(0);
                at = at.checked_add(Duration::from_secs(60 * left)).ok()?;
            } else if !has(self.minutes, at.minute()) {
                at = at.checked_add(Duration::from_secs(60)).ok()?;
            } else {
                return Some(at.timestamp());
            }
        }
        None
    }

    fn matches_day(&self, at: &Zoned) -> bool {
        let day = has(self.days, at.day());
        let weekday = has(self.weekdays, at.weekday().to_sunday_zero_offset());
        if self.any_day { day || weekday } else { day && weekday }
    }
}

fn has(bits: u64, number: i8) -> bool {
    bits >> number & 1 == 1
}

fn every(text: &str) -> Result<Schedule, ScheduleError> {
    let unknown = || ScheduleError::Descriptor(text.to_owned());
    let mut rest = text.strip_prefix("@every ").ok_or_else(unknown)?.trim();
    let mut seconds = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(unknown)?;
        let number: u64 = rest[..digits].parse().map_err(|_| unknown())?;
        let unit = match rest[digits..].chars().next() {
            Some('h') => 3600,
            Some('m') => 60,
            Some('s') => 1,
            _ => return Err(unknown()),
        };
        seconds += number * unit;
        rest = &rest[digits + 1..];
    }
    Ok(Schedule::Every(Duration::from_secs(seconds.max(1))))
}

/// Reads `a,b-c,d/e,*/f` into bits.
fn bits(field: &str, min: u32, max: u32, names: &[&str]) -> Result<u64, ScheduleError> {
    let bad = || ScheduleError::Field(field.to_owned());
    let number = |text: &str| {
        let name = names.iter().position(|name| name.eq_ignore_ascii_case(text));
        let named = name.and_then(|at| u32::try_from(at).ok()).map(|at| at + min);
        named.or_else(|| text.parse().ok()).filter(|n| (min..=max).contains(n)).ok_or_else(bad)
    };
    let mut set = 0;
    for part in field.split(',') {
        let (range, step) = part.split_once('/').map_or((part, None), |(range, step)| (range, Some(step)));
        let (first, last) = match range {
            "*" | "?" => (min, max),
            _ => match range.split_once('-') {
                Some((first, last)) => (number(first)?, number(last)?),
                None if step.is_some() => (number(range)?, max),
                None => (number(range)?, number(range)?),
            },
        };
        let step: usize = step.map_or(Ok(1), str::parse).map_err(|_| bad())?;
        if step == 0 || first > last {
            return Err(bad());
        }
        set |= (first..=last).step_by(step).fold(0, |set, n| set | 1_u64 << n);
    }
    Ok(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(schedule: &str, after: &str, zone: &TimeZone) -> Option<String> {
        let after = after.parse().unwrap();
        Schedule::parse(schedule).unwrap().next(after, zone).map(|at| at.to_string())
    }

    #[test]
    fn times_follow_the_fields() {
        let cases = [
            ("*/15 * * * *", "2026-01-01T00:14:59Z", "2026-01-01T00:15:00Z"),
            ("0 0 29 2 *", "2026-01-01T00:00:00Z", "2028-02-29T00:00:00Z"),
            ("30 8-10/2 * * mon-fri", "2026-01-02T10:30:00Z", "2026-01-05T08:30:00Z"),
            ("0 0 13 * 5", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"),
            ("@monthly", "2026-01-31T12:00:00Z", "2026-02-01T00:00:00Z"),
            ("@every 1h30m", "2026-01-01T00:00:00.5Z", "2026-01-01T01:30:00Z"),
        ];
        for (schedule, after, expected) in cases {
            assert_eq!(next(schedule, after, &TimeZone::UTC).as_deref(), Some(expected), "{schedule}");
        }
        assert_eq!(next("0 0 31 2 *", "2026-01-01T00:00:00Z", &TimeZone::UTC), None);
    }

    #[test]
    fn a_time_zone_shifts_the_fields_and_skips_hours_that_are_not() {
        let berlin = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        assert_eq!(
            next("0 12 * * *", "2026-07-01T00:00:00Z", &berlin).as_deref(),
            Some("2026-07-01T10:00:00Z")
        );
        assert_eq!(
            next("30 2 * * *", "2026-03-28T12:00:00Z", &berlin).as_deref(),
            Some("2026-03-30T00:30:00Z")
        );
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["* * * *", "60 * * * *", "*/0 * * * *", "5-1 * * * *", "@often", "* * * foo *"] {
            assert!(Schedule::parse(text).is_err(), "{text}");
        }
    }
}
