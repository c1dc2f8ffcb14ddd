//! System calls: the only place with unsafe code.

pub(crate) mod bpf;
pub mod fds;
pub(crate) mod idmap;
pub mod inotify;
pub mod mounts;
pub mod namespaces;
pub mod process;
pub(crate) mod roots;
pub(crate) mod seccomp;
pub mod terminal;
pub(crate) mod trace;
