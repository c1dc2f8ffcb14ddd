//! The program that shims and pause processes run: this one, in a way that nobody can write to.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

use crate::sys::roots;

pub(super) struct Program {
    /// `None`: the kernel has no mounts without a place (before 5.12).
    mount: Option<OwnedFd>,
}

// === impl Program ===

impl Program {
    pub(super) fn own() -> io::Result<Program> {
        match roots::read_only_program() {
            Ok(mount) => Ok(Program { mount: Some(mount) }),
            Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => {
                tracing::warn!("the kernel is older than 5.12: shims run from a file that can be written to");
                Ok(Program { mount: None })
            }
            Err(error) => Err(error),
        }
    }

    /// To be run by a child of this process.
    pub(super) fn path(&self) -> PathBuf {
        match &self.mount {
            Some(mount) => format!("/proc/self/fd/{}", mount.as_raw_fd()).into(),
            None => "/proc/self/exe".into(),
        }
    }
}
