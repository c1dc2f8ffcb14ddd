//! A raw query string, read without changing what is passed on.

use coracle_api::query::decoded;

/// Names with their raw and decoded values, in order.
pub(super) struct Query(Vec<(String, String, String)>);

// === impl Query ===

impl Query {
    pub(super) fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|p| !p.is_empty()).map(|pair| {
            let (name, raw) = pair.split_once('=').unwrap_or((pair, ""));
            (decoded(name).into_owned(), raw.to_owned(), decoded(raw).into_owned())
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
