//! What is asked: each seed with its changes, in the order in which servers are asked.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::super::script::Request;
use super::super::server::Server;
use super::answer::{Answers, Gathered, Said};
use super::cases::{self, Subresource};
use super::changes::{self, Change};
use super::definitions::Definitions;
use super::documents::{self, Documents, Served};
use super::meetings::{self, Harvest, Tried, hash};
use super::patches;

/// How often a write is tried that others come in between of.
const ATTEMPTS: usize = 5;

/// Of so many meetings one is tried as an update, too; of so many changes one as a patch; of so many changes that another
/// seed of the kind has at the same field, one again.
const UPDATED: u64 = 4;
const PATCHED: u64 = 4;
const AGAIN: u64 = 4;

pub(super) struct Plan {
    definitions: Definitions,
    seeds: Vec<Seed>,
}

/// One valid object, and what is made of it.
struct Seed {
    /// `Pod v1 seed`
    name: String,
    object: Value,
    served: Served,
    changes: Vec<Change>,
    meetings: Vec<Change>,
    cases: Vec<Change>,
    subresources: Vec<Subresource>,
}

// === impl Plan ===

impl Plan {
    /// Defines on our server what seeds need, and reads from it what they are made of.
    pub(super) async fn make(ours: &mut Server, filter: &str) -> Result<Self> {
        super::super::prepare(ours).await?;
        let definitions = Definitions::load()?;
        definitions.define(ours).await?;
        let documents = Documents::of(ours).await?;
        let objects = cases::lines("seeds.jsonl")?;
        let word = |object: &Value, at: &str| {
            object.pointer(at).and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let mut harvest = Harvest::default();
        for object in &objects {
            let root = documents.kind(&word(object, "/apiVersion"), &word(object, "/kind"))?;
            harvest.gather(&documents, root, object);
        }
        let mut all_cases = cases::cases()?;
        let mut subresources = cases::subresources(&documents)?;
        let mut seeds = vec![];
        let mut tried: BTreeMap<String, Tried> = BTreeMap::new();
        let mut asked = BTreeSet::new();
        for object in objects {
            let (version, kind) = (word(&object, "/apiVersion"), word(&object, "/kind"));
            let name = format!("{kind} {version} {}", word(&object, "/metadata/name"));
            let (cases, subresources) = (all_cases.remove(&name), subresources.remove(&name));
            if !kind.contains(filter) {
                continue;
            }
            let root = documents.kind(&version, &kind)?;
            let tried = tried.entry(format!("{kind} {version}")).or_default();
            let mut changes = changes::of(&documents, &kind, root, &object);
            changes.retain(|change| {
                let of_field = change.name.replace(|c: char| c.is_ascii_digit(), "");
                let new = asked.insert(format!("{kind} {version} {of_field}"));
                new || hash(&format!("{name} {}", change.name)).is_multiple_of(AGAIN)
            });
            seeds.push(Seed {
                changes,
                meetings: meetings::of(&documents, &harvest, tried, &kind, root, &object),
                cases: cases.unwrap_or_default(),
                subresources: subresources.unwrap_or_default(),
                served: documents::served(ours, &version, &kind).await?,
                name,
                object,
            });
        }
        let lost: Vec<_> = all_cases.keys().chain(subresources.keys()).collect();
        anyhow::ensure!(lost.is_empty(), "there are cases of no seed: {lost:?}");
        Ok(Plan { definitions, seeds })
    }

    /// About how many requests there are.
    pub(super) fn len(&self) -> usize {
        let of = |seed: &Seed| 2 * (seed.changes.len() + seed.cases.len()) + seed.meetings.len();
        self.seeds.iter().map(of).sum()
    }

    /// Asks all, or what there is an answer to among those that are `wanted`.
    pub(super) async fn ask(&self, server: &mut Server, wanted: Option<&Answers>) -> Result<Answers> {
        super::super::prepare(server).await?;
        self.definitions.define(server).await?;
        let mut answers = Gathered { wanted, ..Gathered::default() };
        for seed in &self.seeds {
            seed.create(server, &mut answers).await?;
        }
        let mut stored = vec![];
        for seed in self.seeds.iter().filter(|s| s.served.listable) {
            if seed.store(server, &mut answers).await? {
                seed.update(server, &mut answers).await?;
                stored.push(seed);
            }
        }
        self.definitions.tighten(server).await?;
        for seed in stored.into_iter().filter(|s| self.definitions.define_kind(&s.object)) {
            let stored = seed.stored(server).await?;
            let all = seed.changes.iter().chain(&seed.cases);
            seed.put(server, all, &seed.path(), ("later", &stored), &mut answers).await?;
        }
        Ok(answers.answers)
    }
}

// === impl Seed ===

impl Seed {
    fn path(&self) -> String {
        format!("{}/{}", self.served.collection, self.object["metadata"]["name"].as_str().unwrap_or_default())
    }

