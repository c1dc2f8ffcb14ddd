//! Every refusal: requests made from the schema table and one valid object of each kind, asked of both servers.
//!
//! The objects stand in `scripts/seeds.jsonl`. Each of them is created with each of its changes, then for real, then
//! updated with each change, and its status with each change of that. What both servers answer alike is kept in
//! `refusals.json.gz`, to which a test compares without upstream.

mod answer;
mod changes;
mod documents;

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::{Value, json};

use super::script::Request;
use super::server::Server;
use crate::suite::home;
use crate::upstream::Upstream;
use crate::wire::Endpoint;
use answer::{Answers, Said};
use changes::Change;
use documents::{Documents, Served};

/// How often a write is tried that others come in between of.
const ATTEMPTS: usize = 5;

#[derive(Debug, Args)]
pub struct Options {
    /// Keep what both answer alike in conformance/refusals.json.gz, to which a test compares without upstream
    #[arg(long)]
    keep: bool,
    /// Where upstream's answers are, or are put if there are none yet
    #[arg(long, value_name = "FILE")]
    answers: Option<PathBuf>,
    /// Ask the server of this kubeconfig, not one in this process
    #[arg(long, value_name = "KUBECONFIG")]
    server: Option<PathBuf>,
    /// Show this many differences of each kind
    #[arg(long, default_value_t = 10)]
    show: usize,
    /// Only kinds whose name contains this
    #[arg(default_value = "")]
    filter: String,
}

/// What came out.
#[derive(Debug, Default)]
pub struct Outcome {
    pub requests: usize,
    /// Of those, what upstream refuses.
    pub refused: usize,
    /// Of those, what we refuse in the same words.
    pub agreed: usize,
    /// By kind: the request and where the answers differ, ours first.
    pub differences: BTreeMap<String, Vec<String>>,
}

pub fn run(options: &Options) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let plane = coracle::testing::ControlPlane::start_api().await?;
        let mut ours = match &options.server {
            Some(kubeconfig) => Server::Wire(Endpoint::of(kubeconfig)?.connect().await?),
            None => Server::InProcess(plane.client()),
        };
        let plan = Plan::make(&mut ours, &options.filter).await?;
        let kept = options.answers.as_ref().filter(|file| file.exists());
        let theirs = match kept {
            Some(file) => Answers::load(file)?,
            None => {
                let scratch = tempfile::Builder::new().prefix("coracle-refusals-").tempdir()?;
                let upstream = Upstream::start(&scratch.path().join("upstream"))?;
                let mut server = Server::Wire(Endpoint::of(&upstream.kubeconfig())?.connect().await?);
                let answers = plan.ask(&mut server).await?;
                if let Some(file) = &options.answers {
                    answers.save(file)?;
                }
                answers
            }
        };
        let mine = plan.ask(&mut ours).await?;
        plane.stop().await?;
        print(&compare(&mine, &theirs), options.show);
        if options.keep {
            ensure!(options.filter.is_empty(), "a recording holds all kinds: name none");
            let mut alike = theirs;
            alike.0.retain(|name, said| mine.0.get(name) == Some(said));
            alike.save(&recorded())?;
        }
        Ok(())
    })
}

fn recorded() -> PathBuf {
    home().join("refusals.json.gz")
}

/// What is answered otherwise than upstream did where both agreed when that was kept.
pub async fn to_recording(client: kube::Client, filter: &str) -> Result<Outcome> {
    let mut ours = Server::InProcess(client);
    let plan = Plan::make(&mut ours, filter).await?;
    let mine = plan.ask(&mut ours).await?;
    Ok(compare(&mine, &Answers::load(&recorded())?))
}

fn compare(mine: &Answers, theirs: &Answers) -> Outcome {
    let mut outcome = Outcome::default();
    for (name, ours) in &mine.0 {
        let Some(upstream) = theirs.0.get(name) else { continue };
        outcome.requests += 1;
        outcome.refused += usize::from(upstream.refused());
        match ours.unlike(upstream) {
            None => outcome.agreed += usize::from(upstream.refused()),
            Some(difference) => {
                let (kind, request) = name.split_once(' ').unwrap_or((name, ""));
                let all = outcome.differences.entry(kind.to_owned()).or_default();
                all.push(format!("{request}: {difference}"));
            }
        }
    }
    outcome
}

