//! How Go's library (yaml.v2, which upstream's `sigs.k8s.io/yaml` writes with) writes a text: plain where every reader of
//! YAML 1.1 takes it for a text, quoted or as a block otherwise.

use super::{fraction, number};

/// How a text is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    Plain,
    Single,
    Double,
    Literal,
}

/// A text with what the emitter has to know of it.
#[derive(Clone, Copy)]
pub(super) struct Scalar<'a> {
    pub(super) text: &'a str,
    /// Whether it is written before a colon, on one line.
    pub(super) simple_key: bool,
    pub(super) style: Style,
    /// Whether all of it may be copied as it is, and no line of it may be broken.
    pub(super) solid: bool,
}

/// The longest key that is written without a question mark, in bytes.
const SIMPLE_KEY: usize = 128;

// === impl Scalar ===

impl<'a> Scalar<'a> {
    /// What is not a text in JSON: numbers, booleans, null.
    pub(super) fn verbatim(text: &'a str) -> Self {
        Scalar { text, simple_key: false, style: Style::Plain, solid: true }
    }

    pub(super) fn of(text: &'a str, is_key: bool) -> Self {
        if is_solid(text) {
            let style = if is_another_type(text) { Style::Double } else { Style::Plain };
            return Scalar { text, simple_key: is_key && text.len() <= SIMPLE_KEY, style, solid: true };
        }
        let traits = Traits::of(text);
        let simple_key = is_key && !traits.line_breaks && text.len() <= SIMPLE_KEY;
        Scalar { text, simple_key, style: traits.style(text), solid: false }
    }
}

/// A word of letters, digits and what joins them in names, which most texts are.
fn is_solid(text: &str) -> bool {
    let within = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'.' | b'_' | b'-');
    text.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric) && text.as_bytes().iter().all(within)
}

/// What of a text decides how it may be written.
#[derive(Default)]
struct Traits {
    line_breaks: bool,
    /// Cannot be written plainly: an indicator stands where it would mean something.
    indicators: bool,
    special: bool,
    outer_blank: bool,
    trailing_space: bool,
    space_after_break: bool,
    break_after_space: bool,
}

// === impl Traits ===

impl Traits {
    fn of(text: &str) -> Self {
        let mut traits =
            Traits { indicators: text.starts_with("---") || text.starts_with("..."), ..Traits::default() };
        let (mut previous_space, mut previous_break, mut after_blank) = (false, false, true);
        let mut rest = text.chars();
        let mut first = true;
        while let Some(c) = rest.next() {
            let last = rest.as_str().is_empty();
            let before_blank = last || rest.as_str().starts_with([' ', '\t']);
            traits.indicators |= match c {
                '#' if !first => after_blank,
                '#' | ',' | '[' | ']' | '{' | '}' | '&' | '*' | '!' | '|' | '>' | '\'' | '"' | '%' | '@'
                | '`' => first,
                '?' | '-' => first && before_blank,
                ':' => before_blank,
                _ => false,
            };
            traits.special |= !is_printable(c);
            let (space, broken) = (c == ' ', is_break(c));
            traits.line_breaks |= broken;
            traits.outer_blank |= (space || broken) && (first || last);
            traits.trailing_space |= space && last;
            traits.space_after_break |= space && previous_break;
            traits.break_after_space |= broken && previous_space;
            (previous_space, previous_break) = (space, broken);
            after_blank = space || broken || matches!(c, '\t' | '\0');
            first = false;
        }
        traits
    }

    fn style(&self, text: &str) -> Style {
        let unquotable = self.break_after_space || self.special;
        let single = !unquotable && !self.space_after_break;
        let block = !unquotable && !self.trailing_space && !text.is_empty();
        let plain = single && !self.outer_blank && !self.line_breaks && !self.indicators;
        let wanted = match () {
            () if text.contains('\n') => Style::Literal,
            () if !is_another_type(text) => Style::Plain,
            () => Style::Double,
        };
        match wanted {
            Style::Literal if block => Style::Literal,
            Style::Plain if plain => Style::Plain,
            Style::Plain if single => Style::Single,
            _ => Style::Double,
        }
    }
}

