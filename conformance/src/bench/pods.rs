//! A cluster with a node: from nothing to the first pod, and from create to Running.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::runtime::wait::{await_condition, conditions::is_pod_running};
use kube::{Api, Client};
use serde::{Deserialize, Serialize};

use super::control_plane::{Idle, ready};
use super::{Amounts, NAMESPACE};
use crate::acceptance::clients::over_tls;
use crate::cluster::Cluster;
use crate::kubectl::pause;
use crate::pod_starts::{percentile, pod, start};
use crate::process::Processes;
use crate::registry::Registry;

/// Seconds, each as a client of the API sees it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct PodTimes {
    /// From the start of the program; unknown of a cluster that was there already.
    pub ready: Option<f64>,
    pub node_ready: Option<f64>,
    pub first_pod: Option<f64>,
    /// From create to Running, one after the other.
    pub alone_p50: f64,
    pub alone_p99: f64,
    /// How many were created at once, and until how many of them ran.
    pub together: usize,
    pub together_p50: f64,
    pub together_all: f64,
    /// The program with its node once all these pods are gone.
    pub idle: Option<Idle>,
}

/// How long anything here may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between looks at what has no event for a client.
const PAUSE: Duration = Duration::from_millis(10);

pub(super) fn on_a_node_of_ours(
    runtime: &tokio::runtime::Runtime,
    program: &Path,
    scratch: &Path,
    amounts: &Amounts,
) -> Result<PodTimes> {
    let _registry = Registry::serve("../hack/images")?;
    let flags = Registry::flags("docker.io", &scratch.join("registries.yaml"))?;
    let flags = flags.each_ref().map(String::as_str);
    let mut cluster = Cluster::new(program, &scratch.join("node"), &flags);
    cluster.up()?;
    let begun = cluster.begun;
    let (kubeconfig, span) = (cluster.kubeconfig(), Duration::from_secs(amounts.idle));
    let mut times = runtime.block_on(async {
        ready(&kubeconfig).await?;
        let ready = Some(begun.elapsed().as_secs_f64());
        let client = over_tls(&kubeconfig).await?;
        let node_is_ready = |node: Option<&Node>| node.is_some_and(is_ready);
        within("node n1 to be Ready", await_condition(Api::all(client.clone()), "n1", node_is_ready)).await?;
        let node_ready = Some(begun.elapsed().as_secs_f64());
        first_pod(&client).await?;
        let first_pod = Some(begun.elapsed().as_secs_f64());
        let times = starts(&client, amounts).await?;
        anyhow::Ok(PodTimes { ready, node_ready, first_pod, ..times })
    })?;
    let processes = Processes::of([u32::try_from(cluster.pid()?.as_raw())?]);
    let before = processes.cpu_seconds();
    pause(span);
    times.idle = Some(Idle::since(&processes, before, span));
    println!("coracle: pods done");
    cluster.purge()?;
    Ok(times)
}

/// The pods' part against a cluster that runs; nothing where it has no node.
pub(super) async fn on_any_cluster(kubeconfig: &Path, amounts: &Amounts) -> Result<Option<PodTimes>> {
    let client = over_tls(kubeconfig).await?;
    let nodes = Api::<Node>::all(client.clone()).list(&ListParams::default()).await?;
    if !nodes.items.iter().any(is_ready) {
        println!("no node is Ready: no pods are started");
        return Ok(None);
    }
    first_pod(&client).await?;
    starts(&client, amounts).await.map(Some)
}

async fn first_pod(client: &Client) -> Result<()> {
    let namespace: Namespace = serde_json::from_value(serde_json::json!({"metadata": {"name": NAMESPACE}}))?;
    // It is there already where requests were measured before.
    let _ = Api::all(client.clone()).create(&PostParams::default(), &namespace).await;
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let deadline = Instant::now() + PATIENCE;
    // Until a controller has made the namespace's service account, pods are refused.
    while let Err(e) = pods.create(&PostParams::default(), &pod("first")?).await {
        ensure!(Instant::now() < deadline, "the first pod is refused: {e}");
        tokio::time::sleep(PAUSE).await;
    }
    within("the first pod to run", await_condition(pods, "first", is_pod_running())).await
}

async fn starts(client: &Client, amounts: &Amounts) -> Result<PodTimes> {
    let mut alone = start(client, NAMESPACE, "alone", amounts.alone, 1).await?;
    gone(client).await?;
    let mut together = start(client, NAMESPACE, "together", amounts.together, amounts.together).await?;
    gone(client).await?;
    let seconds = |times: &mut [Duration], share| percentile(times, share).as_secs_f64();
    Ok(PodTimes {
        alone_p50: seconds(&mut alone, 50),
        alone_p99: seconds(&mut alone, 99),
        together: amounts.together,
        together_p50: seconds(&mut together, 50),
        together_all: seconds(&mut together, 100),
        ..PodTimes::default()
    })
}

/// Deletes all pods and waits until the last one has ended.
async fn gone(client: &Client) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    pods.delete_collection(&DeleteParams::default().grace_period(1), &ListParams::default()).await?;
    let deadline = Instant::now() + PATIENCE;
    while !pods.list_metadata(&ListParams::default()).await?.items.is_empty() {
        ensure!(Instant::now() < deadline, "pods do not end");
        tokio::time::sleep(PAUSE * 10).await;
    }
    Ok(())
}

async fn within<T>(
    what: &str,
    wanted: impl Future<Output = Result<T, kube::runtime::wait::Error>>,
) -> Result<()> {
    let waited = tokio::time::timeout(PATIENCE, wanted).await;
    waited.with_context(|| format!("waiting for {what}"))?.map(drop).map_err(Into::into)
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
}
