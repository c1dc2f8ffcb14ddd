//! The control plane as a whole, in one process, without a listener: a client in the same process uses it as any operator
//! would, and the controllers do their work.

#[path = "control_plane/accounts.rs"]
mod accounts;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use coracle::testing::ControlPlane;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{Namespace, Pod, ServiceAccount};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::runtime::wait::{await_condition, conditions};
use kube::{Api, ResourceExt};
use serde_json::json;

const SOON: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_works_in_process() -> Result<()> {
    let server = ControlPlane::start().await?;
    coracle_conformance::operator::program(server.client()).await?;
    server.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_becomes_a_replica_set_and_pods_and_goes_with_its_namespace() -> Result<()> {
    let server = ControlPlane::start().await?;
    let client = server.client();
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": "shop"}}))?;
    namespaces.create(&PostParams::default(), &namespace).await?;
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "shop");
    let made = await_condition(accounts, "default", |a: Option<&ServiceAccount>| a.is_some());
    tokio::time::timeout(SOON, made).await.context("the default service account")??;

    let deployments: Api<Deployment> = Api::namespaced(client.clone(), "shop");
    let deployment: Deployment = serde_json::from_value(json!({
        "metadata": {"name": "web"},
        "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web"}}, "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "c", "image": "nginx"}]}}}}))?;
    deployments.create(&PostParams::default(), &deployment).await?;
    let counted = await_condition(deployments, "web", |d: Option<&Deployment>| {
        d.and_then(|d| d.status.as_ref())
            .is_some_and(|s| s.replicas == Some(3) && s.updated_replicas == Some(3))
    });
    tokio::time::timeout(SOON, counted).await.context("three replicas in the status")??;

    let pods: Api<Pod> = Api::namespaced(client.clone(), "shop");
    let pods = pods.list(&ListParams::default()).await?;
    ensure!(pods.items.len() == 3, "{} pods", pods.items.len());
    let sets: Api<ReplicaSet> = Api::namespaced(client.clone(), "shop");
    let sets = sets.list(&ListParams::default()).await?.items;
    ensure!(
        sets.len() == 1
            && pods.items.iter().all(|p| p.owner_references()[0].uid == sets[0].uid().unwrap_or_default())
    );
    // The pods never ran, so nothing holds them; the namespace takes everything with it.
    let uid = namespaces.get("shop").await?.uid().context("a uid")?;
    namespaces.delete("shop", &DeleteParams::default()).await?;
    let gone = await_condition(namespaces, "shop", conditions::is_deleted(&uid));
    tokio::time::timeout(SOON, gone).await.context("the namespace goes")??;
    server.stop().await
}
