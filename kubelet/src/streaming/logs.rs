//! Container logs: what the shim wrote, as `kubectl logs` asks for it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::Stream;
use jiff::Timestamp;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncSeek, AsyncSeekExt, BufReader};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use crate::beneath::{self, AsyncFile, Dir, File, Links, off_workers};
use crate::sys::inotify::{Changes, Watcher};

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
    pub(super) fn show(&self, line: &[u8]) -> Option<Vec<u8>> {
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

/// Four times what the shim writes; whoever else may write to a log does not fill our memory with one line.
const MAX_LINE: usize = 64 << 10;

/// As many bytes of a log are read, and sent, together where there are so many: a message for each line costs more than the
/// line.
const AT_ONCE: usize = 16 << 10;
/// Pieces that wait for their reader: a slow one keeps no more of the log in memory.
const BACKLOG: usize = 1;

/// The log `path` below `root` as a stream of bytes. With `follow` it ends when `ended` says that the container will write no more.
pub(super) fn read(
    root: PathBuf,
    path: PathBuf,
    options: LogOptions,
    watcher: Arc<Watcher>,
    ended: CancellationToken,
) -> impl Stream<Item = io::Result<Bytes>> {
    let (send, receive) = mpsc::channel(BACKLOG);
    tokio::spawn(async move {
        let mut printer = Printer { left: options.limit_bytes, out: send };
        let log = Log { root, path, watcher };
        if let Err(e) = follow(&log, &options, &ended, &mut printer).await {
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

/// Where a log is: pods may be able to write to the directory of all logs, so no link below it is followed.
#[derive(Clone)]
struct Log {
    root: PathBuf,
    path: PathBuf,
    watcher: Arc<Watcher>,
}

impl Log {
    /// The file as it is now; with `watch` also what tells of its changes from then on.
    async fn open(&self, watch: bool) -> io::Result<(AsyncFile, Option<Changes>)> {
        let log = self.clone();
        let opened = off_workers(move || {
            let name = log.path.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
            // An older version kept whole paths.
            let path = log.path.strip_prefix(&log.root).unwrap_or(&log.path);
            let directory = path.parent().unwrap_or(Path::new(""));
            let dir = Dir::open(&log.root)?.dir(directory, Links::Refused)?;
            let mut file: File = dir.file(name, Links::Refused)?;
            if !watch {
                return Ok((file, None));
            }
            loop {
                let changes = log.watcher.watch(&file, &dir, name)?;
                let now = dir.file(name, Links::Refused)?;
                if beneath::is_same(&file, &now)? {
                    return Ok((file, Some(changes)));
                }
                // It was rotated before it was watched.
                file = now;
            }
        });
        let (file, changes) = opened.await?;
        Ok((AsyncFile::from_std(file), changes))
    }
}

async fn follow(
    log: &Log,
    options: &LogOptions,
    ended: &CancellationToken,
    printer: &mut Printer,
) -> io::Result<()> {
    let (mut file, mut changes) = log.open(options.follow).await?;
    if let Some(lines) = options.tail_lines {
        let at = tail(&mut file, lines).await?;
        file.seek(io::SeekFrom::Start(at)).await?;
    }
    let mut reader = BufReader::with_capacity(AT_ONCE, file);
    let (mut line, mut text, mut replaced) = (vec![], vec![], false);
    loop {
        let last_round = ended.is_cancelled();
        // What was read without its newline stays in `line` and is completed in the next round.
        while read_line(&mut reader, &mut line).await? {
            text.extend(options.show(&line).unwrap_or_default());
            line.clear();
            if text.len() >= AT_ONCE && !printer.print(std::mem::take(&mut text)).await {
                return Ok(());
            }
        }
        if !text.is_empty() && !printer.print(std::mem::take(&mut text)).await {
            return Ok(());
        }
        if std::mem::take(&mut replaced) {
            let (file, again) = log.open(true).await?;
            changes = again;
            // Where events were lost nothing may have happened.
            if !beneath::is_same(reader.get_ref(), &file)? {
                reader = BufReader::with_capacity(AT_ONCE, file);
                line.clear();
            }
            continue;
        }
        let Some(watch) = changes.as_mut().filter(|_| !last_round) else { return Ok(()) };
        tokio::select! {
            // What was written to the old file meanwhile comes first.
            changed = watch.next() => replaced = changed?,
            () = ended.cancelled() => {}
            () = printer.out.closed() => return Ok(()),
        }
    }
}

/// Whether there is a whole line now.
async fn read_line(reader: &mut BufReader<AsyncFile>, line: &mut Vec<u8>) -> io::Result<bool> {
    let room = MAX_LINE - line.len();
    let read = reader.take(room as u64).read_until(b'\n', line).await?;
    if line.ends_with(b"\n") {
        return Ok(read > 0);
    }
    if line.len() >= MAX_LINE {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a line of the log is too long"));
    }
    Ok(false)
}

/// Where the last `lines` lines begin.
async fn tail(file: &mut (impl AsyncRead + AsyncSeek + Unpin), lines: u64) -> io::Result<u64> {
    const BLOCK: u64 = 64 << 10;
    let mut end = file.seek(io::SeekFrom::End(0)).await?;
    // The newline that ends the last line does not begin another.
    let Some(mut newlines_left) = lines.checked_add(1) else { return Ok(0) };
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

/// The last lines begin at a line's beginning.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) async fn hostile_tail(file: &[u8], lines: u64) {
    let at = tail(&mut io::Cursor::new(file), lines).await.expect("bytes can be read");
    let at = usize::try_from(at).expect("within the bytes");
    assert!(at == 0 || file[at - 1] == b'\n');
    assert!(file[at..].iter().filter(|byte| **byte == b'\n').count() as u64 <= lines);
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

    fn line(text: &str) -> String {
        format!("2026-01-01T00:00:00Z stdout F {text}\n")
    }

    fn append(path: &Path, text: &str) {
        use std::io::Write;
        std::fs::File::options().append(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
    }

    fn followed(
        root: &Path,
        watcher: &Arc<Watcher>,
        ended: &CancellationToken,
    ) -> futures::stream::BoxStream<'static, io::Result<Bytes>> {
        read(root.to_owned(), "0.log".into(), options("follow=true"), watcher.clone(), ended.clone()).boxed()
    }

    async fn shown(root: &Path, name: &str, query: &str) -> io::Result<String> {
        let ended = CancellationToken::new();
        ended.cancel();
        let parts: Vec<_> =
            read(root.to_owned(), name.into(), options(query), Watcher::new(), ended).collect().await;
        parts.into_iter().map(|p| Ok(String::from_utf8(p?.to_vec()).unwrap())).collect()
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
            ("tailLines=18446744073709551615", "one\ntwo\nthree\nfour\n"),
            ("sinceSeconds=1", "four\n"),
            ("sinceTime=2026-01-01T00:00:01Z", "two\nthree\nfour\n"),
            ("stream=Stderr", "two\n"),
            ("limitBytes=6", "one\ntw"),
            ("timestamps=true&tailLines=1", "2026-01-01T00:00:03.1Z four\n"),
        ] {
            assert_eq!(shown(dir.path(), "0.log", query).await.unwrap(), want, "{query}");
        }
    }

    #[tokio::test]
    async fn follow_goes_on_over_writes_and_rotation_until_the_container_ends() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        std::fs::write(&path, line("a")).unwrap();
        let ended = CancellationToken::new();
        let mut log = followed(dir.path(), &Watcher::new(), &ended);
        assert_eq!(log.next().await.unwrap().unwrap(), "a\n");
        append(&path, &line("b"));
        assert_eq!(log.next().await.unwrap().unwrap(), "b\n");
        let fresh = dir.path().join("new");
        std::fs::write(&fresh, line("c")).unwrap();
        std::fs::rename(&path, dir.path().join("0.log.1")).unwrap();
        std::fs::rename(&fresh, &path).unwrap();
        assert_eq!(log.next().await.unwrap().unwrap(), "c\n");
        ended.cancel();
        assert!(log.next().await.is_none());
    }

    /// A user may have some 128 instances of inotify, and shares them with all of root.
    #[tokio::test]
    async fn hundreds_follow_and_each_sees_what_is_written() {
        let (dir, watcher, ended) = (tempfile::tempdir().unwrap(), Watcher::new(), CancellationToken::new());
        let path = dir.path().join("0.log");
        std::fs::write(&path, line("a")).unwrap();
        let mut logs: Vec<_> = (0..300).map(|_| followed(dir.path(), &watcher, &ended)).collect();
        for log in &mut logs {
            assert_eq!(log.next().await.unwrap().unwrap(), "a\n");
        }
        append(&path, &line("b"));
        for log in &mut logs {
            assert_eq!(log.next().await.unwrap().unwrap(), "b\n");
        }
        // Where events were lost, the name stands for the same file: nothing is shown again.
        watcher.wake_all();
        append(&path, &line("c"));
        for log in &mut logs {
            assert_eq!(log.next().await.unwrap().unwrap(), "c\n");
        }
        ended.cancel();
        for log in &mut logs {
            assert!(log.next().await.is_none());
        }
    }

    #[tokio::test]
    async fn a_log_whose_file_is_deleted_goes_on_until_the_container_ends() {
        let (dir, ended) = (tempfile::tempdir().unwrap(), CancellationToken::new());
        let root = dir.path().join("logs");
        std::fs::create_dir(&root).unwrap();
        std::fs::write(root.join("0.log"), line("a")).unwrap();
        let held = std::fs::File::options().append(true).open(root.join("0.log")).unwrap();
        let mut log = followed(&root, &Watcher::new(), &ended);
        assert_eq!(log.next().await.unwrap().unwrap(), "a\n");
        std::fs::remove_dir_all(&root).unwrap();
        std::io::Write::write_all(&mut &held, line("b").as_bytes()).unwrap();
        assert_eq!(log.next().await.unwrap().unwrap(), "b\n");
        ended.cancel();
        assert!(log.next().await.is_none());
    }

    #[tokio::test]
    async fn many_lines_come_in_few_pieces_none_of_them_large() {
        let dir = tempfile::tempdir().unwrap();
        let text: String = (0..20_000).map(|n| line(&n.to_string())).collect();
        std::fs::write(dir.path().join("0.log"), text).unwrap();
        let ended = CancellationToken::new();
        ended.cancel();
        for query in ["", "follow=true"] {
            let log =
                read(dir.path().to_owned(), "0.log".into(), options(query), Watcher::new(), ended.clone());
            let pieces: Vec<Bytes> = log.map(Result::unwrap).collect().await;
            let want: String = (0..20_000).map(|n| format!("{n}\n")).collect();
            assert!(pieces.len() <= want.len() / AT_ONCE + 1, "{query}: {} pieces", pieces.len());
            assert!(pieces.iter().all(|piece| piece.len() < AT_ONCE + MAX_LINE));
            assert!(pieces.concat() == want.as_bytes(), "{query}: all of it, in order");
        }
    }

    /// A pod with the node's logs mounted plants what it wants to read, or what never ends.
    #[tokio::test]
    async fn nothing_but_regular_files_below_the_directory_is_shown() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir_all(at("logs/pod")).unwrap();
        std::fs::write(at("secret"), LOG).unwrap();
        std::os::unix::fs::symlink(at("secret"), at("logs/pod/link.log")).unwrap();
        std::os::unix::fs::symlink(dir.path(), at("logs/up")).unwrap();
        nix::unistd::mkfifo(&at("logs/pod/fifo.log"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        std::fs::File::create(at("logs/pod/sparse.log")).unwrap().set_len(10 << 30).unwrap();
        let whole = at("secret").to_str().unwrap().to_owned();
        for name in
            ["pod/link.log", "up/secret", "../secret", "pod/fifo.log", "pod/sparse.log", "pod", &whole]
        {
            for query in ["", "follow=true"] {
                let got = shown(&at("logs"), name, query).await;
                assert!(got.is_err(), "{name} {query}: {got:?}");
            }
        }
    }

    #[test]
    fn bad_numbers_are_told() {
        let query = vec![("tailLines".to_owned(), "-1".to_owned())];
        assert!(LogOptions::parse(&query, Timestamp::UNIX_EPOCH).unwrap_err().contains("tailLines"));
    }
}
