//! How many pods with users of their own (`hostUsers: false`) were begun, and how many of them failed at once: for metrics.

use std::sync::atomic::{AtomicU64, Ordering};

use k8s_openapi::api::core::v1::Pod;

use super::view::spec_of;

/// Since the start of the program.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    begun: AtomicU64,
    failed: AtomicU64,
}

pub(crate) static COUNTS: Counts = Counts { begun: AtomicU64::new(0), failed: AtomicU64::new(0) };

pub(crate) fn has_own(pod: &Pod) -> bool {
    spec_of(pod).host_users == Some(false)
}

// === impl Counts ===

impl Counts {
    /// The pod gets its sandbox.
    pub(crate) fn begin(&self, pod: &Pod) {
        self.begun.fetch_add(u64::from(has_own(pod)), Ordering::Relaxed);
    }

    /// The sandbox, or the first attempt of a container, could not be made.
    pub(crate) fn fail(&self, pod: &Pod) {
        self.failed.fetch_add(u64::from(has_own(pod)), Ordering::Relaxed);
    }

    /// Those begun, and those that failed.
    pub(crate) fn all(&self) -> [u64; 2] {
        [&self.begun, &self.failed].map(|count| count.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn pods_with_users_of_their_own_are_counted_and_no_others() {
        let counts = Counts::default();
        let pod = |host_users: Value| -> Pod {
            serde_json::from_value(json!({"spec": {"containers": [], "hostUsers": host_users}})).unwrap()
        };
        for (host_users, want) in [(json!(null), [0, 0]), (json!(true), [0, 0]), (json!(false), [1, 1])] {
            counts.begin(&pod(host_users.clone()));
            counts.fail(&pod(host_users));
            assert_eq!(counts.all(), want);
        }
        counts.begin(&pod(json!(false)));
        assert_eq!(counts.all(), [2, 1]);
    }
}
