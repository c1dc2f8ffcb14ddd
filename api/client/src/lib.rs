//! What every client of the API shares: what its errors mean, how events are told, how many writes begin at once.
//!
//! It knows no kind and decides nothing about objects: that is for `coracle-api` and for its callers.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "tests"))]

pub mod errors;
pub mod events;
mod slow_start;

pub use slow_start::slow_start;
