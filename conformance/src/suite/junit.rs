//! Reading e2e.test's junit files, and writing one of what ran.

use anyhow::{Context, Result};

use super::results::Outcome;

/// Name, outcome and element of every test that ran; those that were merely not selected are left out.
pub(crate) fn parse(xml: &str) -> Result<Vec<(String, Outcome, String)>> {
    let document = roxmltree::Document::parse(xml).context("a junit file")?;
    let cases = document.descendants().filter(|n| n.has_tag_name("testcase"));
    Ok(cases
        .filter_map(|case| {
            let (name, outcome) = outcome(case)?;
            Some((name, outcome, xml[case.range()].to_owned()))
        })
        .collect())
}

/// All that an element says about a failure.
pub(super) fn message(element: &str) -> Option<String> {
    let document = roxmltree::Document::parse(element).ok()?;
    let failure = document.descendants().find(|n| n.has_tag_name("failure") || n.has_tag_name("error"))?;
    Some(format!(
        "{}\n{}",
        failure.attribute("message").unwrap_or_default(),
        failure.text().unwrap_or_default()
    ))
}

/// A junit file of the given elements.
pub(super) fn document(elements: &[String]) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites><testsuite name=\"Kubernetes e2e suite\" tests=\"{}\">\n{}\n\
         </testsuite></testsuites>\n",
        elements.len(),
        elements.join("\n")
    )
}

fn outcome(case: roxmltree::Node<'_, '_>) -> Option<(String, Outcome)> {
    let name = case.attribute("name")?.strip_prefix("[It] ")?.to_owned();
    let seconds = case.attribute("time").and_then(|t| t.parse().ok()).unwrap_or(0.0);
    let child = |tag: &str| case.children().find(|n| n.has_tag_name(tag));
    let broken = child("failure").or_else(|| child("error"));
    if let Some(node) = broken {
        let message = node.attribute("message").filter(|m| !m.is_empty()).or_else(|| node.text());
        return Some((name, Outcome::failed(seconds, &cause(message.unwrap_or_default()))));
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

/// What went wrong, on one line: ginkgo says first that it did, then what, then where and more.
fn cause(message: &str) -> String {
    let lines = message.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with("In ["));
    let lines =
        lines.take_while(|l| !l.starts_with("Full Stack Trace") && !l.starts_with("There were additional"));
    let text = lines.take(4).collect::<Vec<_>>().join(" ");
    match text.split_once("] ") {
        Some(("[FAILED" | "[PANICKED" | "[INTERRUPTED" | "[TIMEDOUT", rest)) => rest.to_owned(),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_says_what_went_wrong() {
        let panicked = "[PANICKED] Test Panicked\nIn [It] at: rand.go:180\n\ninvalid argument to Intn\n\nFull Stack Trace\n  math";
        assert_eq!(cause(panicked), "Test Panicked invalid argument to Intn");
        let late = "[FAILED] Timed out after 300.000s.\nExpected pod to be ready\nIn [It] at: x.go:1\n";
        assert_eq!(cause(late), "Timed out after 300.000s. Expected pod to be ready");
    }

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
        let seen: Vec<_> =
            found.iter().map(|(n, o, _)| (n.as_str(), o.result.as_str(), o.error.as_str())).collect();
        assert_eq!(
            seen,
            [
                ("a", "passed", ""),
                ("b", "failed", "first line second"),
                ("d", "skipped", "skipped - needs two nodes")
            ]
        );
        let elements: Vec<_> = found.into_iter().map(|(_, _, xml)| xml).collect();
        assert_eq!(parse(&document(&elements)).unwrap().len(), 3);
    }
}
