//! Resource quantities (`500m`, `1.5Gi`, `1e3`): parsing, arithmetic and the canonical text of Go's `resource.Quantity`.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;
use std::ops::{Add, AddAssign, Neg, Sub, SubAssign};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::k8s_openapi::apimachinery::pkg::api::resource::Quantity as WireQuantity;

/// The smallest amount a quantity can hold is a billionth.
const NANOS: i128 = 1_000_000_000;
/// Amounts beyond this (some 10^29) count as this one. Upstream goes on; nothing real is so large, and the text is kept.
const MAX: i128 = i128::MAX;
/// Binary amounts are capped here, as upstream does.
const MAX_BINARY: i128 = i64::MAX as i128 * NANOS;
const DECIMAL_SUFFIXES: [(&str, i32); 10] =
    [("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];
const BINARY_SUFFIXES: [(&str, i32); 6] =
    [("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40), ("Pi", 50), ("Ei", 60)];

/// Which family of suffixes the text uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Format {
    /// `m`, `k`, `M`, `G` ...
    #[default]
    DecimalSi,
    /// `Ki`, `Mi`, `Gi` ...
    BinarySi,
    /// `e3`, `e6` ...
    DecimalExponent,
}

/// An exact amount. Equality and order look at the amount alone, not at how it is written.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

/// Why a text is no quantity, in upstream's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseQuantityError {
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    #[error("unable to parse numeric part of quantity")]
    Numeric,
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

/// A quantity's text, taken apart.
struct Parts<'a> {
    negative: bool,
    /// Digits before the point without leading zeros (`0` where none is left).
    whole: &'a str,
    fraction: &'a str,
    suffix: &'a str,
}

// === impl Parts ===

impl<'a> Parts<'a> {
    fn scan(text: &'a str) -> Result<Self, ParseQuantityError> {
        if text.is_empty() {
            return Err(ParseQuantityError::Format);
        }
        let (negative, rest) = match text.as_bytes()[0] {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let (whole, rest) = split_digits(rest.trim_start_matches('0'));
        let (fraction, suffix) = match rest.strip_prefix('.') {
            Some(rest) => split_digits(rest),
            None => ("", rest),
        };
        let exponent = suffix.trim_start_matches(|c| "eEinumkKMGTP".contains(c));
        let exponent = exponent.strip_prefix(['-', '+']).unwrap_or(exponent);
        if !exponent.bytes().all(|b| b.is_ascii_digit()) {
            return Err(ParseQuantityError::Format);
        }
        Ok(Parts { negative, whole: if whole.is_empty() { "0" } else { whole }, fraction, suffix })
    }

    /// The digits before and after the point once it has gone so many places to the right. Far beyond either end it
    /// makes no difference how far.
    fn shifted(&self, places: i32) -> (String, String) {
        const FAR: i64 = 64;
        let digits = [self.whole, self.fraction].concat();
        let digits = digits.trim_start_matches('0');
        if digits.is_empty() {
            return (String::new(), String::new());
        }
        let leading = self.whole.len() + self.fraction.len() - digits.len();
        let point = self.whole.len() as i64 - leading as i64 + i64::from(places);
        let zeros = |count: i64| "0".repeat(usize::try_from(count.min(FAR)).unwrap_or(0));
        match usize::try_from(point) {
            Ok(point) if point <= digits.len() => (digits[..point].to_owned(), digits[point..].to_owned()),
            Ok(_) => (format!("{digits}{}", zeros(point - digits.len() as i64)), String::new()),
            Err(_) => (String::new(), format!("{}{digits}", zeros(-point))),
        }
    }

    /// The canonical text of what is too large to be computed with.
    fn canonical(&self) -> Result<String, ParseQuantityError> {
        let (_, exponent, format) = self.scale()?;
        let digits = [self.whole, self.fraction].concat();
        let significant = digits.trim_start_matches('0').trim_end_matches('0');
        let trailing = digits.len() - digits.trim_end_matches('0').len();
        let exponent = i64::from(exponent) + trailing as i64 - self.fraction.len() as i64;
        // The greatest that can be read again, and a multiple of three.
        let most = if format == Format::DecimalExponent { i64::from(i32::MAX) - 1 } else { 18 };
        let shown = exponent.div_euclid(3).saturating_mul(3).min(most);
        let zeros = "0".repeat(usize::try_from(exponent - shown).unwrap_or(0));
        let sign = if self.negative { "-" } else { "" };
        let suffix = match DECIMAL_SUFFIXES.iter().find(|(_, e)| i64::from(*e) == shown) {
            _ if format == Format::DecimalExponent && shown != 0 => format!("e{shown}"),
            found => found.map_or("", |(suffix, _)| suffix).to_owned(),
        };
        Ok(format!("{sign}{significant}{zeros}{suffix}"))
    }

    /// `(base, exponent, format)` of the suffix.
    fn scale(&self) -> Result<(i128, i32, Format), ParseQuantityError> {
        if let Some((_, exponent)) = DECIMAL_SUFFIXES.iter().find(|(s, _)| *s == self.suffix) {
            return Ok((10, *exponent, Format::DecimalSi));
        }
        if let Some((_, exponent)) = BINARY_SUFFIXES.iter().find(|(s, _)| *s == self.suffix) {
            return Ok((2, *exponent, Format::BinarySi));
        }
        match self.suffix.strip_prefix(['e', 'E']).map(str::parse) {
            Some(Ok(exponent)) => Ok((10, exponent, Format::DecimalExponent)),
            _ => Err(ParseQuantityError::Suffix),
        }
    }
}

// === impl Quantity ===

impl Quantity {
    pub const ZERO: Quantity = Quantity { nanos: 0, format: Format::DecimalSi };

    pub const fn new(units: i64, format: Format) -> Self {
        Quantity { nanos: units as i128 * NANOS, format }
    }

    /// Whole units with decimal suffixes: counts, cores.
    pub const fn from_units(units: i64) -> Self {
        Quantity::new(units, Format::DecimalSi)
    }

    /// Bytes, written with binary suffixes.
    pub const fn from_bytes(bytes: i64) -> Self {
        Quantity::new(bytes, Format::BinarySi)
    }

    pub const fn from_millis(millis: i64) -> Self {
        Quantity { nanos: millis as i128 * (NANOS / 1000), format: Format::DecimalSi }
    }

    /// Reads a quantity as JSON may carry it: a string or a number.
    pub fn from_json(value: &Value) -> Result<Self, ParseQuantityError> {
        match value {
            Value::String(s) => s.parse(),
            Value::Number(n) => n.to_string().parse(),
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => {
                Err(ParseQuantityError::Format)
            }
        }
    }

    /// The amount in whole units, rounded away from zero.
    pub fn value(&self) -> i64 {
        round_away(self.nanos, NANOS)
    }

    /// The amount in thousandths, rounded away from zero.
    pub fn milli_value(&self) -> i64 {
        round_away(self.nanos, NANOS / 1000)
    }

    pub fn as_f64(&self) -> f64 {
        self.nanos as f64 / NANOS as f64
    }

    pub fn format(&self) -> Format {
        self.format
    }

    pub fn is_zero(&self) -> bool {
        self.nanos == 0
    }

    pub fn is_negative(&self) -> bool {
        self.nanos < 0
    }

    /// Whether the amount is a whole number of units.
    pub fn is_integer(&self) -> bool {
        self.is_vast() || self.nanos % NANOS == 0
    }

    /// Whether the amount is a whole number of thousandths.
    pub fn is_milli_precise(&self) -> bool {
        self.is_vast() || self.nanos % (NANOS / 1000) == 0
    }

    /// Whether it is beyond what is told apart: nothing so large has a fraction that anybody would look at.
    fn is_vast(&self) -> bool {
        self.nanos.unsigned_abs() >= i128::MAX.unsigned_abs()
    }
}

impl FromStr for Quantity {
    type Err = ParseQuantityError;

    fn from_str(text: &str) -> Result<Self, ParseQuantityError> {
        let parts = Parts::scan(text)?;
        let (base, exponent, mut format) = parts.scale()?;
        let mut nanos = if base == 2 {
            nanos(parts.whole, parts.fraction, NANOS << exponent).min(MAX_BINARY)
        } else {
            let (whole, fraction) = parts.shifted(exponent);
            nanos(&whole, &fraction, NANOS)
        };
        if format == Format::BinarySi && nanos > 0 && nanos < NANOS {
            format = Format::DecimalSi;
        }
        if parts.negative {
            nanos = -nanos;
        }
        Ok(Quantity { nanos, format })
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        let small = self.nanos.unsigned_abs() < 1024 * NANOS.unsigned_abs();
        if self.format == Format::BinarySi && !small && self.is_integer() {
            let (mut amount, mut index) = (self.nanos / NANOS, 0);
            while amount % 1024 == 0 && index < BINARY_SUFFIXES.len() {
                amount /= 1024;
                index += 1;
            }
            let suffix = index.checked_sub(1).map_or("", |i| BINARY_SUFFIXES[i].0);
            return write!(f, "{amount}{suffix}");
        }
        let (mut amount, mut exponent) = (self.nanos, -9);
        while amount % 1000 == 0 && (exponent < 18 || self.format == Format::DecimalExponent) {
            amount /= 1000;
            exponent += 3;
        }
        match self.format {
            Format::DecimalExponent if exponent == 0 => write!(f, "{amount}"),
            Format::DecimalExponent => write!(f, "{amount}e{exponent}"),
            Format::DecimalSi | Format::BinarySi => {
                let suffix = DECIMAL_SUFFIXES.iter().find(|(_, e)| *e == exponent).map_or("", |(s, _)| s);
                write!(f, "{amount}{suffix}")
            }
        }
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl AddAssign for Quantity {
    /// A zero takes the other's format, as upstream's `Add` does.
    fn add_assign(&mut self, other: Self) {
        if self.nanos == 0 {
            self.format = other.format;
        }
        self.nanos = self.nanos.saturating_add(other.nanos).max(-MAX);
    }
}

impl Add for Quantity {
    type Output = Self;

    fn add(mut self, other: Self) -> Self {
        self += other;
        self
    }
}

impl Neg for Quantity {
    type Output = Self;

    fn neg(self) -> Self {
        Quantity { nanos: self.nanos.saturating_neg(), ..self }
    }
}

impl SubAssign for Quantity {
    fn sub_assign(&mut self, other: Self) {
        *self += -other;
    }
}

impl Sub for Quantity {
    type Output = Self;

    fn sub(mut self, other: Self) -> Self {
        self -= other;
        self
    }
}

impl std::iter::Sum for Quantity {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Quantity::ZERO, Add::add)
    }
}

impl TryFrom<&WireQuantity> for Quantity {
    type Error = ParseQuantityError;

    fn try_from(wire: &WireQuantity) -> Result<Self, ParseQuantityError> {
        wire.0.parse()
    }
}

impl From<Quantity> for WireQuantity {
    fn from(quantity: Quantity) -> Self {
        WireQuantity(quantity.to_string())
    }
}

impl Serialize for Quantity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        Quantity::from_json(&value).map_err(serde::de::Error::custom)
    }
}

/// The text upstream's round trip leaves of a quantity's text: canonical, but a text that is already in steps of a
/// thousand is kept as it stands.
pub fn canonical(text: &str) -> Result<Cow<'_, str>, ParseQuantityError> {
    if text == "0" {
        return Ok(Cow::Borrowed(text));
    }
    let quantity: Quantity = text.parse()?;
    let parts = Parts::scan(text)?;
    if is_kept(&parts)? {
        return Ok(Cow::Borrowed(text));
    }
    let canonical = if quantity.nanos.abs() == MAX { parts.canonical()? } else { quantity.to_string() };
    Ok(if canonical == text { Cow::Borrowed(text) } else { Cow::Owned(canonical) })
}

