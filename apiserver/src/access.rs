//! Everything that decides about access, in one place a request can reach.

use std::sync::Arc;

use jiff::Timestamp;

use crate::admission::{Chain, Plugin};
use crate::authn::{Authenticator, Tokens, oidc};
use crate::authz::Authorizer;
use crate::pki::renewal::Renewed;
use crate::pki::{ClientCertificate, Leaf, Pki, PkiError};

/// Who signs service-account tokens, as tokens and discovery name it.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// What of access control an administrator may choose; the defaults are upstream's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Whether who shows no credential is served at all, as `system:anonymous`.
    pub anonymous: bool,
    /// Whether the tokens of pods' default volumes live for a year, so that clients that never read them again go on.
    pub extend_tokens: bool,
    /// Admission plugins beside those that are always there.
    pub plugins: Vec<Plugin>,
    /// An OpenID Connect provider whose users are ours, too.
    pub oidc: Option<oidc::Options>,
}

/// Certificates, authentication, authorisation and admission of one server.
pub struct Access {
    pub pki: Arc<Pki>,
    pub authn: Authenticator,
    pub authz: Authorizer,
    pub admission: Chain,
    /// How connections to kubelets are made.
    pub node_client: Arc<rustls::ClientConfig>,
    /// What is shown to aggregated servers.
    pub front_proxy: Arc<ClientCertificate>,
    /// How `proxy` speaks TLS to pods: as upstream, whatever certificate they show.
    pub pod_client: Arc<rustls::ClientConfig>,
    /// What is renewed while the server runs: the certificates that it shows as a client, and the authorities' own.
    pub renewed: Vec<Arc<Renewed>>,
}

// === impl Options ===

impl Default for Options {
    fn default() -> Self {
        Options { anonymous: true, extend_tokens: true, plugins: vec![], oidc: None }
    }
}

// === impl Access ===

impl Access {
    pub fn new(pki: Arc<Pki>, options: &Options, now: Timestamp) -> Result<Self, PkiError> {
        let [kubelet_client, front_proxy] =
            [Leaf::kubelet_client(), Leaf::front_proxy_client()].map(|leaf| {
                let certificate = ClientCertificate::new(&pki.issue(&leaf, now)?)?;
                let renewed = pki.renewed(leaf, vec![certificate.clone()])?;
                Ok::<_, PkiError>((certificate, renewed))
            });
        let ((kubelet_client, first), (front_proxy, second)) = (kubelet_client?, front_proxy?);
        let mut authn = Authenticator::new(
            Tokens::new(pki.signing_key(), ISSUER),
            crate::pki::front_proxy_verifier(&pki)?,
            pki.clock(),
            options.anonymous,
        );
        let provider = options.oidc.clone().map(|options| match options.issuer == ISSUER {
            // Which key a token is of would depend on who is asked first.
            true => Err(format!("{ISSUER:?} is the cluster's own issuer")),
            false => oidc::Provider::new(options),
        });
        authn.provider = provider.transpose().map_err(anyhow::Error::msg)?.map(Arc::new);
        let mut renewed = pki.renewed_authorities()?;
        renewed.extend([first, second]);
        Ok(Access {
            node_client: crate::pki::node_client(&pki, kubelet_client)?,
            pod_client: crate::pki::unverified_client()?,
            front_proxy,
            renewed,
            authn,
            authz: Authorizer::default(),
            admission: Chain::new(&options.plugins),
            pki,
        })
    }
}
