//! Operators: arithmetic, comparison, membership, indexing.

use std::cmp::Ordering;

use jiff::{SignedDuration, Timestamp};

use super::super::functions::Row;
use super::super::value::{Key, Result, Value, fail, no_overload};

/// The rows of one comparison: what has an order, and numbers of different types.
macro_rules! comparison {
    ($sign:literal, $holds:path) => {
        comparison!($sign, $holds, "bool, bool", "int, int", "int, double", "int, uint", "uint, uint", "uint, double",
            "uint, int", "double, double", "double, int", "double, uint", "string, string", "bytes, bytes",
            "timestamp, timestamp", "duration, duration")
    };
    ($sign:literal, $holds:path, $($types:literal),*) => {
        &[$(Row(concat!("_", $sign, "_(", $types, "): bool"), |_, a| ordered(a, $holds))),*]
    };
}

pub(super) static LESS: &[Row] = comparison!("<", Ordering::is_lt);
pub(super) static AT_MOST: &[Row] = comparison!("<=", Ordering::is_le);
pub(super) static GREATER: &[Row] = comparison!(">", Ordering::is_gt);
pub(super) static AT_LEAST: &[Row] = comparison!(">=", Ordering::is_ge);

pub(super) static ROWS: &[Row] = &[
    Row("_==_(A, A): bool", |cx, a| {
        cx.spend(a[0].size().unwrap_or(0).min(a[1].size().unwrap_or(0)))?;
        Ok(Value::Bool(a[0].equals(&a[1])))
    }),
    Row("_!=_(A, A): bool", |cx, a| {
        cx.spend(a[0].size().unwrap_or(0).min(a[1].size().unwrap_or(0)))?;
        Ok(Value::Bool(!a[0].equals(&a[1])))
    }),
    Row("!_(bool): bool", |_, a| match a[0] {
        Value::Bool(b) => Ok(Value::Bool(!b)),
        _ => no_overload(""),
    }),
    Row("-_(int): int", |_, a| arithmetic(&Value::Int(0), '-', &a[0])),
    Row("-_(double): double", |_, a| match a[0] {
        Value::Double(d) => Ok(Value::Double(-d)),
        _ => no_overload(""),
    }),
    Row("_+_(int, int): int", |_, a| arithmetic(&a[0], '+', &a[1])),
    Row("_+_(uint, uint): uint", |_, a| arithmetic(&a[0], '+', &a[1])),
    Row("_+_(double, double): double", |_, a| arithmetic(&a[0], '+', &a[1])),
    Row("_+_(string, string): string", |_, a| match (&a[0], &a[1]) {
        (Value::String(x), Value::String(y)) => Ok(Value::string(format!("{x}{y}"))),
        _ => no_overload(""),
    }),
    Row("_+_(bytes, bytes): bytes", |_, a| match (&a[0], &a[1]) {
        (Value::Bytes(x), Value::Bytes(y)) => Ok(Value::Bytes([&**x, &**y].concat().into())),
        _ => no_overload(""),
    }),
    Row("_+_(list(A), list(A)): list(A)", |cx, a| {
        let mut both = super::items(cx, &a[0])?;
        both.extend(super::items(cx, &a[1])?);
        Ok(Value::list(both))
    }),
    Row("_+_(timestamp, duration): timestamp", |_, a| shifted(&a[0], &a[1], false)),
    Row("_+_(duration, timestamp): timestamp", |_, a| shifted(&a[1], &a[0], false)),
    Row("_+_(duration, duration): duration", |_, a| spans(a, SignedDuration::checked_add)),
    Row("_-_(int, int): int", |_, a| arithmetic(&a[0], '-', &a[1])),
    Row("_-_(uint, uint): uint", |_, a| arithmetic(&a[0], '-', &a[1])),
    Row("_-_(double, double): double", |_, a| arithmetic(&a[0], '-', &a[1])),
    Row("_-_(timestamp, duration): timestamp", |_, a| shifted(&a[0], &a[1], true)),
    Row("_-_(timestamp, timestamp): duration", |_, a| match (&a[0], &a[1]) {
        (Value::Timestamp(x), Value::Timestamp(y)) => Ok(Value::Duration(x.duration_since(*y))),
        _ => no_overload(""),
    }),
    Row("_-_(duration, duration): duration", |_, a| spans(a, SignedDuration::checked_sub)),
    Row("_*_(int, int): int", |_, a| arithmetic(&a[0], '*', &a[1])),
    Row("_*_(uint, uint): uint", |_, a| arithmetic(&a[0], '*', &a[1])),
    Row("_*_(double, double): double", |_, a| arithmetic(&a[0], '*', &a[1])),
    Row("_/_(int, int): int", |_, a| arithmetic(&a[0], '/', &a[1])),
    Row("_/_(uint, uint): uint", |_, a| arithmetic(&a[0], '/', &a[1])),
    Row("_/_(double, double): double", |_, a| arithmetic(&a[0], '/', &a[1])),
    Row("_%_(int, int): int", |_, a| arithmetic(&a[0], '%', &a[1])),
    Row("_%_(uint, uint): uint", |_, a| arithmetic(&a[0], '%', &a[1])),
    Row("@in(A, list(A)): bool", |cx, a| {
        let items = super::items(cx, &a[1])?;
        Ok(Value::Bool(items.iter().any(|item| item.equals(&a[0]))))
    }),
    Row("@in(A, map(A, B)): bool", |_, a| Ok(Value::Bool(a[1].get(&a[0]).is_some()))),
    Row("_[_](dyn, dyn): dyn", |_, a| match &a[0] {
        Value::Optional(None) => Ok(Value::Optional(None)),
        Value::Optional(Some(inner)) => Ok(at(inner, &a[1])?.map_or(Value::Optional(None), Value::some)),
        operand => match at(operand, &a[1])? {
            Some(value) => Ok(value),
            None if operand.items().is_some() => fail(format!("index out of bounds: {}", shown(&a[1]))),
            None => fail(format!("no such key: {}", shown(&a[1]))),
        },
    }),
    Row("_[?_](dyn, dyn): dyn", |_, a| match &a[0] {
        Value::Optional(None) => Ok(Value::Optional(None)),
        Value::Optional(Some(inner)) => Ok(at(inner, &a[1])?.map_or(Value::Optional(None), Value::some)),
        operand => Ok(at(operand, &a[1])?.map_or(Value::Optional(None), Value::some)),
    }),
];