fn print(outcome: &Outcome, show: usize) {
    let mut ranked: Vec<_> = outcome.differences.iter().collect();
    ranked.sort_by_key(|(_, all)| std::cmp::Reverse(all.len()));
    for (kind, all) in ranked {
        println!("{} {kind}", all.len());
        for difference in all.iter().take(show) {
            println!("    {}", difference.chars().take(3000).collect::<String>());
        }
    }
    let differences: usize = outcome.differences.values().map(Vec::len).sum();
    println!(
        "{} requests, {} of them refused by upstream, {} of those alike, {differences} differences in all",
        outcome.requests, outcome.refused, outcome.agreed
    );
}

/// One valid object, and what is made of it.
struct Seed {
    /// `core/v1.Pod/seed`
    name: String,
    object: Value,
    served: Served,
    changes: Vec<Change>,
}

struct Plan(Vec<Seed>);

// === impl Plan ===

impl Plan {
    async fn make(ours: &mut Server, filter: &str) -> Result<Self> {
        let file = home().join("scripts/seeds.jsonl");
        let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        let documents = Documents::of(ours).await?;
        let mut seeds = vec![];
        for line in text.lines() {
            let object: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
            let word = |at: &str| object.pointer(at).and_then(Value::as_str).unwrap_or_default();
            let (version, kind) = (word("/apiVersion"), word("/kind"));
            if !kind.contains(filter) {
                continue;
            }
            let definition = documents.kind(version, kind)?;
            let changes = changes::of(&documents, kind, definition, &object);
            let served = documents::served(ours, version, kind).await?;
            let name = format!("{kind} {version} {}", word("/metadata/name"));
            seeds.push(Seed { name, object, served, changes });
        }
        Ok(Plan(seeds))
    }

    async fn ask(&self, server: &mut Server) -> Result<Answers> {
        super::prepare(server).await?;
        let mut answers = Answers::default();
        for seed in &self.0 {
            seed.create(server, &mut answers).await?;
        }
        for seed in self.0.iter().filter(|s| s.served.listable) {
            seed.update(server, &mut answers).await?;
        }
        Ok(answers)
    }
}

// === impl Seed ===

impl Seed {
    async fn create(&self, server: &mut Server, answers: &mut Answers) -> Result<()> {
        let path = format!("{}?dryRun=All", self.served.collection);
        let name = |what: &str| format!("{} create {what}", self.name);
        let said = ask(server, &Request::new("POST", &path, &self.object.to_string())).await?;
        answers.add(name("as it is"), said);
        for change in self.changes.iter().filter(|c| !(self.served.status && c.is_of("status"))) {
            let body = change.apply(&self.object).to_string();
            let said = ask(server, &Request::new("POST", &path, &body)).await?;
            answers.add(name(&change.name), said);
        }
        Ok(())
    }

    async fn update(&self, server: &mut Server, answers: &mut Answers) -> Result<()> {
        let collection = &self.served.collection;
        let said = server.answer(&Request::new("POST", collection, &self.object.to_string())).await?;
        answers.0.insert(format!("{} stored", self.name), Said::of(&said));
        if said.code >= 400 {
            return Ok(());
        }
        let object = format!("{collection}/{}", self.object["metadata"]["name"].as_str().unwrap_or_default());
        let mut body = self.object.clone();
        if self.served.status && body["status"].is_object() {
            // The status that changes are made of is the one that is there.
            let status = format!("{object}/status");
            let said = write(server, &object, &status, &mut body, &mut Value::Null).await?;
            answers.add(format!("{} status as it is", self.name), said);
            self.put(server, &status, "status", answers).await?;
        }
        self.put(server, &object, "update", answers).await
    }

    async fn put(&self, server: &mut Server, path: &str, how: &str, answers: &mut Answers) -> Result<()> {
        let object = path.trim_end_matches("/status");
        let mut revision = Value::Null;
        let target = format!("{path}?dryRun=All");
        let wanted =
            |c: &&Change| !c.mistyped && (!self.served.status || c.is_of("status") == (how == "status"));
        for change in self.changes.iter().filter(wanted) {
            let mut body = change.apply(&self.object);
            let said = write(server, object, &target, &mut body, &mut revision).await?;
            answers.add(format!("{} {how} {}", self.name, change.name), said);
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
    let stored = super::generate::get(server, object).await?;
    Ok(json!(stored["metadata"]["resourceVersion"]))
}
