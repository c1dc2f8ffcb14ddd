//! Completion indexes: the numbers an Indexed Job gives its pods, and the text form of a set of them.

use std::collections::BTreeMap;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;

pub(super) const INDEX: &str = "batch.kubernetes.io/job-completion-index";
pub(super) const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
pub(super) const IGNORED_FAILURES: &str = "batch.kubernetes.io/job-index-ignored-failure-count";

/// A set of indexes, as ranges from their first to their last, which neither meet nor touch. `0-2147483646` is a legal
/// text: what a set takes is measured by its text, not by its numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Indexes(BTreeMap<i32, i32>);

// === impl Indexes ===

impl Indexes {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.0.iter().map(|(first, last)| span(*first, *last)).sum()
    }

    pub(super) fn contains(&self, index: &i32) -> bool {
        self.0.range(..=index).next_back().is_some_and(|(_, last)| last >= index)
    }

    /// Whether it is new.
    pub(super) fn insert(&mut self, index: i32) -> bool {
        let new = !self.contains(&index);
        self.insert_range(index, index);
        new
    }

    fn insert_range(&mut self, mut first: i32, mut last: i32) {
        if first > last {
            return;
        }
        // Those that touch it become one with it.
        while let Some((&from, &to)) = self.0.range(..=last.saturating_add(1)).next_back() {
            if to < first.saturating_sub(1) {
                break;
            }
            (first, last) = (first.min(from), last.max(to));
            self.0.remove(&from);
        }
        self.0.insert(first, last);
    }

    /// How many numbers are in both.
    pub(super) fn common(&self, other: &Indexes) -> usize {
        let (mut ours, mut theirs) = (self.0.iter().peekable(), other.0.iter().peekable());
        let mut common = 0;
        while let (Some((a, b)), Some((c, d))) = (ours.peek(), theirs.peek()) {
            common += span(**a.max(c), **b.min(d));
            if b < d {
                ours.next();
            } else {
                theirs.next();
            }
        }
        common
    }
}

impl Extend<i32> for Indexes {
    fn extend<I: IntoIterator<Item = i32>>(&mut self, indexes: I) {
        for index in indexes {
            self.insert(index);
        }
    }
}

impl FromIterator<i32> for Indexes {
    fn from_iter<I: IntoIterator<Item = i32>>(indexes: I) -> Self {
        let mut all = Indexes::default();
        all.extend(indexes);
        all
    }
}

/// How many numbers there are from the first to the last.
fn span(first: i32, last: i32) -> usize {
    usize::try_from(i64::from(last) - i64::from(first) + 1).unwrap_or(0)
}

/// The index of a pod, if it has one the Job knows.
pub(super) fn of(pod: &Pod, job: &Job) -> Option<i32> {
    let completions = job.spec.as_ref().and_then(|s| s.completions).unwrap_or(0);
    number(pod.metadata.annotations.as_ref(), INDEX).filter(|ix| (0..completions).contains(ix))
}

/// How often the pods of this index had failed before this pod, as far as failures count.
pub(super) fn failures(pod: &Pod) -> i32 {
    number(pod.metadata.annotations.as_ref(), FAILURES).unwrap_or(0)
}

/// The same for failures that a policy ignores.
pub(super) fn ignored_failures(pod: &Pod) -> i32 {
    number(pod.metadata.annotations.as_ref(), IGNORED_FAILURES).unwrap_or(0)
}

fn number(annotations: Option<&BTreeMap<String, String>>, key: &str) -> Option<i32> {
    annotations?.get(key)?.parse().ok()
}

/// Reads `1,3-5,7`; what is no number is passed over, and so is what lies outside `0..limit`.
pub(super) fn parse(text: &str, limit: i32) -> Indexes {
    let mut indexes = Indexes::default();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<i32>(), last.parse::<i32>()) {
            indexes.insert_range(first.max(0), last.min(limit.saturating_sub(1)));
        }
    }
    indexes
}

/// Writes a set as `parse` reads it; ranges are used from three numbers on.
pub(super) fn format(indexes: &Indexes) -> String {
    let parts = indexes.0.iter().map(|(first, last)| match span(*first, *last) {
        1 => first.to_string(),
        2 => format!("{first},{last}"),
        _ => format!("{first}-{last}"),
    });
    parts.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_form_joins_three_and_more() {
        for text in ["", "0", "0,1", "0-2", "1,3-5,7,8,10"] {
            assert_eq!(format(&parse(text, 100)), text);
        }
        assert_eq!(format(&parse("0-4,junk,9", 3)), "0-2");
        assert_eq!(format(&parse("7,1-3,4,0,9-8,6,2-3", 100)), "0-4,6,7");
    }

    /// A few bytes of text that would be gigabytes, number by number.
    #[test]
    fn a_set_is_as_large_as_its_text() {
        let all = parse(&"0-2147483646,".repeat(1000), i32::MAX);
        assert_eq!((all.len(), format(&all)), (i32::MAX as usize, "0-2147483646".to_owned()));
        let some = parse("5-9,2147483640-2147483646", i32::MAX);
        assert_eq!((all.common(&some), some.common(&all), some.common(&parse("9,11", 100))), (12, 12, 1));
        assert!(some.contains(&9) && !some.contains(&10) && !some.contains(&4));
        let evens: Indexes = (0..2000).map(|n| n * 2).collect();
        assert_eq!((evens.len(), evens.common(&(0..100).collect())), (2000, 50));
    }
}
