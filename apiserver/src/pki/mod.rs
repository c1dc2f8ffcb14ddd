//! The cluster's certificates and keys: made at the first start, kept in one private directory, renewed before they expire.

use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::{Span, Timestamp, tz::TimeZone};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject};

mod kubeconfig;
mod signing;
mod tls;
pub(crate) mod trust;

pub use kubeconfig::{ClusterEntry, kubeconfig};
pub use signing::{SigningKey, openid_configuration};
pub(crate) use tls::front_proxy_verifier;
pub use tls::{ServingCertificate, node_client, server_config, unverified_client};

/// How long a leaf certificate lives, and how long before its end it is replaced.
const LEAF_DAYS: i64 = 365;
const RENEW_DAYS: i64 = 60;
const CA_DAYS: i64 = 3650;
/// No clock that is right shows less: 1 November 2026, in Unix seconds. Boards without a battery start in 1970.
const EARLIEST: i64 = 1_793_491_200;
/// The store's file, in the directory above the certificates'.
const STORE: &str = "coracle.db";
/// What a cluster cannot be without: who has lost it has lost everybody's trust.
const KEPT: [&str; 5] = ["ca.crt", "ca.key", "front-proxy-ca.crt", "front-proxy-ca.key", "sa.key"];

/// The one name that is believed in a certificate of the front proxy's authority.
pub const FRONT_PROXY_CLIENT: &str = "front-proxy-client";
/// Whom kubelets see where this server asks them.
pub const USER_KUBELET_CLIENT: &str = "kube-apiserver-kubelet-client";

