//! Puts the parts of the node together and keeps them running until told to stop.

use tokio_util::sync::CancellationToken;

use crate::Config;

/// Runs the node until `shutdown` is cancelled. Pods go on running without it and are adopted by the next run.
pub async fn run(config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    tracing::info!(node = %config.node_name, "starting the node agent");
    shutdown.cancelled().await;
    Ok(())
}