    async fn create(&self, server: &mut Server, answers: &mut Gathered<'_>) -> Result<()> {
        let path = format!("{}?dryRun=All", self.served.collection);
        let name = |what: &str| format!("{} create {what}", self.name);
        let said = ask(server, &Request::new("POST", &path, &self.object.to_string())).await?;
        answers.add(name("as it is"), said);
        let all = self.changes.iter().chain(&self.meetings).chain(&self.cases);
        for change in all.filter(|c| !(self.served.status && c.is_of("status"))) {
            if !answers.wants(&name(&change.name)) {
                continue;
            }
            let body = change.apply(&self.object).to_string();
            let said = ask(server, &Request::new("POST", &path, &body)).await?;
            answers.add(name(&change.name), said);
        }
        Ok(())
    }

    /// Whether the server took it.
    async fn store(&self, server: &mut Server, answers: &mut Gathered<'_>) -> Result<bool> {
        let request = Request::new("POST", &self.served.collection, &self.object.to_string());
        let said = server.answer(&request).await?;
        answers.add(format!("{} stored", self.name), Some(Said::of(&said)));
        Ok(said.code < 400)
    }

    /// The object as the server has it, with the status that is to be changed.
    async fn stored(&self, server: &mut Server) -> Result<Value> {
        let mut stored = super::super::generate::get(server, &self.path()).await?;
        if let Some(metadata) = stored["metadata"].as_object_mut() {
            metadata.remove("managedFields");
        }
        if self.served.status && self.object["status"].is_object() {
            stored["status"] = self.object["status"].clone();
        }
        Ok(stored)
    }

    async fn update(&self, server: &mut Server, answers: &mut Gathered<'_>) -> Result<()> {
        let object = self.path();
        let of_status = |c: &&Change| c.is_of("status");
        if self.served.status && self.object["status"].is_object() {
            let mut body = self.stored(server).await?;
            let status = format!("{object}/status");
            let said = write(server, &object, &status, &mut body, &mut Value::Null).await?;
            answers.add(format!("{} status as it is", self.name), said);
            let (written, made) = (self.changes.iter(), self.cases.iter());
            self.put(server, written.filter(of_status), &status, ("status", &self.object), answers).await?;
            let stored = self.stored(server).await?;
            self.put(server, made.filter(of_status), &status, ("status", &stored), answers).await?;
        }
        // One change at a time is made of what its author wrote, several of what is stored.
        let wanted = |c: &&Change| !self.served.status || !of_status(c);
        let some = self.meetings.iter().filter(|c| hash(&c.name).is_multiple_of(UPDATED));
        let (written, made) = (self.changes.iter(), some.chain(&self.cases));
        self.put(server, written.filter(wanted), &object, ("update", &self.object), answers).await?;
        let stored = self.stored(server).await?;
        self.put(server, made.filter(wanted), &object, ("update", &stored), answers).await?;
        self.patch(server, answers).await?;
        for subresource in &self.subresources {
            self.subresource(server, subresource, answers).await?;
        }
        Ok(())
    }

