//! System calls: the only place with unsafe code.

pub mod terminal;
