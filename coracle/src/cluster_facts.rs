//! What cannot change once a cluster has been made: addresses are handed out, and certificates signed, from it.

use std::fs;
use std::net::IpAddr;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::cli::Node;
use crate::data_dir::Layout;

/// Kept in the data directory by the first start, and compared by every later one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterFacts {
    pub service_cidr: String,
    pub cluster_cidr: String,
    pub cluster_dns: IpAddr,
    pub cluster_domain: String,
}

const FILE: &str = "cluster.json";

// === impl ClusterFacts ===

impl ClusterFacts {
    /// What the cluster in this directory was made with; `None` where there is none.
    pub fn of(layout: &Layout) -> Result<Option<Self>> {
        let path = layout.data.join(FILE);
        match fs::read(&path) {
            Ok(text) => {
                serde_json::from_slice(&text).map(Some).with_context(|| format!("reading {}", path.display()))
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e).with_context(|| format!("reading {}", path.display())),
        }
    }

    /// Puts these facts in place of what the command line says, or does not say.
    pub fn tell(&self, node: &mut Node) {
        node.service_cidr.clone_from(&self.service_cidr);
        node.cluster_cidr.clone_from(&self.cluster_cidr);
        node.cluster_dns = Some(self.cluster_dns);
        node.cluster_domain.clone_from(&self.cluster_domain);
    }

    /// Keeps these facts for a new cluster; refuses others for one that is there.
    pub fn keep(&self, layout: &Layout) -> Result<()> {
        let Some(kept) = Self::of(layout)? else {
            let path = layout.data.join(FILE);
            return fs::write(&path, serde_json::to_vec(self)?)
                .with_context(|| format!("writing {}", path.display()));
        };
        for (flag, old, new) in [
            ("--service-cidr", &kept.service_cidr, &self.service_cidr),
            ("--cluster-cidr", &kept.cluster_cidr, &self.cluster_cidr),
            ("--cluster-dns", &kept.cluster_dns.to_string(), &self.cluster_dns.to_string()),
            ("--cluster-domain", &kept.cluster_domain, &self.cluster_domain),
        ] {
            if old != new {
                bail!(
                    "{flag} {new}: this cluster was made with {old}, which cannot change; use another --data-dir"
                );
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_range_is_refused_in_one_line() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout { data: dir.path().to_owned(), run: dir.path().join("run") };
        let facts = ClusterFacts {
            service_cidr: "10.96.0.0/16".into(),
            cluster_cidr: "10.244.0.0/16".into(),
            cluster_dns: "10.96.0.10".parse().unwrap(),
            cluster_domain: "cluster.local".into(),
        };
        facts.keep(&layout).unwrap();
        facts.keep(&layout).unwrap();
        let changed = ClusterFacts { cluster_cidr: "10.0.0.0/8".into(), ..facts };
        let message = format!("{:#}", changed.keep(&layout).unwrap_err());
        assert!(message.starts_with("--cluster-cidr 10.0.0.0/8") && !message.contains('\n'), "{message}");
    }
}
