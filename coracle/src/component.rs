//! One component alone, against whatever API server a kubeconfig names.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use coracle_apiserver::pki::SigningKey;
use coracle_kubelet::tasks::supervised;
use http::HeaderValue;
use http::header::USER_AGENT;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use crate::cli::{Client as ClientOptions, Component};
use crate::{flags, preflight, shutdown};

pub async fn run(component: Component) -> Result<()> {
    match component {
        Component::Apiserver(up) => crate::up::control_plane_without_loops(*up).await,
        Component::Scheduler(options) => {
            let config = coracle_scheduler::Config::new(
                client(&options, "kube-scheduler").await?,
                &preflight::host_name()?,
            );
            let stop = shutdown::on_signal()?;
            let run = supervised("scheduler", || coracle_scheduler::run(config.clone(), stop.clone()));
            run.await.context("scheduler")
        }
        Component::Controllers(options) => {
            let (service, cluster) = (options.service_cidr.to_string(), options.cluster_cidr.to_string());
            flags::Ranges::of(&service, &cluster)?;
            let root_ca = options.root_ca_file.as_deref().map(read).transpose()?;
            let pair = (&options.cluster_signing_cert_file, &options.cluster_signing_key_file);
            let signing = match pair {
                (Some(certificate), Some(key)) => {
                    Some(coracle_controllers::Signing { certificate: read(certificate)?, key: read(key)? })
                }
                _ => None,
            };
            let config = coracle_controllers::Config {
                root_ca,
                signing,
                sign_token: options
                    .service_account_private_key_file
                    .as_deref()
                    .map(sign_token)
                    .transpose()?,
                cluster_cidr: Some(options.cluster_cidr),
                service_cidr: Some(options.service_cidr),
                ..coracle_controllers::Config::new(client(&options.client, "kube-controller-manager").await?)
            };
            let stop = shutdown::on_signal()?;
            let run = supervised("controllers", || coracle_controllers::run(config.clone(), stop.clone()));
            run.await.context("controllers")
        }
        Component::Kubelet(options) => crate::node::alone(*options).await,
    }
}

/// What signs tokens with the key in a file.
fn sign_token(file: &Path) -> Result<coracle_controllers::SignToken> {
    let key = SigningKey::from_pem(&read(file)?).with_context(|| format!("{}", file.display()))?;
    Ok(Arc::new(move |claims| key.jws(&claims.to_string())))
}

async fn client(options: &ClientOptions, program: &str) -> Result<Client> {
    Ok(Client::try_from(configured(kubeconfig(&options.kubeconfig)?, None, program).await?)?)
}

pub(crate) fn kubeconfig(file: &Path) -> Result<Kubeconfig> {
    flags::readable("--kubeconfig", file)?;
    Kubeconfig::read_from(file).with_context(|| format!("reading {}", file.display()))
}

/// How to reach the API server of the context that is named, or of the one in use. The program's name is the owner of the fields it writes.
pub(crate) async fn configured(
    kubeconfig: Kubeconfig,
    context: Option<&str>,
    program: &str,
) -> Result<Config> {
    // A second installation is refused, and means that the first one is in place.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let options = KubeConfigOptions { context: context.map(str::to_owned), ..KubeConfigOptions::default() };
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &options).await?;
    let agent = HeaderValue::from_str(&format!("{program}/{}", crate::VERSION))?;
    config.headers.push((USER_AGENT, agent));
    Ok(config)
}

pub(crate) fn read(file: &Path) -> Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))
}
