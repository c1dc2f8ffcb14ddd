//! Cron schedules: five fields of ranges, or a word such as `@hourly`, as upstream's parser reads them and in its words.
//!
//! The one reader of schedules: what the API server accepts is what the controller runs.

use std::time::Duration;

use crate::duration;

/// When a CronJob is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Schedule {
    Fields(Fields),
    /// So long after the time before: whole seconds, at least one.
    Every(Duration),
}

/// Each a set of bits, by the number that the field may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fields {
    pub minutes: u64,
    pub hours: u64,
    pub days: u64,
    pub months: u64,
    /// Sunday is 0.
    pub weekdays: u64,
    /// If one of the two day fields is open (`*`), both must match; else either is enough.
    pub any_day: bool,
}

/// One field: what it counts from and to, and the names its numbers have.
struct Field {
    min: u32,
    max: u32,
    names: &'static [&'static str],
}

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

const FIELDS: [Field; 5] = [
    Field { min: 0, max: 59, names: &[] },
    Field { min: 0, max: 23, names: &[] },
    Field { min: 1, max: 31, names: &[] },
    Field { min: 1, max: 12, names: &MONTHS },
    Field { min: 0, max: 6, names: &DAYS },
];

// === impl Schedule ===

impl Schedule {
    /// The error says what is wrong in upstream's words.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("empty spec string".to_owned());
        }
        let fields = match text {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            word if word.starts_with('@') => return every(word),
            fields => fields,
        };
        let given: Vec<&str> = fields.split_whitespace().collect();
        let &[minutes, hours, days, months, weekdays] = &given[..] else {
            return Err(format!("expected exactly 5 fields, found {}: [{}]", given.len(), given.join(" ")));
        };
        let [of_minutes, of_hours, of_days, of_months, of_weekdays] = &FIELDS;
        let (minutes, _) = set(minutes, of_minutes)?;
        let (hours, _) = set(hours, of_hours)?;
        let (days, open_days) = set(days, of_days)?;
        let (months, _) = set(months, of_months)?;
        let (weekdays, open_weekdays) = set(weekdays, of_weekdays)?;
        let any_day = !open_days && !open_weekdays;
        Ok(Schedule::Fields(Fields { minutes, hours, days, months, weekdays, any_day }))
    }
}

/// The numbers of a field, and whether it is open. Empty parts of the list count for nothing.
fn set(text: &str, field: &Field) -> Result<(u64, bool), String> {
    let mut all = (0, false);
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (bits, open) = range(part, field)?;
        all = (all.0 | bits, all.1 | open);
    }
    Ok(all)
}

/// `*`, `5`, `1-5`, each with an optional `/step`.
fn range(text: &str, field: &Field) -> Result<(u64, bool), String> {
    let (span, step) = text.split_once('/').map_or((text, None), |(span, step)| (span, Some(step)));
    let (low, high) = span.split_once('-').map_or((span, None), |(low, high)| (low, Some(high)));
    let mut open = matches!(low, "*" | "?");
    let (start, mut end) = match (low, high) {
        ("*" | "?", _) => (field.min, field.max),
        (low, None) => number(low, field.names, field.min).map(|n| (n, n))?,
        (_, Some(high)) if high.contains('-') => return Err(format!("too many hyphens: {text}")),
        (low, Some(high)) => (number(low, field.names, field.min)?, number(high, field.names, field.min)?),
    };
    let step = match step {
        None => 1,
        Some(step) if step.contains('/') => return Err(format!("too many slashes: {text}")),
        Some(step) => {
            if high.is_none() {
                end = field.max;
            }
            number(step, &[], 0)?
        }
    };
    open &= step <= 1;
    match () {
        () if start < field.min => {
            Err(format!("beginning of range ({start}) below minimum ({}): {text}", field.min))
        }
        () if end > field.max => Err(format!("end of range ({end}) above maximum ({}): {text}", field.max)),
        () if start > end => Err(format!("beginning of range ({start}) beyond end of range ({end}): {text}")),
        () if step == 0 => Err(format!("step of range should be a positive number: {text}")),
        () => {
            let step = usize::try_from(step).unwrap_or(usize::MAX);
            Ok(((start..=end).step_by(step).fold(0, |bits, n| bits | 1 << n), open))
        }
    }
}

