//! The cluster's certificates and keys: made at the first start, kept in one private directory, renewed before they expire,
//! also while the program runs. The key of service-account tokens has no end, and stays.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use jiff::{Span, Timestamp, tz::TimeZone};
use parking_lot::Mutex;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject};
use tokio::sync::watch;

pub mod clock;
mod files;
mod kubeconfig;
mod leaf;
pub mod renewal;
mod signing;
mod tls;
pub(crate) mod trust;
mod validity;

use clock::{Clock, SystemClock};
pub use files::write_private;
use files::{file_error, read_identity, write_identity};
pub use kubeconfig::{ClusterEntry, KubeconfigError, KubeconfigFile, kubeconfig};
pub use leaf::{Authority, Leaf};
use renewal::{Renewed, Source, Uses};
pub use signing::{SigningKey, openid_configuration};
pub(crate) use tls::front_proxy_verifier;
pub use tls::{ClientCertificate, ServingCertificate, node_client, server_config, unverified_client};
pub use validity::Validity;

/// How long a leaf certificate lives, and how long before its end a start replaces it (see [`Validity::renew_at`] for when
/// it is while the program runs).
const LEAF_DAYS: i64 = 365;
const RENEW_DAYS: i64 = 60;
/// As upstream's installers have it. Near its end an authority gets a new certificate for its old key and name: whoever
/// trusts the old one trusts what it signs, until the old one's end, and takes the new one over meanwhile.
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
    #[error(transparent)]
    Use(#[from] anyhow::Error),
}

/// A certificate with its private key, both PEM.
#[derive(Clone)]
pub struct Identity {
    pub certificate: String,
    pub key: String,
}

/// The certificate authorities of a cluster and the directory of what they have signed. Without a directory everything
/// lives in memory (tests).
pub struct Pki {
    dir: Option<PathBuf>,
    ca: watch::Sender<Identity>,
    front_proxy_ca: watch::Sender<Identity>,
    signing: Arc<SigningKey>,
    clock: Arc<dyn Clock>,
    renewals: Mutex<BTreeMap<String, Renewals>>,
    /// That there is a failure more.
    failed: watch::Sender<()>,
}

/// What became of one certificate, for metrics and events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Renewals {
    /// Unix seconds.
    pub not_after: i64,
    /// Attempts to renew it that failed.
    pub errors: u64,
    /// Why the last of them did.
    pub why: String,
}

/// The cluster's own signature: a leaf of one of its authorities.
struct Issued {
    pki: Arc<Pki>,
    leaf: Leaf,
}

/// An authority's own.
struct OwnSignature {
    pki: Arc<Pki>,
    authority: Authority,
}

/// Who signs with an authority.
struct Signs(Arc<Pki>, Authority);

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

    /// The name of whom the certificate is about.
    pub fn common_name(&self) -> Option<String> {
        self.read(|certificate| crate::authn::common_name(certificate.subject()).map(str::to_owned)).flatten()
    }

    /// The names and addresses that it may serve under, as text and in order.
    pub fn names(&self) -> Vec<String> {
        self.read(names_of).flatten().unwrap_or_default()
    }

    /// Whether certificate and key belong together.
    pub fn is_whole(&self) -> bool {
        self.read(|certificate| self.is_a_pair(certificate)).unwrap_or_default()
    }

    fn read<T>(&self, read: impl FnOnce(&x509_parser::certificate::X509Certificate<'_>) -> T) -> Option<T> {
        let (_, block) = x509_parser::pem::parse_x509_pem(self.certificate.as_bytes()).ok()?;
        block.parse_x509().ok().map(|certificate| read(&certificate))
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
            && self.is_a_pair(&cert)
            && names_of(&cert).is_some_and(|names| names == leaf.names())
    }

    /// Whether certificate and key belong together: they are two files, and a writer may have been killed between them.
    fn is_a_pair(&self, certificate: &x509_parser::certificate::X509Certificate<'_>) -> bool {
        use rcgen::PublicKeyData;
        KeyPair::from_pem(&self.key)
            .is_ok_and(|key| key.subject_public_key_info() == certificate.public_key().raw)
    }
}

