//! The same requests to Coracle and to upstream's API server, and every difference between their answers.
//!
//! Scripts are plain files in `scripts/`; more are generated for every kind served. Differences we mean stand in
//! `scripts/meant.txt` with a reason each.

mod compare;
mod generate;
mod script;
mod whole;

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::cluster::{self, Cluster};
use crate::kept;
use crate::suite::home;
use crate::upstream::{Upstream, free_port};
use crate::wire::{Connection, Endpoint};
use compare::{Comparison, Meant};
use script::{Request, Script};

#[derive(Debug, Args)]
pub struct Options {
    /// The program to compare [default: beside this one]
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// Keep the figures in conformance/diff.json, from which the status page is made
    #[arg(long)]
    keep: bool,
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
    let report = runtime.block_on(async {
        let ours = Endpoint::of(&cluster.kubeconfig())?.connect().await?;
        let theirs = Endpoint::of(&upstream.kubeconfig())?.connect().await?;
        Both { ours, theirs, meant: Meant::load(&home().join("scripts/meant.txt"))? }
            .play_all(&options.filter)
            .await
    })?;
    cluster.purge()?;
    print(&report);
    if options.keep {
        kept::save(&report, &home().join("diff.json"))?;
    }
    Ok(())
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

/// Both servers.
struct Both {
    ours: Connection,
    theirs: Connection,
    meant: Meant,
}

// === impl Both ===

impl Both {
    async fn play_all(mut self, filter: &str) -> Result<Report> {
        let date = jiff::Zoned::now().date().to_string();
        let mut report = Report { date, ..Report::default() };
        self.prepare().await?;
        let mut scripts = script::load(&home().join("scripts"))?;
        scripts.extend(generate::scripts(&mut self.ours).await?);
        for script in scripts.iter().filter(|s| s.name.contains(filter)) {
            let tally = self.play(script).await.with_context(|| format!("script {}", script.name))?;
            report.scripts.insert(script.name.clone(), tally);
        }
        for (name, path) in whole::DOCUMENTS.iter().filter(|(name, _)| name.contains(filter)) {
            report
                .scripts
                .insert((*name).to_owned(), self.whole(path).await.with_context(|| (*name).to_owned())?);
        }
        Ok(report)
    }

    /// The namespace of all scripts, on both sides, with its service account.
    async fn prepare(&mut self) -> Result<()> {
        for (path, body) in [
            ("/api/v1/namespaces", r#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"diff"}}"#),
            (
                "/api/v1/namespaces/diff/serviceaccounts",
                r#"{"apiVersion":"v1","kind":"ServiceAccount","metadata":{"name":"default"}}"#,
            ),
        ] {
            let request = Request::new("POST", path, body);
            for server in [&mut self.ours, &mut self.theirs] {
                // A controller may have made the account already.
                let answer = send(server, &request).await?;
                ensure!(
                    [201, 409].contains(&answer.code),
                    "{path}: {}",
                    String::from_utf8_lossy(&answer.body)
                );
            }
        }
        Ok(())
    }

    async fn play(&mut self, script: &Script) -> Result<Tally> {
        let mut tally = Tally::default();
        for request in &script.requests {
            let ours = send(&mut self.ours, request).await?;
            let theirs = send(&mut self.theirs, request).await?;
            tally.requests += 1;
            self.tally(&mut tally, &request.title(), compare::answers(&ours, &theirs));
        }
        Ok(tally)
    }

    async fn whole(&mut self, path: &str) -> Result<Tally> {
        let request = Request::new("GET", path, "");
        let (ours, theirs) = (send(&mut self.ours, &request).await?, send(&mut self.theirs, &request).await?);
        let mut tally = Tally { requests: 1, ..Tally::default() };
        self.tally(&mut tally, &request.title(), whole::compare(&ours.body, &theirs.body)?);
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

async fn send(server: &mut Connection, request: &Request) -> Result<crate::wire::Answer> {
    let method = request.method.parse()?;
    server.exchange(method, &request.path, &request.headers, Bytes::from(request.body.clone())).await
}
