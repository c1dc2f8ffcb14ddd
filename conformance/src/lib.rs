//! The specification as tests and benchmarks.
