//! Which form of an answer the client wants: the `Accept` header, read as upstream reads it.

use super::decode::MEDIA_TYPES;
use crate::status::{Result, Status};

/// How an answer's bytes are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    Json,
    Yaml,
    Protobuf,
}

/// What the answer holds: the objects themselves, or what is derived from them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Object,
    /// `as=Table;g=meta.k8s.io;v=v1`
    Table,
    /// `as=PartialObjectMetadata;g=meta.k8s.io;v=v1`
    Metadata,
    /// `as=PartialObjectMetadataList;g=meta.k8s.io;v=v1`
    MetadataList,
}

/// The answer's media type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    pub encoding: Encoding,
    pub form: Form,
    pub pretty: bool,
}

/// Picks the answer's form from the `Accept` header of a request for one answer; 406 where nothing fits.
pub fn negotiate(accept: Option<&str>) -> Result<Accepted> {
    pick(accept, false).ok_or_else(not_acceptable)
}

/// The same for an answer that has no other form than its own (reviews, bindings).
pub fn negotiate_plain(accept: Option<&str>) -> Result<Accepted> {
    let clauses = accept.map(|header| {
        let plain = header
            .split(',')
            .filter(|c| clause(c).is_some_and(|c| c.parameters.iter().all(|(k, _)| *k != "as")));
        plain.collect::<Vec<_>>().join(",")
    });
    match (accept, clauses.as_deref()) {
        (Some(given), Some("")) if !given.trim().is_empty() => Err(not_acceptable()),
        (_, plain) => negotiate(plain),
    }
}

/// The same for a watch, which is a stream of events.
pub fn negotiate_stream(accept: Option<&str>) -> Result<Accepted> {
    let accepted = pick(accept, true).filter(|a| a.encoding != Encoding::Yaml);
    accepted.ok_or_else(not_acceptable)
}

/// The same for objects that have no typed form: only what is derived from them is written as protobuf.
pub fn negotiate_untyped(accept: Option<&str>, stream: bool) -> Result<Accepted> {
    let binary = |c: &Clause<'_>| {
        c.media == "application/vnd.kubernetes.protobuf" && c.parameters.iter().all(|(k, _)| *k != "as")
    };
    let accept = accept.filter(|header| !header.trim().is_empty());
    let clauses = accept.map(|header| {
        let texts = header.split(',').filter(|c| clause(c).is_some_and(|c| !binary(&c)));
        texts.collect::<Vec<_>>().join(",")
    });
    let accepted = match clauses.as_deref() {
        Some("") => None,
        clauses => pick(clauses, stream).filter(|a| !stream || a.encoding != Encoding::Yaml),
    };
    accepted.ok_or_else(|| {
        let media =
            if stream { "application/json;stream=watch" } else { "application/json, application/yaml" };
        Status::not_acceptable(format!("406: Not Acceptable\n\nAvailable representations: {media}"))
    })
}

fn not_acceptable() -> Status {
    let streams = "application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch";
    Status::not_acceptable(format!(
        "406: Not Acceptable\n\nAvailable representations: {MEDIA_TYPES}, {streams}"
    ))
}

/// One alternative of an `Accept` header.
struct Clause<'a> {
    media: &'a str,
    parameters: Vec<(&'a str, &'a str)>,
    quality: f32,
}

fn pick(accept: Option<&str>, stream: bool) -> Option<Accepted> {
    let header = accept.unwrap_or_default();
    if header.trim().is_empty() {
        return Some(Accepted { encoding: Encoding::Json, form: Form::Object, pretty: false });
    }
    let mut clauses: Vec<Clause<'_>> = header.split(',').filter_map(clause).collect();
    // The better quality first, then the more specific type, else as written.
    clauses.sort_by(|a, b| b.quality.total_cmp(&a.quality).then(wildcards(a).cmp(&wildcards(b))));
    clauses.iter().flat_map(|c| alternatives(c, stream)).next()
}

fn clause(text: &str) -> Option<Clause<'_>> {
    let mut parts = text.split(';').map(str::trim);
    let media = parts.next().filter(|m| !m.is_empty())?;
    let mut clause = Clause { media, parameters: vec![], quality: 1.0 };
    for part in parts {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        match key {
            "q" => clause.quality = value.parse().unwrap_or(1.0),
            _ => clause.parameters.push((key, value.trim_matches('"'))),
        }
    }
    Some(clause)
}

fn wildcards(clause: &Clause<'_>) -> usize {
    clause.media.matches('*').count()
}

/// What of the server's encodings a clause admits, in the server's order.
fn alternatives(clause: &Clause<'_>, stream: bool) -> Vec<Accepted> {
    let encodings: &[Encoding] = match clause.media {
        "*/*" | "application/*" => &[Encoding::Json, Encoding::Yaml, Encoding::Protobuf],
        "application/json" => &[Encoding::Json],
        "application/yaml" => &[Encoding::Yaml],
        "application/vnd.kubernetes.protobuf" => &[Encoding::Protobuf],
        _ => &[],
    };
    encodings.iter().filter_map(|encoding| options(clause, *encoding, stream)).collect()
}

fn options(clause: &Clause<'_>, encoding: Encoding, stream: bool) -> Option<Accepted> {
    let mut accepted = Accepted { encoding, form: Form::Object, pretty: false };
    let (mut kind, mut group, mut version) = (None, "", "");
    for (key, value) in &clause.parameters {
        match *key {
            "as" => kind = Some(*value),
            "g" => group = value,
            "v" => version = value,
            "stream" if !value.is_empty() && *value != "watch" => return None,
            "sv" if !value.is_empty() => return None,
            "pretty" => accepted.pretty = *value == "1",
            _ => {}
        }
    }
    accepted.form = match kind {
        None => Form::Object,
        Some(_) if group != "meta.k8s.io" || !matches!(version, "v1" | "v1beta1") => return None,
        // A table's cells have no protobuf form.
        Some("Table") if encoding == Encoding::Protobuf => return None,
        Some("Table") => Form::Table,
        Some("PartialObjectMetadata") => Form::Metadata,
        Some("PartialObjectMetadataList") if !stream => Form::MetadataList,
        Some(_) => return None,
    };
    Some(accepted)
}
