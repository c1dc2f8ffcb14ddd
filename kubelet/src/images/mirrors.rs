//! The mirrors file: which hosts to ask before a registry itself.
//!
//! One line per registry: `docker.io mirror-1.example.com 127.0.0.1:5000`; `#` starts a comment.

use std::collections::HashMap;
use std::io;
use std::path::Path;

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Mirrors(HashMap<String, Vec<String>>);

impl Mirrors {
    pub(super) fn load(path: &Path) -> io::Result<Mirrors> {
        match std::fs::read_to_string(path) {
            Ok(text) => Ok(Mirrors::parse(&text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Mirrors::default()),
            Err(error) => Err(error),
        }
    }

    fn parse(text: &str) -> Mirrors {
        let mut mirrors = HashMap::new();
        for line in text.lines() {
            let mut words = line.split('#').next().unwrap_or_default().split_whitespace().map(str::to_owned);
            if let Some(registry) = words.next() {
                mirrors.insert(registry, words.collect());
            }
        }
        Mirrors(mirrors)
    }

    /// Mirrors first, then the registry; `*` holds for all registries without a line of their own.
    pub(super) fn hosts(&self, registry: &str) -> Vec<String> {
        let mirrors = self.0.get(registry).or_else(|| self.0.get("*"));
        mirrors.into_iter().flatten().cloned().chain([registry.to_owned()]).collect()
    }
}
