//! An attack book, played against a cluster beside a tenant who does nothing wrong.
//!
//! Each attack is a row: who does what, and what must be true. While it goes on the tenant's requests are timed, the
//! program's cost is read from `/proc`, the node's readiness is watched and things outside of all pods are looked after;
//! afterwards everything must be as before within a minute. An attack that shows more than that is a fault.

mod api;
mod arena;
mod book;
mod calls;
mod canary;
mod cost;
mod images;
mod judge;
mod page;
mod peers;
mod pods;
mod scene;
mod tenant;
mod witness;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use coracle::data_dir::Layout;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;

use crate::cluster::{self, Cluster};
use crate::kept;
use crate::registry::Registry;
use arena::Arena;
use book::Attack;
use cost::Meter;
use images::HostileRegistry;
pub use judge::{Limits, Row, Run};
pub use page::section;
use scene::Scene;
use tenant::Tenant;

#[derive(Clone, Debug, Default, Args)]
pub struct Options {
    /// The program to attack [default: beside this one]
    #[arg(long, value_name = "FILE")]
    pub program: Option<PathBuf>,
    /// Only the attacks whose name or findings contain one of these
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    pub only: Vec<String>,
    /// A short part of the book, for CI: less than a minute
    #[arg(long)]
    pub quick: bool,
    /// Print the book, and attack nothing
    #[arg(long)]
    pub list: bool,
    /// What the tenant's 99th percentile may be, in milliseconds
    #[arg(long, default_value_t = Limits::P99_MS, value_name = "MS")]
    pub tenant_p99: f64,
    /// Write the figures to this file, as JSON
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Keep the figures in conformance/hostile.json
    #[arg(long, conflicts_with_all = ["only", "quick"])]
    pub keep: bool,
}

/// How long an attack may take before it is given up as a fault.
const PATIENCE: Duration = Duration::from_secs(240);
/// How long the tenant is watched before anything happens, and at least during each attack.
const QUIET: Duration = Duration::from_secs(10);
const WINDOW: Duration = Duration::from_secs(3);
/// How often an attack is played again during which the disk, which others use too, told nothing of the program.
const AGAIN: usize = 2;

// === impl Options ===

impl Options {
    /// Whether the book is to be printed only.
    pub fn lists(&self) -> bool {
        self.list
    }

    fn wants(&self, attack: &Attack) -> bool {
        let named = |only: &String| attack.name.contains(only) || attack.findings.contains(only);
        (!self.quick || attack.quick) && (self.only.is_empty() || self.only.iter().any(named))
    }

    /// The quick book has less time for everything.
    fn share(&self, time: Duration) -> Duration {
        if self.quick { time / 5 } else { time }
    }
}

/// Prints the book.
pub fn list() -> Result<()> {
    for attack in book::all() {
        println!("{}{}", attack.name, if attack.quick { "  [quick]" } else { "" });
        println!("    {} | {}", attack.by, attack.findings);
        println!("    does: {}\n    must: {}", attack.does, attack.must);
    }
    Ok(())
}

/// Plays the attacks that are wanted; an error when one of them shows a fault.
pub fn run(options: &Options) -> Result<()> {
    let program = cluster::program(options.program.as_deref())?;
    ensure!(program.is_file(), "{} is not there: build it, or name it with --program", program.display());
    let attacks: Vec<Attack> = book::all().into_iter().filter(|a| options.wants(a)).collect();
    ensure!(!attacks.is_empty(), "no attack has one of {:?} in its name or findings", options.only);
    // Attackers hold thousands of connections, and so do those who are attacked.
    let files = raise_open_files()?;
    println!("{} attacks, {files} open files", attacks.len());

    let scratch = tempfile::Builder::new().prefix("coracle-hostile-").tempdir()?;
    let outcome =
        Stage::set(&program, scratch.path(), options).and_then(|mut stage| stage.play(&attacks, options));
    match outcome {
        Ok(run) => {
            print!("{}", page::table(&run));
            if let Some(file) = &options.out {
                kept::save(&run, file)?;
            }
            if options.keep {
                kept::save(&run, &crate::suite::home().join("hostile.json"))?;
            }
            let failed = run.rows.iter().filter(|r| !r.faults.is_empty()).count();
            if failed > 0 {
                // What is left of the directory is for whoever looks into the faults.
                println!("the program's log: {}", scratch.keep().join("data.log").display());
            }
            ensure!(failed == 0, "{failed} of {} attacks show a fault", run.rows.len());
            Ok(())
        }
        Err(error) => {
            println!("the program's log: {}", scratch.keep().join("data.log").display());
            Err(error)
        }
    }
}

/// As many as the system lets this process have.
fn raise_open_files() -> Result<u64> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(hard)
}

/// The cluster with everybody on it.
struct Stage {
    attackers: tokio::runtime::Runtime,
    tenant: Option<Tenant>,
    arena: Arena,
    cluster: Cluster,
    _registries: (Registry, HostileRegistry),
}

// === impl Stage ===

