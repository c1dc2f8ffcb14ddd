//! Benchmarks of an API server, the same for ours and for upstream's, in one run on one machine.

mod load;
mod page;
mod process;
mod watch;

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use bytes::Bytes;
use clap::Args;
use http::Method;
use serde::{Deserialize, Serialize};

use crate::cluster::{self, Cluster};
use crate::kept;
use crate::upstream::Upstream;
use crate::wire::{Endpoint, JSON, PROTOBUF, TABLE};
pub use load::Measure;
pub use page::table;
use process::Processes;

#[derive(Debug, Args)]
pub struct Options {
    /// Measure the API server of this kubeconfig alone (it must listen on this machine)
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Leave upstream out
    #[arg(long)]
    alone: bool,
    /// The program to measure [default: beside this one]
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// Objects of the big lists
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    objects: usize,
    /// Watchers of the fan-out
    #[arg(long, default_value_t = 1_000, value_name = "N")]
    watchers: usize,
    /// Clients at a time
    #[arg(long, value_delimiter = ',', default_value = "1,16,64,256", value_name = "N")]
    clients: Vec<usize>,
    /// Keep the figures in conformance/bench.json, from which the status page is made
    #[arg(long)]
    keep: bool,
}

/// All figures of one server.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Figures {
    pub measures: Vec<Measure>,
    pub watch: Option<watch::FanOut>,
    /// Resident bytes: at the start, with the objects, with the watchers.
    pub rss_start: u64,
    pub rss_objects: u64,
    pub rss_watchers: u64,
}

/// One run: ours, and upstream's where it was there.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Run {
    pub date: String,
    pub objects: usize,
    pub watchers: usize,
    pub fdatasync_per_second: f64,
    pub coracle: Figures,
    pub upstream: Option<Figures>,
}

pub fn run(options: &Options) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let scratch = tempfile::Builder::new().prefix("coracle-bench-").tempdir()?;
    if let Some(kubeconfig) = &options.kubeconfig {
        let figures = runtime.block_on(measure("server", kubeconfig, options))?;
        print!("{}", page::table(&figures, None));
        return Ok(());
    }
    let mut run = Run {
        date: jiff::Zoned::now().date().to_string(),
        objects: options.objects,
        watchers: options.watchers,
        fdatasync_per_second: process::fdatasync_per_second(scratch.path())?,
        ..Run::default()
    };
    println!("fdatasync: {:.0} a second", run.fdatasync_per_second);
    run.coracle = {
        let program = cluster::program(options.program.as_deref())?;
        let port = crate::upstream::free_port()?.to_string();
        let mut cluster = Cluster::new(
            &program,
            &scratch.path().join("data"),
            &["--no-node", "--bind-address", "127.0.0.1", "--port", &port],
        );
        cluster.up()?;
        let figures = runtime.block_on(measure("coracle", &cluster.kubeconfig(), options))?;
        cluster.purge()?;
        figures
    };
    if !options.alone {
        let upstream = Upstream::start(&scratch.path().join("upstream"))?;
        run.upstream = Some(runtime.block_on(measure("upstream", &upstream.kubeconfig(), options))?);
    }
    print!("{}", page::table(&run.coracle, run.upstream.as_ref()));
    if options.keep {
        kept::save(&run, &crate::suite::home().join("bench.json"))?;
    }
    Ok(())
}

/// Operations of one measure: enough for a second or two of work, little enough for a slow server.
fn amount(clients: usize) -> usize {
    (clients * 400).clamp(800, 20_000)
}

async fn measure(name: &str, kubeconfig: &Path, options: &Options) -> Result<Figures> {
    let endpoint = Endpoint::of(kubeconfig)?;
    let server = Processes::listening_on(endpoint.port())?;
    let mut figures = Figures { rss_start: server.rss_bytes(), ..Figures::default() };
    let mut admin = endpoint.connect().await?;
    let namespace = r#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"bench"}}"#;
    admin.call(Method::POST, "/api/v1/namespaces", JSON, Bytes::from_static(namespace.as_bytes())).await?;
    for &clients in &options.clients {
        writes_and_reads(&endpoint, &server, clients, &mut figures).await?;
        println!("{name}: {clients} clients done");
    }
    lists(&endpoint, &server, options.objects, &mut figures).await?;
    println!("{name}: lists done");
    figures.watch =
        Some(watch::fan_out(&endpoint, &server, options.watchers, &mut figures.rss_watchers).await?);
    println!("{name}: watchers done");
    Ok(figures)
}

