//! rustls configurations made of the cluster's certificates.

use std::sync::Arc;

use parking_lot::RwLock;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};

use super::clock::TlsTime;
use super::renewal::Uses;
use super::{Identity, Pki, PkiError};

/// The certificate a listener shows; replaced while it listens when it nears its end.
#[derive(Debug)]
pub struct ServingCertificate(Shown);

/// The certificate a client shows; likewise replaced.
#[derive(Debug)]
pub struct ClientCertificate(Shown);

struct Shown(RwLock<Arc<CertifiedKey>>);

// === impl ServingCertificate ===

impl ServingCertificate {
    pub fn new(identity: &Identity) -> Result<Arc<Self>, PkiError> {
        Ok(Arc::new(ServingCertificate(Shown::new(identity)?)))
    }
}

impl ResolvesServerCert for ServingCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.0.read().clone())
    }
}

impl Uses for ServingCertificate {
    fn take(&self, identity: &Identity) -> anyhow::Result<()> {
        Ok(self.0.replace(identity)?)
    }
}

// === impl ClientCertificate ===

impl ClientCertificate {
    pub fn new(identity: &Identity) -> Result<Arc<Self>, PkiError> {
        Ok(Arc::new(ClientCertificate(Shown::new(identity)?)))
    }

    /// What is shown now: another one after each renewal.
    pub fn current(&self) -> Arc<CertifiedKey> {
        self.0.0.read().clone()
    }
}

impl ResolvesClientCert for ClientCertificate {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl Uses for ClientCertificate {
    fn take(&self, identity: &Identity) -> anyhow::Result<()> {
        Ok(self.0.replace(identity)?)
    }
}

// === impl Shown ===

impl Shown {
    fn new(identity: &Identity) -> Result<Self, PkiError> {
        Ok(Shown(RwLock::new(certified(identity)?)))
    }

    fn replace(&self, identity: &Identity) -> Result<(), PkiError> {
        let key = certified(identity)?;
        *self.0.write() = key;
        Ok(())
    }
}

impl std::fmt::Debug for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Shown")
    }
}

fn certified(identity: &Identity) -> Result<Arc<CertifiedKey>, PkiError> {
    let provider = rustls::crypto::ring::default_provider();
    Ok(Arc::new(CertifiedKey::from_der(identity.chain()?, identity.key()?, &provider)?))
}

fn roots(pki: &Pki) -> Result<Arc<RootCertStore>, PkiError> {
    let mut roots = RootCertStore::empty();
    for der in pki.ca_chain()? {
        roots.add(der)?;
    }
    Ok(Arc::new(roots))
}

/// A listener that shows `certificate` and asks for (but does not demand) a client certificate of the cluster's authority,
/// or of the front proxy's: which of them, [`front_proxy_verifier`] tells.
pub fn server_config(pki: &Pki, certificate: Arc<ServingCertificate>) -> Result<Arc<ServerConfig>, PkiError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut trusted = RootCertStore::empty();
    for der in pki.ca_chain()?.into_iter().chain(pki.front_proxy_ca_chain()?) {
        trusted.add(der)?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(trusted), provider.clone())
        .allow_unauthenticated()
        .build()?;
    let mut config = ServerConfig::builder_with_details(provider, Arc::new(TlsTime(pki.clock())))
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Tells the client certificates of the front proxy's authority from others.
pub(crate) fn front_proxy_verifier(pki: &Pki) -> Result<Arc<dyn ClientCertVerifier>, PkiError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    for der in pki.front_proxy_ca_chain()? {
        roots.add(der)?;
    }
    Ok(WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build()?)
}

/// The API server as a client of kubelets: HTTP/1.1 only, since what goes there is mostly upgraded.
pub fn node_client(pki: &Pki, certificate: Arc<ClientCertificate>) -> Result<Arc<ClientConfig>, PkiError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_details(provider, Arc::new(TlsTime(pki.clock())))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots(pki)?)
        .with_client_cert_resolver(certificate);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    show_anew(&mut config);
    Ok(Arc::new(config))
}

/// A session that is resumed would be that of the certificate it began with.
pub(super) fn show_anew(config: &mut ClientConfig) {
    config.resumption = Resumption::disabled();
}

/// A client for `https:` proxying to pods. Their certificates are their own business, as with upstream: the client asked
/// for a connection to an address, and authenticates it itself where it must. No credentials of ours are shown there.
pub fn unverified_client() -> Result<Arc<ClientConfig>, PkiError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Arc::new(AnyCertificate(provider.clone()));
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

#[derive(Debug)]
pub(super) struct AnyCertificate(pub(super) Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            cert,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            cert,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