/// Whether a plain scalar of this text would be read as something else than a text, by YAML 1.1 and Go's additions.
fn is_another_type(text: &str) -> bool {
    match text.as_bytes() {
        [] => true,
        [b'y' | b'Y' | b'n' | b'N' | b't' | b'T' | b'f' | b'F' | b'o' | b'O' | b'~', ..] => is_word(text),
        [b'.', ..] => is_word(text) || fraction(text).is_some(),
        [b'+' | b'-' | b'0'..=b'9', ..] => {
            is_word(text) || is_timestamp(text) || is_base_60(text) || number(text).is_some()
        }
        _ => false,
    }
}

fn is_word(text: &str) -> bool {
    super::word(text).is_some()
}

/// Numbers in base 60, as YAML 1.1 had them.
fn is_base_60(text: &str) -> bool {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let mut parts = unsigned.split(':');
    let leading = parts.next().unwrap_or_default();
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit() || b == b'_');
    let sixtieth = |text: &str| match text.as_bytes() {
        [low] => low.is_ascii_digit(),
        [high, low] => matches!(high, b'0'..=b'5') && low.is_ascii_digit(),
        _ => false,
    };
    let mut rest: Vec<&str> = parts.collect();
    let Some(last) = rest.pop() else { return false };
    let (last, fraction) = last.split_once('.').unwrap_or((last, ""));
    leading.starts_with(|c: char| c.is_ascii_digit())
        && digits(leading)
        && rest.into_iter().all(sixtieth)
        && sixtieth(last)
        && digits(fraction)
}

/// `2006-1-2`, with a time behind `T`, `t` (and a zone) or spaces (and none).
fn is_timestamp(text: &str) -> bool {
    let mut date = text.splitn(3, '-');
    let (Some(year), Some(month), Some(rest)) = (date.next(), date.next(), date.next()) else { return false };
    let all_digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if year.len() != 4 || !all_digits(year) {
        return false;
    }
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let (day, time) = rest.split_at(end);
    let number = |text: &str| -> Option<i8> {
        (matches!(text.len(), 1 | 2) && all_digits(text)).then(|| text.parse().ok()).flatten()
    };
    let (Some(month), Some(day)) = (number(month), number(day)) else { return false };
    let Ok(year) = year.parse() else { return false };
    if jiff::civil::Date::new(year, month, day).is_err() {
        return false;
    }
    match time.as_bytes() {
        [] => true,
        [b'T' | b't', ..] => clock(&time[1..]).is_some_and(is_zone),
        [b' ', ..] => clock(time.trim_start_matches(' ')).is_some_and(str::is_empty),
        _ => false,
    }
}

/// What follows `15:4:5.999`.
fn clock(text: &str) -> Option<&str> {
    let mut rest = text;
    for (before, below) in [("", 24), (":", 60), (":", 60)] {
        rest = rest.strip_prefix(before)?;
        let digits = rest.bytes().take(2).take_while(u8::is_ascii_digit).count();
        let (number, after) = rest.split_at(digits);
        number.parse::<u8>().ok().filter(|n| *n < below)?;
        rest = after;
    }
    let fraction = rest.strip_prefix(['.', ',']).filter(|f| f.starts_with(|c: char| c.is_ascii_digit()));
    Some(fraction.map_or(rest, |f| f.trim_start_matches(|c: char| c.is_ascii_digit())))
}

fn is_zone(text: &str) -> bool {
    match text.as_bytes() {
        [b'Z'] => true,
        [b'+' | b'-', h1, h2, b':', m1, m2] => {
            let two = |a: &u8, b: &u8| {
                (a.is_ascii_digit() && b.is_ascii_digit()).then(|| (a - b'0') * 10 + (b - b'0'))
            };
            two(h1, h2).is_some_and(|h| h <= 24) && two(m1, m2).is_some_and(|m| m <= 60)
        }
        _ => false,
    }
}

/// What is written as it is. Beyond the basic plane nothing is.
pub(super) fn is_printable(c: char) -> bool {
    matches!(c, '\n' | ' '..='~' | '\u{a0}'..='\u{fefe}' | '\u{ff00}'..='\u{fffd}')
}

pub(super) fn is_break(c: char) -> bool {
    matches!(c, '\r' | '\n' | '\u{85}' | '\u{2028}' | '\u{2029}')
}
