//! Pseudo-terminals.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

/// Sets the window size; the kernel sends SIGWINCH to the foreground process group.
pub fn resize(terminal: &OwnedFd, columns: u16, rows: u16) -> io::Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the descriptor is open and TIOCSWINSZ reads one `winsize`.
    let result = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
