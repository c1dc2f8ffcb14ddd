//! An object between its JSON and its YAML: texts are borrowed, keys are in the order in which Go's library writes them.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

/// A value to be written.
pub(crate) enum Tree<'a> {
    Null,
    Bool(bool),
    Signed(i64),
    Unsigned(u64),
    Float(f64),
    Text(Cow<'a, str>),
    List(Vec<Tree<'a>>),
    Map(Vec<(Cow<'a, str>, Tree<'a>)>),
}

impl<'de> Deserialize<'de> for Tree<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Node)
    }
}

struct Node;

impl<'de> Visitor<'de> for Node {
    type Value = Tree<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E>(self) -> Result<Tree<'de>, E> {
        Ok(Tree::Null)
    }

    fn visit_bool<E>(self, v: bool) -> Result<Tree<'de>, E> {
        Ok(Tree::Bool(v))
    }

    fn visit_i64<E>(self, v: i64) -> Result<Tree<'de>, E> {
        Ok(Tree::Signed(v))
    }

    fn visit_u64<E>(self, v: u64) -> Result<Tree<'de>, E> {
        Ok(Tree::Unsigned(v))
    }

    fn visit_f64<E>(self, v: f64) -> Result<Tree<'de>, E> {
        Ok(Tree::Float(v))
    }

    fn visit_str<E>(self, v: &str) -> Result<Tree<'de>, E> {
        Ok(Tree::Text(v.to_owned().into()))
    }

    fn visit_borrowed_str<E>(self, v: &'de str) -> Result<Tree<'de>, E> {
        Ok(Tree::Text(v.into()))
    }

    fn visit_string<E>(self, v: String) -> Result<Tree<'de>, E> {
        Ok(Tree::Text(v.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Tree<'de>, A::Error> {
        let mut items = vec![];
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Tree::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tree<'de>, A::Error> {
        let mut entries = vec![];
        while let Some((Key(key), value)) = map.next_entry()? {
            entries.push((key, value));
        }
        if !entries.is_sorted_by(|a, b| less(&a.0, &b.0)) {
            entries = sorted(entries);
        }
        Ok(Tree::Map(entries))
    }
}

struct Key<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(KeyText).map(Key)
    }
}

struct KeyText;

impl<'de> Visitor<'de> for KeyText {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, v: &str) -> Result<Cow<'de, str>, E> {
        Ok(v.to_owned().into())
    }

    fn visit_borrowed_str<E>(self, v: &'de str) -> Result<Cow<'de, str>, E> {
        Ok(v.into())
    }

    fn visit_string<E>(self, v: String) -> Result<Cow<'de, str>, E> {
        Ok(v.into())
    }
}

type Entry<'a> = (Cow<'a, str>, Tree<'a>);

/// A merge sort of our own: the order of Go's library has cycles (`2`, `10`, `1a`), which the standard library may answer
/// with a panic.
fn sorted(mut entries: Vec<Entry<'_>>) -> Vec<Entry<'_>> {
    if entries.len() < 2 {
        return entries;
    }
    let right = sorted(entries.split_off(entries.len() / 2)).into_iter();
    let left = sorted(entries).into_iter();
    let mut merged = Vec::with_capacity(left.len() + right.len());
    let (mut left, mut right) = (left.peekable(), right.peekable());
    while let (Some(a), Some(b)) = (left.peek(), right.peek()) {
        let next = if less(&b.0, &a.0) { right.next() } else { left.next() };
        merged.extend(next);
    }
    merged.extend(left);
    merged.extend(right);
    merged
}

/// Go's order of keys: letters after all else, numbers by their value.
fn less(a: &str, b: &str) -> bool {
    let (x, y) = (a.as_bytes(), b.as_bytes());
    let Some(mut at) = x.iter().zip(y).position(|(x, y)| x != y) else { return x.len() < y.len() };
    if x[at].is_ascii_alphabetic() && y[at].is_ascii_alphabetic() {
        return x[at] < y[at];
    }
    while !a.is_char_boundary(at) {
        at -= 1;
    }
    let ((before, a), b) = (a.split_at(at), &b[at..]);
    let first = |text: &str| text.chars().next().unwrap_or_default();
    let (x, y) = (first(a), first(b));
    match (x.is_alphabetic(), y.is_alphabetic()) {
        (true, true) => return x < y,
        (false, false) => {}
        (_, later) => return later,
    }
    // A zero that differs counts behind digits that are not zeros.
    let behind = before.bytes().rev().take_while(u8::is_ascii_digit).any(|digit| digit != b'0');
    let start = i64::from((x == '0' || y == '0') && behind);
    let (x_value, x_digits) = leading_number(a, start);
    let (y_value, y_digits) = leading_number(b, start);
    (x_value, x_digits, x) < (y_value, y_digits, y)
}

/// The number that a text begins with, wrapped as Go does it, and its digits.
fn leading_number(text: &str, start: i64) -> (i64, usize) {
    text.bytes().take_while(u8::is_ascii_digit).fold((start, 0), |(value, digits), digit| {
        (value.wrapping_mul(10).wrapping_add(i64::from(digit - b'0')), digits + 1)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn keys(json: &str) -> Vec<String> {
        let Ok(Tree::Map(entries)) = serde_json::from_str(json) else { panic!("{json}") };
        entries.into_iter().map(|(key, _)| key.into_owned()).collect()
    }

    #[test]
    fn keys_are_in_gos_order() {
        let json = r#"{"b":1,"a10":1,"a2":1,"A":1,"a_b":1,"a-b":1,"ab":1,"10":1,"9":1,"0":1,"é":1,"a01":1,"a1":1,".":1,"":1}"#;
        let sorted = ["", ".", "0", "9", "10", "A", "a-b", "a_b", "a1", "a01", "a2", "a10", "ab", "b", "é"];
        assert_eq!(keys(json), sorted);
    }

    #[test]
    fn an_order_with_cycles_ends_nothing() {
        let all: serde_json::Map<String, Value> = (0..300)
            .flat_map(|i| [format!("{i}"), format!("{i}a"), format!("{i}-"), format!("0{i}")])
            .map(|key| (key, Value::Null))
            .collect();
        let count = all.len();
        assert_eq!(keys(&Value::Object(all).to_string()).len(), count);
    }
}