/// The DNS names and addresses of a certificate; `None` where one of them is not what it should be.
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
        let ca = authority(dir, Authority::Cluster, now)?;
        let front_proxy_ca = authority(dir, Authority::FrontProxy, now)?;
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
        Ok(Pki::with(Some(dir.to_owned()), ca, front_proxy_ca, SigningKey::from_pem(&signing)?))
    }

    /// Authorities that are forgotten with the process.
    pub fn ephemeral(now: Timestamp) -> Result<Self, PkiError> {
        let signing = SigningKey::from_pem(&KeyPair::generate()?.serialize_pem())?;
        let [ca, front_proxy_ca] = [Authority::Cluster, Authority::FrontProxy]
            .map(|authority| new_authority(authority, &KeyPair::generate()?, now));
        Ok(Pki::with(None, ca?, front_proxy_ca?, signing))
    }

    fn with(dir: Option<PathBuf>, ca: Identity, front_proxy_ca: Identity, signing: SigningKey) -> Self {
        let [ca, front_proxy_ca] = [ca, front_proxy_ca].map(watch::Sender::new);
        let (signing, clock) = (Arc::new(signing), Arc::new(SystemClock));
        let failed = watch::Sender::new(());
        Pki { dir, ca, front_proxy_ca, signing, clock, renewals: Mutex::default(), failed }
    }

    /// The same, with the time taken from elsewhere (tests).
    pub fn with_clock(self, clock: Arc<dyn Clock>) -> Self {
        Pki { clock, ..self }
    }

    /// What certificates are judged and renewed by.
    pub fn clock(&self) -> Arc<dyn Clock> {
        self.clock.clone()
    }

    /// An authority as it is now, and as it is after each renewal.
    pub fn follow(&self, authority: Authority) -> watch::Receiver<Identity> {
        self.authority(authority).subscribe()
    }

    /// Changes with each renewal that fails: [`Pki::renewals`] tells which.
    pub fn failures(&self) -> watch::Receiver<()> {
        self.failed.subscribe()
    }

    /// The authority's certificate, PEM: what clients trust.
    pub fn ca(&self) -> String {
        self.ca.borrow().certificate.clone()
    }

    /// What signs the certificates that clients request: only for the controller that does so.
    pub fn cluster_authority(&self) -> Identity {
        self.ca.borrow().clone()
    }

    pub fn ca_chain(&self) -> Result<Vec<CertificateDer<'static>>, PkiError> {
        self.ca.borrow().chain()
    }

    /// The certificate, PEM, of the authority whose clients say with headers who is asking.
    pub fn front_proxy_ca(&self) -> String {
        self.front_proxy_ca.borrow().certificate.clone()
    }

    pub fn front_proxy_ca_chain(&self) -> Result<Vec<CertificateDer<'static>>, PkiError> {
        self.front_proxy_ca.borrow().chain()
    }

    /// What signs service-account tokens.
    pub fn signing_key(&self) -> Arc<SigningKey> {
        self.signing.clone()
    }

    /// The stored certificate where it still serves, else a new one in its place.
    pub fn issue(&self, leaf: &Leaf, now: Timestamp) -> Result<Identity, PkiError> {
        if let Some(dir) = &self.dir
            && let Some(found) = read_identity(dir, &leaf.file)?
            && found.serves(leaf, &self.authority(leaf.authority).borrow(), now)
        {
            return Ok(found);
        }
        tracing::info!(certificate = leaf.file, "a certificate is made");
        let made = self.sign(leaf, now)?;
        self.keep(leaf, &made)?;
        Ok(made)
    }

    /// A certificate for another machine, with a key that nobody keeps here. The certificate is kept: it says which names
    /// the administrator gave ([`Pki::names_given_to`]).
    pub fn issue_elsewhere(&self, leaf: &Leaf, now: Timestamp) -> Result<Identity, PkiError> {
        let made = self.sign(leaf, now)?;
        if let Some(dir) = &self.dir {
            let key = dir.join(format!("{}.key", leaf.file));
            match fs::remove_file(&key) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(file_error(&key, e)),
                _ => write_private(&dir.join(format!("{}.crt", leaf.file)), &made.certificate)?,
            }
        }
        Ok(made)
    }

    /// Under which names and addresses the administrator lets a node serve; none for a node that nobody has added here.
    /// Reads a file.
    pub fn names_given_to(&self, node: &str) -> Vec<String> {
        let leaf = Leaf::kubelet_server(node, &[]);
        let Some(dir) = self.dir.as_ref().filter(|_| !node.contains('/')) else { return vec![] };
        let certificate = fs::read_to_string(dir.join(format!("{}.crt", leaf.file))).unwrap_or_default();
        Identity { certificate, key: String::new() }.names()
    }

    /// A certificate that is renewed from now on, and who uses it.
    ///
    /// # Errors
    /// What [`Pki::issue`] says, and what a user cannot take.
    pub fn renewed(
        self: &Arc<Self>,
        leaf: Leaf,
        used_by: Vec<Arc<dyn Uses>>,
    ) -> anyhow::Result<Arc<Renewed>> {
        let identity = self.issue(&leaf, self.clock.now())?;
        used_by.iter().try_for_each(|user| user.take(&identity))?;
        let name = leaf.file.clone();
        Renewed::new(&name, identity, Box::new(Issued { pki: self.clone(), leaf }), used_by)
    }

    /// The authorities' own certificates, renewed from now on.
    pub fn renewed_authorities(self: &Arc<Self>) -> anyhow::Result<Vec<Arc<Renewed>>> {
        let each = [Authority::Cluster, Authority::FrontProxy].map(|authority| {
            let source = Box::new(OwnSignature { pki: self.clone(), authority });
            let signs: Arc<dyn Uses> = Arc::new(Signs(self.clone(), authority));
            Renewed::new(authority.file(), self.authority(authority).borrow().clone(), source, vec![signs])
        });
        each.into_iter().collect()
    }

    /// What became of each certificate that is renewed.
    pub fn renewals(&self) -> BTreeMap<String, Renewals> {
        self.renewals.lock().clone()
    }

    fn note(&self, name: &str, outcome: Result<&Validity, &anyhow::Error>) {
        let mut all = self.renewals.lock();
        let one = all.entry(name.to_owned()).or_default();
        match outcome {
            Ok(validity) => one.not_after = validity.not_after.as_second(),
            Err(why) => {
                one.errors += 1;
                one.why = format!("{why:#}");
                self.failed.send_replace(());
            }
        }
    }

    fn keep(&self, leaf: &Leaf, identity: &Identity) -> Result<(), PkiError> {
        self.dir.as_ref().map_or(Ok(()), |dir| write_identity(dir, &leaf.file, identity))
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
        let certificate = params.signed_by(&key, &issuer(&self.authority(leaf.authority).borrow())?)?;
        Ok(Identity { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    fn authority(&self, authority: Authority) -> &watch::Sender<Identity> {
        match authority {
            Authority::Cluster => &self.ca,
            Authority::FrontProxy => &self.front_proxy_ca,
        }
    }
}

impl Source for Issued {
    fn obtain(&self, now: Timestamp) -> BoxFuture<'_, anyhow::Result<Identity>> {
        async move { Ok(self.pki.sign(&self.leaf, now)?) }.boxed()
    }

    fn keep(&self, identity: &Identity) -> anyhow::Result<()> {
        Ok(self.pki.keep(&self.leaf, identity)?)
    }

    fn note(&self, outcome: Result<&Validity, &anyhow::Error>) {
        self.pki.note(&self.leaf.file, outcome);
    }

    fn signer(&self) -> Option<watch::Receiver<Identity>> {
        Some(self.pki.follow(self.leaf.authority))
    }
}

impl Source for OwnSignature {
    fn obtain(&self, now: Timestamp) -> BoxFuture<'_, anyhow::Result<Identity>> {
        let key = self.pki.authority(self.authority).borrow().key.clone();
        async move { Ok(new_authority(self.authority, &KeyPair::from_pem(&key)?, now)?) }.boxed()
    }

    /// The key is there, and is not touched.
    fn keep(&self, identity: &Identity) -> anyhow::Result<()> {
        let Some(dir) = &self.pki.dir else { return Ok(()) };
        Ok(write_private(&dir.join(format!("{}.crt", self.authority.file())), &identity.certificate)?)
    }

    fn note(&self, outcome: Result<&Validity, &anyhow::Error>) {
        self.pki.note(self.authority.file(), outcome);
    }
}

