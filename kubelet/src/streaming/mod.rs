//! The HTTPS endpoints of a node: logs, exec, attach, port-forward, stats, metrics.
