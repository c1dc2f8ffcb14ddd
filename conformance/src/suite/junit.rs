//! Reading ginkgo's junit files.

use anyhow::{Context, Result};

use super::results::Outcome;

/// Name and outcome of every test that ran; those that were merely not selected are left out.
pub(super) fn parse(xml: &str) -> Result<Vec<(String, Outcome)>> {
    let document = roxmltree::Document::parse(xml).context("a junit file")?;
    let cases = document.descendants().filter(|n| n.has_tag_name("testcase"));
    Ok(cases.filter_map(outcome).collect())
}

fn outcome(case: roxmltree::Node<'_, '_>) -> Option<(String, Outcome)> {
    let name = case.attribute("name")?.strip_prefix("[It] ")?.to_owned();
    let seconds = case.attribute("time").and_then(|t| t.parse().ok()).unwrap_or(0.0);
    let child = |tag: &str| case.children().find(|n| n.has_tag_name(tag));
    let broken = child("failure").or_else(|| child("error"));
    if let Some(node) = broken {
        let message = node.attribute("message").or_else(|| node.text()).unwrap_or("failed");
        return Some((name, Outcome::failed(seconds, message)));
    }
    match child("skipped") {
        // A skip with a message was decided by the test; without one the test was not selected.
        Some(node) => node
            .attribute("message")
            .filter(|m| m.starts_with("skipped - "))
            .map(|m| (name, Outcome::skipped(m))),
        None => Some((name, Outcome::passed(seconds))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passed_failed_skipped_and_not_selected_are_told_apart() {
        let xml = r#"<testsuites><testsuite>
          <testcase name="[It] a" status="passed" time="1.5"></testcase>
          <testcase name="[It] b" status="failed" time="2"><failure message="first line&#10;second" type="failed">x</failure></testcase>
          <testcase name="[It] c" status="skipped" time="0"><skipped message="skipped"></skipped></testcase>
          <testcase name="[It] d" status="skipped" time="0"><skipped message="skipped - needs two nodes"></skipped></testcase>
          <testcase name="[SynchronizedBeforeSuite]" status="passed" time="0"></testcase>
        </testsuite></testsuites>"#;
        let found = parse(xml).unwrap();
        let names: Vec<_> =
            found.iter().map(|(n, o)| (n.as_str(), o.result.as_str(), o.error.as_str())).collect();
        assert_eq!(
            names,
            [
                ("a", "passed", ""),
                ("b", "failed", "first line"),
                ("d", "skipped", "skipped - needs two nodes")
            ]
        );
    }
}