/// Upstream's fast path: texts of up to 18 digits which need no other suffix keep their spelling.
fn is_kept(parts: &Parts<'_>) -> Result<bool, ParseQuantityError> {
    let (base, exponent, _) = parts.scale()?;
    let digits = parts.whole.len() + parts.fraction.len();
    if base == 2 {
        let room = 15 - parts.whole.len() as i32 - exponent * 3 / 10 - 1;
        let value: i64 = match parts.whole.parse() {
            Ok(value) => value,
            Err(_) => return Ok(false),
        };
        return Ok(parts.fraction.is_empty() && room >= 0 && value & 7 != 0);
    }
    let scale = i64::from(exponent) - parts.fraction.len() as i64;
    let first = parts.whole.as_bytes().first();
    let thousands = [parts.whole, parts.fraction].concat().ends_with("000");
    Ok(digits <= 18 && scale >= -9 && scale % 3 == 0 && !thousands && first != Some(&b'0'))
}

fn split_digits(text: &str) -> (&str, &str) {
    let end = text.bytes().position(|b| !b.is_ascii_digit()).unwrap_or(text.len());
    text.split_at(end)
}

/// `whole.fraction` times what one of them has in billionths. What is less than a billionth counts as one, so that a
/// request never becomes nothing.
fn nanos(whole: &str, fraction: &str, one: i128) -> i128 {
    let whole = if whole.is_empty() { Ok(0) } else { whole.parse::<i128>() };
    // From the last digit on: the sum stays small however many there are.
    let (mut above, mut rest) = (0, false);
    for digit in fraction.bytes().rev() {
        let sum = i128::from(digit - b'0') * one + above;
        rest |= sum % 10 != 0;
        above = sum / 10;
    }
    let units = whole.ok().and_then(|whole| whole.checked_mul(one));
    units.and_then(|units| units.checked_add(above + i128::from(rest))).unwrap_or(MAX)
}

