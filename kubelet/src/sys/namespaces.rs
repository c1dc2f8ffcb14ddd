//! Namespaces that live in files.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, unshare};

use super::mounts;

/// Makes new namespaces and binds each to its file in `directory`. The host name is set in a new UTS namespace.
pub fn create(directory: &Path, kinds: &[&'static str], hostname: &str) -> io::Result<()> {
    let files: Vec<(&'static str, PathBuf)> =
        kinds.iter().map(|kind| (*kind, directory.join(kind))).collect();
    for (_, file) in &files {
        File::create(file)?;
    }
    let hostname = hostname.to_owned();
    // A thread of its own: what it unshares dies with it, the bind mounts stay.
    let worker = std::thread::spawn(move || -> io::Result<()> {
        let mut flags = CloneFlags::empty();
        for (kind, _) in &files {
            flags |= match *kind {
                "net" => CloneFlags::CLONE_NEWNET,
                "ipc" => CloneFlags::CLONE_NEWIPC,
                "uts" => CloneFlags::CLONE_NEWUTS,
                _ => CloneFlags::empty(),
            };
        }
        unshare(flags)?;
        if flags.contains(CloneFlags::CLONE_NEWUTS) {
            nix::unistd::sethostname(&hostname)?;
        }
        for (kind, file) in &files {
            mounts::bind(&Path::new("/proc/thread-self/ns").join(kind), file)?;
        }
        Ok(())
    });
    worker.join().map_err(|_| io::Error::other("the namespace thread panicked"))?
}

/// A mount namespace that this process, which must have one thread only, is in for a while: what is mounted in it is
/// nobody else's, and goes with it.
pub struct Apart {
    home: File,
}

impl Apart {
    /// Enters a copy of the mount namespace. What is unmounted at home goes from the copy, too.
    pub fn enter() -> io::Result<Apart> {
        use nix::mount::{MsFlags, mount};
        let apart = Apart { home: File::open("/proc/self/ns/mnt")? };
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_SLAVE | MsFlags::MS_REC, None::<&str>)?;
        Ok(apart)
    }

    /// Goes home.
    pub fn leave(self) -> io::Result<()> {
        Ok(nix::sched::setns(&self.home, CloneFlags::CLONE_NEWNS)?)
    }
}

/// Starts a program as the first process of a new pid namespace.
pub fn spawn_in_pid_namespace(mut command: std::process::Command) -> io::Result<std::process::Child> {
    let worker = std::thread::spawn(move || -> io::Result<std::process::Child> {
        unshare(CloneFlags::CLONE_NEWPID)?;
        command.spawn()
    });
    worker.join().map_err(|_| io::Error::other("the namespace thread panicked"))?
}
