//! What a container left as its last words.

use std::path::Path;

use super::places::Places;
use crate::beneath::{Dir, Links};

/// Upstream's limits: of the message file, and of what is taken from the log instead.
const MAX_MESSAGE: u64 = 4096;
const MAX_LOG: usize = 2048;
const MAX_LOG_LINES: usize = 80;

/// One attempt of a container, and where it has written.
pub(super) struct Ended<'a> {
    pub(super) places: &'a Places,
    pub(super) container: &'a str,
    pub(super) attempt: u32,
    pub(super) log_root: &'a Path,
    pub(super) log_path: &'a Path,
}

/// The message file's beginning, or the log's end. Blocks. What cannot be read is no message.
pub(super) fn message(ended: &Ended<'_>, from_log: bool) -> String {
    let file = Places::message(ended.container, ended.attempt).and_then(|(above, name)| {
        Dir::open(ended.places.dir())?.read_start(above.join(name), Links::Refused, MAX_MESSAGE)
    });
    let data = file.unwrap_or_default();
    if data.is_empty() && from_log {
        return log_end(&tail(ended));
    }
    String::from_utf8_lossy(&data).into_owned()
}

/// Enough of the log's end for the message with its line prefixes.
fn tail(ended: &Ended<'_>) -> String {
    const ENOUGH: u64 = 64 * 1024;
    // An older version kept whole paths.
    let path = ended.log_path.strip_prefix(ended.log_root).unwrap_or(ended.log_path);
    let data = Dir::open(ended.log_root).and_then(|root| root.read_end(path, Links::Refused, ENOUGH));
    String::from_utf8_lossy(&data.unwrap_or_default()).into_owned()
}

/// The last lines of CRI log text, without their prefixes.
pub(super) fn log_end(text: &str) -> String {
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
    use std::fs;

    use super::*;

    #[test]
    fn messages_come_from_the_file_first_and_from_the_log_on_request() {
        let dir = tempfile::tempdir().unwrap();
        let mut pod = k8s_openapi::api::core::v1::Pod::default();
        (pod.metadata.namespace, pod.metadata.name) = (Some("n".to_owned()), Some("p".to_owned()));
        pod.metadata.uid = Some("u".to_owned());
        let logs = dir.path().join("logs");
        let places = Places::of(dir.path(), &logs, &pod).unwrap();
        let log_path = places.log("c", 0).unwrap();
        let ended =
            Ended { places: &places, container: "c", attempt: 0, log_root: &logs, log_path: &log_path };
        let (file, log) = (places.dir().join("containers/c/0.message"), logs.join(&log_path));
        for path in [&file, &log] {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
        }
        fs::write(&log, "2026-01-01T00:00:00Z stdout P par\n2026-01-01T00:00:00Z stdout F tial\n2026-01-01T00:00:00Z stderr F bad  end\n").unwrap();
        assert_eq!(message(&ended, false), "");
        assert_eq!(message(&ended, true), "partial\nbad  end\n");
        fs::write(&file, "x".repeat(5000)).unwrap();
        assert_eq!(message(&ended, true).len(), 4096);
        fs::write(&log, format!("t stdout F {}\n", "é".repeat(2000))).unwrap();
        fs::write(&file, "").unwrap();
        assert!(message(&ended, true).len() <= 2048);
        // What is not a file is not read.
        for path in [&file, &log] {
            fs::remove_file(path).unwrap();
            nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        }
        assert_eq!(message(&ended, true), "");
        fs::remove_file(&file).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &file).unwrap();
        assert_eq!(message(&ended, true), "");
    }
}