const CONFIGMAPS: &str = "/api/v1/namespaces/bench/configmaps";

/// A ConfigMap of about a kilobyte.
fn configmap(name: &str, value: usize) -> Bytes {
    let fill = "x".repeat(800);
    Bytes::from(format!(
        r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}","labels":{{"app":"bench"}}}},"data":{{"n":"{value}","fill":"{fill}"}}}}"#
    ))
}

async fn writes_and_reads(
    endpoint: &Endpoint,
    server: &Processes,
    clients: usize,
    figures: &mut Figures,
) -> Result<()> {
    let count = amount(clients);
    let create = load::run("create", endpoint, server, clients, count, |mut c, n| async move {
        Ok(c.call(Method::POST, CONFIGMAPS, JSON, configmap(&format!("c-{n}"), 0)).await?.len())
    });
    figures.measures.push(create.await?);
    let get = load::run("get", endpoint, server, clients, count, |mut c, n| async move {
        Ok(c.call(Method::GET, &format!("{CONFIGMAPS}/c-{n}"), JSON, Bytes::new()).await?.len())
    });
    figures.measures.push(get.await?);
    let update = load::run("update", endpoint, server, clients, count, |mut c, n| async move {
        let name = format!("c-{n}");
        Ok(c.call(Method::PUT, &format!("{CONFIGMAPS}/{name}"), JSON, configmap(&name, 1)).await?.len())
    });
    figures.measures.push(update.await?);
    let delete = load::run("delete", endpoint, server, clients, count, |mut c, n| async move {
        Ok(c.call(Method::DELETE, &format!("{CONFIGMAPS}/c-{n}"), JSON, Bytes::new()).await?.len())
    });
    figures.measures.push(delete.await?);
    Ok(())
}

const PODS: &str = "/api/v1/namespaces/bench/pods";

/// A pod like those of a Deployment: about 3 KB as stored. Every tenth has `tier: a`.
fn pod(n: usize) -> Bytes {
    let tier = if n.is_multiple_of(10) { "a" } else { "b" };
    Bytes::from(format!(
        r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"p-{n}","labels":{{"app":"bench","tier":"{tier}"}},"annotations":{{"note":"{}"}}}},
"spec":{{"schedulerName":"none","containers":[{{"name":"main","image":"registry.example.com/bench:1","ports":[{{"containerPort":8080}}],
"env":[{{"name":"A","value":"1"}},{{"name":"POD","valueFrom":{{"fieldRef":{{"fieldPath":"metadata.name"}}}}}}],
"resources":{{"requests":{{"cpu":"10m","memory":"16Mi"}},"limits":{{"memory":"64Mi"}}}},
"livenessProbe":{{"httpGet":{{"path":"/","port":8080}}}},"readinessProbe":{{"httpGet":{{"path":"/","port":8080}}}}}}]}}}}"#,
        "x".repeat(600)
    ))
}

async fn lists(endpoint: &Endpoint, server: &Processes, objects: usize, figures: &mut Figures) -> Result<()> {
    let account = r#"{"apiVersion":"v1","kind":"ServiceAccount","metadata":{"name":"default"}}"#;
    // A controller may have made it already.
    let _ = endpoint
        .connect()
        .await?
        .call(
            Method::POST,
            "/api/v1/namespaces/bench/serviceaccounts",
            JSON,
            Bytes::from_static(account.as_bytes()),
        )
        .await;
    load::run("fill", endpoint, server, 64, objects, |mut c, n| async move {
        Ok(c.call(Method::POST, PODS, JSON, pod(n)).await?.len())
    })
    .await?;
    figures.rss_objects = server.rss_bytes();
    let kinds: [(&'static str, String, &'static str); 6] = [
        ("list", PODS.to_owned(), JSON),
        ("list protobuf", PODS.to_owned(), PROTOBUF),
        ("list table", PODS.to_owned(), TABLE),
        ("list limit=500", format!("{PODS}?limit=500"), JSON),
        ("list by label (a tenth)", format!("{PODS}?labelSelector=tier%3Da"), JSON),
        ("list by field (one)", format!("{PODS}?fieldSelector=metadata.name%3Dp-7"), JSON),
    ];
    for (name, path, accept) in kinds {
        let measured = load::run(name, endpoint, server, 1, 10, move |mut c, _| {
            let path = path.clone();
            async move { c.drain(&path, accept).await }
        });
        figures.measures.push(measured.await?);
    }
    ensure!(figures.measures.last().is_some_and(|m| m.bytes > 0), "lists gave nothing");
    Ok(())
}
