//! The same kube-rs program over TLS and in process.

use std::path::Path;

use anyhow::{Context, Result};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use super::World;
use crate::operator::program;

/// A client as any kube-rs program makes one.
pub(crate) async fn over_tls(kubeconfig: &Path) -> Result<Client> {
    // A second installation is refused, and means that the first one is in place.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let config =
        Config::from_custom_kubeconfig(Kubeconfig::read_from(kubeconfig)?, &KubeConfigOptions::default())
            .await?;
    Ok(Client::try_from(config)?)
}

pub(super) fn kube_rs(world: &mut World) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let kubeconfig = world.kubectl().kubeconfig.clone();
    runtime.block_on(async {
        program(over_tls(&kubeconfig).await?).await.context("over TLS")?;
        let server = coracle::testing::ControlPlane::start().await?;
        program(server.client()).await.context("in process")?;
        server.stop().await
    })
}