impl Stage {
    fn set(program: &Path, scratch: &Path, options: &Options) -> Result<Self> {
        let attackers = attackers()?;
        let registry = Registry::serve("../hack/images")?;
        let hostile = HostileRegistry::serve(&attackers)?;
        let flags = hostile.flags(&scratch.join("registries.yaml"))?;
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let data = scratch.join("data");
        let layout = Layout::of(Some(&data))?;
        let mut cluster = Cluster::new(program, &data, &flags);
        cluster.up()?;
        let arena = attackers.block_on(Arena::furnish(
            &cluster,
            layout,
            scratch,
            hostile.shelf.clone(),
            options.quick,
        ))?;
        let tenant = Some(Tenant::begin(&arena)?);
        Ok(Stage { attackers, tenant, arena, cluster, _registries: (registry, hostile) })
    }

    fn play(&mut self, attacks: &[Attack], options: &Options) -> Result<Run> {
        let quiet = self.quiet(options.share(QUIET))?;
        println!("quiet: GET {}, create {}", quiet.get, quiet.create);
        if quiet.get.p99_ms.max(quiet.create.p99_ms) > options.tenant_p99 / 2.0 {
            println!(
                "something else is busy on this machine: how long the tenant waits says little of the attacks"
            );
        }
        let mut run = Run::begin(quiet, Limits { p99_ms: options.tenant_p99, ..Limits::default() });
        for attack in attacks {
            let mut row = self.attack(attack, options, &run.limits)?;
            // The quick book does not wait until an attack's namespace is gone.
            for _ in 0..if options.quick { 0 } else { AGAIN } {
                if !row.blames_the_disk(&run.limits) {
                    break;
                }
                row.print();
                println!("         the disk was slow for everybody: once more");
                row = self.attack(attack, options, &run.limits)?;
            }
            row.print();
            run.rows.push(row);
            if self.cluster.restart_if_gone()? {
                self.come_back()?;
            }
        }
        let left = self.attackers.block_on(scene::all_gone(&self.arena, attacks, run.limits.back_within))?;
        ensure!(left.is_empty(), "left when the book was over: {}", left.join(", "));
        self.attackers.block_on(self.arena.neighbour_is_well())?;
        run.quiet_after = self.quiet(options.share(QUIET))?;
        drop(self.tenant.take());
        self.cluster.purge()?;
        Ok(run)
    }

    fn quiet(&self, time: Duration) -> Result<tenant::Times> {
        let tenant = self.tenant.as_ref().context("the tenant has left")?;
        tenant.warm_up();
        drop(tenant.take());
        crate::kubectl::pause(time);
        Ok(tenant.take().times())
    }

    /// After an attack that ended the program: everybody connects to the new one.
    fn come_back(&mut self) -> Result<()> {
        drop(self.tenant.take());
        self.arena.pid = self.cluster.pid()?;
        self.tenant = Some(Tenant::begin(&self.arena)?);
        Ok(())
    }

    fn attack(&mut self, attack: &Attack, options: &Options, limits: &Limits) -> Result<Row> {
        let tenant = self.tenant.as_ref().context("the tenant has left")?;
        let scene = self.attackers.block_on(Scene::set(&self.arena, attack))?;
        let meter = Meter::start(&self.arena)?;
        drop(tenant.take());
        let begun = Instant::now();
        let outcome = self.attackers.block_on(async {
            let window = tokio::time::sleep(options.share(WINDOW));
            let played = tokio::time::timeout(PATIENCE, scene.play(attack));
            let (played, ()) = tokio::join!(played, window);
            played.unwrap_or_else(|_| Err(anyhow::anyhow!("it was not over after {PATIENCE:?}")))
        });
        let seconds = begun.elapsed().as_secs_f64();
        let ready = tenant.was_ready();
        let samples = tenant.take();
        let spent = meter.stop(&self.arena);
        // Whatever was held is let go with the scene; then everything must come back.
        let after = self.attackers.block_on(scene.clear(&meter, limits));
        let mut row = Row::of(attack, seconds, outcome, samples.times(), &spent, after);
        row.judge(limits, ready, self.alive(), self.arena.canary.check());
        Ok(row)
    }

    fn alive(&mut self) -> bool {
        self.cluster.pid().is_ok_and(|pid| pid == self.arena.pid && nix::sys::signal::kill(pid, None).is_ok())
            && self.cluster.ended().is_ok_and(|ended| ended.is_none())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        drop(self.tenant.take());
        if self.cluster.pid().is_ok() {
            // Already reported; nothing is to stay behind.
            let _ = self.cluster.signal(Signal::SIGTERM);
            let _ = self.cluster.coracle(&["down", "--purge"]).output();
        }
    }
}

/// Attackers would be on other machines. Here they share this one's cores with whom they attack, and shall not be the ones
/// who make the tenant wait: their threads yield.
fn attackers() -> Result<tokio::runtime::Runtime> {
    let yielding = || {
        // Where it cannot be had the attackers are in the tenant's way, no more.
        let thread = nix::unistd::gettid().to_string();
        let _ = std::process::Command::new("renice").args(["-n", "10", "-p", &thread]).output();
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .on_thread_start(yielding)
        .enable_all()
        .build();
    Ok(runtime?)
}
