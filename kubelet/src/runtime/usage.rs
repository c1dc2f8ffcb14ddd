//! What containers and pods use, and what they may use at most: their cgroups.

use super::{Runtime, blocking, cgroups, container, io_error, limits};
use crate::cri::{Resources, RuntimeError, Stats};

impl Runtime {
    pub async fn stats(&self, id: &str) -> Result<Stats, RuntimeError> {
        let record = self.record(id).ok_or_else(|| RuntimeError::NotFound(id.to_owned()))?;
        blocking(move || cgroups::stats(&record.cgroup)).await.map_err(io_error("read statistics"))
    }

    pub async fn pod_stats(&self, pod_uid: &str) -> Result<Stats, RuntimeError> {
        let cgroup = self.pod_cgroup(pod_uid)?;
        blocking(move || cgroups::stats(&cgroup)).await.map_err(io_error("read statistics"))
    }

    /// What all pods use together.
    pub(crate) async fn all_stats(&self) -> Result<Stats, RuntimeError> {
        let cgroup = self.0.config.cgroup_root.clone();
        blocking(move || cgroups::stats(&cgroup)).await.map_err(io_error("read statistics"))
    }

    /// Where the files are that a container has written to its root file system.
    pub(crate) fn writable_layer(&self, id: &str) -> std::path::PathBuf {
        container::dir(&self.0.config, id).join("upper")
    }

    /// The limits of a pod's cgroup as the kernel has them; absent: none.
    pub async fn pod_limits(&self, pod_uid: &str) -> Result<Resources, RuntimeError> {
        let cgroup = self.pod_cgroup(pod_uid)?;
        blocking(move || limits::of_group(&cgroup)).await.map_err(io_error("read limits"))
    }

    pub async fn update_pod_resources(
        &self,
        pod_uid: &str,
        resources: &Resources,
    ) -> Result<(), RuntimeError> {
        let (cgroup, wanted) = (self.pod_cgroup(pod_uid)?, resources.clone());
        let done = blocking(move || limits::apply(&cgroup, &wanted)).await;
        done.map_err(io_error("update resources"))?;
        if let (Some(shares), Some(record)) = (resources.cpu_shares, self.0.sandboxes.lock().get_mut(pod_uid))
        {
            record.cpu_shares = shares;
        }
        self.weigh_classes();
        Ok(())
    }

    /// The path of a pod's cgroup below the hierarchies' roots.
    pub(crate) fn cgroup_of_pod(&self, pod_uid: &str) -> Option<String> {
        self.pod_cgroup(pod_uid).ok()
    }

    fn pod_cgroup(&self, pod_uid: &str) -> Result<String, RuntimeError> {
        let cgroup = self.0.sandboxes.lock().get(pod_uid).map(|record| record.cgroup.clone());
        cgroup.ok_or_else(|| RuntimeError::NotFound(pod_uid.to_owned()))
    }

    pub async fn update_resources(&self, id: &str, resources: &Resources) -> Result<(), RuntimeError> {
        let record = self.record(id).ok_or_else(|| RuntimeError::NotFound(id.to_owned()))?;
        let resources = resources.clone();
        blocking(move || limits::apply(&record.cgroup, &resources))
            .await
            .map_err(io_error("update resources"))
    }
}
