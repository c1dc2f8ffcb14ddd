//! Benchmarks of an API server, the same for ours and for upstream's, in one run on one machine.
//!
//! Each step measures one server and then the other, so that what else the machine does meets both alike.

mod control_plane;
mod definitions;
mod load;
mod page;
mod plot;
mod pods;
mod requests;
mod watch;

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::cluster::{self, Cluster};
use crate::kept;
use crate::process::{self, Processes};
use crate::upstream::{Upstream, free_port};
use crate::wire::Endpoint;
use control_plane::Idle;
pub use load::Measure;
pub use page::section;
use pods::PodTimes;

#[derive(Debug, Args)]
pub struct Options {
    /// Measure the API server of this kubeconfig alone (it must listen on this machine; pods are started if it has a node)
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Leave upstream out
    #[arg(long)]
    alone: bool,
    /// Start no node and no pods
    #[arg(long)]
    no_node: bool,
    /// Everything smaller, for trying: less than three minutes
    #[arg(long)]
    quick: bool,
    /// Only the steps whose name contains this: idle, requests, lists, watch, definitions, pods
    #[arg(long, default_value = "", value_name = "NAME")]
    only: String,
    /// The program to measure [default: beside this one]
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// Keep the figures in conformance/bench.json, from which the status page is made, and draw the plots
    #[arg(long, conflicts_with_all = ["only", "kubeconfig"])]
    keep: bool,
}

/// How much of everything.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Amounts {
    /// Clients at a time.
    pub clients: Vec<usize>,
    /// Objects of the big lists.
    pub objects: usize,
    /// How often each list is asked for.
    pub lists: usize,
    pub watchers: usize,
    /// Large definitions of kinds.
    #[serde(default)]
    pub definitions: usize,
    /// Seconds of doing nothing.
    pub idle: u64,
    /// Pods started at once, and one after the other.
    pub together: usize,
    pub alone: usize,
}

/// All figures of one server.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Figures {
    pub measures: Vec<Measure>,
    pub watch: Option<watch::FanOut>,
    #[serde(default)]
    pub definitions: Option<definitions::Definitions>,
    pub memory: Memory,
    /// Seconds from the start of the whole control plane until `/readyz` says ok.
    pub ready: Option<f64>,
    /// The whole control plane, without a node.
    pub idle: Option<Idle>,
    pub pods: Option<PodTimes>,
}

/// Resident bytes of the API server with its store, at points of the run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Memory {
    pub start: u64,
    pub before_objects: u64,
    pub with_objects: u64,
    pub before_watchers: u64,
    pub with_watchers: u64,
}

/// One run: ours, and upstream's where it was there.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Run {
    pub date: String,
    pub cores: usize,
    pub amounts: Amounts,
    pub fdatasync_per_second: f64,
    pub coracle: Figures,
    pub upstream: Option<Figures>,
}

/// A server that is measured, and what it gave so far.
struct Server {
    name: &'static str,
    endpoint: Endpoint,
    processes: Processes,
    figures: Figures,
}

/// The namespace everything is made in.
const NAMESPACE: &str = "bench";

pub fn run(options: &Options) -> Result<()> {
    // One thread: the clients of a benchmark shall leave the machine to the server.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let scratch = tempfile::Builder::new().prefix("coracle-bench-").tempdir()?;
    let mut run = Run {
        date: jiff::Zoned::now().date().to_string(),
        cores: std::thread::available_parallelism()?.get(),
        amounts: options.amounts(),
        fdatasync_per_second: process::fdatasync_per_second(scratch.path())?,
        ..Run::default()
    };
    println!("fdatasync: {:.0} a second", run.fdatasync_per_second);
    if let Some(kubeconfig) = &options.kubeconfig {
        run.coracle = runtime.block_on(foreign(kubeconfig, options, &run.amounts))?;
    } else {
        run.upstream = (!options.alone).then(Figures::default);
        let program = cluster::program(options.program.as_deref())?;
        if options.wants("idle") {
            control_plane::measure(&runtime, &program, scratch.path(), &mut run)?;
        }
        if ["requests", "lists", "watch", "definitions"].iter().any(|step| options.wants(step)) {
            api_servers(&runtime, &program, scratch.path(), options, &mut run)?;
        }
        if options.starts_node() {
            run.coracle.pods =
                Some(pods::on_a_node_of_ours(&runtime, &program, scratch.path(), &run.amounts)?);
        }
    }
    print!("{}", page::tables(&run));
    if options.keep {
        let home = crate::suite::home();
        kept::save(&run, &home.join("bench.json"))?;
        page::draw(&run, home)?;
    }
    Ok(())
}

