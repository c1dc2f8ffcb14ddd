//! Which tests there are: name, unlock step, and upstream's own time on a machine of this kind.

use anyhow::{Context, Result};

/// One conformance test of v1.36.
#[derive(Clone, Debug, PartialEq)]
pub struct Test {
    pub name: String,
    /// The capability it waits for, 1 to 15; each step assumes those before it.
    pub step: u8,
    /// Seconds against upstream's one-node cluster on two cores; `None` where it did not run there.
    pub upstream_seconds: Option<f64>,
    /// Nodes without which it fails; 1 where the table is silent.
    pub nodes: u8,
}

// === impl Test ===

impl Test {
    /// Must run while nothing else does.
    pub fn is_serial(&self) -> bool {
        self.name.contains("[Serial]")
    }

    /// `network` of `[sig-network] ...`
    pub fn sig(&self) -> &str {
        self.name.strip_prefix("[sig-").and_then(|rest| rest.split(']').next()).unwrap_or("?")
    }
}

/// All 446, in the order of their steps.
pub fn tests() -> Result<Vec<Test>> {
    include_str!("../../upstream/tests.tsv")
        .lines()
        .skip(1)
        .map(|line| {
            let mut columns = line.split('\t');
            let (name, step) = (columns.next(), columns.next());
            Ok(Test {
                name: name.context("a name")?.to_owned(),
                step: step.context("a step")?.parse().with_context(|| line.to_owned())?,
                upstream_seconds: columns.next().and_then(|s| s.parse().ok()),
                nodes: columns.next().map_or(Ok(1), str::parse).with_context(|| line.to_owned())?,
            })
        })
        .collect()
}

pub(super) fn choose(tests: &[Test], want: impl Fn(&Test) -> bool) -> Vec<Test> {
    tests.iter().filter(|t| want(t)).cloned().collect()
}

#[cfg(test)]
mod tests_of_the_table {
    use super::*;

    #[test]
    fn the_table_holds_v1_36() {
        let all = tests().unwrap();
        assert_eq!(all.len(), 446);
        assert_eq!(all.iter().filter(|t| t.is_serial()).count(), 29);
        assert_eq!(all.iter().filter(|t| [1, 2, 7, 8].contains(&t.step)).count(), 131);
        assert_eq!(all.iter().filter(|t| t.nodes == 2).count(), 2);
        assert!(all.iter().all(|t| t.sig() != "?"));
    }
}
