//! `format`: a text with places for values, as upstream's extension of strings fills them.

use super::super::eval::Context;
use super::super::types::Type;
use super::super::value::{Result, Value, fail, no_overload};
use super::convert::to_text;

/// Digits of an exponent.
const RAISED: [char; 10] = ['⁰', '¹', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹'];
/// How many digits may be asked for behind the point.
const MAX_PRECISION: usize = 64;

/// A piece of a format.
enum Piece<'p> {
    Text(&'p str),
    /// A verb and the digits it is to show.
    Verb(char, usize),
}

/// Fills a format.
pub(super) fn format<'a>(cx: &mut Context<'a, '_>, pattern: &str, args: &[Value<'a>]) -> Result<Value<'a>> {
    let mut out = String::new();
    let mut rest = pattern;
    let mut used = 0;
    while let Some(piece) = next(&mut rest, used < args.len()) {
        match piece {
            Ok(Piece::Text(text)) => out.push_str(text),
            Ok(Piece::Verb(verb, precision)) => {
                let piece = shown(verb, precision, &args[used])?;
                used += 1;
                cx.spend(piece.len() / 10)?;
                out.push_str(&piece);
            }
            Err(Wrong::NoArgument) => return fail(format!("index {used} out of range")),
            Err(Wrong::Clause(why)) => return fail(why),
        }
    }
    Ok(Value::string(out))
}

/// The verbs of a format that has so many arguments; what is wrong with it otherwise.
pub(in crate::cel) fn verbs(pattern: &str, args: usize) -> std::result::Result<Vec<char>, String> {
    let mut rest = pattern;
    let mut verbs = vec![];
    while let Some(piece) = next(&mut rest, verbs.len() < args) {
        match piece {
            Ok(Piece::Text(_)) => {}
            Ok(Piece::Verb(verb, _)) => verbs.push(verb),
            Err(Wrong::NoArgument) => return Err(format!("index {} out of range", verbs.len())),
            Err(Wrong::Clause(why)) => return Err(why),
        }
    }
    Ok(verbs)
}

/// Whether a verb takes values of a type, as far as that is known.
pub(in crate::cel) fn takes(verb: char, ty: &Type) -> std::result::Result<(), String> {
    let fits = match (verb, ty) {
        (_, Type::Dyn | Type::Param(_)) => true,
        ('s', ty) => {
            matches!(
                ty,
                Type::Null
                    | Type::Bool
                    | Type::Int
                    | Type::Uint
                    | Type::Double
                    | Type::String
                    | Type::Bytes
                    | Type::Timestamp
                    | Type::Duration
                    | Type::List(_)
                    | Type::Map(_)
                    | Type::Type
            )
        }
        ('d' | 'o', ty) => matches!(ty, Type::Int | Type::Uint),
        ('f' | 'e', ty) => matches!(ty, Type::Double),
        ('b', ty) => matches!(ty, Type::Int | Type::Uint | Type::Bool),
        (_, ty) => matches!(ty, Type::Int | Type::Uint | Type::String | Type::Bytes),
    };
    if fits { Ok(()) } else { Err(misfit(verb, &ty.base_name())) }
}

fn misfit(verb: char, given: &str) -> String {
    let (clause, takes) = match verb {
        'd' => ("decimal clause can only be used on", "integers"),
        'f' => ("fixed-point clause can only be used on", "doubles"),
        'e' => ("scientific clause can only be used on", "doubles"),
        'o' => ("octal clause can only be used on", "integers"),
        'b' => ("only integers and bools can be formatted as", "binary"),
        'x' | 'X' => ("only integers, byte buffers, and strings can be formatted as", "hex"),
        _ => (
            "string clause can only be used on",
            "strings, bools, bytes, ints, doubles, maps, lists, types, durations, and timestamps",
        ),
    };
    format!("error during formatting: {clause} {takes}, was given {given}")
}

enum Wrong {
    NoArgument,
    Clause(String),
}

/// Takes the next piece off a format.
fn next<'p>(rest: &mut &'p str, has_argument: bool) -> Option<std::result::Result<Piece<'p>, Wrong>> {
    let whole: &'p str = rest;
    if whole.is_empty() {
        return None;
    }
    let Some(at) = whole.find('%') else {
        *rest = "";
        return Some(Ok(Piece::Text(whole)));
    };
    if at > 0 {
        *rest = &whole[at..];
        return Some(Ok(Piece::Text(&whole[..at])));
    }
    if let Some(after) = whole.strip_prefix("%%") {
        *rest = after;
        return Some(Ok(Piece::Text("%")));
    }
    if whole.len() > 1 && !has_argument {
        return Some(Err(Wrong::NoArgument));
    }
    let mut chars = whole[1..].chars();
    let mut precision = 6;
    if let Some(after) = chars.as_str().strip_prefix('.') {
        let digits = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
        let Ok(asked) = after[..digits].parse::<usize>() else {
            let why = format!(
                "could not parse formatting clause: error while parsing precision: error while converting precision to \
                 integer: strconv.Atoi: parsing {:?}: invalid syntax",
                &after[..digits]
            );
            return Some(Err(Wrong::Clause(why)));
        };
        precision = asked.min(MAX_PRECISION);
        chars = after[digits..].chars();
    }
    Some(match chars.next() {
        None => Err(Wrong::Clause("unexpected end of string".to_owned())),
        Some(verb @ ('s' | 'd' | 'f' | 'e' | 'b' | 'x' | 'X' | 'o')) => {
            *rest = chars.as_str();
            Ok(Piece::Verb(verb, precision))
        }
        Some(other) => Err(Wrong::Clause(format!(
            "could not parse formatting clause: unrecognized formatting clause \"{other}\""
        ))),
    })
}

