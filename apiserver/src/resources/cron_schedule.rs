//! Whether a cron schedule can be read: five fields of ranges, or a word such as `@hourly`.

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

/// What is wrong with a schedule, in upstream's words.
pub(super) fn check(schedule: &str) -> Result<(), String> {
    if let Some(word) = schedule.strip_prefix('@') {
        return match word {
            "yearly" | "annually" | "monthly" | "weekly" | "daily" | "midnight" | "hourly" => Ok(()),
            _ => match word.strip_prefix("every ") {
                Some(text) if is_duration(text) => Ok(()),
                Some(text) => {
                    Err(format!("failed to parse duration {schedule}: time: invalid duration {text:?}"))
                }
                None => Err(format!("unrecognized descriptor: {schedule}")),
            },
        };
    }
    let given: Vec<&str> = schedule.split_whitespace().collect();
    if given.len() != FIELDS.len() {
        return Err(format!("expected exactly 5 fields, found {}: [{}]", given.len(), given.join(" ")));
    }
    let each = |(text, field): (&&str, &Field)| text.split(',').try_for_each(|part| range(part, field));
    given.iter().zip(&FIELDS).try_for_each(each)
}

/// `*`, `5`, `1-5`, each with an optional `/step`.
fn range(text: &str, field: &Field) -> Result<(), String> {
    let (span, step) = text.split_once('/').map_or((text, None), |(span, step)| (span, Some(step)));
    let (low, high) = span.split_once('-').map_or((span, None), |(low, high)| (low, Some(high)));
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
    match () {
        () if start < field.min => {
            Err(format!("beginning of range ({start}) below minimum ({}): {text}", field.min))
        }
        () if end > field.max => Err(format!("end of range ({end}) above maximum ({}): {text}", field.max)),
        () if start > end => Err(format!("beginning of range ({start}) beyond end of range ({end}): {text}")),
        () if step == 0 => Err(format!("step of range should be a positive number: {text}")),
        () => Ok(()),
    }
}

fn number(text: &str, names: &[&str], first: u32) -> Result<u32, String> {
    let lower = text.to_lowercase();
    if let Some(i) = names.iter().position(|n| **n == *lower) {
        return Ok(first + u32::try_from(i).expect("no more than twelve names"));
    }
    match text.parse::<i64>() {
        Ok(n) if n < 0 => Err(format!("negative number ({n}) not allowed: {text}")),
        Ok(n) => Ok(u32::try_from(n).unwrap_or(u32::MAX)),
        Err(_) => {
            Err(format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: invalid syntax"))
        }
    }
}

/// Go's way to write a duration: numbers with units.
fn is_duration(text: &str) -> bool {
    let mut rest = text.trim_start_matches(['+', '-']);
    if rest == "0" {
        return true;
    }
    while !rest.is_empty() {
        let digits = rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
        let units = ["ns", "us", "µs", "ms", "s", "m", "h"];
        let unit = units.iter().filter(|u| digits.starts_with(**u)).max_by_key(|u| u.len());
        match unit {
            Some(unit) if digits.len() < rest.len() => rest = &digits[unit.len()..],
            _ => return false,
        }
    }
    !text.is_empty()
}

#[cfg(test)]
mod tests {
    #[test]
    fn schedules_are_refused_in_upstreams_words() {
        for (schedule, wrong) in [
            ("*/5 * * * *", ""),
            ("0 0 1-5/2,7 JAN-mar MON", ""),
            ("0 0 30 feb ?", ""),
            ("@hourly", ""),
            ("@every 1h30m", ""),
            ("61 * * * *", "end of range (61) above maximum (59): 61"),
            ("0 0 * * 7", "end of range (7) above maximum (6): 7"),
            ("0 5-1 * * *", "beginning of range (5) beyond end of range (1): 5-1"),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
            ("a * * * *", "failed to parse int from a: strconv.Atoi: parsing \"a\": invalid syntax"),
            ("* * * *", "expected exactly 5 fields, found 4: [* * * *]"),
            ("@foo", "unrecognized descriptor: @foo"),
            ("@every x", "failed to parse duration @every x: time: invalid duration \"x\""),
        ] {
            assert_eq!(super::check(schedule).err().unwrap_or_default(), wrong, "{schedule}");
        }
    }
}
