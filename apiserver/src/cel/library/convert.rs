//! From one type to another, `size`, and what optional values offer.

use std::rc::Rc;

use super::super::eval::Context;
use super::super::functions::Row;
use super::super::value::{Result, Value, fail};
use super::text;

pub(super) static ROWS: &[Row] = &[
    Row("size(string): int", |_, a| size(&a[0])),
    Row("size(bytes): int", |_, a| size(&a[0])),
    Row("size(list(A)): int", |_, a| size(&a[0])),
    Row("size(map(A, B)): int", |_, a| size(&a[0])),
    Row("string.size(): int", |_, a| size(&a[0])),
    Row("bytes.size(): int", |_, a| size(&a[0])),
    Row("list(A).size(): int", |_, a| size(&a[0])),
    Row("map(A, B).size(): int", |_, a| size(&a[0])),
    Row("dyn(A): dyn", |_, a| Ok(a[0].clone())),
    Row("type(A): type", |_, a| Ok(Value::Type(Rc::new(a[0].type_of())))),
    Row("bool(bool): bool", |_, a| Ok(a[0].clone())),
    Row("bool(string): bool", |_, a| match text(&a[0]) {
        "true" | "True" | "TRUE" | "t" | "1" => Ok(Value::Bool(true)),
        "false" | "False" | "FALSE" | "f" | "0" => Ok(Value::Bool(false)),
        _ => unconvertible("bool"),
    }),
    Row("int(int): int", |_, a| Ok(a[0].clone())),
    Row("int(uint): int", |_, a| to_int(&a[0])),
    Row("int(double): int", |_, a| to_int(&a[0])),
    Row("int(string): int", |_, a| to_int(&a[0])),
    Row("int(timestamp): int", |_, a| to_int(&a[0])),
    Row("uint(uint): uint", |_, a| Ok(a[0].clone())),
    Row("uint(int): uint", |_, a| to_uint(&a[0])),
    Row("uint(double): uint", |_, a| to_uint(&a[0])),
    Row("uint(string): uint", |_, a| to_uint(&a[0])),
    Row("double(double): double", |_, a| Ok(a[0].clone())),
    Row("double(int): double", |_, a| to_double(&a[0])),
    Row("double(uint): double", |_, a| to_double(&a[0])),
    Row("double(string): double", |_, a| to_double(&a[0])),
    Row("bytes(bytes): bytes", |_, a| Ok(a[0].clone())),
    Row("bytes(string): bytes", |_, a| Ok(Value::Bytes(text(&a[0]).as_bytes().into()))),
    Row("string(string): string", |_, a| Ok(a[0].clone())),
    Row("string(bool): string", |_, a| to_text(&a[0])),
    Row("string(int): string", |_, a| to_text(&a[0])),
    Row("string(uint): string", |_, a| to_text(&a[0])),
    Row("string(double): string", |_, a| to_text(&a[0])),
    Row("string(bytes): string", |_, a| to_text(&a[0])),
    Row("string(timestamp): string", |_, a| to_text(&a[0])),
    Row("string(duration): string", |_, a| to_text(&a[0])),
    Row("string(IP): string", |_, a| to_text(&a[0])),
    Row("string(CIDR): string", |_, a| to_text(&a[0])),
    Row("optional.of(A): optional(A)", |_, a| Ok(Value::some(a[0].clone()))),
    Row("optional.none(): optional(A)", |_, _| Ok(Value::Optional(None))),
    Row("optional.ofNonZeroValue(A): optional(A)", |_, a| {
        Ok(if is_zero(&a[0]) { Value::Optional(None) } else { Value::some(a[0].clone()) })
    }),
    Row("optional.unwrap(list(optional(A))): list(A)", |cx, a| unwrapped(cx, &a[0])),
    Row("list(optional(A)).unwrapOpt(): list(A)", |cx, a| unwrapped(cx, &a[0])),
    Row("optional(A).hasValue(): bool", |_, a| Ok(Value::Bool(matches!(a[0], Value::Optional(Some(_)))))),
    Row("optional(A).value(): A", |_, a| match &a[0] {
        Value::Optional(Some(inner)) => Ok((**inner).clone()),
        _ => fail("optional.none() dereference"),
    }),
    Row("optional(A).or(optional(A)): optional(A)", |_, a| {
        Ok(if matches!(a[0], Value::Optional(None)) { a[1].clone() } else { a[0].clone() })
    }),
    Row("optional(A).orValue(A): A", |_, a| match &a[0] {
        Value::Optional(Some(inner)) => Ok((**inner).clone()),
        _ => Ok(a[1].clone()),
    }),
];

