//! The administrator's kubeconfig: written at the start, and again before what is in it ends.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use coracle_apiserver::pki::renewal::{Renewed, Uses};
use coracle_apiserver::pki::{self, ClusterEntry, Identity, KubeconfigFile, Leaf, Pki};

/// The cluster, the context and the user in it.
const NAME: &str = "coracle";

/// The file in the data directory, which is ours, and the one the user wants, which may hold more.
struct Kubeconfigs {
    pki: Arc<Pki>,
    server: String,
    own: PathBuf,
    wanted: Option<KubeconfigFile>,
}

/// Writes the administrator's kubeconfig, and keeps it valid from now on.
pub fn kubeconfig(pki: &Arc<Pki>, server: &str, own: &Path, wanted: Option<&Path>) -> Result<Arc<Renewed>> {
    let wanted = wanted.filter(|wanted| *wanted != own).map(KubeconfigFile::new);
    let files = Kubeconfigs { pki: pki.clone(), server: server.to_owned(), own: own.to_owned(), wanted };
    pki.renewed(Leaf::admin(), vec![Arc::new(files)])
}

impl Uses for Kubeconfigs {
    fn take(&self, identity: &Identity) -> Result<()> {
        let ca = self.pki.ca();
        let cluster = ClusterEntry { name: NAME, server: &self.server, ca: &ca, extension: None };
        let text = pki::kubeconfig(&cluster, &[(NAME, identity)]);
        pki::write_private(&self.own, &text)?;
        Ok(self.wanted.as_ref().map_or(Ok(()), |file| file.merge(&text))?)
    }
}
