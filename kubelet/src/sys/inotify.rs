//! Being told when a file changes.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::Path;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::unix::AsyncFd;

/// Tells when a file was written to, or was moved away by rotation.
pub struct Changes {
    inotify: AsyncFd<Watch>,
}

/// Lends tokio the descriptor, which the library gives only as a borrowed one.
struct Watch(Inotify);

impl AsRawFd for Watch {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Changes {
    pub fn of(path: &Path) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let flags = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_MOVE_SELF | AddWatchFlags::IN_DELETE_SELF;
        inotify.add_watch(path, flags)?;
        // SAFETY: `Watch` owns its descriptor and gives the same one for as long as it lives.
        let inotify = unsafe { AsyncFd::register(Watch(inotify)) }?;
        Ok(Changes { inotify })
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
        let gone = AddWatchFlags::IN_MOVE_SELF | AddWatchFlags::IN_DELETE_SELF | AddWatchFlags::IN_IGNORED;
        Ok(events.iter().any(|e| e.mask.intersects(gone)))
    }
}