/// What went wrong with a certificate or its file.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error("{path}")]
    File { path: PathBuf, source: std::io::Error },
    #[error(
        "{path} is missing, but the cluster in {store} was made with it: put it back from a backup. With another in its \
         place every kubeconfig, node and service-account token would be void; a new cluster needs a --data-dir of its own"
    )]
    Missing { path: PathBuf, store: PathBuf },
    #[error("make a certificate")]
    Make(#[from] rcgen::Error),
    #[error("{0} holds no usable certificate or key")]
    Unusable(String),
    #[error("TLS configuration")]
    Tls(#[from] rustls::Error),
    #[error("client certificate verifier")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

/// A certificate with its private key, both PEM.
#[derive(Clone)]
pub struct Identity {
    pub certificate: String,
    pub key: String,
}

/// What a leaf certificate is for.
#[derive(Clone, Debug, Default)]
pub struct Leaf {
    /// File name without ending.
    pub file: String,
    pub common_name: String,
    pub organization: Option<String>,
    /// DNS names of a serving certificate.
    pub dns: Vec<String>,
    pub ips: Vec<IpAddr>,
    pub client: bool,
    pub server: bool,
    pub authority: Authority,
}

/// Which of the cluster's authorities signs a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Authority {
    #[default]
    Cluster,
    /// Its certificates speak for users: who shows one says with headers who is asking.
    FrontProxy,
}

/// The certificate authorities of a cluster and the directory of what they have signed. Without a directory everything
/// lives in memory (tests).
pub struct Pki {
    dir: Option<PathBuf>,
    ca: Identity,
    front_proxy_ca: Identity,
    signing: Arc<SigningKey>,
}

// === impl Leaf ===

impl Leaf {
    /// A user: its name and its group.
    pub fn client(file: &str, user: &str, group: Option<&str>) -> Self {
        Leaf {
            file: file.to_owned(),
            common_name: user.to_owned(),
            organization: group.map(str::to_owned),
            client: true,
            ..Leaf::default()
        }
    }

    pub fn admin() -> Self {
        Leaf::client("admin", "kubernetes-admin", Some("system:masters"))
    }

    pub fn scheduler() -> Self {
        Leaf::client("scheduler", "system:kube-scheduler", None)
    }

    pub fn controller_manager() -> Self {
        Leaf::client("controller-manager", "system:kube-controller-manager", None)
    }

    /// The API server as a client of the kubelets. It has the rights that a binding gives it, and no others.
    pub fn kubelet_client() -> Self {
        Leaf::client("apiserver-kubelet-client", USER_KUBELET_CLIENT, None)
    }

    /// The API server as a client of the API servers it passes requests on to.
    pub fn front_proxy_client() -> Self {
        let leaf = Leaf::client("front-proxy-client", FRONT_PROXY_CLIENT, None);
        Leaf { authority: Authority::FrontProxy, ..leaf }
    }

    /// A kubelet as a client of the API server.
    pub fn node(name: &str) -> Self {
        Leaf::client(&format!("node-{name}"), &format!("system:node:{name}"), Some("system:nodes"))
    }

    /// A node's service proxy as a client of the API server.
    pub fn node_proxy(name: &str) -> Self {
        Leaf::client(&format!("node-{name}-proxy"), "system:kube-proxy", None)
    }

    /// A kubelet's own endpoint.
    pub fn kubelet_server(name: &str, ips: &[IpAddr]) -> Self {
        Leaf {
            file: format!("kubelet-{name}"),
            common_name: format!("system:node:{name}"),
            organization: Some("system:nodes".to_owned()),
            dns: vec![name.to_owned()],
            ips: ips.to_vec(),
            server: true,
            ..Leaf::default()
        }
    }

    /// The API server's endpoint, under all names clients know it by.
    pub fn api_server(host: &str, ips: &[IpAddr], cluster_domain: &str) -> Self {
        let service = ["kubernetes", "kubernetes.default", "kubernetes.default.svc"].map(str::to_owned);
        let mut dns: Vec<String> = service.into_iter().collect();
        dns.push(format!("kubernetes.default.svc.{cluster_domain}"));
        dns.push("localhost".to_owned());
        if !host.is_empty() && host != "localhost" {
            dns.push(host.to_owned());
        }
        let mut all: Vec<IpAddr> = vec![IpAddr::from([127, 0, 0, 1])];
        all.extend(ips.iter().filter(|ip| !ip.is_unspecified() && !ip.is_loopback()));
        all.sort();
        all.dedup();
        Leaf {
            file: "apiserver".to_owned(),
            common_name: "kube-apiserver".to_owned(),
            dns,
            ips: all,
            server: true,
            ..Leaf::default()
        }
    }
}

// === impl Identity ===

impl Identity {
    pub fn chain(&self) -> Result<Vec<CertificateDer<'static>>, PkiError> {
        CertificateDer::pem_slice_iter(self.certificate.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|e| PkiError::Unusable(e.to_string()))
    }

    pub fn key(&self) -> Result<PrivateKeyDer<'static>, PkiError> {
        PrivatePkcs8KeyDer::from_pem_slice(self.key.as_bytes())
            .map(PrivateKeyDer::Pkcs8)
            .map_err(|e| PkiError::Unusable(e.to_string()))
    }

    /// Whether the certificate still serves: signed by `ca`, for the same names, and not near its end.
    fn serves(&self, leaf: &Leaf, ca: &Identity, now: Timestamp) -> bool {
        let (Ok(chain), Ok(ca)) = (self.chain(), ca.chain()) else { return false };
        let (Some(der), Some(ca)) = (chain.first(), ca.first()) else { return false };
        let parsed = (x509_parser::parse_x509_certificate(der), x509_parser::parse_x509_certificate(ca));
        let (Ok((_, cert)), Ok((_, ca))) = parsed else { return false };
        let left = cert.validity().not_after.timestamp() - now.as_second();
        left > RENEW_DAYS * 86_400
            // Made when the clock was wrong.
            && cert.validity().not_before.timestamp() <= now.as_second()
            && cert.verify_signature(Some(ca.public_key())).is_ok()
            && names_of(&cert).is_some_and(|names| names == wanted_names(leaf))
    }
}

