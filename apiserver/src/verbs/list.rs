//! List: which revision, which page, which objects; the bytes are the stored ones.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use serde::{Deserialize, Serialize};

use super::list_options;
use super::select::Selection;
use super::versions;
use crate::Server;
use crate::request::RequestInfo;
use crate::resource::Resource;
use crate::status::{Result, Status};
use crate::store::{Expired, Stored};

/// How long a continue token is good for: after that its list is as good as compacted, as with upstream's compaction.
const TOKEN_SECONDS: i64 = 300;

/// One page of a list.
pub struct Listed {
    pub items: Vec<Arc<Stored>>,
    pub revision: u64,
    pub next: Option<String>,
    pub remaining: Option<usize>,
}

/// What a continue token means: the next page of a list begun at a revision, after a key.
#[derive(Serialize, Deserialize)]
struct Token {
    /// 0: no revision; the list goes on with what is there now.
    rv: u64,
    start: String,
    /// Unix seconds at which the list began.
    at: i64,
}

/// The version part of a list's query.
struct Version {
    revision: u64,
    exact: bool,
}

pub async fn list(server: &Server, info: &RequestInfo, resource: &Resource, now: i64) -> Result<Listed> {
    list_options::check(info, false)?;
    let selection = Selection::parse(info, resource)?;
    let prefix = prefix(resource, &info.namespace);
    let limit = list_options::number(info, "limit")?.unwrap_or(0).max(0);
    let limit = usize::try_from(limit).unwrap_or(0);
    let token = info.param("continue").filter(|c| !c.is_empty());
    let version = version(info, token.is_some())?;
    // What a selector asks may be another in the stored version: then all is looked at, as it is served.
    let late = resource.by_webhook.is_some() && !selection.is_everything();
    let matches = |s: &Stored| late || selection.matches(s);
    let everything = selection.is_everything();
    let token = token.map(|token| decode(&token)).transpose()?;
    let begun = token.as_ref().filter(|t| t.rv != 0).map_or(now, |t| t.at);
    let page =
        Page { server, resource, prefix: &prefix, limit: if late { 0 } else { limit }, everything, now };
    let mut listed = page.find(token, version, matches).await?;
    listed.items = versions::all_served(server, resource, listed.items).await?;
    if late {
        listed.items.retain(|s| selection.matches(s));
        if limit > 0 && listed.items.len() > limit {
            listed.items.truncate(limit);
            listed.next = Some(page.token(listed.revision, &listed.items, begun));
        }
    }
    Ok(listed)
}

/// The part of the key space a request is about.
pub fn prefix(resource: &Resource, namespace: &str) -> String {
    match namespace {
        "" => String::new(),
        _ if !resource.namespaced() => String::new(),
        ns => format!("{ns}/"),
    }
}

struct Page<'a> {
    server: &'a Server,
    resource: &'a Resource,
    prefix: &'a str,
    limit: usize,
    everything: bool,
    now: i64,
}

// === impl Listed ===

impl Listed {
    /// The list's own metadata.
    pub fn metadata(&self) -> serde_json::Value {
        let mut metadata = serde_json::json!({"resourceVersion": self.revision.to_string()});
        if let Some(next) = &self.next {
            metadata["continue"] = next.as_str().into();
        }
        if let Some(remaining) = self.remaining {
            metadata["remainingItemCount"] = remaining.into();
        }
        metadata
    }
}

impl Listed {
    /// The same as JSON, in the order of upstream's type.
    pub fn metadata_text(&self) -> String {
        let mut text = format!("{{\"resourceVersion\":\"{}\"", self.revision);
        if let Some(next) = &self.next {
            text.push_str(&format!(",\"continue\":{next:?}"));
        }
        if let Some(remaining) = self.remaining {
            text.push_str(&format!(",\"remainingItemCount\":{remaining}"));
        }
        text.push('}');
        text
    }
}

// === impl Page ===

