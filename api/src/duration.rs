//! Durations as Go reads and writes them: `1h30m`, `1m0.5s`, `300ms`.

use std::time::Duration;

/// Why a text is no duration, in Go's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("time: {0}")]
pub struct ParseDurationError(String);

/// Go's `time.ParseDuration`.
pub fn parse(text: &str) -> Result<i64, ParseDurationError> {
    let wrong = |why: &str| ParseDurationError(format!("{why} {}", quoted(text)));
    let invalid = || wrong("invalid duration");
    let negative = text.starts_with('-');
    let mut rest = text.strip_prefix(['+', '-']).unwrap_or(text);
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let limit = i64::MAX.unsigned_abs() + u64::from(negative);
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let end = |text: &str| text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (whole, after) = rest.split_at(end(rest));
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => after.split_at(end(after)),
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return Err(invalid());
        }
        let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| invalid())? };
        if whole > 1 << 63 {
            return Err(invalid());
        }
        let (unit, after) =
            after.split_at(after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len()));
        let scale: u64 = match unit {
            "ns" => 1,
            "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            "" => return Err(wrong("missing unit in duration")),
            unit => return Err(wrong(&format!("unknown unit {} in duration", quoted(unit)))),
        };
        // What is less than a nanosecond is cut off.
        let parts = fraction.bytes().take(18).fold((0_u128, 1_u128), |(value, base), digit| {
            (value * 10 + u128::from(digit - b'0'), base * 10)
        });
        let part = u64::try_from(parts.0 * u128::from(scale) / parts.1).map_err(|_| invalid())?;
        let more = whole.checked_mul(scale).and_then(|whole| whole.checked_add(part)?.checked_add(total));
        total = more.filter(|total| *total <= limit).ok_or_else(invalid)?;
        rest = after;
    }
    Ok(if negative { 0_i64.wrapping_sub_unsigned(total) } else { total.cast_signed() })
}

/// Go's `Duration.String`.
pub fn print(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let n = nanos.unsigned_abs();
    let fraction = |whole: u64, rest: u64, width: usize, unit: &str| {
        let digits = format!("{rest:0width$}");
        match digits.trim_end_matches('0') {
            "" => format!("{sign}{whole}{unit}"),
            digits => format!("{sign}{whole}.{digits}{unit}"),
        }
    };
    match n {
        0 => "0s".to_owned(),
        1..1_000 => format!("{sign}{n}ns"),
        1_000..1_000_000 => fraction(n / 1_000, n % 1_000, 3, "\u{b5}s"),
        1_000_000..1_000_000_000 => fraction(n / 1_000_000, n % 1_000_000, 6, "ms"),
        _ => {
            let (seconds, rest) = (n / 1_000_000_000, n % 1_000_000_000);
            let tail = fraction(seconds % 60, rest, 9, "s");
            let tail = tail.trim_start_matches('-');
            match (seconds / 3600, seconds / 60 % 60) {
                (0, 0) => format!("{sign}{tail}"),
                (0, m) => format!("{sign}{m}m{tail}"),
                (h, m) => format!("{sign}{h}h{m}m{tail}"),
            }
        }
    }
}

/// The same of a time span of the standard library; what is longer than some 292 years counts as that.
pub fn print_span(span: Duration) -> String {
    print(i64::try_from(span.as_nanos()).unwrap_or(i64::MAX))
}

/// Go's quotes: what is no ASCII stands as its bytes.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            ' '..='\x7f' => out.push(c),
            c => c.encode_utf8(&mut [0; 4]).bytes().for_each(|byte| out.push_str(&format!("\\x{byte:02x}"))),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_written_as_go_does() {
        for (text, nanos, written) in [
            ("0", 0, "0s"),
            ("1ns", 1, "1ns"),
            ("1.5us", 1_500, "1.5\u{b5}s"),
            ("2\u{b5}s2\u{3bc}s", 4_000, "4\u{b5}s"),
            ("300ms", 300_000_000, "300ms"),
            ("59s", 59_000_000_000, "59s"),
            ("1m0.5s", 60_500_000_000, "1m0.5s"),
            ("5m", 300_000_000_000, "5m0s"),
            ("1.5h", 5_400_000_000_000, "1h30m0s"),
            ("+14400s", 14_400_000_000_000, "4h0m0s"),
            ("-3661s", -3_661_000_000_000, "-1h1m1s"),
            (".5s", 500_000_000, "500ms"),
            ("1.s", 1_000_000_000, "1s"),
            ("-9223372036854775808ns", i64::MIN, "-2562047h47m16.854775808s"),
        ] {
            assert_eq!(parse(text), Ok(nanos), "{text}");
            assert_eq!(print(nanos), written, "{text}");
            assert_eq!(parse(written), Ok(nanos), "{text}");
        }
        assert_eq!(print_span(Duration::from_secs(100)), "1m40s");
        assert_eq!(print_span(Duration::MAX), "2562047h47m16.854775807s");
    }

    #[test]
    fn what_is_no_duration_is_refused_in_gos_words() {
        for (text, why) in [
            ("", r#"time: invalid duration """#),
            ("x", r#"time: invalid duration "x""#),
            ("-", r#"time: invalid duration "-""#),
            (".s", r#"time: invalid duration ".s""#),
            ("5", r#"time: missing unit in duration "5""#),
            ("1m5", r#"time: missing unit in duration "1m5""#),
            ("5d", r#"time: unknown unit "d" in duration "5d""#),
            ("1s 2s", r#"time: unknown unit "s " in duration "1s 2s""#),
            ("1\u{e9}\"", r#"time: unknown unit "\xc3\xa9\"" in duration "1\xc3\xa9\"""#),
            ("9999999999h", r#"time: invalid duration "9999999999h""#),
            ("9223372036854775808ns", r#"time: invalid duration "9223372036854775808ns""#),
            ("99999999999999999999s", r#"time: invalid duration "99999999999999999999s""#),
            ("99999999999999999999d", r#"time: invalid duration "99999999999999999999d""#),
            ("9999999999999999999", r#"time: invalid duration "9999999999999999999""#),
        ] {
            assert_eq!(parse(text).unwrap_err().to_string(), why, "{text}");
        }
    }
}
