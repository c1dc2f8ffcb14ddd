//! Container logs: what the shim wrote, as `kubectl logs` asks for it.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::Stream;
use jiff::Timestamp;
use tokio::fs::File;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncSeekExt, BufReader};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use crate::sys::inotify::Changes;

/// What to show of a log. Upstream's `PodLogOptions`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct LogOptions {
    pub follow: bool,
    pub previous: bool,
    pub timestamps: bool,
    pub tail_lines: Option<u64>,
    pub since: Option<Timestamp>,
    pub limit_bytes: Option<u64>,
    /// `Stdout` or `Stderr`; `None` shows both.
    pub stream: Option<&'static str>,
}

// === impl LogOptions ===

impl LogOptions {
    /// Reads the query of `/containerLogs/...`; the message is what a client is told.
    pub(super) fn parse(query: &[(String, String)], now: Timestamp) -> Result<Self, String> {
        let get = |name: &str| {
            query.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str()).filter(|v| !v.is_empty())
        };
        let flag = |name: &str| get(name).is_some_and(coracle_api::query::flag);
        let number = |name: &str| {
            let parse = |v: &str| {
                v.parse::<u64>().map_err(|_| format!("{name}: {v:?} must be a number of 0 or more"))
            };
            get(name).map(parse).transpose()
        };
        let seconds = number("sinceSeconds")?
            .map(|s| jiff::SignedDuration::from_secs(i64::try_from(s).unwrap_or(i64::MAX)));
        let time = get("sinceTime")
            .map(|t| t.parse::<Timestamp>().map_err(|e| format!("sinceTime: {e}")))
            .transpose()?;
        let stream = match get("stream") {
            None | Some("All") => None,
            Some("Stdout") => Some("stdout"),
            Some("Stderr") => Some("stderr"),
            Some(other) => return Err(format!("stream: unsupported value {other:?}: All, Stdout, Stderr")),
        };
        Ok(LogOptions {
            follow: flag("follow"),
            previous: flag("previous"),
            timestamps: flag("timestamps"),
            tail_lines: number("tailLines")?,
            since: seconds.and_then(|d| now.checked_sub(d).ok()).or(time),
            limit_bytes: number("limitBytes")?,
            stream,
        })
    }

    /// What a client sees of one line of the file; `None` when it is filtered out or is no CRI line.
    fn show(&self, line: &[u8]) -> Option<Vec<u8>> {
        let mut parts = line.splitn(4, |b| *b == b' ');
        let (time, stream, tag, text) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        if self.stream.is_some_and(|s| s.as_bytes() != stream) {
            return None;
        }
        if let Some(since) = self.since {
            let at: Timestamp = std::str::from_utf8(time).ok()?.parse().ok()?;
            if at < since {
                return None;
            }
        }
        let text = text.strip_suffix(b"\n").unwrap_or(text);
        let mut out = Vec::with_capacity(line.len());
        if self.timestamps {
            out.extend_from_slice(time);
            out.push(b' ');
        }
        out.extend_from_slice(text);
        // A partial line goes on in the next one.
        if tag.starts_with(b"F") {
            out.push(b'\n');
        }
        Some(out)
    }
}

const BACKLOG: usize = 32;

/// The log as a stream of bytes. With `follow` it ends when `ended` says that the container will write no more.
pub(super) fn read(
    path: PathBuf,
    options: LogOptions,
    ended: CancellationToken,
) -> impl Stream<Item = io::Result<Bytes>> {
    let (send, receive) = mpsc::channel(BACKLOG);
    tokio::spawn(async move {
        let mut printer = Printer { left: options.limit_bytes, out: send };
        if let Err(e) = follow(&path, &options, &ended, &mut printer).await {
            // A client that went away is no error of ours.
            let _ = printer.out.send(Err(e)).await;
        }
    });
    ReceiverStream::new(receive)
}

/// Sends what is shown, up to the limit.
struct Printer {
    left: Option<u64>,
    out: mpsc::Sender<io::Result<Bytes>>,
}

impl Printer {
    /// Whether more is wanted.
    async fn print(&mut self, mut text: Vec<u8>) -> bool {
        if let Some(left) = &mut self.left {
            text.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= text.len() as u64;
        }
        self.out.send(Ok(text.into())).await.is_ok() && self.left != Some(0)
    }
}

