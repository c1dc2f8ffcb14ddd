//! A namespace's labels: which standard it enforces, audits and warns about.

use std::fmt;

use coracle_api::Object;
use serde_json::json;

use crate::field::FieldError;

/// The version whose checks are the newest here; later ones and `latest` mean it.
const NEWEST: u32 = 36;
const LABELS: &str = "pod-security.kubernetes.io/";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Privileged,
    Baseline,
    Restricted,
}

/// A level in a minor version of the standards; no version is `latest`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standard {
    pub(super) level: Level,
    version: Option<u32>,
}

/// What a namespace asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Policy {
    pub(super) enforce: Standard,
    pub(super) audit: Standard,
    pub(super) warn: Standard,
}

const PRIVILEGED: Standard = Standard { level: Level::Privileged, version: None };

// === impl Level ===

impl Level {
    fn parse(text: &str) -> Option<Level> {
        match text {
            "privileged" => Some(Level::Privileged),
            "baseline" => Some(Level::Baseline),
            "restricted" => Some(Level::Restricted),
            _ => None,
        }
    }
}

// === impl Standard ===

impl Standard {
    pub(super) fn minor(self) -> u32 {
        self.version.unwrap_or(NEWEST).min(NEWEST)
    }

    /// Whether the same pods are refused under the other, or more of them.
    pub(super) fn loosens(self, before: Standard) -> bool {
        self.level == Level::Privileged || (self.version == before.version && self.level <= before.level)
    }
}

impl fmt::Display for Standard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        };
        match self.version {
            Some(minor) => write!(f, "{level}:v1.{minor}"),
            None => write!(f, "{level}:latest"),
        }
    }
}

// === impl Policy ===

impl Policy {
    /// Reads the labels. What cannot be read is an error, and meanwhile counts as restricted where it is enforced and as
    /// privileged elsewhere.
    pub(super) fn of(namespace: &Object) -> (Policy, Vec<FieldError>) {
        let mut errors = vec![];
        let mut read = |mode: &str, otherwise: Level| {
            let (label, pinned) = (format!("{LABELS}{mode}"), format!("{LABELS}{mode}-version"));
            let level = namespace.label(&label).map(|text| {
                let parsed = Level::parse(text);
                if parsed.is_none() {
                    errors.push(unreadable(&label, text, "must be one of privileged, baseline, restricted"));
                }
                parsed.unwrap_or(otherwise)
            });
            let version = namespace.label(&pinned).and_then(|text| {
                parse_version(text).unwrap_or_else(|| {
                    errors.push(unreadable(&pinned, text, "must be \"latest\" or \"v1.x\""));
                    None
                })
            });
            (level, version)
        };
        let (enforce, audit, warn) = (
            read("enforce", Level::Restricted),
            read("audit", Level::Privileged),
            read("warn", Level::Privileged),
        );
        let standard = |(level, version): (Option<Level>, Option<u32>)| Standard {
            level: level.unwrap_or(PRIVILEGED.level),
            version,
        };
        let mut policy = Policy { enforce: standard(enforce), audit: standard(audit), warn: standard(warn) };
        let is_read =
            namespace.label(&format!("{LABELS}enforce")).is_some_and(|text| Level::parse(text).is_some());
        if warn.0.is_none() && is_read && policy.enforce.level > policy.warn.level {
            policy.warn.level = policy.enforce.level;
            if namespace.label(&format!("{LABELS}warn-version")).is_none() {
                policy.warn.version = policy.enforce.version;
            }
        }
        (policy, errors)
    }

    pub(super) fn is_privileged(&self) -> bool {
        [self.enforce, self.audit, self.warn].iter().all(|s| s.level == Level::Privileged)
    }
}

fn unreadable(label: &str, value: &str, why: &str) -> FieldError {
    FieldError::invalid(format!("metadata.labels[{label}]"), &json!(value), why)
}

/// `latest` is `Some(None)`.
fn parse_version(text: &str) -> Option<Option<u32>> {
    if text == "latest" {
        return Some(None);
    }
    let minor = text.strip_prefix("v1.")?;
    let canonical = minor == "0" || (!minor.starts_with('0') && minor.bytes().all(|b| b.is_ascii_digit()));
    if canonical { minor.parse().ok().map(Some) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_enforced_is_warned_about_unless_labels_say_otherwise() {
        let policy = |labels: serde_json::Value| {
            let (policy, errors) = Policy::of(&Object(json!({"metadata": {"labels": labels}})));
            let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
            (format!("{} {} {}", policy.enforce, policy.audit, policy.warn), texts)
        };
        let none: Vec<String> = vec![];
        let p = |mode: &str| format!("{LABELS}{mode}");
        assert_eq!(
            policy(json!({})),
            ("privileged:latest privileged:latest privileged:latest".into(), none.clone())
        );
        let pinned = json!({p("enforce"): "restricted", p("enforce-version"): "v1.20"});
        assert_eq!(
            policy(pinned),
            ("restricted:v1.20 privileged:latest restricted:v1.20".into(), none.clone())
        );
        let quiet = json!({p("enforce"): "baseline", p("warn"): "privileged"});
        assert_eq!(policy(quiet), ("baseline:latest privileged:latest privileged:latest".into(), none));
        let (text, errors) = policy(json!({p("enforce"): "x", p("warn-version"): "v1.02"}));
        assert_eq!(text, "restricted:latest privileged:latest privileged:latest");
        assert_eq!(
            errors[0],
            "metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"x\": must be one of privileged, \
             baseline, restricted"
        );
    }
}
