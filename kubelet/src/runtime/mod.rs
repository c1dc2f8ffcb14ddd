//! Containers and sandboxes, through one shim process each.
