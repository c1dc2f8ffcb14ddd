//! Numbers as Go keeps them: what is written without a point or an exponent and fits is an int64, everything else a float64.
//! The two are judged by different rules, which are upstream's with their oddities.

use serde_json::{Number, Value};

use super::told::At;
use super::{Bound, Structural};
use crate::field::{Cause, FieldError};

/// The largest integer up to which all integers are floats.
const SAFE: f64 = 9_007_199_254_740_991.0;

/// Gives every number of a value the form that Go's decoder and encoder leave it in: a float without a fraction is printed
/// as an integer, and is one when it is read the next time.
pub(crate) fn settle(value: &mut Value) {
    match value {
        Value::Number(number) => {
            if is_float(number)
                && let Some(whole) = number.as_f64().and_then(whole)
            {
                *number = whole;
            }
        }
        Value::Array(items) => items.iter_mut().for_each(settle),
        Value::Object(map) => map.values_mut().for_each(settle),
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

/// A float as the integer that Go prints for it: the shortest digits that mean it, and zeros. (Beyond 64 bits Go prints
/// digits where we print an exponent.)
pub(crate) fn whole(float: f64) -> Option<Number> {
    if float.fract() != 0.0 {
        return None;
    }
    // Zero has no sign.
    let digits = (float + 0.0).to_string();
    let signed = digits.parse::<i64>().map(Number::from);
    signed.or_else(|_| digits.parse::<u64>().map(Number::from)).ok()
}

/// 2^63, the first float beyond int64.
const I64_END: f64 = 9_223_372_036_854_775_808.0;

/// Whether Go holds a number as a float.
pub(super) fn is_float(number: &Number) -> bool {
    number.as_i64().is_none()
}

/// Upstream's notion of a float that is an integer: a little beside it still is.
pub(super) fn is_whole(float: f64) -> bool {
    if !(-SAFE..=SAFE).contains(&float) {
        return false;
    }
    let whole = float.trunc();
    let apart = (float - whole).abs();
    apart == 0.0 || (whole != 0.0 && apart / (float.abs() + whole.abs()) < 1e-9)
}

/// What is wrong with a number.
pub(super) fn check(number: &Number, schema: &Structural, path: At<'_>) -> Vec<FieldError> {
    let limits = &schema.limits;
    let checker = Checker { number, schema, path };
    let mut errors = vec![];
    if !checker.in_range(number.as_i64(), number.as_f64().unwrap_or_default()) {
        errors.push(checker.out_of_range("Checked"));
    }
    if let Some(factor) = limits.multiple_of {
        errors.extend(checker.multiple(factor));
    }
    if let Some(max) = limits.maximum {
        errors.extend(checker.bound(max, "Maximum boundary", false));
    }
    if let Some(min) = limits.minimum {
        errors.extend(checker.bound(min, "Minimum boundary", true));
    }
    errors
}

struct Checker<'a> {
    number: &'a Number,
    schema: &'a Structural,
    path: At<'a>,
}

// === impl Checker ===

impl Checker<'_> {
    fn float(&self) -> f64 {
        self.number.as_f64().unwrap_or_default()
    }

    /// Whether a number fits the schema's type and format; `integer` where it is one already.
    #[allow(clippy::cast_possible_truncation, reason = "checked to be in range")]
    fn in_range(&self, integer: Option<i64>, float: f64) -> bool {
        let format = &*self.schema.limits.format;
        if &*self.schema.kind == "integer" {
            let as_integer =
                (float.fract() == 0.0 && (-I64_END..I64_END).contains(&float)).then_some(float as i64);
            return match integer.or(as_integer) {
                None => false,
                Some(n) => format != "int32" || i32::try_from(n).is_ok(),
            };
        }
        format != "float" || float.abs() <= f64::from(f32::MAX)
    }

    /// Upstream says this of no field in particular.
    fn out_of_range(&self, what: &str) -> FieldError {
        let kind = if self.schema.kind.is_empty() { "number" } else { &*self.schema.kind };
        let format = match &*self.schema.limits.format {
            "" => "(default format)".to_owned(),
            format => format!("with format {format}"),
        };
        let path = self.path.text();
        FieldError {
            field: super::validate::COMPOSITE.into(),
            cause: Cause::Invalid,
            value: "\"\"".into(),
            detail: format!("{what} value must be of type {kind} {format} in {path}"),
        }
    }

    fn invalid(&self, what: &str) -> FieldError {
        let path = self.path.text();
        let detail = format!("{path} in body {what}");
        let value = if is_float(self.number) { go_float(self.float()) } else { self.number.to_string() };
        FieldError { field: path, cause: Cause::Invalid, value, detail }
    }

    fn multiple(&self, factor: f64) -> Vec<FieldError> {
        let mut errors = vec![];
        let fits = self.in_range(None, factor);
        if !fits {
            errors.push(self.out_of_range("MultipleOf"));
        }
        let failed = |shown: f64| Some(self.invalid(&format!("should be a multiple of {}", go_float(shown))));
        let error = match self.number.as_i64().filter(|_| fits) {
            // The factor loses its fraction.
            Some(n) => match truncated(factor) {
                0 | i64::MIN..0 => {
                    let path = self.path.text();
                    let detail = format!(
                        "factor MultipleOf declared for {path} must be positive: {}",
                        truncated(factor)
                    );
                    Some(FieldError::invalid(path, &Value::from(truncated(factor)), detail))
                }
                whole if n % whole != 0 => Some(self.invalid(&format!("should be a multiple of {whole}"))),
                _ => None,
            },
            None => {
                let times = if factor < 1.0 { 1.0 / factor * self.float() } else { self.float() / factor };
                if is_whole(times) { None } else { failed(factor) }
            }
        };
        errors.extend(error);
        errors
    }

    fn bound(&self, bound: Bound, what: &str, least: bool) -> Vec<FieldError> {
        let mut errors = vec![];
        let fits = self.in_range(None, bound.at);
        if !fits {
            errors.push(self.out_of_range(what));
        }
        let (order, shown) = match self.number.as_i64().filter(|_| fits) {
            Some(n) => (Some(n.cmp(&truncated(bound.at))), truncated(bound.at).to_string()),
            None => (self.float().partial_cmp(&bound.at), go_float(bound.at)),
        };
        let beyond = if least { std::cmp::Ordering::Less } else { std::cmp::Ordering::Greater };
        if order.is_some_and(|order| order == beyond || (bound.exclusive && order.is_eq())) {
            let than = match (least, bound.exclusive) {
                (true, true) => "greater than",
                (true, false) => "greater than or equal to",
                (false, true) => "less than",
                (false, false) => "less than or equal to",
            };
            errors.push(self.invalid(&format!("should be {than} {shown}")));
        }
        errors
    }
}

