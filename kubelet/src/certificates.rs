//! What the node tells of its certificates, whoever renews them.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::node::exposition::Exposition;

/// The node's certificates: as a client of the API server, of its own endpoints, and its service proxy's.
#[derive(Debug, Default)]
pub struct Certificates {
    pub client: Certificate,
    pub serving: Certificate,
    pub proxy: Certificate,
    /// That there is a failure that no event tells of yet.
    failed: watch::Sender<()>,
}

/// One certificate, for metrics and events.
#[derive(Debug, Default)]
pub struct Certificate {
    /// Unix seconds; 0: nobody has said.
    not_after: AtomicI64,
    errors: AtomicU64,
    /// The last failure that no event tells of yet.
    untold: Mutex<Option<String>>,
}

// === impl Certificate ===

impl Certificate {
    /// One is in use that ends then (Unix seconds).
    pub fn ends(&self, not_after: i64) {
        self.not_after.store(not_after, Relaxed);
    }

    /// Upstream's: infinite where there is none.
    fn left(&self, now: i64) -> String {
        match self.not_after.load(Relaxed) {
            0 => "+Inf".to_owned(),
            end => (end - now).to_string(),
        }
    }
}

// === impl Certificates ===

impl Certificates {
    /// One of these was not renewed, for a reason that an event is to tell.
    pub fn failed(&self, one: &Certificate, why: String) {
        one.errors.fetch_add(1, Relaxed);
        *one.untold.lock() = Some(why);
        self.failed.send_replace(());
    }

    pub(crate) fn failures(&self) -> watch::Receiver<()> {
        self.failed.subscribe()
    }

    /// What failed since the last call.
    pub(crate) fn untold(&self) -> impl Iterator<Item = String> {
        [&self.client, &self.serving, &self.proxy].into_iter().filter_map(|one| one.untold.lock().take())
    }

    /// Upstream's metrics of its certificate managers. `now` in Unix seconds.
    pub(crate) fn tell(&self, page: &mut Exposition, now: i64) {
        let errors = |certificate: &Certificate| certificate.errors.load(Relaxed).to_string();
        for (name, kind, help, value) in [
            (
                "kubelet_certificate_manager_client_ttl_seconds",
                "gauge",
                "Gauge of the TTL (time-to-live) of the Kubelet's client certificate, in seconds.",
                self.client.left(now),
            ),
            (
                "kubelet_certificate_manager_client_expiration_renew_errors",
                "counter",
                "Counter of certificate renewal errors.",
                errors(&self.client),
            ),
            (
                "kubelet_certificate_manager_server_ttl_seconds",
                "gauge",
                "Gauge of the shortest TTL (time-to-live) of the Kubelet's serving certificate, in seconds.",
                self.serving.left(now),
            ),
            (
                "kubelet_server_expiration_renew_errors",
                "counter",
                "Counter of certificate renewal errors.",
                errors(&self.serving),
            ),
        ] {
            page.family(name, kind, help, std::iter::once(("", value)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_told_of_under_upstreams_names() {
        let certificates = Certificates::default();
        certificates.client.ends(1_000);
        let mut failures = certificates.failures();
        certificates.failed(&certificates.serving, "the signer refuses".to_owned());
        assert!(failures.has_changed().unwrap());
        failures.mark_unchanged();
        assert_eq!(certificates.untold().collect::<Vec<_>>(), ["the signer refuses"]);
        assert_eq!(certificates.untold().count(), 0);
        let mut page = Exposition::untimed("");
        certificates.tell(&mut page, 1_100);
        let text = page.finish();
        for line in [
            "kubelet_certificate_manager_client_ttl_seconds -100",
            "kubelet_certificate_manager_client_expiration_renew_errors 0",
            "kubelet_certificate_manager_server_ttl_seconds +Inf",
            "kubelet_server_expiration_renew_errors 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }
}
