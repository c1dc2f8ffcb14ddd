//! Completion indexes: the numbers an Indexed Job gives its pods, and the text form of a set of them.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;

pub(super) const INDEX: &str = "batch.kubernetes.io/job-completion-index";
pub(super) const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
pub(super) const IGNORED_FAILURES: &str = "batch.kubernetes.io/job-index-ignored-failure-count";

pub(super) type Indexes = BTreeSet<i32>;

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
    let mut indexes = Indexes::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<i32>(), last.parse::<i32>()) {
            indexes.extend(first.max(0)..=last.min(limit.saturating_sub(1)));
        }
    }
    indexes
}

/// Writes a set as `parse` reads it; ranges are used from three numbers on.
pub(super) fn format(indexes: &Indexes) -> String {
    let mut parts = Vec::new();
    let mut rest = indexes.iter().copied().peekable();
    while let Some(first) = rest.next() {
        let mut last = first;
        while let Some(next) = rest.next_if(|next| *next == last + 1) {
            last = next;
        }
        parts.push(match last - first {
            0 => first.to_string(),
            1 => format!("{first},{last}"),
            _ => format!("{first}-{last}"),
        });
    }
    parts.join(",")
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
    }
}
