//! System calls: the only place with unsafe code.

pub mod disk_usage;
pub mod fds;
pub mod inotify;
pub mod mounts;
pub mod namespaces;
pub mod process;
pub(crate) mod seccomp;
pub mod terminal;