fn wanted_names(leaf: &Leaf) -> Vec<String> {
    let mut names: Vec<String> =
        leaf.dns.iter().cloned().chain(leaf.ips.iter().map(ToString::to_string)).collect();
    names.sort();
    names
}

fn names_of(cert: &x509_parser::certificate::X509Certificate<'_>) -> Option<Vec<String>> {
    use x509_parser::extensions::GeneralName;
    let mut names = vec![];
    for name in cert.subject_alternative_name().ok()?.iter().flat_map(|ext| &ext.value.general_names) {
        match name {
            GeneralName::DNSName(dns) => names.push((*dns).to_owned()),
            GeneralName::IPAddress(bytes) => match *bytes {
                [a, b, c, d] => names.push(IpAddr::from([*a, *b, *c, *d]).to_string()),
                v6 => names.push(IpAddr::from(<[u8; 16]>::try_from(v6).ok()?).to_string()),
            },
            _ => {}
        }
    }
    names.sort();
    Some(names)
}

// === impl Pki ===

impl Pki {
    /// Opens the directory, making the authority and the signing key where they are not there yet.
    ///
    /// # Errors
    /// [`PkiError::Missing`] where they are not there any more: beside a store that has been used with them.
    pub fn open(dir: &Path, now: Timestamp) -> Result<Self, PkiError> {
        let store = dir.with_file_name(STORE);
        if store.exists()
            && let Some(path) = KEPT.iter().map(|file| dir.join(file)).find(|path| !path.exists())
        {
            return Err(PkiError::Missing { path, store });
        }
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|e| file_error(dir, e))?;
        let ca = authority(dir, "ca", "kubernetes-ca", now)?;
        let front_proxy_ca = authority(dir, "front-proxy-ca", "front-proxy-ca", now)?;
        let path = dir.join("sa.key");
        let signing = match fs::read_to_string(&path) {
            Ok(pem) => pem,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let pem = KeyPair::generate()?.serialize_pem();
                write_private(&path, &pem)?;
                pem
            }
            Err(e) => return Err(file_error(&path, e)),
        };
        let signing = Arc::new(SigningKey::from_pem(&signing)?);
        Ok(Pki { dir: Some(dir.to_owned()), ca, front_proxy_ca, signing })
    }

    /// Authorities that are forgotten with the process.
    pub fn ephemeral(now: Timestamp) -> Result<Self, PkiError> {
        let signing = SigningKey::from_pem(&KeyPair::generate()?.serialize_pem())?;
        let (ca, front_proxy_ca) =
            (new_authority("kubernetes-ca", now)?, new_authority("front-proxy-ca", now)?);
        Ok(Pki { dir: None, ca, front_proxy_ca, signing: Arc::new(signing) })
    }

    /// The authority's certificate, PEM: what clients trust.
    pub fn ca(&self) -> &str {
        &self.ca.certificate
    }

    /// What signs the certificates that clients request: only for the controller that does so.
    pub fn cluster_authority(&self) -> &Identity {
        &self.ca
    }

    pub fn ca_chain(&self) -> Result<Vec<CertificateDer<'static>>, PkiError> {
        self.ca.chain()
    }

    /// The certificate, PEM, of the authority whose clients say with headers who is asking.
    pub fn front_proxy_ca(&self) -> &str {
        &self.front_proxy_ca.certificate
    }

    pub fn front_proxy_ca_chain(&self) -> Result<Vec<CertificateDer<'static>>, PkiError> {
        self.front_proxy_ca.chain()
    }

    /// What signs service-account tokens.
    pub fn signing_key(&self) -> Arc<SigningKey> {
        self.signing.clone()
    }

    /// The stored certificate where it still serves, else a new one in its place.
    pub fn issue(&self, leaf: &Leaf, now: Timestamp) -> Result<Identity, PkiError> {
        if let Some(dir) = &self.dir
            && let Some(found) = read_identity(dir, &leaf.file)?
            && found.serves(leaf, self.authority(leaf), now)
        {
            return Ok(found);
        }
        tracing::info!(certificate = leaf.file, "a certificate is made");
        let made = self.sign(leaf, now)?;
        if let Some(dir) = &self.dir {
            write_identity(dir, &leaf.file, &made)?;
        }
        Ok(made)
    }

    fn sign(&self, leaf: &Leaf, now: Timestamp) -> Result<Identity, PkiError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(leaf.dns.clone())?;
        params.subject_alt_names.extend(leaf.ips.iter().map(|ip| SanType::IpAddress(*ip)));
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, leaf.common_name.as_str());
        if let Some(group) = &leaf.organization {
            params.distinguished_name.push(DnType::OrganizationName, group.as_str());
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        if leaf.client {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
        }
        if leaf.server {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        params.use_authority_key_identifier_extension = true;
        set_validity(&mut params, now, LEAF_DAYS);
        let certificate = params.signed_by(&key, &issuer(self.authority(leaf))?)?;
        Ok(Identity { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    fn authority(&self, leaf: &Leaf) -> &Identity {
        match leaf.authority {
            Authority::Cluster => &self.ca,
            Authority::FrontProxy => &self.front_proxy_ca,
        }
    }
}

fn issuer(ca: &Identity) -> Result<Issuer<'static, KeyPair>, PkiError> {
    Ok(Issuer::from_ca_cert_pem(&ca.certificate, KeyPair::from_pem(&ca.key)?)?)
}

/// The authority in a directory; made where it is not there yet.
fn authority(dir: &Path, file: &str, name: &str, now: Timestamp) -> Result<Identity, PkiError> {
    if let Some(ca) = read_identity(dir, file)? {
        return Ok(ca);
    }
    let ca = new_authority(name, now)?;
    write_identity(dir, file, &ca)?;
    Ok(ca)
}

fn new_authority(name: &str, now: Timestamp) -> Result<Identity, PkiError> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.key_usages =
        vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_validity(&mut params, now, CA_DAYS);
    let certificate = params.self_signed(&key)?;
    Ok(Identity { certificate: certificate.pem(), key: key.serialize_pem() })
}

/// From the beginning of time, since clocks are set right only after a first start, until the given number of days from now,
/// or from the earliest day that now can be.
fn set_validity(params: &mut CertificateParams, now: Timestamp, days: i64) {
    let earliest = Timestamp::from_second(EARLIEST).unwrap_or(now);
    let end = now.max(earliest).to_zoned(TimeZone::UTC).date().saturating_add(Span::new().days(days));
    params.not_before = rcgen::date_time_ymd(1970, 1, 1);
    params.not_after =
        rcgen::date_time_ymd(i32::from(end.year()), end.month().unsigned_abs(), end.day().unsigned_abs());
}

fn read_identity(dir: &Path, file: &str) -> Result<Option<Identity>, PkiError> {
    let read = |ending: &str| {
        let path = dir.join(format!("{file}.{ending}"));
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(file_error(&path, e)),
        }
    };
    Ok(read("crt")?.zip(read("key")?).map(|(certificate, key)| Identity { certificate, key }))
}

