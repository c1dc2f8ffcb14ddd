//! Two answers, made alike in what servers may choose, and what then still differs.

use std::borrow::Cow;
use std::path::Path;
use std::sync::LazyLock;

use anyhow::{Context, Result, ensure};
use regex::Regex;
use serde_json::Value;

use crate::wire::Answer;

/// What differs: `where: ours is theirs`.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    pub differences: Vec<String>,
}

/// Headers that clients read.
pub(super) const HEADERS: [&str; 4] = ["content-type", "warning", "retry-after", "location"];

/// Code, the headers clients read, and the body.
pub(super) fn answers(ours: &Answer, theirs: &Answer) -> Comparison {
    let mut found = Comparison::default();
    if ours.code != theirs.code {
        found.add("code", &ours.code.to_string(), &theirs.code.to_string());
    }
    for name in HEADERS {
        let (a, b) = (header(ours, name).join(" | "), header(theirs, name).join(" | "));
        if a != b {
            found.add(name, &a, &b);
        }
    }
    match (values_of(&ours.body), values_of(&theirs.body)) {
        (Some(mut a), Some(mut b)) => {
            a.iter_mut().chain(&mut b).for_each(alike);
            match (&a[..], &b[..]) {
                ([a], [b]) => found.bodies(a, b),
                _ => found.values("$", &a.into(), &b.into()),
            }
        }
        _ if ours.body == theirs.body => {}
        _ => found.add("body", &String::from_utf8_lossy(&ours.body), &String::from_utf8_lossy(&theirs.body)),
    }
    found
}

pub(super) fn header(answer: &Answer, name: &str) -> Vec<String> {
    let values = answer.headers.get_all(name).iter();
    values.map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned()).collect()
}

/// The JSON values of a body: one, or the events of a watch.
pub(super) fn values_of(body: &[u8]) -> Option<Vec<Value>> {
    serde_json::Deserializer::from_slice(body).into_iter().collect::<Result<_, _>>().ok()
}

// === impl Comparison ===

impl Comparison {
    fn add(&mut self, place: &str, ours: &str, theirs: &str) {
        let short = |text: &str| text.chars().take(400).collect::<String>().replace('\n', " ");
        self.differences.push(format!("{place}: {} is {}", short(ours), short(theirs)));
    }

    /// Two answers of different kinds differ once, not in every field; so do two lists of what is invalid.
    fn bodies(&mut self, ours: &Value, theirs: &Value) {
        let (ours_failed, theirs_failed) = (failure(ours), failure(theirs));
        match (ours_failed, theirs_failed) {
            (None, None) => self.values("$", ours, theirs),
            (Some(a), Some(b)) if a != b && ours["reason"] == "Invalid" && theirs["reason"] == "Invalid" => {
                let only = |x: &[String], y: &[String]| {
                    x.iter().filter(|c| !y.contains(c)).cloned().collect::<Vec<_>>().join("; ")
                };
                match (only(&a, &b), only(&b, &a)) {
                    (x, y) if x.is_empty() && y.is_empty() => {
                        self.add("order of causes", &a.join("; "), &b.join("; "));
                    }
                    (x, y) => self.add("causes", &x, &y),
                }
            }
            (Some(_), Some(_)) => self.values("$", ours, theirs),
            _ => self.add("answer", &summary(ours), &summary(theirs)),
        }
    }

    /// Where two JSON values differ.
    pub(super) fn values(&mut self, place: &str, ours: &Value, theirs: &Value) {
        match (ours, theirs) {
            (Value::Object(a), Value::Object(b)) => {
                for (key, value) in a {
                    self.values(&format!("{place}.{key}"), value, b.get(key).unwrap_or(&MISSING));
                }
                for (key, value) in b.iter().filter(|(key, _)| !a.contains_key(*key)) {
                    self.add(&format!("{place}.{key}"), "missing", &value.to_string());
                }
            }
            (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
                for (n, (x, y)) in a.iter().zip(b).enumerate() {
                    self.values(&format!("{place}[{n}]"), x, y);
                }
            }
            (a, b) if a == b => {}
            (a, b) if std::ptr::eq(b, &raw const MISSING) => self.add(place, &a.to_string(), "missing"),
            (a, b) => self.add(place, &a.to_string(), &b.to_string()),
        }
    }
}

/// What is wrong according to a `Status` that is a failure: field and message of each cause.
fn failure(answer: &Value) -> Option<Vec<String>> {
    (answer["kind"] == "Status" && answer["status"] == "Failure").then(|| {
        let causes = answer["details"]["causes"].as_array().into_iter().flatten();
        let text = |c: &Value, key: &str| c[key].as_str().unwrap_or_default().to_owned();
        causes.map(|c| format!("{}: {}", text(c, "field"), text(c, "message"))).collect()
    })
}