impl Uses for Signs {
    fn take(&self, identity: &Identity) -> anyhow::Result<()> {
        self.0.authority(self.1).send_replace(identity.clone());
        Ok(())
    }
}

fn issuer(ca: &Identity) -> Result<Issuer<'static, KeyPair>, PkiError> {
    Ok(Issuer::from_ca_cert_pem(&ca.certificate, KeyPair::from_pem(&ca.key)?)?)
}

/// The authority in a directory; made where it is not there yet.
fn authority(dir: &Path, authority: Authority, now: Timestamp) -> Result<Identity, PkiError> {
    let file = authority.file();
    let Some(found) = read_identity(dir, file)? else {
        let made = new_authority(authority, &KeyPair::generate()?, now)?;
        write_identity(dir, file, &made)?;
        return Ok(made);
    };
    let validity = Validity::of(&found.certificate)?;
    if validity.renew_at() > now {
        return Ok(found);
    }
    tracing::warn!(certificate = file, not_after = %validity.not_after, "an authority's certificate is made anew, with its key");
    let made = new_authority(authority, &KeyPair::from_pem(&found.key)?, now)?;
    write_private(&dir.join(format!("{file}.crt")), &made.certificate)?;
    Ok(made)
}

fn new_authority(authority: Authority, key: &KeyPair, now: Timestamp) -> Result<Identity, PkiError> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, authority.name());
    params.key_usages =
        vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    // By default it follows from the key, which a later certificate shares; two must not have the same.
    params.serial_number = Some(rcgen::SerialNumber::from(u64::from(rand::random::<u32>()) << 16 | 1));
    set_validity(&mut params, now, CA_DAYS);
    let certificate = params.self_signed(key)?;
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
                assert!(is_valid(&pki.ca(), at), "authority made {wrong}, at {at}");
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
