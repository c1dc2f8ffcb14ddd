//! Prometheus' text format.

use std::fmt::Write as _;

use jiff::Timestamp;

/// One page of metrics.
pub(crate) struct Exposition {
    text: String,
    at: Option<i64>,
    /// What stands before each help text.
    stability: &'static str,
}

// === impl Exposition ===

impl Exposition {
    /// A page whose samples carry the time they were taken.
    pub(crate) fn timed(stability: &'static str) -> Self {
        Self { text: String::new(), at: Some(Timestamp::now().as_millisecond()), stability }
    }

    /// A page of samples as they are now.
    pub(crate) fn untimed(stability: &'static str) -> Self {
        Self { text: String::new(), at: None, stability }
    }

    pub(crate) fn finish(self) -> String {
        self.text
    }

    /// One metric with all its samples; without any there is nothing to tell.
    pub(crate) fn family<'a>(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        rows: impl Iterator<Item = (&'a str, String)>,
    ) {
        let mut rows = rows.peekable();
        if rows.peek().is_none() {
            return;
        }
        // Writing to a text cannot fail.
        let _ = writeln!(self.text, "# HELP {name} {}{help}\n# TYPE {name} {kind}", self.stability);
        for (labels, value) in rows {
            let _ = match labels {
                "" => write!(self.text, "{name} {value}"),
                labels => write!(self.text, "{name}{{{labels}}} {value}"),
            };
            let _ = match self.at.filter(|_| !name.ends_with("_error")) {
                Some(at) => writeln!(self.text, " {at}"),
                None => writeln!(self.text),
            };
        }
    }
}

/// `name="value"` pairs, with what is special in values escaped.
pub(crate) fn labels(pairs: &[(&str, &str)]) -> String {
    let pair = |(name, value): &(&str, &str)| {
        let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        format!("{name}=\"{value}\"")
    };
    pairs.iter().map(pair).collect::<Vec<_>>().join(",")
}

pub(crate) fn seconds(nanos: u64) -> String {
    format!("{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_help_type_and_samples() {
        let mut page = Exposition::untimed("[ALPHA] ");
        page.family("none", "gauge", "Nothing", std::iter::empty());
        let rows = [("", "1".to_owned()), ("a=\"b\"", seconds(1_500_000_000))];
        page.family("some", "counter", "Something", rows.into_iter());
        let want = "# HELP some [ALPHA] Something\n# TYPE some counter\nsome 1\nsome{a=\"b\"} 1.500000000\n";
        assert_eq!(page.finish(), want);
        assert_eq!(labels(&[("a", "x\"y\\z"), ("b", "")]), r#"a="x\"y\\z",b="""#);
        let mut timed = Exposition::timed("");
        timed.family("x_scrape_error", "gauge", "h", std::iter::once(("", "0".to_owned())));
        assert!(timed.finish().ends_with("x_scrape_error 0\n"));
    }
}
