//! What is written down of single seeds: values for several places at once, and subresources with bodies.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::changes::{self, Change, Edit, shown};
use super::documents::Documents;
use crate::suite::home;

/// A write to `OBJECT/at`.
pub(super) struct Subresource {
    pub at: String,
    pub method: String,
    /// The body, where it is not the object itself.
    pub object: Option<Value>,
    pub changes: Vec<Change>,
}

/// The lines of a file of scripts, each a JSON value.
pub(super) fn lines(file: &str) -> Result<Vec<Value>> {
    let path = home().join("scripts").join(file);
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let all = text.lines().filter(|l| !l.is_empty() && !l.starts_with('#'));
    all.map(|l| serde_json::from_str(l).with_context(|| format!("{file}: {l}"))).collect()
}

/// `{"of": SEED}`, then its cases, `{JSON POINTER: VALUE, ...}`: null takes away.
pub(super) fn cases() -> Result<BTreeMap<String, Vec<Change>>> {
    let mut all: BTreeMap<String, Vec<Change>> = BTreeMap::new();
    let mut seed = String::new();
    for line in lines("cases.jsonl")? {
        match line["of"].as_str() {
            Some(of) => of.clone_into(&mut seed),
            None => all.entry(seed.clone()).or_default().push(case(&line)),
        }
    }
    Ok(all)
}

fn case(line: &Value) -> Change {
    let mut edits = vec![];
    let mut name = vec![];
    for (pointer, value) in line.as_object().into_iter().flatten() {
        let steps = pointer.split('/').skip(1).map(|s| s.replace("~1", "/").replace("~0", "~"));
        let place: Vec<String> = steps.collect();
        name.push(format!("{}={value}", shown(&place)));
        edits.push(Edit { place, value: Some(value.clone()).filter(|v| !v.is_null()) });
    }
    Change { name: name.join(" "), edits, mistyped: false }
}

/// `{"of": SEED, "at": SUBRESOURCE, "method": POST or PUT, "object": BODY, "cases": [...]}`: without a body, the stored
/// object; without cases, all changes of the body.
pub(super) fn subresources(documents: &Documents) -> Result<BTreeMap<String, Vec<Subresource>>> {
    let mut all: BTreeMap<String, Vec<Subresource>> = BTreeMap::new();
    for line in lines("subresources.jsonl")? {
        let word = |at: &str| line[at].as_str().unwrap_or_default().to_owned();
        let seed = word("of");
        let object = Some(line["object"].clone()).filter(|object| !object.is_null());
        let changes = match (line["cases"].as_array(), &object) {
            (Some(cases), _) => cases.iter().map(case).collect(),
            (None, Some(object)) => {
                let text = |at: &str| object[at].as_str().unwrap_or_default();
                let root = documents.kind(text("apiVersion"), text("kind"))?;
                changes::of(documents, text("kind"), root, object)
            }
            (None, None) => bail!("{line}: neither an object nor cases"),
        };
        let method = line["method"].as_str().unwrap_or("PUT").to_owned();
        all.entry(seed).or_default().push(Subresource { at: word("at"), method, object, changes });
    }
    Ok(all)
}
