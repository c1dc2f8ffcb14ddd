//! Runs the controllers against the cluster that `KUBECONFIG` names, in place of its own kube-controller-manager.
//! Arguments are names of controllers; none means all. `ROOT_CA` may name the file of the bundle to publish.

use coracle_controllers::{Config, fixed, run};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).init();
    let mut config = Config::new(kube::Client::try_default().await?);
    let names: Vec<String> = std::env::args().skip(1).collect();
    if !names.is_empty() {
        config.controllers = names;
    }
    if let Ok(path) = std::env::var("ROOT_CA") {
        config.root_ca = Some(fixed(tokio::fs::read_to_string(path).await?));
    }
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            stop.cancel();
        }
    });
    run(config, shutdown).await?;
    Ok(())
}
