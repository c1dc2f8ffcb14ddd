//! The verbs, each written once for every kind.

pub mod inner;
