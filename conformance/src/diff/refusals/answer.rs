//! An answer, cut down to what a refusal says.

use std::collections::{BTreeMap, HashMap};
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

/// How long an object may be that is compared where a message quotes it, in upstream's words or in ours.
const QUOTED: usize = 200;

/// What a server made of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
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
#[derive(Clone, Debug, Default)]
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
            (true, false) => shown_causes(said),
        };
        // Of causes, those that only one has.
        let beyond = |one: &Said, other: &Said| {
            let own = one.causes.iter().filter(|cause| !other.causes.contains(cause)).cloned().collect();
            Said { causes: own, ..one.clone() }
        };
        let (ours, upstream) = match (beyond(self, theirs), beyond(theirs, self)) {
            (a, b) if a.causes.is_empty() && b.causes.is_empty() => (shown(self), shown(theirs)),
            (a, b) if self.causes.is_empty() || theirs.causes.is_empty() => (shown(&a), shown(&b)),
            (a, b) => (shown_causes(&a), shown_causes(&b)),
        };
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

fn shown_causes(said: &Said) -> String {
    let all: Vec<String> = said.causes.iter().map(|[_, field, why]| format!("{field}: {why}")).collect();
    all.join("; ")
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
    // Storage does not tell an empty list from none, inside of what is quoted neither.
    let rest = &rest.replace(":[]", ":null");
    let mut values = serde_json::Deserializer::from_str(rest).into_iter::<Value>();
    let read = values.next().is_some_and(|v| v.is_ok());
    let end = values.byte_offset();
    match rest.get(end..) {
        Some(detail) if read && end > QUOTED => format!("{cause} value: <object>{detail}"),
        _ => format!("{cause} value: {rest}"),
    }
}

/// Answers that are being gathered, and those that they will be compared with: nothing else is asked.
#[derive(Debug, Default)]
pub(super) struct Gathered<'a> {
    pub answers: Answers,
    pub wanted: Option<&'a Answers>,
}

// === impl Gathered ===

impl Gathered<'_> {
    /// Whether anybody wants to know.
    pub(super) fn wants(&self, request: &str) -> bool {
        self.wanted.is_none_or(|wanted| wanted.0.contains_key(request))
    }

    pub(super) fn add(&mut self, request: String, said: Option<Said>) {
        self.answers.0.extend(said.map(|said| (request, said)));
    }
}

// === impl Answers ===

impl Answers {
    pub(super) fn load(file: &Path) -> Result<Self> {
        let packed = std::fs::read(file).with_context(|| format!("reading {}", file.display()))?;
        let mut text = String::new();
        GzDecoder::new(&*packed).read_to_string(&mut text)?;
        serde_json::from_str::<Kept>(&text)?.answers()
    }

    pub(super) fn save(&self, file: &Path) -> Result<()> {
        let mut packed = GzEncoder::new(vec![], Compression::best());
        packed.write_all(serde_json::to_string(&Kept::of(self))?.as_bytes())?;
        std::fs::write(file, packed.finish()?).with_context(|| format!("writing {}", file.display()))
    }
}

/// Answers as they are kept: each once, and each part of a request's name as seldom as can be.
#[derive(Default, Serialize, Deserialize)]
struct Kept {
    said: Vec<Said>,
    /// Seed, change, way of asking, and which of the answers.
    asked: BTreeMap<String, BTreeMap<String, BTreeMap<String, usize>>>,
}

/// `Pod v1 seed`, `update`, and the change.
const SEED_WORDS: usize = 3;

// === impl Kept ===

impl Kept {
    fn of(answers: &Answers) -> Self {
        let mut kept = Kept::default();
        let mut known: HashMap<&Said, usize> = HashMap::new();
        for (name, said) in &answers.0 {
            let at = *known.entry(said).or_insert_with(|| {
                kept.said.push(said.clone());
                kept.said.len() - 1
            });
            let words = name.match_indices(' ').map(|(i, _)| i).nth(SEED_WORDS - 1).unwrap_or(name.len());
            let (seed, rest) = name.split_at(words);
            let (how, change) = rest.trim_start().split_once(' ').unwrap_or((rest.trim_start(), ""));
            let of_seed = kept.asked.entry(seed.to_owned()).or_default();
            of_seed.entry(change.to_owned()).or_default().insert(how.to_owned(), at);
        }
        kept
    }

    fn answers(self) -> Result<Answers> {
        let mut answers = Answers::default();
        for (seed, changes) in &self.asked {
            for (change, ways) in changes {
                for (how, at) in ways {
                    let said = self.said.get(*at).with_context(|| format!("{seed} {how} {change}"))?;
                    let name = format!("{seed} {how} {change}");
                    answers.0.insert(name.trim_end_matches(' ').to_owned(), said.clone());
                }
            }
        }
        Ok(answers)
    }
}
