//! YAML bodies as upstream reads them: the first document, YAML 1.1 scalars (`yes` is true, `0777` is octal), merge keys,
//! then everything as JSON would have it. Answers are written by [`Writer`].

mod scalar;
mod tree;
mod write;

use std::collections::HashMap;

use granit_parser::{Event, Parser, ScalarStyle, Span};
use serde_json::{Map, Number, Value};

use super::depth;
use crate::limits;
use crate::schema::Noticed;
use crate::schema::structural::numbers::whole;

pub(crate) use write::{Writer, text};

/// The value of the first document and its duplicate keys, which upstream reports as one notice.
pub(crate) fn parse(body: &[u8]) -> Result<(Value, Noticed), String> {
    let text = String::from_utf8_lossy(body);
    let mut composer = Composer {
        parser: Parser::new_from_str(&text),
        anchors: HashMap::new(),
        room: limits::YAML_ALIASED_BYTES,
        duplicates: vec![],
    };
    let value = composer.document()?;
    let noticed = match composer.duplicates.as_slice() {
        [] => vec![],
        lines => vec![format!("yaml: unmarshal errors:\n  {}", lines.join("\n  "))],
    };
    Ok((value, Noticed(noticed)))
}

struct Composer<'a> {
    parser: Parser<'a, granit_parser::StrInput<'a>>,
    anchors: HashMap<usize, Value>,
    /// The bytes of memory that anchors and aliases may still take. An anchor is a copy, too: anchors inside anchors would
    /// otherwise hold a body once for each level.
    room: usize,
    duplicates: Vec<String>,
}

impl<'a> Composer<'a> {
    fn next(&mut self) -> Result<Option<(Event<'a>, Span)>, String> {
        loop {
            match self.parser.next_event() {
                None => return Ok(None),
                Some(Err(e)) => {
                    let line = e.marker().line();
                    return Err(format!("yaml: line {line}: {}", e.info()));
                }
                Some(Ok((Event::Comment(..) | Event::StreamStart | Event::DocumentStart(..), _))) => {}
                Some(Ok(event)) => return Ok(Some(event)),
            }
        }
    }

    fn document(&mut self) -> Result<Value, String> {
        match self.next()? {
            None | Some((Event::StreamEnd | Event::DocumentEnd, _)) => Ok(Value::Null),
            Some(first) => self.node(first, 0),
        }
    }

