//! Being told when a file changes.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::path::PathBuf;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::unix::AsyncFd;

use crate::beneath::{Dir, File};

/// Tells when a file was written to, or when another took its name, as rotation does.
pub struct Changes {
    inotify: AsyncFd<Watch>,
    name: OsString,
}

/// A watch that no runtime knows of yet.
pub struct Unwatched {
    inotify: Inotify,
    name: OsString,
}

/// Lends tokio the descriptor, which the library gives only as a borrowed one.
struct Watch(Inotify);

impl AsRawFd for Watch {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Changes {
    /// Watches the file, which is `name` in the directory. Changes from now on are told.
    pub fn of(file: &File, dir: &Dir, name: &OsStr) -> io::Result<Unwatched> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let held = |fd: BorrowedFd<'_>| PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()));
        inotify.add_watch(&held(file.as_fd()), AddWatchFlags::IN_MODIFY)?;
        inotify.add_watch(&held(dir.as_fd()), AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO)?;
        Ok(Unwatched { inotify, name: name.to_owned() })
    }

    /// Needs a runtime.
    pub fn watch(unwatched: Unwatched) -> io::Result<Changes> {
        // SAFETY: `Watch` owns its descriptor and gives the same one for as long as it lives.
        let inotify = unsafe { AsyncFd::register(Watch(unwatched.inotify)) }?;
        Ok(Changes { inotify, name: unwatched.name })
    }

    /// Waits for a change; whether the name now stands for another file.
    pub async fn next(&mut self) -> io::Result<bool> {
        let mut ready = self.inotify.readable().await?;
        let events = match ready.get_inner().0.read_events() {
            Ok(events) => events,
            Err(nix::errno::Errno::EAGAIN) => vec![],
            Err(e) => return Err(e.into()),
        };
        ready.clear_ready();
        Ok(events.iter().any(|event| event.name.as_ref() == Some(&self.name)))
    }
}
