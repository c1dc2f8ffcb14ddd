//! What the program logs: to standard error, filtered by `--log`.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Installs the subscriber; an unreadable filter is told and replaced by `warn`.
pub fn init(filter: &str) {
    let parsed = EnvFilter::try_new(filter);
    let complaint = parsed.as_ref().err().map(ToString::to_string);
    tracing_subscriber::fmt()
        .with_env_filter(parsed.unwrap_or_else(|_| EnvFilter::new("warn")))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(true)
        .init();
    if let Some(complaint) = complaint {
        tracing::warn!("--log {filter:?}: {complaint}; logging warnings");
    }
}