async fn follow(
    path: &Path,
    options: &LogOptions,
    ended: &CancellationToken,
    printer: &mut Printer,
) -> io::Result<()> {
    let mut changes = if options.follow { Some(Changes::of(path)?) } else { None };
    let mut file = File::open(path).await?;
    if let Some(lines) = options.tail_lines {
        let at = tail(&mut file, lines).await?;
        file.seek(io::SeekFrom::Start(at)).await?;
    }
    let mut reader = BufReader::new(file);
    let mut line = vec![];
    loop {
        let last_round = ended.is_cancelled();
        // What was read without its newline stays in `line` and is completed in the next round.
        while reader.read_until(b'\n', &mut line).await? > 0 && line.ends_with(b"\n") {
            if let Some(text) = options.show(&line)
                && !printer.print(text).await
            {
                return Ok(());
            }
            line.clear();
        }
        let Some(watch) = changes.as_mut().filter(|_| !last_round) else { return Ok(()) };
        tokio::select! {
            moved = watch.next() => if moved? {
                changes = Some(Changes::of(path)?);
                reader = BufReader::new(File::open(path).await?);
                line.clear();
            },
            () = ended.cancelled() => {}
            () = printer.out.closed() => return Ok(()),
        }
    }
}

/// Where the last `lines` lines begin.
async fn tail(file: &mut File, lines: u64) -> io::Result<u64> {
    const BLOCK: u64 = 64 << 10;
    let mut end = file.seek(io::SeekFrom::End(0)).await?;
    // The newline that ends the last line does not begin another.
    let mut newlines_left = lines + 1;
    let mut block = vec![];
    while end > 0 {
        let start = end.saturating_sub(BLOCK);
        file.seek(io::SeekFrom::Start(start)).await?;
        block.resize((end - start) as usize, 0);
        file.read_exact(&mut block).await?;
        for (at, _) in block.iter().enumerate().rev().filter(|(_, b)| **b == b'\n') {
            newlines_left -= 1;
            if newlines_left == 0 {
                return Ok(start + at as u64 + 1);
            }
        }
        end = start;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;

    use super::*;

    const LOG: &str = "2026-01-01T00:00:00.1Z stdout F one\n2026-01-01T00:00:01.1Z stderr F two\n\
        2026-01-01T00:00:02.1Z stdout P thr\n2026-01-01T00:00:02.2Z stdout F ee\n2026-01-01T00:00:03.1Z stdout F four\n";

    fn options(text: &str) -> LogOptions {
        let query: Vec<(String, String)> = text
            .split('&')
            .filter_map(|p| p.split_once('='))
            .map(|(a, b)| (a.to_owned(), b.to_owned()))
            .collect();
        LogOptions::parse(&query, "2026-01-01T00:00:04Z".parse().unwrap()).unwrap()
    }

    async fn shown(file: &Path, query: &str) -> String {
        let ended = CancellationToken::new();
        ended.cancel();
        let parts: Vec<_> = read(file.to_owned(), options(query), ended).collect().await;
        parts.into_iter().map(|p| String::from_utf8(p.unwrap().to_vec()).unwrap()).collect()
    }

    #[tokio::test]
    async fn options_choose_what_is_shown() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("0.log");
        std::fs::write(&file, LOG).unwrap();
        for (query, want) in [
            ("", "one\ntwo\nthree\nfour\n"),
            ("tailLines=1", "four\n"),
            ("tailLines=0", ""),
            ("tailLines=99", "one\ntwo\nthree\nfour\n"),
            ("sinceSeconds=1", "four\n"),
            ("sinceTime=2026-01-01T00:00:01Z", "two\nthree\nfour\n"),
            ("stream=Stderr", "two\n"),
            ("limitBytes=6", "one\ntw"),
            ("timestamps=true&tailLines=1", "2026-01-01T00:00:03.1Z four\n"),
        ] {
            assert_eq!(shown(&file, query).await, want, "{query}");
        }
    }

    #[tokio::test]
    async fn follow_goes_on_over_writes_and_rotation_until_the_container_ends() {
        use std::io::Write;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let line = |text: &str| format!("2026-01-01T00:00:00Z stdout F {text}\n");
        std::fs::write(&path, line("a")).unwrap();
        let ended = CancellationToken::new();
        let mut log = Box::pin(read(path.clone(), options("follow=true"), ended.clone()));
        assert_eq!(log.next().await.unwrap().unwrap(), "a\n");
        std::fs::File::options().append(true).open(&path).unwrap().write_all(line("b").as_bytes()).unwrap();
        assert_eq!(log.next().await.unwrap().unwrap(), "b\n");
        let fresh = dir.path().join("new");
        std::fs::write(&fresh, line("c")).unwrap();
        std::fs::rename(&path, dir.path().join("0.log.1")).unwrap();
        std::fs::rename(&fresh, &path).unwrap();
        // Rotation is seen when the old file has moved; by then the new one may or may not be there.
        assert_eq!(log.next().await.unwrap().unwrap(), "c\n");
        ended.cancel();
        assert!(log.next().await.is_none());
    }

    #[test]
    fn bad_numbers_are_told() {
        let query = vec![("tailLines".to_owned(), "-1".to_owned())];
        assert!(LogOptions::parse(&query, Timestamp::UNIX_EPOCH).unwrap_err().contains("tailLines"));
    }
}