fn write_identity(dir: &Path, file: &str, identity: &Identity) -> Result<(), PkiError> {
    write_private(&dir.join(format!("{file}.key")), &identity.key)?;
    write_private(&dir.join(format!("{file}.crt")), &identity.certificate)
}

/// Writes a file only its owner may read, whole or not at all.
pub fn write_private(path: &Path, text: &str) -> Result<(), PkiError> {
    let temporary = path.with_extension("new");
    let write = || {
        let mut file =
            fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().map_err(|e| file_error(path, e))
}

fn file_error(path: &Path, source: std::io::Error) -> PkiError {
    PkiError::File { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_kept_and_renewed_when_near_their_end_or_renamed() {
        let dir = tempfile::tempdir().unwrap();
        let now = Timestamp::now();
        let pki = Pki::open(dir.path(), now).unwrap();
        let leaf = Leaf::api_server("host", &["10.96.0.1".parse().unwrap()], "cluster.local");
        let first = pki.issue(&leaf, now).unwrap();
        let again = Pki::open(dir.path(), now).unwrap();
        assert_eq!(again.ca(), pki.ca());
        assert_eq!(again.issue(&leaf, now).unwrap().certificate, first.certificate);
        let later = now + jiff::SignedDuration::from_hours(24 * (LEAF_DAYS - RENEW_DAYS + 1));
        assert_ne!(again.issue(&leaf, later).unwrap().certificate, first.certificate, "near its end");
        let renamed = Leaf::api_server("other", &[], "cluster.local");
        assert_ne!(again.issue(&renamed, now).unwrap().certificate, first.certificate, "other names");
    }

    fn is_valid(certificate: &str, at: Timestamp) -> bool {
        let (_, pem) = x509_parser::pem::parse_x509_pem(certificate.as_bytes()).unwrap();
        let certificate = pem.parse_x509().unwrap();
        let validity = certificate.validity();
        (validity.not_before.timestamp()..=validity.not_after.timestamp()).contains(&at.as_second())
    }

    /// The first start of a board without a battery, or of one whose clock runs ahead, and then the clock is set right.
    #[test]
    fn a_wrong_clock_at_the_first_start_makes_nothing_unusable() {
        let right: Timestamp = "2026-12-01T00:00:00Z".parse().unwrap();
        for wrong in
            ["1970-01-01T00:00:30Z", "2015-01-01T00:00:00Z", "2026-12-31T00:00:00Z", "2036-01-01T00:00:00Z"]
        {
            let (dir, wrong) = (tempfile::tempdir().unwrap(), wrong.parse::<Timestamp>().unwrap());
            let leaf = Leaf::api_server("host", &[], "cluster.local");
            let made = Pki::open(dir.path(), wrong).unwrap().issue(&leaf, wrong).unwrap();
            let pki = Pki::open(dir.path(), right).unwrap();
            for at in [wrong, right] {
                assert!(is_valid(pki.ca(), at), "authority made {wrong}, at {at}");
                assert!(is_valid(&made.certificate, at), "certificate made {wrong}, at {at}");
            }
            assert_eq!(pki.issue(&leaf, right).unwrap().certificate, made.certificate, "and it serves on");
        }
    }

    #[test]
    fn three_years_of_looking_at_certificates_find_them_valid() {
        let (dir, start) = (tempfile::tempdir().unwrap(), Timestamp::now());
        let pki = Pki::open(dir.path(), start).unwrap();
        let day = jiff::SignedDuration::from_hours(24);
        for leaf in
            [Leaf::admin(), Leaf::front_proxy_client(), Leaf::api_server("host", &[], "cluster.local")]
        {
            for week in 0..157 {
                let now = start + day * 7 * week;
                let certificate = pki.issue(&leaf, now).unwrap().certificate;
                assert!(
                    is_valid(&certificate, now + day * i32::try_from(RENEW_DAYS).unwrap()),
                    "week {week}"
                );
            }
        }
    }

    #[test]
    fn what_a_cluster_was_made_with_is_not_replaced_in_silence() {
        for lost in KEPT {
            let dir = tempfile::tempdir().unwrap();
            let (at, now) = (dir.path().join("pki"), Timestamp::now());
            let ca = Pki::open(&at, now).unwrap().ca().to_owned();
            fs::write(dir.path().join(STORE), "").unwrap();
            assert_eq!(Pki::open(&at, now).unwrap().ca(), ca);
            fs::remove_file(at.join(lost)).unwrap();
            let refused = Pki::open(&at, now).err().expect("refused").to_string();
            assert!(refused.contains(lost) && refused.contains("backup"), "{refused}");
            assert!(!at.join(lost).exists(), "nothing is made in its place");
        }
    }
}
