//! Every refusal: requests made from the schema table and one valid object of each kind, asked of both servers.
//!
//! The objects stand in `scripts/seeds.jsonl`, definitions of custom ones in `definitions.jsonl`. Each object is created
//! with each of its changes (`changes`), with what other seeds have at its places and two fields at once (`meetings`), and
//! with what is written down for it (`cases.jsonl`); then for real, then updated with each change, patched with some, and
//! its status and other subresources (`subresources.jsonl`) written with each change of theirs. At last the definitions
//! become stricter, and the custom objects that stand are updated again. What both servers answer alike is kept in
//! `refusals.json.gz`, to which a test compares without upstream.

mod answer;
mod cases;
mod changes;
mod definitions;
mod documents;
mod meetings;
mod patches;
mod plan;

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args;

use super::server::Server;
use crate::suite::home;
use crate::upstream::Upstream;
use crate::wire::Endpoint;
use answer::Answers;
use plan::Plan;

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
        println!("{} requests planned", plan.len());
        let kept = options.answers.as_ref().filter(|file| file.exists());
        let theirs = match kept {
            Some(file) => Answers::load(file)?,
            None => {
                let scratch = tempfile::Builder::new().prefix("coracle-refusals-").tempdir()?;
                let upstream = Upstream::start(&scratch.path().join("upstream"))?;
                let mut server = Server::Wire(Endpoint::of(&upstream.kubeconfig())?.connect().await?);
                let answers = plan.ask(&mut server, None).await?;
                if let Some(file) = &options.answers {
                    answers.save(file)?;
                }
                answers
            }
        };
        let mine = plan.ask(&mut ours, Some(&theirs)).await?;
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
    let theirs = Answers::load(&recorded())?;
    let mine = plan.ask(&mut ours, Some(&theirs)).await?;
    Ok(compare(&mine, &theirs))
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
