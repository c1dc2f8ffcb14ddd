//! Hostile logs, frames and messages of clients.

use futures::FutureExt;
use jiff::Timestamp;

use super::logs::LogOptions;
use super::{channels, query, spdy};
use crate::fuzz::first_line;

/// A query for a log, and the log's file.
pub(crate) fn log(bytes: &[u8]) {
    let (line, file) = first_line(bytes);
    let Ok(uri) = axum::http::Uri::builder().path_and_query(format!("/?{line}")).build() else { return };
    let Ok(options) = LogOptions::parse(&query(&uri), Timestamp::UNIX_EPOCH) else { return };
    for line in file.split_inclusive(|byte| *byte == b'\n') {
        let shown = options.show(line).unwrap_or_default();
        assert!(shown.len() <= line.len());
    }
    if let Some(lines) = options.tail_lines {
        super::logs::hostile_tail(file, lines).now_or_never();
    }
}

/// What is shown of a log of standard output.
pub(crate) fn shown(file: &[u8]) -> Vec<u8> {
    let options = LogOptions { stream: Some("stdout"), ..LogOptions::default() };
    file.split_inclusive(|byte| *byte == b'\n').filter_map(|line| options.show(line)).flatten().collect()
}

/// Frames as they come; the same bytes as a block of headers, and as a message.
pub(crate) fn frames(bytes: &[u8]) {
    spdy::hostile_frames(bytes);
    channels::hostile_message(bytes);
}