/// What stands at an index or under a key.
fn at<'a>(operand: &Value<'a>, index: &Value<'a>) -> Result<Option<Value<'a>>> {
    if operand.size().is_none() || matches!(operand, Value::String(_) | Value::Bytes(_)) {
        return Ok(None);
    }
    let Some(items) = operand.items() else { return Ok(operand.get(index)) };
    match Key::of(index) {
        Some(Key::Int(i)) => Ok(usize::try_from(i).ok().and_then(|i| items.get(i).cloned())),
        _ => fail(format!("unsupported index type '{}' in list", index.type_of().base_name())),
    }
}

fn shown(value: &Value<'_>) -> String {
    match value {
        Value::String(s) => s.to_string(),
        other => other.to_json().map(|v| v.to_string()).unwrap_or_default(),
    }
}

fn ordered<'a>(a: &[Value<'a>], holds: fn(Ordering) -> bool) -> Result<Value<'a>> {
    // What is not a number is in no order.
    Ok(Value::Bool(a[0].compare(&a[1]).is_some_and(holds)))
}

fn arithmetic<'a>(x: &Value<'a>, operator: char, y: &Value<'a>) -> Result<Value<'a>> {
    let zero = matches!(y, Value::Int(0) | Value::Uint(0));
    if zero && operator == '/' {
        return fail("division by zero");
    }
    if zero && operator == '%' {
        return fail("modulus by zero");
    }
    match (x, y) {
        (Value::Int(x), Value::Int(y)) => {
            let value = match operator {
                '+' => x.checked_add(*y),
                '-' => x.checked_sub(*y),
                '*' => x.checked_mul(*y),
                '/' => x.checked_div(*y),
                _ => x.checked_rem(*y),
            };
            value.map_or_else(|| fail("integer overflow"), |v| Ok(Value::Int(v)))
        }
        (Value::Uint(x), Value::Uint(y)) => {
            let value = match operator {
                '+' => x.checked_add(*y),
                '-' => x.checked_sub(*y),
                '*' => x.checked_mul(*y),
                '/' => x.checked_div(*y),
                _ => x.checked_rem(*y),
            };
            value.map_or_else(|| fail("unsigned integer overflow"), |v| Ok(Value::Uint(v)))
        }
        (Value::Double(x), Value::Double(y)) => Ok(Value::Double(match operator {
            '+' => x + y,
            '-' => x - y,
            '*' => x * y,
            _ => x / y,
        })),
        _ => no_overload(""),
    }
}

fn shifted<'a>(at: &Value<'a>, by: &Value<'a>, back: bool) -> Result<Value<'a>> {
    let (Value::Timestamp(at), Value::Duration(by)) = (at, by) else { return no_overload("") };
    let moved: std::result::Result<Timestamp, _> =
        if back { at.checked_sub(*by) } else { at.checked_add(*by) };
    moved.map_or_else(|_| fail("timestamp overflow"), |t| Ok(Value::Timestamp(t)))
}

fn spans<'a>(
    a: &[Value<'a>],
    operation: fn(SignedDuration, SignedDuration) -> Option<SignedDuration>,
) -> Result<Value<'a>> {
    let (Value::Duration(x), Value::Duration(y)) = (&a[0], &a[1]) else { return no_overload("") };
    // As many nanoseconds as an integer holds.
    let sum = operation(*x, *y).filter(|d| i64::try_from(d.as_nanos()).is_ok());
    sum.map_or_else(|| fail("integer overflow"), |d| Ok(Value::Duration(d)))
}
