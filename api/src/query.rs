//! Values in the query of a URL, read as upstream's API machinery reads them.

use std::borrow::Cow;

/// Whether a parameter that is there means yes: anything does but `0` and `false`. Clients also write `True`.
pub fn flag(value: &str) -> bool {
    value != "0" && !value.eq_ignore_ascii_case("false")
}

/// Percent-decodes a part of a URL; what is no escape stays as it is. A `+` is one here, for only in queries is it a space.
pub fn percent_decoded(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let escaped = match (first, tail) {
            (b'%', [high, low, after @ ..]) => hex(*high).zip(hex(*low)).map(|(h, l)| (h << 4 | l, after)),
            _ => None,
        };
        let (byte, after) = escaped.unwrap_or((first, tail));
        out.push(byte);
        rest = after;
    }
    Cow::Owned(String::from_utf8_lossy(&out).into_owned())
}

/// The same of a name or value of a query.
pub fn decoded(text: &str) -> Cow<'_, str> {
    if !text.contains('+') {
        return percent_decoded(text);
    }
    Cow::Owned(percent_decoded(&text.replace('+', " ")).into_owned())
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|d| u8::try_from(d).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_escapes_are_decoded() {
        for (text, path, query) in [
            ("a%20b+c", "a b+c", "a b c"),
            ("%41%zz%4", "A%zz%4", "A%zz%4"),
            ("%+1% 1%-1", "%+1% 1%-1", "% 1% 1%-1"),
            ("%c3%a9%ff%2B", "\u{e9}\u{fffd}+", "\u{e9}\u{fffd}+"),
            ("%%41", "%A", "%A"),
        ] {
            assert_eq!((&*percent_decoded(text), &*decoded(text)), (path, query), "{text}");
        }
    }

    #[test]
    fn only_zero_and_false_mean_no() {
        for (value, want) in
            [("true", true), ("True", true), ("1", true), ("", true), ("0", false), ("False", false)]
        {
            assert_eq!(flag(value), want, "{value:?}");
        }
    }
}