fn round_away(nanos: i128, unit: i128) -> i64 {
    let rounded = nanos / unit + if nanos % unit == 0 { 0 } else { nanos.signum() };
    rounded.clamp(i64::MIN.into(), i64::MAX.into()) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_text_is_upstreams() {
        for (text, canonical_text) in [
            ("0", "0"),
            ("0.0", "0"),
            ("00", "0"),
            ("0Gi", "0"),
            ("1000m", "1"),
            ("0.5", "500m"),
            ("1.5Gi", "1536Mi"),
            ("1024Mi", "1Gi"),
            ("1023Mi", "1023Mi"),
            ("1.1Ki", "1126400m"),
            ("0.5Ki", "512"),
            ("100Mi", "100Mi"),
            ("1000k", "1M"),
            ("12E", "12E"),
            ("1e3", "1e3"),
            ("1e4", "10e3"),
            ("12e6", "12e6"),
            ("1E3", "1E3"),
            ("1.500", "1.500"),
            ("0.500", "500m"),
            ("+1", "+1"),
            ("-1.5Gi", "-1536Mi"),
            (".5", "500m"),
            ("1.", "1."),
            ("0.1n", "1n"),
            ("100000m", "100"),
            ("8Ei", "9223372036854775807"),
            ("64Mi", "64Mi"),
            ("1e100", "10e99"),
            ("1e99", "1e99"),
            ("1000e2147483647", "10000e2147483646"),
            ("1000e99", "1e102"),
            ("-10.5e98", "-1050e96"),
            ("1e2147483647", "10e2147483646"),
            ("1e-2147483648", "1e-9"),
            ("0e-2147483648", "0"),
            ("100000000000000000000000000000000000000000", "100000000000000000000000E"),
            ("99999999999999999999.5", "99999999999999999999500m"),
            ("1.00000000000000000000000000000000000000001", "1000000001n"),
            ("0.00000000000000000000000000000000000000001Gi", "1n"),
            ("99999999999999999999999999999999999999999Ki", "9223372036854775807"),
        ] {
            assert_eq!(canonical(text).expect(text), canonical_text, "{text}");
        }
    }

    #[test]
    fn bad_texts_fail_with_upstreams_error() {
        for (text, error) in [
            ("", ParseQuantityError::Format),
            ("1x", ParseQuantityError::Format),
            ("abc", ParseQuantityError::Format),
            ("1 Gi", ParseQuantityError::Format),
            ("1ki", ParseQuantityError::Suffix),
            ("1KB", ParseQuantityError::Format),
            ("1kM", ParseQuantityError::Suffix),
            ("1e", ParseQuantityError::Suffix),
        ] {
            assert_eq!(canonical(text).expect_err(text), error, "{text}");
        }
    }

    /// In a build that checks for overflow each of these ended the program.
    #[test]
    fn what_is_too_large_to_compute_with_is_the_largest() {
        let q = |s: &str| s.parse::<Quantity>().unwrap();
        for large in ["1e100", "170141183460469231731687303715884105727n", "1e2147483647"] {
            let amount = q(large);
            assert_eq!((amount.value(), amount.milli_value()), (i64::MAX, i64::MAX), "{large}");
            assert!(amount.is_integer() && amount.is_milli_precise(), "{large}");
            assert_eq!(amount + amount, amount);
            assert!(amount > q("1E") && -amount < q("-1E") && -amount - amount == -amount);
            assert_eq!(q(&(-amount - amount).to_string()), -amount);
        }
        assert_eq!(q("-170141183460469231731687303715884105727n").value(), i64::MIN);
    }

    #[test]
    fn amounts_compare_add_and_round_up() {
        let q = |s: &str| s.parse::<Quantity>().unwrap();
        assert_eq!(q("1"), q("1000m"));
        assert!(q("1Gi") > q("1G"));
        assert_eq!((q("1Gi") + q("512Mi")).to_string(), "1536Mi");
        assert_eq!((Quantity::ZERO + q("1Gi")).to_string(), "1Gi");
        assert_eq!((q("1") - q("250m")).to_string(), "750m");
        assert_eq!((q("1500m").value(), q("1n").milli_value(), q("-1500m").value()), (2, 1, -2));
        assert_eq!(Quantity::from_bytes(128 << 20).to_string(), "128Mi");
        assert_eq!(Quantity::from_json(&serde_json::json!(2)).unwrap().to_string(), "2");
    }
}
