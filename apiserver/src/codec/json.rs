//! JSON bodies: a parse that notices duplicate fields, and Go's words for what is malformed.

use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt::{self, Write};

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::go_syntax::{self, JsonError};
use crate::limits;
pub(super) use crate::schema::describe;
use crate::schema::{Noticed, Path};

/// The value of a body and its duplicate fields. Go replaces bad UTF-8 instead of refusing it.
pub(crate) fn parse(body: &[u8]) -> Result<(Value, Noticed), JsonError> {
    let text = String::from_utf8_lossy(body);
    let duplicates = RefCell::new(Duplicates::default());
    match read(&text, &|path| duplicates.borrow_mut().notice(path)) {
        Ok(value) => Ok((value, Noticed(duplicates.into_inner().list))),
        Err(e) => {
            Err(go_syntax::error(text.as_bytes()).unwrap_or_else(|| JsonError::Malformed(e.to_string())))
        }
    }
}

/// JSON as Go writes it by default, which is safe inside HTML.
pub(crate) fn html_safe(text: &str) -> Cow<'_, str> {
    // The two separators begin with this byte.
    if !text.bytes().any(|b| matches!(b, b'<' | b'>' | b'&' | 0xe2)) {
        return text.into();
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                write!(safe, "\\u{:04x}", u32::from(c)).expect("a String takes everything");
            }
            c => safe.push(c),
        }
    }
    safe.into()
}

/// The duplicate fields of a body, each once; no more than may be told.
#[derive(Default)]
struct Duplicates {
    list: Vec<String>,
    bytes: usize,
}

// === impl Duplicates ===

impl Duplicates {
    fn notice(&mut self, path: Path<'_>) {
        // What is not new counts as well: to find out costs as much.
        if self.list.len() >= limits::NOTICES || self.bytes > limits::NOTICED_BYTES {
            return;
        }
        let notice = format!("duplicate field {:?}", path.text());
        self.bytes += notice.len();
        if !self.list.contains(&notice) {
            self.list.push(notice);
        }
    }
}

type OnKey<'a> = &'a dyn Fn(Path<'_>);

fn read(text: &str, duplicate: OnKey<'_>) -> serde_json::Result<Value> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = Node { path: Path::Root, duplicate }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

/// One value on the way down, knowing its path.
#[derive(Clone, Copy)]
struct Node<'a> {
    path: Path<'a>,
    duplicate: OnKey<'a>,
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }

    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_string<E>(self, v: String) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) =
            seq.next_element_seed(Node { path: Path::Index(&self.path, items.len()), ..self })?
        {
            items.push(item);
        }
        Ok(items.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = access.next_key::<String>()? {
            let path = Path::Key(&self.path, &key);
            if map.contains_key(&key) {
                (self.duplicate)(path);
            }
            let value = access.next_value_seed(Node { path, ..self })?;
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}
