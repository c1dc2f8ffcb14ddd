//! Times and durations as Kubernetes prints and writes them.

use jiff::Timestamp;
use serde_json::Value;

/// A `metav1.Time` or `MicroTime` of an object; `None` where it is absent or no time.
pub fn parse(value: &Value) -> Option<Timestamp> {
    // A year with a sign is one of ISO 8601 that RFC 3339 does not know, and that we could not write.
    value.as_str().filter(|text| text.starts_with(|c: char| c.is_ascii_digit()))?.parse().ok()
}

/// The second that a time is in: `metav1.Time` has no finer.
pub fn whole_second(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).expect("a second of an existing timestamp is in range")
}

/// `metav1.Time` on the wire: whole seconds, UTC.
pub fn seconds(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// `metav1.MicroTime` on the wire: six digits, UTC.
pub fn micros(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

/// Whether a name is one of the time zone database, in the case it has there: the database is files.
pub fn is_zone(name: &str) -> bool {
    jiff::tz::TimeZone::get(name).is_ok_and(|zone| zone.iana_name() == Some(name))
}

/// The short form of `kubectl get`'s Age column: two units at most, the finer the younger.
pub fn human_duration(seconds: i64) -> String {
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let (days, years) = (hours / 24, hours / 24 / 365);
    match () {
        () if seconds < -1 => "<invalid>".to_owned(),
        () if seconds < 0 => "0s".to_owned(),
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 10 => two(minutes, 'm', seconds % 60, 's'),
        () if minutes < 180 => format!("{minutes}m"),
        () if hours < 8 => two(hours, 'h', minutes % 60, 'm'),
        () if hours < 48 => format!("{hours}h"),
        () if hours < 24 * 8 => two(days, 'd', hours % 24, 'h'),
        () if hours < 24 * 365 * 2 => format!("{days}d"),
        () if hours < 24 * 365 * 8 => two(years, 'y', days % 365, 'd'),
        () => format!("{years}y"),
    }
}

/// How long ago a time was, or `<unknown>` without one.
pub fn since(then: Option<Timestamp>, now: Timestamp) -> String {
    match then {
        Some(then) => human_duration(now.duration_since(then).as_secs()),
        None => "<unknown>".to_owned(),
    }
}

fn two(big: i64, big_unit: char, small: i64, small_unit: char) -> String {
    match small {
        0 => format!("{big}{big_unit}"),
        small => format!("{big}{big_unit}{small}{small_unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_that_can_be_written() {
        let read = |text: &str| parse(&text.into()).map(seconds);
        assert_eq!(read("2026-01-01T02:00:00+02:00").as_deref(), Some("2026-01-01T00:00:00Z"));
        for none in ["-009991-01-01T00:00:00Z", "+002026-01-01T00:00:00Z", "", "now"] {
            assert_eq!(read(none), None, "{none}");
        }
    }

    #[test]
    fn zones_have_one_case() {
        let names =
            ["Europe/Berlin", "US/Eastern", "UTC", "europe/berlin", "EUROPE/BERLIN", "utc", "Nowhere/At", ""];
        assert_eq!(names.map(is_zone), [true, true, true, false, false, false, false, false]);
    }

    #[test]
    fn ages_are_upstreams() {
        for (seconds, text) in [
            (-5, "<invalid>"),
            (-1, "0s"),
            (119, "119s"),
            (120, "2m"),
            (121, "2m1s"),
            (600, "10m"),
            (3600 * 3 - 1, "179m"),
            (3600 * 3, "3h"),
            (3600 * 3 + 60, "3h1m"),
            (3600 * 9, "9h"),
            (3600 * 49, "2d1h"),
            (3600 * 24 * 8, "8d"),
            (3600 * 24 * 365 * 2, "2y"),
            (3600 * 24 * 365 * 9, "9y"),
        ] {
            assert_eq!(human_duration(seconds), text, "{seconds}");
        }
    }
}
