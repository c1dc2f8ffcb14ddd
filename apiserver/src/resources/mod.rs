//! The built-in kinds: rows and hooks, one file per API group.
