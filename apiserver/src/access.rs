//! Everything that decides about access, in one place a request can reach.

use std::sync::Arc;

use jiff::Timestamp;

use crate::admission::Chain;
use crate::authn::{Authenticator, Tokens};
use crate::authz::Authorizer;
use crate::pki::{Identity, Leaf, Pki, PkiError};

/// Who signs service-account tokens, as tokens and discovery name it.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// Certificates, authentication, authorisation and admission of one server.
pub struct Access {
    pub pki: Arc<Pki>,
    pub authn: Authenticator,
    pub authz: Authorizer,
    pub admission: Chain,
    /// How connections to kubelets are made.
    pub node_client: Arc<rustls::ClientConfig>,
    /// What is shown to aggregated servers.
    pub front_proxy: Identity,
    /// How `proxy` speaks TLS to pods: as upstream, whatever certificate they show.
    pub pod_client: Arc<rustls::ClientConfig>,
}

// === impl Access ===

impl Access {
    pub fn new(pki: Arc<Pki>, now: Timestamp) -> Result<Self, PkiError> {
        let identity = pki.issue(&Leaf::kubelet_client(), now)?;
        Ok(Access {
            node_client: crate::pki::node_client(&pki, &identity)?,
            pod_client: crate::pki::unverified_client()?,
            front_proxy: pki.issue(&Leaf::front_proxy_client(), now)?,
            authn: Authenticator::new(
                Tokens::new(pki.signing_key(), ISSUER),
                crate::pki::front_proxy_verifier(&pki)?,
            ),
            authz: Authorizer::default(),
            admission: Chain::default(),
            pki,
        })
    }
}
