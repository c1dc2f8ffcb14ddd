//! An answer, cut down to what a refusal says.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::Path;

use anyhow::{Context, Result};
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::super::compare::{alike, header};
use crate::wire::Answer;

/// How long an object may be that is compared where a message quotes it.
const QUOTED: usize = 200;

/// What a server made of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Said {
    #[serde(rename = "c")]
    pub code: u16,
    #[serde(rename = "r", default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Where there are causes, what comes before them.
    #[serde(rename = "m", default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Reason, field and message of each cause, in order.
    #[serde(rename = "x", default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<[String; 3]>,
    #[serde(rename = "w", default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// Answers by the name of their request.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Answers(pub BTreeMap<String, Said>);

// === impl Said ===

impl Said {
    pub(super) fn of(answer: &Answer) -> Self {
        let mut said = Said { code: answer.code, warnings: header(answer, "warning"), ..Said::default() };
        if answer.code < 400 {
            return said;
        }
        let mut body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        alike(&mut body);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        said.reason = text(&body["reason"]);
        said.message = text(&body["message"]);
        for cause in body["details"]["causes"].as_array().into_iter().flatten() {
            // Upstream shows how its Go types differ below some messages.
            let message = quoted(text(&cause["message"]).lines().next().unwrap_or_default());
            said.causes.push([text(&cause["reason"]), text(&cause["field"]), message]);
        }
        if !said.causes.is_empty() {
            let end = said.message.find(" is invalid: ").unwrap_or(said.message.len());
            said.message.truncate(end);
        }
        said
    }

    pub(super) fn refused(&self) -> bool {
        self.code >= 400
    }

    /// Where this answer is another than upstream's: ours first.
    pub(super) fn unlike(&self, theirs: &Said) -> Option<String> {
        if self == theirs {
            return None;
        }
        let shown = |said: &Said| match (said.refused(), said.causes.is_empty()) {
            (false, _) => said.code.to_string(),
            (true, true) => format!("{} {}", said.code, said.message),
            (true, false) => said
                .causes
                .iter()
                .map(|[_, field, why]| format!("{field}: {why}"))
                .collect::<Vec<_>>()
                .join("; "),
        };
        let (ours, upstream) = (shown(self), shown(theirs));
        if ours != upstream {
            return Some(format!("{ours}  <>  {upstream}"));
        }
        if self.warnings != theirs.warnings {
            return Some(format!("warnings {:?}  <>  {:?}", self.warnings, theirs.warnings));
        }
        let short =
            |said: &Said| format!("{} {} {:?} {:?}", said.code, said.reason, said.message, said.causes);
        Some(format!("{}  <>  {}", short(self), short(theirs)))
    }
}

/// A message without what servers may show in ways of their own: whether nothing is `null`, `[]` or `{}`, and objects
/// that are quoted whole, in which upstream has the fields of its Go types.
fn quoted(message: &str) -> String {
    let Some((cause, rest)) = message.split_once(" value: ") else { return message.to_owned() };
    let values: [(&str, &str); 2] = [("{}", "null"), ("[]", "null")];
    for (empty, word) in values {
        if let Some(detail) = rest.strip_prefix(empty) {
            return format!("{cause} value: {word}{detail}");
        }
    }
    if !rest.starts_with(['{', '[']) {
        return message.to_owned();
    }
    let mut values = serde_json::Deserializer::from_str(rest).into_iter::<Value>();
    let read = values.next().is_some_and(|v| v.is_ok());
    let end = values.byte_offset();
    match rest.get(end..) {
        Some(detail) if read && end > QUOTED => format!("{cause} value: <object>{detail}"),
        _ => message.to_owned(),
    }
}

// === impl Answers ===

impl Answers {
    pub(super) fn add(&mut self, request: String, said: Option<Said>) {
        self.0.extend(said.map(|said| (request, said)));
    }

    pub(super) fn load(file: &Path) -> Result<Self> {
        let packed = std::fs::read(file).with_context(|| format!("reading {}", file.display()))?;
        let mut text = String::new();
        GzDecoder::new(&*packed).read_to_string(&mut text)?;
        Ok(serde_json::from_str(&text)?)
    }

    pub(super) fn save(&self, file: &Path) -> Result<()> {
        let mut packed = GzEncoder::new(vec![], Compression::best());
        packed.write_all(serde_json::to_string(self)?.as_bytes())?;
        std::fs::write(file, packed.finish()?).with_context(|| format!("writing {}", file.display()))
    }
}