fn summary(answer: &Value) -> String {
    match failure(answer) {
        Some(_) => answer["message"].to_string(),
        None => answer["kind"].to_string(),
    }
}

static MISSING: Value = Value::Null;

/// Values a server makes by itself: they differ between any two runs.
const MADE: [&str; 12] = [
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "deletionTimestamp",
    "lastTransitionTime",
    "lastUpdateTime",
    "time",
    "startTime",
    "clusterIP",
    "clusterIPs",
    "nodePort",
    "continue",
];

/// Replaces what servers choose for themselves by words.
pub(super) fn alike(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            if let Some(Value::Array(entries)) = fields.get_mut("managedFields") {
                // Their order is that of their times.
                let text = |e: &Value, key: &str| e[key].as_str().unwrap_or_default().to_owned();
                let keys = ["operation", "manager", "apiVersion", "subresource"];
                entries.sort_by_cached_key(|e| keys.map(|key| text(e, key)));
            }
            let generated = fields.get("generateName").and_then(Value::as_str).map(str::to_owned);
            if let (Some(prefix), Some(name)) = (generated, fields.get_mut("name")) {
                *name = format!("{prefix}made").into();
            }
            for (key, inner) in fields.iter_mut() {
                if MADE.contains(&key.as_str()) && !inner.is_null() && !inner.is_object() && *inner != "" {
                    *inner = format!("made {key}").into();
                } else {
                    alike(inner);
                }
            }
            projected_token(fields);
        }
        Value::Array(items) => items.iter_mut().for_each(alike),
        Value::String(text) => {
            for (made, word) in MADE_TEXTS.iter() {
                if let Cow::Owned(changed) = made.replace_all(text, *word) {
                    *text = changed;
                }
            }
        }
        _ => {}
    }
}

/// What servers make up, inside of messages: ids, times, endings of names.
static MADE_TEXTS: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    [
        ("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "<uid>"),
        (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "<time>"),
        (r#"\ba-[bcdfghjklmnpqrstvwxz2456789]{5}\b"#, "a-<made>"),
        ("^[0-9]+[smh]$", "<age>"),
        (r"^10\.96\.\d+\.\d+$", "<ip>"),
        ("X509SHA256=[0-9a-f]{64}", "<certificate>"),
        (r"current: \d+", "current: <made>"),
        (r#"resourceVersion\\":\\"\d+"#, r#"resourceVersion\":\"<made>"#),
    ]
    .map(|(pattern, word)| (Regex::new(pattern).expect("a pattern of ours"), word))
    .into()
});

/// `kube-api-access-x7k2p` of every pod's token volume and its mounts.
fn projected_token(fields: &mut serde_json::Map<String, Value>) {
    if let Some(Value::String(name)) = fields.get_mut("name")
        && name.starts_with("kube-api-access-")
    {
        *name = "kube-api-access-made".to_owned();
    }
}

/// Differences we mean: lines of `pattern that is found in the difference<TAB>reason`.
#[derive(Debug, Default)]
pub(super) struct Meant(Vec<Regex>);

impl Meant {
    pub(super) fn load(file: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
        let lines = text.lines().filter(|l| !l.starts_with('#') && !l.trim().is_empty());
        let meant = lines.map(|line| {
            let (pattern, reason) =
                line.split_once('\t').with_context(|| format!("{line:?} has no reason"))?;
            ensure!(!reason.trim().is_empty(), "{line:?} has no reason");
            Regex::new(pattern).with_context(|| format!("{pattern:?}"))
        });
        Ok(Meant(meant.collect::<Result<_>>()?))
    }

    pub(super) fn covers(&self, difference: &str) -> bool {
        self.0.iter().any(|pattern| pattern.is_match(difference))
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use serde_json::json;

    use super::*;

    fn answer(code: u16, body: &Value) -> Answer {
        Answer { code, headers: HeaderMap::new(), body: body.to_string().into() }
    }

    #[test]
    fn a_planted_difference_is_found_and_what_servers_choose_is_not() {
        let ours = json!({"metadata": {"name": "x-1", "generateName": "x-", "uid": "1", "resourceVersion": "7"}, "spec": {"a": [1, 2]}});
        let theirs = json!({"metadata": {"name": "x-2", "generateName": "x-", "uid": "2", "resourceVersion": "9"}, "spec": {"a": [1, 2]}});
        assert!(answers(&answer(200, &ours), &answer(200, &theirs)).differences.is_empty());
        let mut planted = theirs.clone();
        planted["spec"]["a"][1] = 3.into();
        planted["status"] = json!({});
        let found = answers(&answer(201, &ours), &answer(200, &planted)).differences;
        assert_eq!(found, ["code: 201 is 200", "$.spec.a[1]: 2 is 3", "$.status: missing is {}"]);
    }
}
