//! The same requests to Coracle and to upstream's API server, and every difference between their answers.
//!
//! Scripts are plain files in `scripts/`; more are generated for every kind served. Differences we mean stand in
//! `scripts/meant.txt` with a reason each.

mod compare;
mod generate;
pub mod refusals;
mod script;
mod server;
mod whole;

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::cluster::{self, Cluster};
use crate::kept;
use crate::suite::home;
use crate::upstream::{Upstream, free_port};
use crate::wire::Endpoint;
use compare::{Comparison, Meant};
use script::{Request, Script};
use server::{Recording, Server};

#[derive(Debug, Args)]
pub struct Options {
    /// The program to compare [default: beside this one]
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// Keep the figures in conformance/diff.json, from which the status page is made
    #[arg(long)]
    keep: bool,
    /// Keep upstream's answers in conformance/recorded.json.gz, to which tests compare without upstream
    #[arg(long)]
    record: bool,
    /// Only scripts whose name contains this
    #[arg(default_value = "")]
    filter: String,
}

/// What came out, script by script.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    pub date: String,
    pub scripts: BTreeMap<String, Tally>,
}

/// Requests tried, and what differed.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Tally {
    pub requests: usize,
    pub meant: usize,
    /// Where and how: `POST /api/v1/... : $.message: "a" is "b"`, ours first.
    pub differences: Vec<String>,
}

pub fn run(options: &Options) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let scratch = tempfile::Builder::new().prefix("coracle-diff-").tempdir()?;
    let program = cluster::program(options.program.as_deref())?;
    let port = free_port()?.to_string();
    let flags = ["--no-node", "--bind-address", "127.0.0.1", "--port", &port];
    let mut cluster = Cluster::new(&program, &scratch.path().join("data"), &flags);
    cluster.up()?;
    let mut upstream = Upstream::start(&scratch.path().join("upstream"))?;
    upstream.controllers()?;
    let (report, recording) = runtime.block_on(async {
        let ours = Server::Wire(Endpoint::of(&cluster.kubeconfig())?.connect().await?);
        let theirs = Server::Wire(Endpoint::of(&upstream.kubeconfig())?.connect().await?);
        play_all(ours, theirs, &options.filter).await
    })?;
    cluster.purge()?;
    print(&report);
    if options.record {
        ensure!(options.filter.is_empty(), "a recording holds all scripts: name none");
        recording.save(&recorded())?;
    }
    if options.keep {
        kept::save(&report, &home().join("diff.json"))?;
    }
    Ok(())
}

/// Compares a server with what upstream answered when it was recorded.
pub async fn to_recording(client: kube::Client, filter: &str) -> Result<Report> {
    let theirs = Server::Recorded(Recording::load(&recorded())?);
    Ok(play_all(Server::InProcess(client), theirs, filter).await?.0)
}

fn recorded() -> PathBuf {
    home().join("recorded.json.gz")
}

/// What was kept of the last full run.
pub fn kept() -> Result<Report> {
    Ok(kept::load(&home().join("diff.json"))?.unwrap_or_default())
}

// === impl Report ===

impl Report {
    /// Differences that another report has not.
    pub fn beyond(&self, other: &Report) -> Vec<String> {
        let known = |name: &str, difference: &String| {
            other.scripts.get(name).is_some_and(|tally| tally.differences.contains(difference))
        };
        let all = self.scripts.iter().flat_map(|(name, t)| t.differences.iter().map(move |d| (name, d)));
        all.filter(|(name, d)| !known(name, d)).map(|(name, d)| format!("{name}: {d}")).collect()
    }
}

fn print(report: &Report) {
    let (mut requests, mut differences, mut meant) = (0, 0, 0);
    for (name, tally) in &report.scripts {
        for difference in &tally.differences {
            println!("{name}: {difference}");
        }
        requests += tally.requests;
        differences += tally.differences.len();
        meant += tally.meant;
    }
    println!("{requests} requests tried, {differences} differences found, {meant} differences meant");
}

/// Both servers, and what upstream's answered.
struct Both {
    ours: Server,
    theirs: Server,
    meant: Meant,
    recording: Recording,
}

async fn play_all(ours: Server, theirs: Server, filter: &str) -> Result<(Report, Recording)> {
    let meant = Meant::load(&home().join("scripts/meant.txt"))?;
    let mut both = Both { ours, theirs, meant, recording: Recording::default() };
    let date = jiff::Zoned::now().date().to_string();
    let mut report = Report { date, ..Report::default() };
    for server in [&mut both.ours, &mut both.theirs] {
        prepare(server).await?;
    }
    let mut scripts = script::load(&home().join("scripts"))?;
    scripts.extend(generate::scripts(&mut both.ours).await?);
    scripts.extend(whole::scripts(&mut both.ours).await?);
    for script in scripts.iter().filter(|s| s.name.contains(filter)) {
        let tally = both.play(script).await.with_context(|| format!("script {}", script.name))?;
        report.scripts.insert(script.name.clone(), tally);
    }
    Ok((report, both.recording))
}

// === impl Both ===

impl Both {
    async fn play(&mut self, script: &Script) -> Result<Tally> {
        let mut tally = Tally::default();
        for request in &script.requests {
            let ours = self.ours.answer(request).await?;
            let theirs = self.theirs.answer(request).await?;
            self.recording.add(request, &theirs);
            tally.requests += 1;
            let comparison = match request.whole {
                true => whole::compare(&ours.body, &theirs.body)?,
                false => compare::answers(&ours, &theirs),
            };
            self.tally(&mut tally, &request.title(), comparison);
        }
        Ok(tally)
    }

    fn tally(&self, tally: &mut Tally, title: &str, comparison: Comparison) {
        for difference in comparison.differences {
            let text = format!("{title} : {difference}");
            if self.meant.covers(&text) {
                tally.meant += 1;
            } else {
                tally.differences.push(text);
            }
        }
    }
}

/// The namespace of all scripts, with its service account.
async fn prepare(server: &mut Server) -> Result<()> {
    if matches!(server, Server::Recorded(_)) {
        return Ok(());
    }
    for (path, body) in [
        ("/api/v1/namespaces", r#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"diff"}}"#),
        (
            "/api/v1/namespaces/diff/serviceaccounts",
            r#"{"apiVersion":"v1","kind":"ServiceAccount","metadata":{"name":"default"}}"#,
        ),
    ] {
        // A controller may have made the account already.
        let answer = server.answer(&Request::new("POST", path, body)).await?;
        ensure!([201, 409].contains(&answer.code), "{path}: {}", String::from_utf8_lossy(&answer.body));
    }
    Ok(())
}
