//! Pods: one task each; plan, act, report.
