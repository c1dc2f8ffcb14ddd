//! The vocabulary of Coracle: what every component means by an object, a kind, a quantity, a selector, a pod's state.
//!
//! No I/O, no async, no clock: everything here is a value or a pure function over values.

pub mod cidr;
pub mod conditions;
pub mod cron;
pub mod der;
pub mod duration;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
pub mod gvk;
pub mod names;
pub mod node_affinity;
pub mod object;
pub mod owner;
pub mod panics;
pub mod pod;
pub mod priority;
pub mod quantity;
pub mod query;
pub mod quota;
pub mod resources;
pub mod selector;
pub mod taint;
pub mod time;

pub use cidr::Cidr;
pub use gvk::{Gvk, Gvr};
pub use k8s_openapi;
pub use object::Object;
pub use quantity::Quantity;