    async fn put(
        &self,
        server: &mut Server,
        changes: impl Iterator<Item = &Change>,
        path: &str,
        (how, base): (&str, &Value),
        answers: &mut Gathered<'_>,
    ) -> Result<()> {
        let mut revision = Value::Null;
        let target = format!("{path}?dryRun=All");
        for change in changes.filter(|c| !c.mistyped) {
            let name = format!("{} {how} {}", self.name, change.name);
            if !answers.wants(&name) {
                continue;
            }
            let mut body = change.apply(base);
            let said = write(server, &self.path(), &target, &mut body, &mut revision).await?;
            answers.add(name, said);
        }
        Ok(())
    }

    /// Some changes as patches, each of one type.
    async fn patch(&self, server: &mut Server, answers: &mut Gathered<'_>) -> Result<()> {
        let target = format!("{}?dryRun=All&fieldManager=refusals", self.path());
        let wanted = |c: &&Change| !c.mistyped && !c.is_of("status");
        let stored = self.stored(server).await?;
        for change in self.changes.iter().chain(&self.cases).filter(wanted) {
            let chosen = hash(&change.name);
            if !chosen.is_multiple_of(PATCHED) {
                continue;
            }
            let (how, content) = patches::TYPES[(chosen / PATCHED % patches::TYPES.len() as u64) as usize];
            let name = format!("{} {how} {}", self.name, change.name);
            if !answers.wants(&name) {
                continue;
            }
            // What is applied is what its author wrote.
            let of = if how == "apply" { &self.object } else { &stored };
            let body = patches::body(how, change, of).to_string();
            let forced = if how == "apply" { "&force=true" } else { "" };
            let request = Request::new("PATCH", &format!("{target}{forced}"), &body);
            let said = ask(server, &request.with("content-type", content)).await?;
            answers.add(name, said);
        }
        Ok(())
    }

    async fn subresource(
        &self,
        server: &mut Server,
        of: &Subresource,
        answers: &mut Gathered<'_>,
    ) -> Result<()> {
        let target = format!("{}/{}?dryRun=All", self.path(), of.at);
        let object = match &of.object {
            Some(object) => object.clone(),
            None => self.stored(server).await?,
        };
        let mut revision = Value::Null;
        let whole = Change { name: "as it is".to_owned(), edits: vec![], mistyped: false };
        for change in std::iter::once(&whole).chain(&of.changes) {
            let name = format!("{} {} {}", self.name, of.at, change.name);
            if !answers.wants(&name) {
                continue;
            }
            let mut body = change.apply(&object);
            let said = match &*of.method {
                "PUT" => write(server, &self.path(), &target, &mut body, &mut revision).await?,
                method => ask(server, &Request::new(method, &target, &body.to_string())).await?,
            };
            answers.add(name, said);
        }
        Ok(())
    }
}

/// Upstream's server fails on some of this, and ends the stream: that is no answer.
async fn ask(server: &mut Server, request: &Request) -> Result<Option<Said>> {
    match server.answer(request).await {
        Ok(answer) => Ok(Some(Said::of(&answer))),
        Err(_) if matches!(server, Server::Wire(_)) => Ok(None),
        Err(e) => Err(e),
    }
}

/// A write that the servers' own, of statuses, may come in between of.
async fn write(
    server: &mut Server,
    object: &str,
    target: &str,
    body: &mut Value,
    known: &mut Value,
) -> Result<Option<Said>> {
    for attempt in 1.. {
        if known.is_null() {
            *known = revision(server, object).await?;
        }
        body["metadata"]["resourceVersion"] = known.clone();
        let said = ask(server, &Request::new("PUT", target, &body.to_string())).await?;
        if attempt == ATTEMPTS || said.as_ref().is_none_or(|said| said.code != 409) {
            return Ok(said);
        }
        *known = Value::Null;
    }
    Ok(None)
}

async fn revision(server: &mut Server, object: &str) -> Result<Value> {
    let stored = super::super::generate::get(server, object).await.context("an object that was stored")?;
    Ok(json!(stored["metadata"]["resourceVersion"]))
}
