//! A control plane inside a test process.

use anyhow::Result;

/// A running control plane with an in-memory store.
pub struct ControlPlane {}
impl ControlPlane {
    pub async fn start() -> Result<Self> {
        Ok(ControlPlane {})
    }
    pub fn client(&self) -> kube::Client {
        unreachable!()
    }
    pub async fn stop(self) -> Result<()> {
        Ok(())
    }
}
