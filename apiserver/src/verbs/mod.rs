//! The verbs, each written once for every kind. `serve` is their door from HTTP, `inner` the server's own.

pub mod answer;
mod apply;
mod commit;
pub mod delete;
pub mod inner;
pub mod list;
pub mod metadata;
mod options;
pub mod scale;
pub mod select;
pub mod serve;
mod tracking;
mod versions;
pub mod watch;
pub mod write;
