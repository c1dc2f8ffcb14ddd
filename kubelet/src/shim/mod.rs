//! The single-threaded process that owns one container.
