//! The verbs, each written once for every kind. `serve` is their door from HTTP, `inner` the server's own.

pub mod answer;
pub mod apart;
mod apply;
mod commit;
pub mod delete;
mod gzip;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod hostile;
pub mod inner;
pub mod list;
mod list_options;
pub mod metadata;
mod options;
pub mod scale;
pub mod select;
pub mod serve;
mod tracking;
mod versions;
pub mod watch;
pub mod write;
