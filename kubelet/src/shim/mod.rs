//! The single-threaded process that owns one container.
//!
//! It starts the container through libcontainer, writes its log, reaps it, and serves the kubelet on a unix socket. It
//! outlives the kubelet, and ends when the container has ended.

use std::ffi::OsString;
use std::io;
use std::path::Path;

mod create;
mod exec;
mod log;
mod pause;
pub(crate) mod protocol;
mod serve;

/// Entry of `coracle shim <container directory>`: must run before the process has a second thread.
pub fn main(args: &[OsString]) -> i32 {
    if crate::sys::process::threads() > 1 {
        return 125;
    }
    let result = match args {
        [flag, root] if flag == "--pause" => pause::run(Path::new(root)),
        [dir] => run(Path::new(dir)),
        _ => Err(io::Error::other("usage: shim <container directory>")),
    };
    match result {
        Ok(()) => 0,
        Err(error) => {
            tracing::error!(%error, "shim failed");
            125
        }
    }
}

fn run(dir: &Path) -> io::Result<()> {
    // libcontainer tells causes only to the log; stderr is the container's shim.log.
    tracing_subscriber::fmt().with_ansi(false).with_max_level(tracing::Level::WARN).with_writer(io::stderr).init();
    let config: protocol::ShimConfig =
        protocol::read_file(&dir.join("shim.json")).ok_or_else(|| io::Error::other("no shim.json"))?;
    serve::Shim::start(config)?.serve()
}