// === impl Options ===

impl Options {
    /// Whether pods will run on this machine, so that a network namespace is needed.
    pub fn starts_node(&self) -> bool {
        self.kubeconfig.is_none() && !self.no_node && self.wants("pods")
    }

    fn wants(&self, step: &str) -> bool {
        step.contains(&self.only)
    }

    fn amounts(&self) -> Amounts {
        match self.quick {
            true => Amounts {
                clients: vec![1, 64],
                objects: 2_000,
                lists: 5,
                watchers: 200,
                definitions: 50,
                idle: 10,
                together: 20,
                alone: 3,
            },
            false => Amounts {
                clients: vec![1, 16, 64, 256],
                objects: 10_000,
                lists: 10,
                watchers: 1_000,
                definitions: 500,
                idle: 60,
                together: 60,
                alone: 15,
            },
        }
    }
}

// === impl Server ===

impl Server {
    fn new(name: &'static str, kubeconfig: &Path, processes: Option<Processes>) -> Result<Self> {
        let endpoint = Endpoint::of(kubeconfig)?;
        let processes = match processes {
            Some(processes) => processes,
            None => Processes::listening_on(endpoint.port())?,
        };
        let mut figures = Figures::default();
        figures.memory.start = processes.rss_bytes();
        Ok(Server { name, endpoint, processes, figures })
    }

    fn done(&self, what: &str) {
        println!("{}: {what} done", self.name);
    }
}

/// Any cluster: only what can be asked of a running one.
async fn foreign(kubeconfig: &Path, options: &Options, amounts: &Amounts) -> Result<Figures> {
    let mut servers = [Server::new("server", kubeconfig, None)?];
    let loaded = load_all(&mut servers, options, amounts).await;
    let [server] = servers;
    // It goes on living: leave nothing in it.
    requests::clear(&server).await?;
    loaded?;
    let mut figures = server.figures;
    if options.wants("pods") && !options.no_node {
        figures.pods = pods::on_any_cluster(kubeconfig, amounts).await?;
    }
    Ok(figures)
}

/// The API servers alone, each with its store, side by side.
fn api_servers(
    runtime: &tokio::runtime::Runtime,
    program: &Path,
    scratch: &Path,
    options: &Options,
    run: &mut Run,
) -> Result<()> {
    let port = free_port()?.to_string();
    let flags = ["--bind-address", "127.0.0.1", "--port", &port];
    let mut cluster = Cluster::new(program, &scratch.join("requests"), &flags);
    cluster.command = "apiserver";
    cluster.up()?;
    let processes = Processes::of([u32::try_from(cluster.pid()?.as_raw())?]);
    let mut servers = vec![Server::new("coracle", &cluster.kubeconfig(), Some(processes))?];
    let upstream = match run.upstream {
        Some(_) => Some(Upstream::start(&scratch.join("upstream-requests"))?),
        None => None,
    };
    if let Some(upstream) = &upstream {
        let processes = Processes::of(upstream.pids().into_iter().map(|(_, pid)| pid));
        servers.push(Server::new("upstream", &upstream.kubeconfig(), Some(processes))?);
    }
    runtime.block_on(load_all(&mut servers, options, &run.amounts))?;
    let take = |into: &mut Figures, from: &mut Server| {
        let figures = std::mem::take(&mut from.figures);
        into.definitions = figures.definitions;
        (into.measures, into.watch, into.memory) = (figures.measures, figures.watch, figures.memory);
    };
    take(&mut run.coracle, &mut servers[0]);
    if let (Some(figures), Some(server)) = (&mut run.upstream, servers.get_mut(1)) {
        take(figures, server);
    }
    cluster.purge()
}

async fn load_all(servers: &mut [Server], options: &Options, amounts: &Amounts) -> Result<()> {
    for server in &mut *servers {
        requests::prepare(server).await?;
    }
    for &clients in amounts.clients.iter().filter(|_| options.wants("requests")) {
        for server in &mut *servers {
            requests::writes_and_reads(server, clients).await?;
            server.done(&format!("{clients} clients"));
        }
    }
    for server in servers.iter_mut().filter(|_| options.wants("lists")) {
        requests::lists(server, amounts).await?;
        server.done("lists");
    }
    for server in servers.iter_mut().filter(|_| options.wants("watch")) {
        watch::fan_out(server, amounts.watchers).await?;
        server.done("watchers");
    }
    for server in servers.iter_mut().filter(|_| options.wants("definitions")) {
        definitions::measure(server, amounts.definitions).await?;
        server.done("definitions");
    }
    Ok(())
}
