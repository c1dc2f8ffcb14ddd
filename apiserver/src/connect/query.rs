//! A raw query string, read without changing what is passed on.

/// Names with their raw and decoded values, in order.
pub(super) struct Query(Vec<(String, String, String)>);

// === impl Query ===

impl Query {
    pub(super) fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|p| !p.is_empty()).map(|pair| {
            let (name, raw) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), raw.to_owned(), decode(raw))
        });
        Query(pairs.collect())
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    pub(super) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(n, ..)| n == name).map(|(.., value)| value.as_str())
    }

    /// Values as they stood in the query, still encoded.
    pub(super) fn raw(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(n, ..)| n == name).map(|(_, raw, _)| raw.as_str())
    }

    pub(super) fn flag(&self, name: &str, default: bool) -> bool {
        self.get(name).map_or(default, coracle_api::query::flag)
    }

    /// The query of the given names alone.
    pub(super) fn only(&self, names: &[&str]) -> String {
        let kept = self.0.iter().filter(|(n, ..)| names.contains(&n.as_str()));
        kept.map(|(name, raw, _)| format!("{name}={raw}")).collect::<Vec<_>>().join("&")
    }
}

/// Percent-decoding of a query component.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let escaped = (first == b'%').then(|| tail.get(..2)).flatten();
        let value = escaped.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match (first, value) {
            (_, Some(value)) => {
                bytes.push(value);
                rest = &tail[2..];
                continue;
            }
            (b'+', None) => bytes.push(b' '),
            (other, None) => bytes.push(other),
        }
        rest = tail;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
