//! Every refusal that upstream and we once agreed upon, asked again: no upstream is needed here.

use anyhow::{Result, ensure};
use coracle::testing::ControlPlane;
use coracle_conformance::diff::refusals;

/// The ratchet: what was refused in upstream's words still is, and what was taken still is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_answered_as_upstream_does_still_is() -> Result<()> {
    let server = ControlPlane::start_api().await?;
    let outcome = refusals::to_recording(server.client(), "").await?;
    server.stop().await?;
    let new: Vec<&String> = outcome.differences.values().flatten().collect();
    ensure!(
        new.is_empty(),
        "{} answers are no longer upstream's (ours first):\n{}",
        new.len(),
        new.iter().take(50).map(|d| d.as_str()).collect::<Vec<_>>().join("\n")
    );
    ensure!(outcome.agreed > 5_000, "only {} refusals were tried", outcome.agreed);
    Ok(())
}