/// A float as Go makes an int64 of it; out of range, as amd64 does.
#[allow(clippy::cast_possible_truncation, reason = "that is the point")]
fn truncated(float: f64) -> i64 {
    if (-I64_END..I64_END).contains(&float) { float as i64 } else { i64::MIN }
}

/// Go's `%v` of a float: the shortest digits, with an exponent of two digits where it is below -4 or above 5.
pub(super) fn go_float(float: f64) -> String {
    let scientific = format!("{float:e}");
    let Some((digits, exponent)) = scientific.split_once('e') else { return scientific };
    match exponent.parse::<i32>() {
        Ok(exponent) if !(-4..6).contains(&exponent) => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", exponent.abs())
        }
        _ => float.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn errors(schema: &Value, number: &Value) -> Vec<String> {
        let Value::Number(number) = number else { panic!("{number} is no number") };
        let schema = Structural::parse(schema);
        let errors = check(number, &schema, At::Field(&At::Root, "x"));
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn numbers_settle_as_in_go() {
        let mut value = json!({"a": 100.0, "b": [1.5, -3.0, 1e3], "c": 9_223_372_036_854_775_809_u64, "d": 7, "e": 1e30, "f": -0.0});
        settle(&mut value);
        let text = value.to_string();
        assert_eq!(text, r#"{"a":100,"b":[1.5,-3,1000],"c":9223372036854776000,"d":7,"e":1e+30,"f":0}"#);
    }

    #[test]
    fn a_float_is_an_integer_when_upstream_says_so() {
        for (float, whole) in [
            (3.0, true),
            (3.5, false),
            (9e15, true),
            (9.3e15, false),
            (0.0, true),
            (0.000_1, false),
            (-2.0, true),
        ] {
            assert_eq!(is_whole(float), whole, "{float}");
        }
    }

    #[test]
    fn bounds_and_factors_are_upstreams() {
        let integer = |more: Value| {
            let mut schema = json!({"type": "integer"});
            schema.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            schema
        };
        let number = |more: Value| {
            let mut schema = integer(more);
            schema["type"] = "number".into();
            schema
        };
        let table = [
            (
                integer(json!({"maximum": 10})),
                json!(11),
                vec!["x: Invalid value: 11: x in body should be less than or equal to 10"],
            ),
            (
                integer(json!({"minimum": 1, "exclusiveMinimum": true})),
                json!(1),
                vec!["x: Invalid value: 1: x in body should be greater than 1"],
            ),
            (
                integer(json!({"format": "int32"})),
                json!(3_000_000_000_u64),
                vec![
                    "<nil>: Invalid value: \"\": Checked value must be of type integer with format int32 in x",
                ],
            ),
            (
                integer(json!({})),
                json!(9_223_372_036_854_775_808_u64),
                vec![
                    "<nil>: Invalid value: \"\": Checked value must be of type integer (default format) in x",
                ],
            ),
            // 2^63 - 1 is no float: the bound itself is out of range.
            (
                integer(json!({"maximum": 9_223_372_036_854_775_807_i64})),
                json!(1),
                vec![
                    "<nil>: Invalid value: \"\": Maximum boundary value must be of type integer (default format) in x",
                ],
            ),
            (
                integer(json!({"maximum": 4_611_686_018_427_387_904_i64})),
                json!(4_611_686_018_427_387_905_i64),
                vec![
                    "x: Invalid value: 4611686018427387905: x in body should be less than or equal to 4611686018427387904",
                ],
            ),
            (number(json!({"multipleOf": 0.1})), json!(0.3), vec![]),
            (
                number(json!({"multipleOf": 0.1})),
                json!(0.35),
                vec!["x: Invalid value: 0.35: x in body should be a multiple of 0.1"],
            ),
            (
                number(json!({"multipleOf": 0.1})),
                json!(1),
                vec!["x: Invalid value: 0: factor MultipleOf declared for x must be positive: 0"],
            ),
            (
                number(json!({"format": "float"})),
                json!(1e39),
                vec![
                    "<nil>: Invalid value: \"\": Checked value must be of type number with format float in x",
                ],
            ),
            (
                number(json!({"maximum": 2.5})),
                json!(2.75),
                vec!["x: Invalid value: 2.75: x in body should be less than or equal to 2.5"],
            ),
            (
                number(json!({"maximum": 1_500_000})),
                json!(2_000_000.5),
                vec!["x: Invalid value: 2.0000005e+06: x in body should be less than or equal to 1.5e+06"],
            ),
            (
                number(json!({"maximum": 9_223_372_036_854_775_807_i64})),
                json!(1),
                vec!["x: Invalid value: 1: x in body should be less than or equal to -9223372036854775808"],
            ),
            (
                integer(json!({})),
                json!(3.5),
                vec![
                    "<nil>: Invalid value: \"\": Checked value must be of type integer (default format) in x",
                ],
            ),
        ];
        for (schema, value, wanted) in table {
            assert_eq!(errors(&schema, &value), wanted, "{schema} {value}");
        }
    }

    #[test]
    fn floats_print_as_in_go() {
        for (float, text) in [
            (1.0, "1"),
            (0.1, "0.1"),
            (100_000.0, "100000"),
            (1_500_000.0, "1.5e+06"),
            (1e21, "1e+21"),
            (1e-5, "1e-05"),
        ] {
            assert_eq!(go_float(float), text);
        }
    }
}
