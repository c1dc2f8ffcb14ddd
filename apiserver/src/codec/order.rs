//! Where in a body the fields stand that are told of: one walk, linear in the body. It looks only into what leads to one
//! of them.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// Sorts notices (`unknown field "a.b[0]"`, `duplicate field "c"`) by where in a JSON body their field stands; those it does
/// not find stay at the front.
pub(super) fn order_as_in(body: &[u8], notices: &mut [String]) {
    let text: Cow<'_, str> = String::from_utf8_lossy(body);
    let mut wanted: Vec<Wanted<'_>> = notices.iter().enumerate().filter_map(Wanted::of).collect();
    wanted.sort_by_key(|w| w.path);
    let search = Search { clock: Cell::new(0), found: RefCell::new(vec![0; notices.len()]) };
    let walk = Walk { search: &search, wanted: &wanted, known: 0 };
    if walk.deserialize(&mut serde_json::Deserializer::from_str(&text)).is_err() {
        return;
    }
    let places = search.found.into_inner();
    let mut placed: Vec<(usize, String)> =
        places.into_iter().zip(notices.iter_mut().map(std::mem::take)).collect();
    placed.sort_by_key(|(at, _)| *at);
    for (slot, (_, notice)) in notices.iter_mut().zip(placed) {
        *slot = notice;
    }
}

/// A field that is looked for, by its path as the notice quotes it.
struct Wanted<'a> {
    path: &'a str,
    notice: usize,
    /// A duplicate is noticed where it comes for the second time, an unknown field where it comes first.
    duplicate: bool,
}

// === impl Wanted ===

impl<'a> Wanted<'a> {
    fn of((notice, text): (usize, &'a String)) -> Option<Self> {
        let (what, path) = text.split_once(" field \"")?;
        Some(Wanted { path: path.strip_suffix('"')?, notice, duplicate: what == "duplicate" })
    }
}

struct Search {
    /// The fields met so far, among those that lead somewhere.
    clock: Cell<usize>,
    found: RefCell<Vec<usize>>,
}

/// One value on the way down: all of `wanted` (sorted) begin with the same `known` bytes, which lead here.
#[derive(Clone, Copy)]
struct Walk<'a> {
    search: &'a Search,
    wanted: &'a [Wanted<'a>],
    known: usize,
}

// === impl Walk ===

impl<'a> Walk<'a> {
    /// What is wanted at and below a child whose path goes on with `step`.
    fn child(&self, step: &str) -> Walk<'a> {
        let rest = |w: &Wanted<'a>| &w.path.as_bytes()[self.known..];
        let step = step.as_bytes();
        let from = self.wanted.partition_point(|w| rest(w) < step);
        let count = self.wanted[from..].partition_point(|w| rest(w).starts_with(step));
        Walk { wanted: &self.wanted[from..from + count], known: self.known + step.len(), ..*self }
    }

    /// Notes the place of what is wanted just here.
    fn meet(&self) {
        let now = self.search.clock.get() + 1;
        self.search.clock.set(now);
        let mut found = self.search.found.borrow_mut();
        for wanted in self.wanted.iter().take_while(|w| w.path.len() == self.known) {
            if wanted.duplicate || found[wanted.notice] == 0 {
                found[wanted.notice] = now;
            }
        }
    }

    fn field(&self, key: &str) -> Walk<'a> {
        let quoted;
        let plain = key.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\');
        let key = match plain {
            true => key,
            false => {
                quoted = format!("{key:?}");
                quoted.trim_start_matches('"').strip_suffix('"').unwrap_or(key)
            }
        };
        match self.known {
            0 => self.child(key),
            _ => self.child(".").child(key),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        if self.wanted.is_empty() {
            return deserializer.deserialize_ignored_any(IgnoredAny).map(drop);
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let mut at = 0usize;
        while seq.next_element_seed(self.child(&format!("[{at}]")))?.is_some() {
            at += 1;
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<(), A::Error> {
        while let Some(key) = access.next_key::<Cow<'_, str>>()? {
            let child = self.field(&key);
            if !child.wanted.is_empty() {
                child.meet();
            }
            access.next_value_seed(child)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ordered(body: &str, notices: &[&str]) -> Vec<String> {
        let mut notices: Vec<String> = notices.iter().map(|n| (*n).to_owned()).collect();
        order_as_in(body.as_bytes(), &mut notices);
        notices
    }

    #[test]
    fn notices_come_in_the_order_of_the_body() {
        let body = r#"{"z":1,"a":{"x":[{"u":1},{"u":2,"é\"":3}],"x.y":1},"d":1,"b":0,"d":2}"#;
        let shuffled = [
            "duplicate field \"d\"",
            "unknown field \"a.x.y\"",
            "unknown field \"b\"",
            "unknown field \"a.x[1].é\\\"\"",
            "unknown field \"a.x[0].u\"",
            "unknown field \"absent\"",
            "unknown field \"z\"",
        ];
        let wanted = [
            "unknown field \"absent\"",
            "unknown field \"z\"",
            "unknown field \"a.x[0].u\"",
            "unknown field \"a.x[1].é\\\"\"",
            "unknown field \"a.x.y\"",
            "unknown field \"b\"",
            "duplicate field \"d\"",
        ];
        assert_eq!(ordered(body, &shuffled), wanted);
    }

    /// What leads to no notice is skipped, and what does is met once: the clock counts steps, not time.
    #[test]
    fn a_body_of_unknown_keys_is_walked_once() {
        let keys: Vec<String> = (0..50_000).rev().map(|i| format!("\"k{i:06}\":{{\"n\":0}}")).collect();
        let body = format!("{{{}}}", keys.join(","));
        let mut notices: Vec<String> = (0..100).map(|i| format!("unknown field \"k{i:06}\"")).collect();
        order_as_in(body.as_bytes(), &mut notices);
        assert_eq!(notices[0], "unknown field \"k000099\"");
        assert_eq!(notices[99], "unknown field \"k000000\"");
    }
}
