//! Strings: search, change, format, regular expressions.

use regex::{Regex, RegexBuilder};

use super::super::eval::Context;
use super::super::functions::Row;
use super::super::value::{Result, Value, fail};
use super::convert::to_text;
use super::{index, int, items, length, text};

/// How large a compiled regular expression may be.
const MAX_REGEX_BYTES: usize = 1 << 20;

pub(super) static ROWS: &[Row] = &[
    Row("string.contains(string): bool", |_, a| Ok(Value::Bool(text(&a[0]).contains(text(&a[1]))))),
    Row("string.startsWith(string): bool", |_, a| Ok(Value::Bool(text(&a[0]).starts_with(text(&a[1]))))),
    Row("string.endsWith(string): bool", |_, a| Ok(Value::Bool(text(&a[0]).ends_with(text(&a[1]))))),
    Row("string.matches(string): bool", matches),
    Row("matches(string, string): bool", matches),
    Row("string.find(string): string", |cx, a| {
        let found = regex(cx, a)?.find(text(&a[0])).map_or(String::new(), |m| m.as_str().to_owned());
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
        format(cx, text(&a[0]), &args)
    }),
];

fn regex(cx: &mut Context<'_, '_>, a: &[Value<'_>]) -> Result<Regex> {
    let pattern = text(&a[1]);
    cx.spend(1 + pattern.len() * text(&a[0]).len() / 40)?;
    let built = RegexBuilder::new(pattern).size_limit(MAX_REGEX_BYTES).build();
    built.map_or_else(|e| fail(format!("error parsing regexp: {e}")), Ok)
}

fn matches<'a>(cx: &mut Context<'a, '_>, a: &[Value<'a>]) -> Result<Value<'a>> {
    Ok(Value::Bool(regex(cx, a)?.is_match(text(&a[0]))))
}

fn find_all<'a>(cx: &mut Context<'a, '_>, a: &[Value<'a>], limit: i64) -> Result<Value<'a>> {
    let regex = regex(cx, a)?;
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let found = regex.find_iter(text(&a[0])).take(limit).map(|m| Value::string(m.as_str()));
    Ok(Value::list(found.collect()))
}

/// Positions are counted in characters.
fn index_of<'a>(a: &[Value<'a>], bound: usize, last: bool) -> Result<Value<'a>> {
    let (all, wanted): (Vec<char>, Vec<char>) =
        (text(&a[0]).chars().collect(), text(&a[1]).chars().collect());
    if bound != usize::MAX && bound > all.len() {
        return fail(format!("index out of range: {bound}"));
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
    if start > count || end > count || start > end {
        let bad = if start > count { start } else { end };
        return fail(format!("index out of range: {bad}"));
    }
    Ok(Value::string(text(&a[0]).chars().skip(start).take(end - start).collect::<String>()))
}

fn join<'a>(cx: &mut Context<'a, '_>, list: &Value<'a>, separator: &str) -> Result<Value<'a>> {
    let mut out = String::new();
    for (i, item) in items(cx, list)?.iter().enumerate() {
        let Value::String(part) = item else { return fail("no such overload: join(list)") };
        cx.spend((part.len() + separator.len()) / 10)?;
        if i > 0 {
            out.push_str(separator);
        }
        out.push_str(part);
    }
    Ok(Value::string(out))
}

/// `%s %d %f %e %b %x %X %o %%`, with a precision for `%f` and `%e`.
fn format<'a>(cx: &mut Context<'a, '_>, pattern: &str, args: &[Value<'a>]) -> Result<Value<'a>> {
    let mut out = String::new();
    let mut args = args.iter();
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        if chars.next_if_eq(&'%').is_some() {
            out.push('%');
            continue;
        }
        let mut precision = String::new();
        if chars.next_if_eq(&'.').is_some() {
            while let Some(digit) = chars.next_if(char::is_ascii_digit) {
                precision.push(digit);
            }
        }
        let precision = precision.parse::<usize>().unwrap_or(6).min(64);
        let Some(verb) = chars.next() else { return fail("unexpected end of string") };
        let Some(arg) = args.next() else { return fail("index out of range: no argument for a verb") };
        let piece = verbatim(verb, precision, arg)?;
        cx.spend(piece.len() / 10)?;
        out.push_str(&piece);
    }
    Ok(Value::string(out))
}

fn verbatim(verb: char, precision: usize, arg: &Value<'_>) -> Result<String> {
    Ok(match (verb, arg) {
        ('s', arg) => match arg.items() {
            Some(items) => {
                let all: Vec<String> =
                    items.iter().map(|item| verbatim('s', 0, item)).collect::<Result<_>>()?;
                format!("[{}]", all.join(", "))
            }
            None => text(&to_text(arg)?).to_owned(),
        },
        ('d', Value::Int(i)) => i.to_string(),
        ('d', Value::Uint(u)) => u.to_string(),
        ('f', Value::Double(d)) => format!("{d:.precision$}"),
        ('f', Value::Int(i)) => format!("{:.precision$}", *i as f64),
        ('e', Value::Double(d)) => format!("{d:.precision$e}"),
        ('b', Value::Int(i)) => format!("{i:b}"),
        ('b', Value::Uint(i)) => format!("{i:b}"),
        ('b', Value::Bool(b)) => u8::from(*b).to_string(),
        ('x', Value::Int(i)) => format!("{i:x}"),
        ('x', Value::Uint(i)) => format!("{i:x}"),
        ('X', Value::Int(i)) => format!("{i:X}"),
        ('X', Value::Uint(i)) => format!("{i:X}"),
        ('o', Value::Int(i)) => format!("{i:o}"),
        ('o', Value::Uint(i)) => format!("{i:o}"),
        ('x', Value::String(s)) => hex::encode(s.as_bytes()),
        ('X', Value::String(s)) => hex::encode_upper(s.as_bytes()),
        ('x', Value::Bytes(b)) => hex::encode(b),
        ('X', Value::Bytes(b)) => hex::encode_upper(b),
        ('d' | 'f' | 'e' | 'b' | 'x' | 'X' | 'o', arg) => {
            return fail(format!("error during formatting: verb %{verb} does not take {}", arg.type_of()));
        }
        (other, _) => {
            return fail(format!(
                "could not parse formatting clause: unrecognized formatting clause \"{other}\""
            ));
        }
    })
}