fn shown(verb: char, precision: usize, value: &Value<'_>) -> Result<String> {
    let signed = |i: i64, digits: String| if i < 0 { format!("-{digits}") } else { digits };
    Ok(match (verb, value) {
        ('s', value) => plain(value)?,
        ('d', Value::Int(i)) => i.to_string(),
        ('d', Value::Uint(u)) => u.to_string(),
        ('f', Value::Double(d)) => grouped(&format!("{d:.precision$}")),
        // As many digits as by default, whatever is asked for.
        ('e', Value::Double(d)) => scientific(*d),
        ('b', Value::Int(i)) => signed(*i, format!("{:b}", i.unsigned_abs())),
        ('b', Value::Uint(u)) => format!("{u:b}"),
        ('b', Value::Bool(b)) => u8::from(*b).to_string(),
        ('o', Value::Int(i)) => signed(*i, format!("{:o}", i.unsigned_abs())),
        ('o', Value::Uint(u)) => format!("{u:o}"),
        ('x', Value::Int(i)) => signed(*i, format!("{:x}", i.unsigned_abs())),
        ('X', Value::Int(i)) => signed(*i, format!("{:X}", i.unsigned_abs())),
        ('x', Value::Uint(u)) => format!("{u:x}"),
        ('X', Value::Uint(u)) => format!("{u:X}"),
        ('x', Value::String(s)) => hex::encode(s.as_bytes()),
        ('X', Value::String(s)) => hex::encode_upper(s.as_bytes()),
        ('x', Value::Bytes(b)) => hex::encode(b),
        ('X', Value::Bytes(b)) => hex::encode_upper(b),
        (verb, value) => return fail(misfit(verb, &value.type_of().base_name())),
    })
}

/// `%s` of a value by itself.
fn plain(value: &Value<'_>) -> Result<String> {
    if let Err(why) = takes('s', &value.type_of()) {
        return fail(why);
    }
    match value {
        value if value.items().is_some() || value.entries().is_some() => within(value),
        value => match to_text(value)? {
            Value::String(text) => Ok(text.into_owned()),
            _ => no_overload(""),
        },
    }
}

/// A value inside of a list or map: texts in quotes, numbers with six digits behind the point.
fn within(value: &Value<'_>) -> Result<String> {
    if let Some(items) = value.items() {
        let all: Vec<String> = items.iter().map(within).collect::<Result<_>>()?;
        return Ok(format!("[{}]", all.join(", ")));
    }
    if let Some(entries) = value.entries() {
        let mut all = vec![];
        for (key, value) in &entries {
            all.push(format!("{}:{}", within(key)?, within(value)?));
        }
        all.sort();
        return Ok(format!("{{{}}}", all.join(", ")));
    }
    match value {
        Value::String(text) => Ok(format!("{text:?}")),
        Value::Double(d) => Ok(format!("{d:.6}")),
        other => plain(other),
    }
}

/// `10,000.5`
fn grouped(number: &str) -> String {
    let (sign, number) = number.strip_prefix('-').map_or(("", number), |n| ("-", n));
    let (whole, fraction) = number.split_once('.').map_or((number, None), |(w, f)| (w, Some(f)));
    let mut out = sign.to_owned();
    for (i, digit) in whole.chars().enumerate() {
        if i > 0 && (whole.len() - i).is_multiple_of(3) && digit.is_ascii_digit() {
            out.push(',');
        }
        out.push(digit);
    }
    if let Some(fraction) = fraction {
        out.push('.');
        out.push_str(fraction);
    }
    out
}

/// `1.500000×10⁻⁰⁷`
fn scientific(number: f64) -> String {
    let written = format!("{number:.6e}");
    let Some((digits, exponent)) = written.split_once('e') else { return written };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let sign = if exponent < 0 { "⁻" } else { "" };
    let raised: String =
        format!("{:02}", exponent.abs()).bytes().map(|digit| RAISED[usize::from(digit - b'0')]).collect();
    format!("{digits}×10{sign}{raised}")
}
