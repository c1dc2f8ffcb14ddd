//! The client end of an exec or attach.

use std::os::fd::OwnedFd;

use crate::cri::{RuntimeError, StdioPipes};

/// A running exec, or a connection to a container's own streams.
pub struct Session {
    /// Take the streams out and copy; drop them to close.
    pub stdio: StdioPipes,
    /// There when the process has a terminal.
    pub resizer: Option<Resizer>,
    pub(crate) exit: tokio::sync::oneshot::Receiver<i32>,
}

impl Session {
    /// The exit code of the exec, or of the container for an attach.
    pub async fn wait(&mut self) -> Result<i32, RuntimeError> {
        (&mut self.exit).await.map_err(|_| RuntimeError::Shim("the shim went away".to_owned()))
    }
}

/// Changes the size of a terminal.
pub struct Resizer {
    pub(crate) terminal: OwnedFd,
}

impl Resizer {
    pub fn resize(&self, columns: u16, rows: u16) -> Result<(), RuntimeError> {
        crate::sys::terminal::resize(&self.terminal, columns, rows)
            .map_err(|source| RuntimeError::Io { context: "resize terminal".to_owned(), source })
    }
}
