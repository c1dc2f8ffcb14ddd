//! The end of the program: SIGTERM or SIGINT.

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::service_manager::ServiceManager;

/// A token that is cancelled by the first SIGTERM or SIGINT. A second one ends the program at once.
pub(crate) fn on_signal() -> Result<CancellationToken> {
    let token = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).context("handling SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("handling SIGINT")?;
    let cancelled = token.clone();
    tokio::spawn(async move {
        let mut signals = 0;
        loop {
            tokio::select! { _ = terminate.recv() => {} _ = interrupt.recv() => {} }
            signals += 1;
            if signals > 1 {
                std::process::exit(130);
            }
            cancelled.cancel();
            // In its own time: a second signal must be heard meanwhile.
            tokio::spawn(async { ServiceManager::of_environment().stopping().await });
        }
    });
    Ok(token)
}