impl Page<'_> {
    async fn find(
        &self,
        token: Option<Token>,
        version: Option<Version>,
        matches: impl Fn(&Stored) -> bool,
    ) -> Result<Listed> {
        let store = &self.server.store;
        match (token, version) {
            (Some(token), _) if token.rv != 0 => {
                let page = self.past(token.rv, &token.start, token.at, matches).await;
                page.map_err(|e| e.unwrap_or_else(|| inconsistent(&token, store.revision())))
            }
            (Some(token), _) => self.present(&token.start, matches),
            (None, Some(Version { revision, exact: true })) => {
                ahead(self.server, revision)?;
                let page = self.past(revision, "", self.now, matches).await;
                page.map_err(|e| e.unwrap_or_else(|| compacted(revision, store.compacted())))
            }
            (None, version) => {
                ahead(self.server, version.map_or(0, |v| v.revision))?;
                self.present("", matches)
            }
        }
    }

    /// From memory: what is there now.
    fn present(&self, start: &str, matches: impl Fn(&Stored) -> bool) -> Result<Listed> {
        let limit = if self.limit > 0 { self.limit } else { usize::MAX };
        let view = self.server.store.select(&self.resource.storage, self.prefix, start, limit, matches);
        let next = (view.more > 0).then(|| self.token(view.revision, &view.items, self.now));
        let remaining = (view.more > 0 && self.everything).then_some(view.more);
        Ok(Listed { items: view.items, revision: view.revision, next, remaining })
    }

    /// From the log, or from memory where nothing of this resource has changed since. `Err(None)`: history is gone.
    async fn past(
        &self,
        revision: u64,
        start: &str,
        begun: i64,
        matches: impl Fn(&Stored) -> bool,
    ) -> Result<Listed, Option<Status>> {
        if self.now - begun > TOKEN_SECONDS {
            return Err(None);
        }
        let (storage, store) = (&self.resource.storage, &self.server.store);
        let mut items: Vec<Arc<Stored>> = if store.resource_revision(storage) <= revision {
            store.select(storage, self.prefix, start, usize::MAX, |_| true).items
        } else {
            let all = store.list_at(storage, self.prefix, start, revision, usize::MAX - 1);
            all.await
                .map_err(|e| match e {
                    Expired::Compacted { .. } => None,
                    other => Some(Status::internal(other)),
                })?
                .items
        };
        if !self.everything {
            items.retain(|s| matches(s));
        }
        let rest = items.len().saturating_sub(self.limit);
        let more = self.limit > 0 && rest > 0;
        let next = more.then(|| {
            items.truncate(self.limit);
            self.token(revision, &items, begun)
        });
        Ok(Listed { items, revision, next, remaining: (more && self.everything).then_some(rest) })
    }

    fn token(&self, rv: u64, items: &[Arc<Stored>], at: i64) -> String {
        encode(&Token { rv, start: items.last().map(|s| s.key.to_string()).unwrap_or_default(), at })
    }
}

fn encode(token: &Token) -> String {
    BASE64.encode(serde_json::to_vec(token).expect("plain data can be written to memory"))
}

fn decode(text: &str) -> Result<Token> {
    let refused = |why: String| {
        Status::bad_request(format!("invalid continue token: continue key is not valid: {why}"))
    };
    let json = BASE64.decode(text).map_err(|e| {
        let at = match e {
            base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _) => at,
            _ => text.len() / 4 * 4,
        };
        refused(format!("illegal base64 data at input byte {at}"))
    })?;
    serde_json::from_slice(&json)
        .map_err(|_| refused("server does not recognize this encoded version".to_owned()))
}

/// A client's token is refused, or is one that means the same when it is written again.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn hostile_token(text: &str) {
    if let Ok(token) = decode(text) {
        let again = decode(&encode(&token)).expect("what we wrote");
        assert_eq!((again.rv, again.start, again.at), (token.rv, token.start, token.at));
    }
}

/// The 410 that lets a client go on with what is there now.
fn inconsistent(token: &Token, _head: u64) -> Status {
    let next = encode(&Token { rv: 0, start: token.start.clone(), at: token.at });
    let mut status = Status::expired(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list \
         without the continue parameter, or use the continue token in this response to retrieve the remainder of the \
         results. Continuing with the provided token results in an inconsistent list - objects that were created, \
         modified, or deleted between the time the first chunk was returned and now may show up in the list.",
    );
    status.0.continue_token = Some(next);
    status
}

fn compacted(revision: u64, compacted: u64) -> Status {
    Status::expired(format!("too old resource version: {revision} ({compacted})"))
}

/// A revision that does not exist yet.
fn ahead(server: &Server, revision: u64) -> Result<()> {
    let head = server.store.revision();
    if revision <= head {
        return Ok(());
    }
    Err(too_large(revision, head))
}

pub fn too_large(revision: u64, head: u64) -> Status {
    let mut status =
        Status::new(504, "Timeout", format!("Too large resource version: {revision}, current: {head}"));
    status.0.details = Some(serde_json::json!({
        "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
        "retryAfterSeconds": 1}));
    status
}

/// What `resourceVersion` and `resourceVersionMatch` mean together.
fn version(info: &RequestInfo, continues: bool) -> Result<Option<Version>> {
    let revision = info.param("resourceVersion").unwrap_or_default();
    let rule = info.param("resourceVersionMatch").unwrap_or_default();
    if continues && !revision.is_empty() && revision != "0" {
        return Err(Status::bad_request("specifying resource version is not allowed when using continue"));
    }
    if revision.is_empty() {
        return Ok(None);
    }
    let number = parse_revision(&revision)
        .map_err(|e| Status::bad_request(format!("invalid resource version: {}", e.0.message)))?;
    // Upstream's rule from before the match parameter: a limit and a version other than 0 mean exactly that version.
    let limited = info.param("limit").is_some_and(|l| !l.is_empty() && l != "0");
    let exact = rule == "Exact" || rule.is_empty() && limited && number != 0;
    Ok(Some(Version { revision: number, exact }))
}

pub fn parse_revision(text: &str) -> Result<u64> {
    match text {
        "" => Ok(0),
        _ => text.parse().map_err(|_| {
            // Upstream gives it no reason.
            let why = format!("strconv.ParseUint: parsing {text:?}: invalid syntax");
            Status::new(500, "", format!("resourceVersion: Invalid value: {text:?}: {why}"))
        }),
    }
}
