//! The Node object: registration, capacity, conditions, heartbeats.