fn size<'a>(value: &Value<'a>) -> Result<Value<'a>> {
    match value.size() {
        Some(size) => Ok(super::length(size)),
        None => fail(format!("no such overload: size({})", value.type_of())),
    }
}

fn is_zero(value: &Value<'_>) -> bool {
    match value {
        Value::Null | Value::Bool(false) | Value::Int(0) | Value::Uint(0) => true,
        Value::Duration(d) => d.is_zero(),
        // The first moment of Go's calendar.
        Value::Timestamp(at) => at.as_second() == -62_135_596_800 && at.subsec_nanosecond() == 0,
        Value::Double(d) => *d == 0.0,
        other => other.size() == Some(0),
    }
}

/// What a text that says no value of a type fails with.
pub(super) fn unconvertible<T>(to: &str) -> Result<T> {
    fail(format!("type conversion error from 'string' to '{to}'"))
}

fn unwrapped<'a>(cx: &mut Context<'a, '_>, list: &Value<'a>) -> Result<Value<'a>> {
    let all = super::items(cx, list)?.into_iter();
    let inner = all.filter_map(|item| if let Value::Optional(inner) = item { inner } else { None });
    Ok(Value::list(inner.map(|v| (*v).clone()).collect()))
}

/// A number in as few digits as tell it, as Go's `%g` prints it.
fn shortest(number: f64) -> String {
    if !number.is_finite() {
        let sign = if number > 0.0 { "+" } else { "-" };
        return if number.is_nan() { "NaN".to_owned() } else { format!("{sign}Inf") };
    }
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..6).contains(&exponent) {
        return number.to_string();
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

fn to_int<'a>(value: &Value<'a>) -> Result<Value<'a>> {
    let int = match value {
        Value::Uint(u) => i64::try_from(*u).ok(),
        Value::Double(d) if d.abs() < 9.2e18 => Some(*d as i64),
        Value::Timestamp(at) => Some(at.as_second()),
        Value::String(s) => {
            return s.parse().map_or_else(|_| unconvertible("int"), |i| Ok(Value::Int(i)));
        }
        _ => None,
    };
    int.map_or_else(|| fail("integer overflow"), |i| Ok(Value::Int(i)))
}

fn to_uint<'a>(value: &Value<'a>) -> Result<Value<'a>> {
    let uint = match value {
        Value::Int(i) => u64::try_from(*i).ok(),
        Value::Double(d) if *d >= 0.0 && *d < 1.8e19 => Some(*d as u64),
        Value::String(s) => {
            return s.parse().map_or_else(|_| unconvertible("uint"), |u| Ok(Value::Uint(u)));
        }
        _ => None,
    };
    uint.map_or_else(|| fail("unsigned integer overflow"), |u| Ok(Value::Uint(u)))
}

fn to_double<'a>(value: &Value<'a>) -> Result<Value<'a>> {
    match value {
        Value::Int(i) => Ok(Value::Double(*i as f64)),
        Value::Uint(u) => Ok(Value::Double(*u as f64)),
        Value::String(s) => s.parse().map_or_else(|_| unconvertible("double"), |d| Ok(Value::Double(d))),
        _ => fail("Type conversion error"),
    }
}

pub(in crate::cel) fn to_text<'a>(value: &Value<'a>) -> Result<Value<'a>> {
    let text = match value {
        Value::String(s) => s.to_string(),
        Value::Bool(b) => b.to_string(),
        Value::Int(i) => i.to_string(),
        Value::Uint(u) => u.to_string(),
        Value::Double(d) => shortest(*d),
        Value::Bytes(b) => match std::str::from_utf8(b) {
            Ok(text) => text.to_owned(),
            Err(_) => return fail("invalid UTF-8 in bytes, cannot convert to string"),
        },
        Value::Timestamp(at) => at.to_string(),
        Value::Duration(d) => format!("{}s", d.as_secs_f64()),
        Value::Ip(ip) => ip.to_string(),
        Value::Cidr(ip, bits) => format!("{ip}/{bits}"),
        Value::Type(ty) => ty.base_name(),
        Value::Null => "null".to_owned(),
        other => match other.to_json() {
            Some(json) => json.to_string(),
            None => return fail("Type conversion error"),
        },
    };
    Ok(Value::string(text))
}
