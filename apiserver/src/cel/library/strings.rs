//! Strings: search, change, format, regular expressions.

use std::collections::HashMap;
use std::sync::LazyLock;

use parking_lot::Mutex;

use super::super::eval::Context;
use super::super::functions::Row;
use super::super::value::{Result, Value, fail, no_overload};
use super::format;
use super::{index, int, items, length, text};
use crate::regexp::{self, Regexp};

/// How large a compiled regular expression may be.
const MAX_REGEX_BYTES: usize = 10 << 20;
/// How many are kept, and how large all of them may be.
const MAX_KNOWN: usize = 1024;
const MAX_KNOWN_BYTES: usize = 32 << 20;
/// What upstream says before why a text is no regular expression.
const ILLEGAL: &str = "Illegal regex: ";

pub(super) static ROWS: &[Row] = &[
    Row("string.contains(string): bool", |_, a| Ok(Value::Bool(text(&a[0]).contains(text(&a[1]))))),
    Row("string.startsWith(string): bool", |_, a| Ok(Value::Bool(text(&a[0]).starts_with(text(&a[1]))))),
    Row("string.endsWith(string): bool", |_, a| Ok(Value::Bool(text(&a[0]).ends_with(text(&a[1]))))),
    Row("string.matches(string): bool", matches),
    Row("matches(string, string): bool", matches),
    Row("string.find(string): string", |cx, a| {
        let found = regex(cx, a, ILLEGAL)?.find_iter(text(&a[0])).next().unwrap_or_default().to_owned();
        Ok(Value::string(found))
    }),
    Row("string.findAll(string): list(string)", |cx, a| find_all(cx, a, -1)),
    Row("string.findAll(string, int): list(string)", |cx, a| find_all(cx, a, int(&a[2]))),
    Row("string.charAt(int): string", |_, a| {
        let chars: Vec<char> = text(&a[0]).chars().collect();
        match chars.get(index(&a[1])?) {
            Some(c) => Ok(Value::string(c.to_string())),
            None if index(&a[1])? == chars.len() => Ok(Value::string("")),
            None => fail(format!("index out of range: {}", int(&a[1]))),
        }
    }),
    Row("string.indexOf(string): int", |_, a| index_of(a, 0, false)),
    Row("string.indexOf(string, int): int", |_, a| index_of(a, index(&a[2])?, false)),
    Row("string.lastIndexOf(string): int", |_, a| index_of(a, usize::MAX, true)),
    Row("string.lastIndexOf(string, int): int", |_, a| index_of(a, index(&a[2])?, true)),
    Row("string.lowerAscii(): string", |_, a| Ok(Value::string(text(&a[0]).to_ascii_lowercase()))),
    Row("string.upperAscii(): string", |_, a| Ok(Value::string(text(&a[0]).to_ascii_uppercase()))),
    Row("string.trim(): string", |_, a| Ok(Value::string(text(&a[0]).trim()))),
    Row("string.replace(string, string): string", |cx, a| replace(cx, a, -1)),
    Row("string.replace(string, string, int): string", |cx, a| replace(cx, a, int(&a[3]))),
    Row("string.split(string): list(string)", |cx, a| split(cx, a, -1)),
    Row("string.split(string, int): list(string)", |cx, a| split(cx, a, int(&a[2]))),
    Row("string.substring(int): string", |_, a| substring(a, usize::MAX)),
    Row("string.substring(int, int): string", |_, a| substring(a, index(&a[2])?)),
    Row("list(string).join(): string", |cx, a| join(cx, &a[0], "")),
    Row("list(string).join(string): string", |cx, a| join(cx, &a[0], text(&a[1]))),
    Row("strings.quote(string): string", |_, a| Ok(Value::string(format!("{:?}", text(&a[0]))))),
    Row("string.format(list(dyn)): string", |cx, a| {
        let args = items(cx, &a[1])?;
        format::format(cx, text(&a[0]), &args)
    }),
];

