//! When a cron schedule is due next.

use std::time::Duration;

use coracle_api::cron::{Fields, Schedule};
use jiff::{RoundMode, Timestamp, Unit, Zoned, ZonedRound, tz::TimeZone};

/// A schedule that has not come due for so long never will.
const HORIZON_YEARS: i16 = 5;

/// The first time after the given one; None if there is none for years.
pub(super) fn next(schedule: &Schedule, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
    match schedule {
        Schedule::Every(period) => {
            let whole = Timestamp::from_second(after.as_second()).ok()?;
            whole.checked_add(*period).ok()
        }
        Schedule::Fields(fields) => next_of(fields, &after.to_zoned(zone.clone())),
    }
}

/// Walks over instants, not over dates, so that hours that occur twice or never need no rule of their own.
fn next_of(fields: &Fields, after: &Zoned) -> Option<Timestamp> {
    if [fields.minutes, fields.hours, fields.months].contains(&0) {
        return None;
    }
    let minute = ZonedRound::new().smallest(Unit::Minute).mode(RoundMode::Trunc);
    let mut at = after.round(minute).ok()?.checked_add(Duration::from_secs(60)).ok()?;
    let last_year = at.year() + HORIZON_YEARS;
    while at.year() <= last_year {
        if !has(fields.months, at.month()) || !matches_day(fields, &at) {
            at = at.tomorrow().ok()?.start_of_day().ok()?;
        } else if !has(fields.hours, at.hour()) {
            let left = 60 - u64::try_from(at.minute()).unwrap_or(0);
            at = at.checked_add(Duration::from_secs(60 * left)).ok()?;
        } else if !has(fields.minutes, at.minute()) {
            at = at.checked_add(Duration::from_secs(60)).ok()?;
        } else {
            return Some(at.timestamp());
        }
    }
    None
}

fn matches_day(fields: &Fields, at: &Zoned) -> bool {
    let day = has(fields.days, at.day());
    let weekday = has(fields.weekdays, at.weekday().to_sunday_zero_offset());
    if fields.any_day { day || weekday } else { day && weekday }
}

fn has(bits: u64, number: i8) -> bool {
    bits >> number & 1 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(schedule: &str, after: &str, zone: &TimeZone) -> Option<String> {
        let after = after.parse().unwrap();
        next(&Schedule::parse(schedule).unwrap(), after, zone).map(|at| at.to_string())
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
            assert_eq!(due(schedule, after, &TimeZone::UTC).as_deref(), Some(expected), "{schedule}");
        }
        assert_eq!(due("0 0 31 2 *", "2026-01-01T00:00:00Z", &TimeZone::UTC), None);
    }

    #[test]
    fn a_time_zone_shifts_the_fields_and_skips_hours_that_are_not() {
        let berlin = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        assert_eq!(
            due("0 12 * * *", "2026-07-01T00:00:00Z", &berlin).as_deref(),
            Some("2026-07-01T10:00:00Z")
        );
        assert_eq!(
            due("30 2 * * *", "2026-03-28T12:00:00Z", &berlin).as_deref(),
            Some("2026-03-30T00:30:00Z")
        );
    }
}
