//! What a container left as its last words.

use std::{
    fs::{self, File},
    io::{Read, Seek, SeekFrom},
    path::Path,
};

/// Upstream's limits: of the message file, and of what is taken from the log instead.
const MAX_MESSAGE: u64 = 4096;
const MAX_LOG: usize = 2048;
const MAX_LOG_LINES: usize = 80;

/// The file's beginning, or the log's end.
pub(super) fn message(file: &Path, log: &Path, from_log: bool) -> String {
    let mut data = Vec::new();
    if let Ok(file) = File::open(file) {
        // What could be read is the message.
        let _ = file.take(MAX_MESSAGE).read_to_end(&mut data);
    }
    if data.is_empty() && from_log {
        return log_end(&tail(log));
    }
    String::from_utf8_lossy(&data).into_owned()
}

/// Enough of the log's end for the message with its line prefixes.
fn tail(log: &Path) -> String {
    const ENOUGH: u64 = 64 * 1024;
    let mut data = Vec::new();
    let Ok(mut file) = File::open(log) else { return String::new() };
    let start = fs::metadata(log).map_or(0, |m| m.len()).saturating_sub(ENOUGH);
    if file.seek(SeekFrom::Start(start)).is_ok() {
        let _ = file.read_to_end(&mut data);
    }
    String::from_utf8_lossy(&data).into_owned()
}

/// The last lines of CRI log text, without their prefixes.
fn log_end(text: &str) -> String {
    let content = |line: &str| {
        let mut parts = line.splitn(4, ' ');
        let (tag, content) = (parts.nth(2)?.to_owned(), parts.next()?.to_owned());
        Some(if tag == "P" { content } else { format!("{content}\n") })
    };
    let lines: Vec<String> = text.lines().rev().take(MAX_LOG_LINES).filter_map(content).collect();
    let all: String = lines.into_iter().rev().collect();
    let mut start = all.len().saturating_sub(MAX_LOG);
    while !all.is_char_boundary(start) {
        start += 1;
    }
    all[start..].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_from_the_file_first_and_from_the_log_on_request() {
        let dir = std::env::temp_dir().join(format!("coracle-termination-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let (file, log) = (dir.join("message"), dir.join("0.log"));
        fs::write(&log, "2026-01-01T00:00:00Z stdout P par\n2026-01-01T00:00:00Z stdout F tial\n2026-01-01T00:00:00Z stderr F bad  end\n").unwrap();
        assert_eq!(message(&file, &log, false), "");
        assert_eq!(message(&file, &log, true), "partial\nbad  end\n");
        fs::write(&file, "x".repeat(5000)).unwrap();
        assert_eq!(message(&file, &log, true).len(), 4096);
        fs::write(&log, format!("t stdout F {}\n", "é".repeat(2000))).unwrap();
        fs::write(&file, "").unwrap();
        assert!(message(&file, &log, true).len() <= 2048);
        fs::remove_dir_all(&dir).unwrap();
    }
}
