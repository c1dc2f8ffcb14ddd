//! Whom the certificates of webhooks and aggregated servers are believed from: their configuration's bundle, or the
//! machine's authorities.

use std::sync::{Arc, LazyLock};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::tls::{AnyCertificate, ClientCertificate, show_anew};

/// The machine's own authorities, read once.
static SYSTEM: LazyLock<Vec<CertificateDer<'static>>> =
    LazyLock::new(|| rustls_native_certs::load_native_certs().certs);

/// A client that trusts a bundle (base64 of PEM, as configurations hold it), and shows an identity where it has one.
pub(crate) fn client(
    bundle: &str,
    identity: Option<&Arc<ClientCertificate>>,
) -> Result<ClientConfig, String> {
    let roots: Vec<CertificateDer<'static>> = if bundle.is_empty() {
        SYSTEM.clone()
    } else {
        let pem = STANDARD.decode(bundle).map_err(|e| format!("unable to load root certificates: {e}"))?;
        CertificateDer::pem_slice_iter(&pem)
            .collect::<Result<_, _>>()
            .map_err(|e| format!("unable to load root certificates: {e}"))?
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(roots.iter().cloned());
    let chains = match store.is_empty() {
        true => None,
        false => {
            let chains = WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider.clone());
            Some(chains.build().map_err(|e| e.to_string())?)
        }
    };
    with_verifier(Arc::new(Trust { chains, roots, provider: provider.clone() }), provider, identity)
}

/// A client that believes any certificate: what `insecureSkipTLSVerify` asks for.
pub(crate) fn insecure_client(identity: &Arc<ClientCertificate>) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    with_verifier(Arc::new(AnyCertificate(provider.clone())), provider, Some(identity))
}

fn with_verifier(
    verifier: Arc<dyn ServerCertVerifier>,
    provider: Arc<CryptoProvider>,
    identity: Option<&Arc<ClientCertificate>>,
) -> Result<ClientConfig, String> {
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let Some(identity) = identity else { return Ok(config.with_no_client_auth()) };
    let mut config = config.with_client_cert_resolver(identity.clone());
    show_anew(&mut config);
    Ok(config)
}

/// A bundle as it is, and a certificate in one: believed or refused.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn hostile_bundle(bytes: &[u8]) {
    let body = STANDARD.encode(bytes);
    let pem = format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n");
    for bundle in [bytes, pem.as_bytes()] {
        let _ = client(&STANDARD.encode(bundle), None);
        let _ = super::Validity::of(&String::from_utf8_lossy(bundle));
    }
}

/// As webpki verifies, and besides what Go accepts and webpki does not: a bundle that is the hook's own (self-signed)
/// certificate.
#[derive(Debug)]
struct Trust {
    chains: Option<Arc<WebPkiServerVerifier>>,
    roots: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Trust {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.roots.iter().any(|root| root.as_ref() == end_entity.as_ref()) {
            rustls::client::verify_server_name(&ParsedCertificate::try_from(end_entity)?, name)?;
            return in_time(end_entity, now);
        }
        match &self.chains {
            Some(chains) => chains.verify_server_cert(end_entity, intermediates, name, ocsp, now),
            None => Err(CertificateError::UnknownIssuer.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn in_time(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<ServerCertVerified, Error> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding)?;
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let validity = parsed.validity();
    if now < validity.not_before.timestamp() {
        return Err(CertificateError::NotValidYet.into());
    }
    if now > validity.not_after.timestamp() {
        return Err(CertificateError::Expired.into());
    }
    Ok(ServerCertVerified::assertion())
}

/// A failed handshake in Go's words.
pub(crate) fn explain(e: &std::io::Error) -> String {
    const UNVERIFIED: &str = "tls: failed to verify certificate: x509: ";
    let cause = e.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    let why = match cause {
        Some(Error::InvalidCertificate(why)) => why,
        Some(other) => return format!("remote error: tls: {other}"),
        None => return e.to_string(),
    };
    match why {
        // A bad signature is that of another authority with the same name.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            format!("{UNVERIFIED}certificate signed by unknown authority")
        }
        CertificateError::Expired
        | CertificateError::NotValidYet
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYetContext { .. } => {
            format!("{UNVERIFIED}certificate has expired or is not yet valid")
        }
        CertificateError::NotValidForNameContext { expected, presented } => {
            let presented: Vec<&str> = presented
                .iter()
                .map(|p| p.trim_start_matches("DnsName(\"").trim_end_matches("\")"))
                .collect();
            let expected = expected.to_str();
            match presented.is_empty() {
                true => format!(
                    "{UNVERIFIED}certificate is not valid for any names, but wanted to match {expected}"
                ),
                false => {
                    format!("{UNVERIFIED}certificate is valid for {}, not {expected}", presented.join(", "))
                }
            }
        }
        other => format!("{UNVERIFIED}{other}"),
    }
}