fn regex(cx: &mut Context<'_, '_>, a: &[Value<'_>], before: &str) -> Result<Regexp> {
    let pattern = text(&a[1]);
    cx.spend(1 + pattern.len() * text(&a[0]).len() / 40)?;
    compiled(pattern).map_or_else(|e| fail(format!("{before}{e}")), Ok)
}

/// Expressions are compiled once, as long as they are used: a rule has the same one for every object.
fn compiled(pattern: &str) -> std::result::Result<Regexp, regexp::Error> {
    /// By pattern, and how many bytes they take together.
    type Known = (HashMap<Box<str>, Regexp>, usize);
    static KNOWN: LazyLock<Mutex<Known>> = LazyLock::new(Mutex::default);
    if let Some(known) = KNOWN.lock().0.get(pattern) {
        return Ok(known.clone());
    }
    let new = Regexp::within(pattern, MAX_REGEX_BYTES)?;
    let bytes = new.bytes() + pattern.len();
    let mut known = KNOWN.lock();
    if known.1 + bytes > MAX_KNOWN_BYTES || known.0.len() >= MAX_KNOWN {
        *known = Default::default();
    }
    known.0.insert(pattern.into(), new.clone());
    known.1 += bytes;
    Ok(new)
}

fn matches<'a>(cx: &mut Context<'a, '_>, a: &[Value<'a>]) -> Result<Value<'a>> {
    Ok(Value::Bool(regex(cx, a, "")?.is_match(text(&a[0]))))
}

fn find_all<'a>(cx: &mut Context<'a, '_>, a: &[Value<'a>], limit: i64) -> Result<Value<'a>> {
    let regex = regex(cx, a, ILLEGAL)?;
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let found = regex.find_iter(text(&a[0])).take(limit).map(Value::string);
    Ok(Value::list(found.collect()))
}

/// Positions are counted in characters.
fn index_of<'a>(a: &[Value<'a>], bound: usize, last: bool) -> Result<Value<'a>> {
    let (all, wanted): (Vec<char>, Vec<char>) =
        (text(&a[0]).chars().collect(), text(&a[1]).chars().collect());
    if bound != usize::MAX && bound > all.len() {
        return Ok(Value::Int(-1));
    }
    let starts = |at: &usize| all[*at..].starts_with(&wanted);
    let end = all.len() + 1 - wanted.len().min(all.len() + 1);
    let found = match last {
        true => (0..end.min(bound.saturating_add(1))).rev().find(starts),
        false => (bound..end.max(bound)).find(starts),
    };
    Ok(found.map_or(Value::Int(-1), length))
}

fn replace<'a>(cx: &mut Context<'a, '_>, a: &[Value<'a>], limit: i64) -> Result<Value<'a>> {
    let (from, to) = (text(&a[1]), text(&a[2]));
    // Nothing may grow beyond what is left of the budget.
    cx.spend(text(&a[0]).len() / 10 * (1 + to.len() / (1 + from.len())))?;
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    Ok(Value::string(text(&a[0]).replacen(from, to, limit)))
}

fn split<'a>(cx: &mut Context<'a, '_>, a: &[Value<'a>], limit: i64) -> Result<Value<'a>> {
    let (whole, separator) = (text(&a[0]), text(&a[1]));
    cx.spend(whole.len())?;
    let limit = match limit {
        0 => return Ok(Value::list(vec![])),
        limit => usize::try_from(limit).unwrap_or(usize::MAX),
    };
    let parts: Vec<Value<'a>> = match separator {
        "" => whole.chars().map(|c| Value::string(c.to_string())).collect(),
        separator => whole.splitn(limit, separator).map(Value::string).collect(),
    };
    Ok(Value::list(parts))
}

fn substring<'a>(a: &[Value<'a>], end: usize) -> Result<Value<'a>> {
    let start = index(&a[1])?;
    let count = text(&a[0]).chars().count();
    let end = if end == usize::MAX { count } else { end };
    if start > count || end > count {
        let bad = if start > count { start } else { end };
        return fail(format!("index out of range: {bad}"));
    }
    if start > end {
        return fail(format!("invalid substring range. start: {start}, end: {end}"));
    }
    Ok(Value::string(text(&a[0]).chars().skip(start).take(end - start).collect::<String>()))
}

fn join<'a>(cx: &mut Context<'a, '_>, list: &Value<'a>, separator: &str) -> Result<Value<'a>> {
    let mut out = String::new();
    for (i, item) in items(cx, list)?.iter().enumerate() {
        let Value::String(part) = item else { return no_overload("join(list)") };
        cx.spend((part.len() + separator.len()) / 10)?;
        if i > 0 {
            out.push_str(separator);
        }
        out.push_str(part);
    }
    Ok(Value::string(out))
}
