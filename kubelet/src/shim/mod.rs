//! The single-threaded process that owns one container.
//!
//! It starts the container through libcontainer, writes its log, reaps it, and serves the kubelet on a unix socket. It
//! outlives the kubelet, and ends when the container has ended.

use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Mutex;

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::prelude::*;

pub(crate) mod confinement;
mod connection;
mod create;
mod exec;
mod execs;
mod held;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod hostile;
mod log;
pub(crate) mod namespaces;
pub(crate) mod pause;
pub(crate) mod protocol;
mod serve;
mod staging;
mod verify;

/// Entry of `coracle shim <container directory>`: must run before the process has a second thread.
pub fn main(args: &[OsString]) -> i32 {
    if crate::sys::process::threads() > 1 {
        return 125;
    }
    // It is started by the number of a descriptor, which says nothing to who looks at the list of processes.
    let _ = nix::sys::prctl::set_name(c"coracle-shim");
    let result = match args {
        [flag, pod] if flag == "--pause" => pause::run(Path::new(pod)),
        [flag, pod, wanted] if flag == "--namespaces" => {
            namespaces::run(Path::new(pod), wanted.to_str().unwrap_or_default())
        }
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
    crate::sys::process::allow_huge_pages()?;
    // libcontainer tells causes only to the log; stderr is the container's shim.log. A copy of it, for in the
    // container's first process stderr is the container's own.
    let log = std::fs::File::from(io::stderr().as_fd().try_clone_to_owned()?);
    let layer = tracing_subscriber::fmt::layer()
        .with_ansi(false)
        .with_writer(Mutex::new(log))
        .with_filter(LevelFilter::WARN);
    tracing_subscriber::registry().with(layer).init();
    // Where root's keys fill all the room that there is for them, pods start nevertheless.
    if let Err(error) = crate::sys::process::own_keys() {
        tracing::warn!(%error, "the container has its parent's session of keys");
    }
    let config: protocol::ShimConfig =
        protocol::read_file(&dir.join("shim.json")).ok_or_else(|| io::Error::other("no shim.json"))?;
    serve::Shim::start(config)?.serve()
}
