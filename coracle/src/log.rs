//! What the program logs: to standard error, filtered by `--log`.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::util::SubscriberInitExt;

/// Installs the subscriber; an unreadable filter is told and replaced by `warn`.
pub fn init(filter: &str) {
    let parsed = EnvFilter::try_new(filter);
    let complaint = parsed.as_ref().err().map(ToString::to_string);
    let plain =
        !std::io::stderr().is_terminal() || std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
    subscriber(parsed.unwrap_or_else(|_| EnvFilter::new("warn")), std::io::stderr, !plain).init();
    if let Some(complaint) = complaint {
        tracing::warn!("--log {filter:?}: {complaint}; logging warnings");
    }
}

/// Colours are for people at a terminal: files and journals get plain text.
fn subscriber(
    filter: EnvFilter,
    writer: impl for<'a> MakeWriter<'a> + Send + Sync + 'static,
    coloured: bool,
) -> impl tracing::Subscriber + Send + Sync {
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    lines.with_ansi(coloured).with_target(true).finish()
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn a_file_gets_no_colour_codes() {
        for coloured in [false, true] {
            let file = tempfile::NamedTempFile::new().unwrap();
            let writer = Mutex::new(file.reopen().unwrap());
            let subscriber = subscriber(EnvFilter::new("warn"), writer, coloured);
            tracing::subscriber::with_default(subscriber, || tracing::warn!(why = "x", "said"));
            let text = std::fs::read_to_string(file.path()).unwrap();
            assert!(text.contains("said") && text.contains("WARN"), "{text}");
            assert_eq!(text.contains('\u{1b}'), coloured, "{text:?}");
        }
    }
}
