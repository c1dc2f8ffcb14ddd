//! What functions expressions may call: CEL's own, its extensions for strings, lists and sets, and those of Kubernetes.

pub(super) mod authorizer;
mod convert;
mod format;
pub(super) mod kubernetes;
mod lists;
mod network;
mod operators;
mod strings;
mod time;

pub(super) use format::{takes, verbs};
pub(super) use time::parse_timestamp;

use super::eval::Context;
use super::functions::Row;
use super::value::{Result, Value, fail};

/// Every table of functions.
pub(super) static ALL: &[&[Row]] = &[
    operators::ROWS,
    operators::LESS,
    operators::AT_MOST,
    operators::GREATER,
    operators::AT_LEAST,
    convert::ROWS,
    strings::ROWS,
    lists::ROWS,
    time::ROWS,
    time::PARTS,
    network::ROWS,
    kubernetes::ROWS,
    authorizer::ROWS,
];

#[cfg(test)]
pub(super) use convert::to_text as text_of;

/// The text of an argument that the signature says is one.
fn text<'v>(value: &'v Value<'_>) -> &'v str {
    if let Value::String(s) = value { s } else { "" }
}

fn int(value: &Value<'_>) -> i64 {
    if let Value::Int(i) = value { *i } else { 0 }
}

/// An argument as an index, where it is not negative.
fn index(value: &Value<'_>) -> Result<usize> {
    let i = int(value);
    usize::try_from(i).map_or_else(|_| fail(format!("index out of range: {i}")), Ok)
}

fn length<'a>(count: usize) -> Value<'a> {
    Value::Int(i64::try_from(count).unwrap_or(i64::MAX))
}

/// The elements of an argument that the signature says is a list; looking at them has its price.
fn items<'a>(cx: &mut Context<'a, '_>, value: &Value<'a>) -> Result<Vec<Value<'a>>> {
    cx.spend(value.size().unwrap_or(0))?;
    Ok(value.items().unwrap_or_default())
}
