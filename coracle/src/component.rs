//! One component alone, against whatever API server a kubeconfig names.

use std::path::Path;
use std::pin::pin;
use std::sync::Arc;

use anyhow::{Context, Result};
use coracle_apiserver::pki::SigningKey;
use coracle_kubelet::tasks::supervised;
use http::HeaderValue;
use http::header::USER_AGENT;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use crate::cli::{Client as ClientOptions, Component};
use crate::service_manager::ServiceManager;
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
            announced("Scheduling", run).await.context("scheduler")
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
                root_ca: root_ca.map(coracle_controllers::fixed),
                signing: signing.map(coracle_controllers::fixed),
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
            announced("Controllers work", run).await.context("controllers")
        }
        Component::Kubelet(options) => crate::node::alone(*options).await,
    }
}

/// Runs a component, of which the service manager is told.
async fn announced<T>(status: &str, run: impl Future<Output = T>) -> T {
    let manager = ServiceManager::of_environment();
    let telling = async {
        manager.ready(status).await;
        manager.watch(|| async { true }).await;
    };
    let mut run = pin!(run);
    tokio::select! {
        ended = &mut run => ended,
        () = telling => run.await,
    }
}

/// What signs tokens with the key in a file.
fn sign_token(file: &Path) -> Result<coracle_controllers::SignToken> {
    let key = SigningKey::from_pem(&read(file)?).with_context(|| format!("{}", file.display()))?;
    Ok(Arc::new(move |claims| key.jws(&claims.to_string())))
}

async fn client(options: &ClientOptions, program: &str) -> Result<Client> {
    told(configured(kubeconfig(&options.kubeconfig)?, None, program).await?)
}

/// A client that says of a server that it cannot reach where that would be, and all the reasons.
pub(crate) fn told(config: Config) -> Result<Client> {
    let (url, namespace) = (config.cluster_url.to_string(), config.default_namespace.clone());
    let client = Client::try_from(config)?;
    let send = move |request| {
        let (client, url) = (client.clone(), url.clone());
        async move { client.send(request).await.map_err(|error| unreachable(&url, error)) }
    };
    Ok(Client::new(tower::service_fn(send), namespace))
}

fn unreachable(url: &str, error: kube::Error) -> kube::Error {
    let why = match error {
        kube::Error::Service(why) => format!("{:#}", anyhow::Error::from_boxed(why)),
        kube::Error::HyperError(why) => format!("{:#}", anyhow::Error::from(why)),
        other => return other,
    };
    kube::Error::Service(anyhow::anyhow!("{}: {why}", url.trim_end_matches('/')).into())
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

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Node;
    use kube::Api;

    use super::*;

    #[tokio::test]
    async fn errors_name_the_address() {
        let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = nobody.local_addr().unwrap();
        drop(nobody);
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = told(Config::new(format!("https://{address}").parse().unwrap())).unwrap();
        let error = Api::<Node>::all(client).get("a").await.unwrap_err().to_string();
        assert!(error.contains(&format!("https://{address}: ")) && error.contains("refused"), "{error}");
    }
}