    fn node(&mut self, (event, span): (Event<'a>, Span), depth: usize) -> Result<Value, String> {
        if depth > limits::BODY_DEPTH {
            return Err("yaml: exceeded max depth".to_owned());
        }
        let (value, anchor) = match event {
            Event::Alias(id) => (self.alias(id, depth)?, 0),
            Event::Scalar(text, style, anchor, tag) => {
                let tag = tag.as_ref().and_then(|t| t.core_suffix());
                (
                    scalar(&text, style, tag)
                        .map_err(|e| format!("yaml: line {}: {e}", span.start.line()))?,
                    anchor,
                )
            }
            Event::SequenceStart(_, anchor, _) => (self.sequence(depth)?, anchor),
            Event::MappingStart(_, anchor, _) => (self.mapping(depth)?, anchor),
            _ => return Err("yaml: did not find expected node content".to_owned()),
        };
        if anchor != 0 {
            self.copied(&value)?;
            self.anchors.insert(anchor, value.clone());
        }
        Ok(value)
    }

    fn alias(&mut self, id: usize, depth: usize) -> Result<Value, String> {
        let value = self.anchors.get(&id).ok_or("yaml: unknown anchor referenced")?.clone();
        if depth::exceeds(&value, limits::BODY_DEPTH - depth) {
            return Err("yaml: exceeded max depth".to_owned());
        }
        self.copied(&value)?;
        Ok(value)
    }

    fn copied(&mut self, value: &Value) -> Result<(), String> {
        self.room = remaining(value, self.room).ok_or("yaml: document contains excessive aliasing")?;
        Ok(())
    }

    fn sequence(&mut self, depth: usize) -> Result<Value, String> {
        let mut items = vec![];
        loop {
            match self.next()? {
                Some((Event::SequenceEnd, _)) => return Ok(items.into()),
                Some(event) => items.push(self.node(event, depth + 1)?),
                None => return Err("yaml: unexpected end of stream".to_owned()),
            }
        }
    }

    fn mapping(&mut self, depth: usize) -> Result<Value, String> {
        let mut map = Map::new();
        let mut merged = vec![];
        loop {
            let (event, span) = match self.next()? {
                Some((Event::MappingEnd, _)) => break,
                Some(event) => event,
                None => return Err("yaml: unexpected end of stream".to_owned()),
            };
            let merge = matches!(&event, Event::Scalar(text, ScalarStyle::Plain, _, None) if text == "<<");
            let line = span.start.line();
            let key = self.node((event, span), depth + 1)?;
            let Some(value) = self.next()? else { return Err("yaml: unexpected end of stream".to_owned()) };
            let value = self.node(value, depth + 1)?;
            if merge {
                merged.push(value);
                continue;
            }
            let key = key_text(key)?;
            if map.contains_key(&key) {
                self.duplicates.push(format!("line {line}: key {key:?} already set in map"));
            }
            map.insert(key, value);
        }
        for source in merged {
            merge_into(&mut map, source)?;
        }
        Ok(Value::Object(map))
    }
}

/// What a mapping takes from `<<`: everything it does not say itself.
fn merge_into(map: &mut Map<String, Value>, source: Value) -> Result<(), String> {
    match source {
        Value::Object(from) => {
            for (key, value) in from {
                map.entry(key).or_insert(value);
            }
            Ok(())
        }
        Value::Array(sources) if sources.iter().all(Value::is_object) => {
            sources.into_iter().try_for_each(|source| merge_into(map, source))
        }
        _ => Err("yaml: map merge requires map or sequence of maps as the value".to_owned()),
    }
}

fn key_text(key: Value) -> Result<String, String> {
    match key {
        Value::String(s) => Ok(s),
        Value::Bool(_) | Value::Number(_) => Ok(key.to_string()),
        Value::Null => Ok("null".to_owned()),
        Value::Array(_) | Value::Object(_) => Err("yaml: invalid map key".to_owned()),
    }
}

/// What a value leaves of so many bytes; `None` where it takes more.
fn remaining(value: &Value, room: usize) -> Option<usize> {
    let room = room.checked_sub(size_of::<Value>())?;
    match value {
        Value::String(text) => room.checked_sub(text.len()),
        Value::Array(items) => items.iter().try_fold(room, |room, item| remaining(item, room)),
        Value::Object(map) => map.iter().try_fold(room, |room, (key, value)| {
            remaining(value, room.checked_sub(size_of::<String>() + key.len())?)
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) => Some(room),
    }
}

fn scalar(text: &str, style: ScalarStyle, tag: Option<&str>) -> Result<Value, String> {
    if tag == Some("str") || (tag.is_none() && style != ScalarStyle::Plain) {
        return Ok(text.into());
    }
    let value = plain(text)?;
    let fits = match (tag, &value) {
        (Some("null"), v) => v.is_null(),
        (Some("bool"), v) => v.is_boolean(),
        (Some("int"), v) => v.is_i64() || v.is_u64(),
        (Some("float"), v) => v.is_number(),
        _ => true,
    };
    match tag {
        Some(tag) if !fits => Err(format!("cannot decode `{text}` as a !!{tag}")),
        _ => Ok(value),
    }
}

/// A plain scalar by the rules of YAML 1.1 as Go's library has them.
fn plain(text: &str) -> Result<Value, String> {
    match word(text) {
        Some(Word::Is(value)) => return Ok(value),
        Some(Word::Beyond(number)) => return Err(format!("json: unsupported value: {number}")),
        None => {}
    }
    Ok(match text.as_bytes() {
        [b'.', ..] => fraction(text).unwrap_or_else(|| text.into()),
        [b'+' | b'-' | b'0'..=b'9', ..] => number(text).unwrap_or_else(|| text.into()),
        _ => text.into(),
    })
}

/// A number that begins with its point: there, underscores stand between digits only.
fn fraction(text: &str) -> Option<Value> {
    let digit = |b: Option<&u8>| b.is_some_and(u8::is_ascii_digit);
    let bytes = text.as_bytes();
    let mut underscores = bytes.iter().enumerate().filter(|(_, b)| **b == b'_');
    let separate = underscores.all(|(at, _)| digit(bytes.get(at - 1)) && digit(bytes.get(at + 1)));
    separate.then(|| number(text)).flatten()
}

/// What a word means that is not a text.
enum Word {
    Is(Value),
    /// A number that JSON does not have.
    Beyond(&'static str),
}

fn word(text: &str) -> Option<Word> {
    Some(match text {
        "" | "~" | "null" | "Null" | "NULL" => Word::Is(Value::Null),
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            Word::Is(true.into())
        }
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            Word::Is(false.into())
        }
        ".nan" | ".NaN" | ".NAN" => Word::Beyond("NaN"),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => Word::Beyond("+Inf"),
        "-.inf" | "-.Inf" | "-.INF" => Word::Beyond("-Inf"),
        _ => return None,
    })
}

fn number(text: &str) -> Option<Value> {
    let digits = text.replace('_', "");
    let (negative, magnitude) = match digits.as_bytes()[0] {
        b'-' => (true, &digits[1..]),
        b'+' => (false, &digits[1..]),
        _ => (false, digits.as_str()),
    };
    if let Some(n) = integer(magnitude) {
        let signed = if negative { -i128::from(n) } else { i128::from(n) };
        if let Ok(n) = i64::try_from(signed) {
            return Some(n.into());
        }
        if let Ok(n) = u64::try_from(signed) {
            return Some(n.into());
        }
    }
    // Go takes a sign behind this prefix, too.
    if let Some(n) = digits.strip_prefix("0b").and_then(|rest| i64::from_str_radix(rest, 2).ok()) {
        return Some(n.into());
    }
    if !is_float(magnitude) {
        return None;
    }
    float(digits.parse().ok()?)
}

/// Go's `ParseInt` with base 0.
fn integer(text: &str) -> Option<u64> {
    let radix = |digits: &str, radix| match digits.as_bytes().first()? {
        b'+' | b'-' => None,
        _ => u64::from_str_radix(digits, radix).ok(),
    };
    let (head, rest) = (text.get(..2).unwrap_or_default(), text.get(2..).unwrap_or_default());
    match head {
        "0x" | "0X" => radix(rest, 16),
        "0o" | "0O" => radix(rest, 8),
        "0b" | "0B" => radix(rest, 2),
        _ if text.len() > 1 && text.starts_with('0') => radix(&text[1..], 8),
        _ => radix(text, 10),
    }
}

/// `1`, `1.`, `.5`, `1.5`, each with an exponent or without.
fn is_float(text: &str) -> bool {
    let (mantissa, exponent) = match text.find(['e', 'E']) {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    };
    let all_digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    all_digits(whole)
        && all_digits(fraction)
        && !(whole.is_empty() && fraction.is_empty())
        && exponent.is_none_or(|e| {
            let e = e.strip_prefix(['+', '-']).unwrap_or(e);
            !e.is_empty() && all_digits(e)
        })
}

/// As Go's JSON encoder prints it: a whole number has no point.
fn float(f: f64) -> Option<Value> {
    whole(f).or_else(|| Number::from_f64(f)).map(Value::Number)
}
