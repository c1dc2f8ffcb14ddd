//! Chains, sets and map elements as values, and the smallest nft transaction from one state to another. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::TABLE;

/// What one Service contributes to the table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ruleset {
    /// Rules by chain.
    pub(super) chains: BTreeMap<String, Vec<String>>,
    /// Declarations by set.
    pub(super) sets: BTreeMap<String, String>,
    /// Verdicts by map and key.
    pub(super) elements: BTreeMap<(&'static str, String), String>,
}

// === impl Ruleset ===

impl Ruleset {
    pub(super) fn merge(&mut self, other: Ruleset) {
        self.chains.extend(other.chains);
        self.sets.extend(other.sets);
        self.elements.extend(other.elements);
    }
}

/// The transaction that makes `new` of `old`: it leaves what is equal untouched, so that affinity sets live on.
/// Chains and sets that are not used any more stay empty until `sweep`: older kernels refuse to
/// remove a chain in the transaction that removes its last use.
pub(super) fn diff(old: &Ruleset, new: &Ruleset) -> String {
    let mut out = String::new();
    let mut line =
        |args: std::fmt::Arguments<'_>| writeln!(out, "{args}").expect("writing to a String does not fail");
    for (name, body) in new.sets.iter().filter(|(name, _)| !old.sets.contains_key(*name)) {
        line(format_args!("add set ip {TABLE} {name} {body}"));
    }
    for name in new.chains.keys().filter(|name| !old.chains.contains_key(*name)) {
        line(format_args!("add chain ip {TABLE} {name}"));
    }
    for (name, rules) in new.chains.iter().filter(|(name, rules)| old.chains.get(*name) != Some(rules)) {
        line(format_args!("flush chain ip {TABLE} {name}"));
        for rule in rules {
            line(format_args!("add rule ip {TABLE} {name} {rule}"));
        }
    }
    for ((map, key), _) in old.elements.iter().filter(|(k, v)| new.elements.get(*k) != Some(v)) {
        line(format_args!("delete element ip {TABLE} {map} {{ {key} }}"));
    }
    for ((map, key), verdict) in new.elements.iter().filter(|(k, v)| old.elements.get(*k) != Some(v)) {
        line(format_args!("add element ip {TABLE} {map} {{ {key} : {verdict} }}"));
    }
    for name in old.chains.keys().filter(|name| !new.chains.contains_key(*name)) {
        line(format_args!("flush chain ip {TABLE} {name}"));
    }
    out
}

/// Removes the chains and sets that `new` does not have any more.
pub(super) fn sweep(old: &Ruleset, new: &Ruleset) -> String {
    let chains: BTreeSet<_> = old.chains.keys().filter(|name| !new.chains.contains_key(*name)).collect();
    let sets = old.sets.keys().filter(|name| !new.sets.contains_key(*name));
    let chains = chains.into_iter().map(|name| format!("delete chain ip {TABLE} {name}\n"));
    chains.chain(sets.map(|name| format!("delete set ip {TABLE} {name}\n"))).collect()
}