fn number(text: &str, names: &[&str], first: u32) -> Result<u32, String> {
    let named = names.iter().zip(first..).find(|(name, _)| name.eq_ignore_ascii_case(text));
    if let Some((_, number)) = named {
        return Ok(number);
    }
    match text.parse::<i64>() {
        Ok(n) if n < 0 => Err(format!("negative number ({n}) not allowed: {text}")),
        Ok(n) => Ok(u32::try_from(n).unwrap_or(u32::MAX)),
        Err(_) => {
            Err(format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: invalid syntax"))
        }
    }
}

fn every(word: &str) -> Result<Schedule, String> {
    let Some(text) = word.strip_prefix("@every ") else {
        return Err(format!("unrecognized descriptor: {word}"));
    };
    let nanos = duration::parse(text).map_err(|why| format!("failed to parse duration {word}: {why}"))?;
    // Whole seconds, one at least.
    Ok(Schedule::Every(Duration::from_secs(u64::try_from(nanos / 1_000_000_000).unwrap_or(0).max(1))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_are_read_or_refused_in_upstreams_words() {
        for (schedule, wrong) in [
            ("*/5 * * * *", ""),
            ("0 0 1-5/2,7 JAN-mar MON", ""),
            ("0 0 30 feb ?", ""),
            ("1,2,,3 * * * *", ""),
            (", * * * *", ""),
            ("*-5 * * * *", ""),
            ("@hourly", ""),
            ("@every 1h30m", ""),
            ("@every 1.5h", ""),
            ("61 * * * *", "end of range (61) above maximum (59): 61"),
            ("0 0 * * 7", "end of range (7) above maximum (6): 7"),
            ("0 5-1 * * *", "beginning of range (5) beyond end of range (1): 5-1"),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
            ("1-2-3 * * * *", "too many hyphens: 1-2-3"),
            ("1/2/3 * * * *", "too many slashes: 1/2/3"),
            ("a * * * *", "failed to parse int from a: strconv.Atoi: parsing \"a\": invalid syntax"),
            ("* * * *", "expected exactly 5 fields, found 4: [* * * *]"),
            ("", "empty spec string"),
            ("@foo", "unrecognized descriptor: @foo"),
            ("@every x", "failed to parse duration @every x: time: invalid duration \"x\""),
            ("@every 5", "failed to parse duration @every 5: time: missing unit in duration \"5\""),
            ("@every ", "failed to parse duration @every : time: invalid duration \"\""),
            (
                "@every 9999999999h",
                "failed to parse duration @every 9999999999h: time: invalid duration \"9999999999h\"",
            ),
        ] {
            assert_eq!(Schedule::parse(schedule).err().unwrap_or_default(), wrong, "{schedule}");
        }
    }

    #[test]
    fn what_is_read_is_what_was_meant() {
        let fields = |text: &str| match Schedule::parse(text) {
            Ok(Schedule::Fields(fields)) => fields,
            other => panic!("{text}: {other:?}"),
        };
        assert_eq!(fields("1,2,,3 * * * *").minutes, 0b1110);
        assert_eq!(fields(", * * * *").minutes, 0, "no minute: it is never due");
        assert_eq!(fields("50/4 * * * *").minutes, 1 << 50 | 1 << 54 | 1 << 58);
        let any_day = ["0 0 1 * 1", "0 0 * * 1", "0 0 */1 * 1", "0 0 */2 * 1", "0 0 *-3 * 1", "0 0 1 * ?"];
        assert_eq!(any_day.map(|text| fields(text).any_day), [true, false, false, true, false, false]);
        for (text, seconds) in [
            ("@every 1h30m", 5400),
            ("@every 1m0.5s", 60),
            ("@every 1.5h", 5400),
            ("@every 1ms", 1),
            ("@every -3s", 1),
        ] {
            assert_eq!(Schedule::parse(text), Ok(Schedule::Every(Duration::from_secs(seconds))), "{text}");
        }
    }
}
