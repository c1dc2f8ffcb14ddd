//! One component alone, against whatever API server a kubeconfig names.

use std::path::Path;

use anyhow::{Context, Result};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use crate::cli::{Client as ClientOptions, Component};
use crate::{preflight, shutdown};

pub async fn run(component: Component) -> Result<()> {
    match component {
        Component::Apiserver(up) => crate::up::control_plane_without_loops(*up).await,
        Component::Scheduler(options) => {
            let config = coracle_scheduler::Config::new(client(&options).await?, &preflight::host_name()?);
            coracle_scheduler::run(config, shutdown::on_signal()?).await.context("scheduler")
        }
        Component::Controllers(options) => {
            let root_ca = options.root_ca_file.as_deref().map(read).transpose()?;
            let config = coracle_controllers::Config {
                root_ca,
                ..coracle_controllers::Config::new(client(&options.client).await?)
            };
            coracle_controllers::run(config, shutdown::on_signal()?).await.context("controllers")
        }
        Component::Kubelet(options) => crate::node::alone(*options).await,
    }
}

pub(crate) async fn client(options: &ClientOptions) -> Result<Client> {
    // A second installation is refused, and means that the first one is in place.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let file = &options.kubeconfig;
    let kubeconfig = Kubeconfig::read_from(file).with_context(|| format!("reading {}", file.display()))?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

pub(crate) fn read(file: &Path) -> Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))
}
