//! A node that runs alone renews its certificates as upstream's kubelet does with `--rotate-certificates`: it asks the
//! cluster for them (CertificateSigningRequest), with the ones it has, and rewrites its kubeconfig.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use arc_swap::ArcSwap;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use coracle_api::names;
use coracle_apiserver::pki::renewal::{Renewed, Source, Uses};
use coracle_apiserver::pki::{Identity, KubeconfigFile, Validity};
use coracle_kubelet::certificates::{Certificate, Certificates};
use futures::future::BoxFuture;
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec};
use kube::api::{ObjectMeta, PostParams};
use kube::runtime::wait::await_condition;
use kube::{Api, Client};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};

use crate::component;

/// How long a request may wait for its certificate; upstream's.
const ISSUED_WITHIN: Duration = Duration::from_secs(15 * 60);
const CLIENT: &str = "client auth";

/// A certificate that a node asks for, as data.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The user of the kubeconfig that has it.
    user: String,
    signer: &'static str,
    common_name: String,
    organization: Option<&'static str>,
    purpose: &'static str,
}

/// Where the cluster signs what this node asks for.
struct Requested {
    wanted: Wanted,
    file: Arc<KubeconfigFile>,
    client: Client,
    told: Arc<Certificates>,
}

/// A client that shows another certificate after a renewal. What is under way on older connections goes on.
pub struct LiveClient {
    config: kube::Config,
    current: ArcSwap<Client>,
}

/// Makes a file with keys its owner's alone: kubeconfigs are often written by a shell, for all to read.
pub fn close(file: &Path) {
    let Ok(found) = fs::metadata(file) else { return };
    if found.permissions().mode() & 0o077 != 0 {
        let closed = fs::set_permissions(file, fs::Permissions::from_mode(0o600)).is_ok();
        tracing::warn!(file = %file.display(), closed, "others could read this file, which holds private keys");
    }
}

/// A user's certificate, renewed from now on; `None` where the file does not hold it, or holds it in another name: then it
/// is somebody else's to renew.
pub fn renewed(
    file: &Arc<KubeconfigFile>,
    wanted: Wanted,
    client: Client,
    told: &Arc<Certificates>,
    used_by: Vec<Arc<dyn Uses>>,
) -> Result<Option<Arc<Renewed>>> {
    let Some(identity) = file.identity(&wanted.user) else { return Ok(None) };
    if identity.common_name().as_deref() != Some(&*wanted.common_name) {
        return Ok(None);
    }
    let name = wanted.user.clone();
    let source = Requested { wanted, file: file.clone(), client, told: told.clone() };
    Renewed::new(&name, identity, Box::new(source), used_by).map(Some)
}

// === impl Wanted ===

impl Wanted {
    /// A kubelet as a client of the API server.
    pub fn kubelet(user: &str, node: &str) -> Self {
        Wanted {
            user: user.to_owned(),
            signer: "kubernetes.io/kube-apiserver-client-kubelet",
            common_name: format!("system:node:{node}"),
            organization: Some(names::GROUP_NODES),
            purpose: CLIENT,
        }
    }

    /// A node's service proxy as a client of the API server.
    pub fn proxy(user: &str) -> Self {
        Wanted {
            user: user.to_owned(),
            signer: "kubernetes.io/kube-apiserver-client",
            common_name: names::USER_KUBE_PROXY.to_owned(),
            organization: None,
            purpose: CLIENT,
        }
    }

    /// A kubelet's own endpoints, under the names that its certificate has.
    pub fn serving(user: &str, node: &str) -> Self {
        Wanted {
            signer: "kubernetes.io/kubelet-serving",
            purpose: "server auth",
            ..Wanted::kubelet(user, node)
        }
    }

    /// A request with a new key: both PEM.
    fn request(&self, names: &[String]) -> Result<(String, String)> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        if let Some(organization) = self.organization {
            params.distinguished_name.push(DnType::OrganizationName, organization);
        }
        params.distinguished_name.push(DnType::CommonName, self.common_name.as_str());
        for name in names {
            params.subject_alt_names.push(match name.parse::<IpAddr>() {
                Ok(ip) => SanType::IpAddress(ip),
                Err(_) => SanType::DnsName(name.as_str().try_into()?),
            });
        }
        Ok((params.serialize_request(&key)?.pem()?, key.serialize_pem()))
    }
}

// === impl Requested ===

impl Requested {
    /// What the file holds, where that is newer: the administrator may have put it there.
    async fn found(&self, now: Timestamp) -> Result<Option<Identity>> {
        let (file, user) = (self.file.clone(), self.wanted.user.clone());
        let found = tokio::task::spawn_blocking(move || file.identity(&user)).await?;
        let newer = |identity: &Identity| {
            identity.common_name().as_deref() == Some(&*self.wanted.common_name)
                && Validity::of(&identity.certificate).is_ok_and(|v| v.holds(now) && v.renew_at() > now)
        };
        Ok(found.filter(newer))
    }

    async fn signed(&self) -> Result<Identity> {
        let names = match self.wanted.purpose {
            CLIENT => vec![],
            _ => {
                let (file, user) = (self.file.clone(), self.wanted.user.clone());
                let old = tokio::task::spawn_blocking(move || file.identity(&user)).await?;
                old.context("the kubeconfig holds no certificate any more")?.names()
            }
        };
        let (request, key) = self.wanted.request(&names)?;
        let api: Api<CertificateSigningRequest> = Api::all(self.client.clone());
        let made = api
            .create(&PostParams::default(), &self.object(request))
            .await
            .context("asking for a certificate")?;
        let name = made.metadata.name.context("a request without a name")?;
        let decided =
            await_condition(api, &name, |csr: Option<&CertificateSigningRequest>| csr.is_none_or(is_decided));
        let decided = tokio::time::timeout(ISSUED_WITHIN, decided).await;
        let csr = decided.with_context(|| format!("request {name} was not approved and signed in time"))?;
        let csr =
            csr.context("waiting for a certificate")?.with_context(|| format!("request {name} is gone"))?;
        let status = csr.status.unwrap_or_default();
        for condition in status.conditions.iter().flatten() {
            if matches!(&*condition.type_, "Denied" | "Failed") {
                bail!(
                    "request {name}: {}: {}",
                    condition.type_,
                    condition.message.as_deref().unwrap_or_default()
                );
            }
        }
        let certificate = status.certificate.context("no certificate")?;
        let identity = Identity { certificate: String::from_utf8(certificate.0)?, key };
        ensure!(identity.is_whole(), "request {name} was answered with a certificate of another key");
        Ok(identity)
    }

    fn object(&self, request: String) -> CertificateSigningRequest {
        CertificateSigningRequest {
            metadata: ObjectMeta { generate_name: Some("csr-".to_owned()), ..ObjectMeta::default() },
            spec: CertificateSigningRequestSpec {
                request: ByteString(request.into_bytes()),
                signer_name: self.wanted.signer.to_owned(),
                usages: Some(vec!["digital signature".to_owned(), self.wanted.purpose.to_owned()]),
                ..CertificateSigningRequestSpec::default()
            },
            ..CertificateSigningRequest::default()
        }
    }

    /// Where the node tells of it.
    fn told(&self) -> &Certificate {
        match (self.wanted.organization, self.wanted.purpose) {
            (Some(_), CLIENT) => &self.told.client,
            (Some(_), _) => &self.told.serving,
            (None, _) => &self.told.proxy,
        }
    }
}

fn is_decided(csr: &CertificateSigningRequest) -> bool {
    let Some(status) = &csr.status else { return false };
    let refused = status.conditions.iter().flatten().any(|c| matches!(&*c.type_, "Denied" | "Failed"));
    refused || status.certificate.as_ref().is_some_and(|certificate| !certificate.0.is_empty())
}

impl Source for Requested {
    fn obtain(&self, now: Timestamp) -> BoxFuture<'_, Result<Identity>> {
        Box::pin(async move {
            match self.found(now).await? {
                Some(found) => Ok(found),
                None => self.signed().await,
            }
        })
    }

    fn keep(&self, identity: &Identity) -> Result<()> {
        Ok(self.file.replace(&self.wanted.user, identity)?)
    }

    fn note(&self, outcome: Result<&Validity, &anyhow::Error>) {
        match outcome {
            Ok(validity) => self.told().ends(validity.not_after.as_second()),
            Err(why) => {
                let why = format!("Certificate {} is not renewed: {why:#}", self.wanted.user);
                self.told.failed(self.told(), why);
            }
        }
    }
}

// === impl LiveClient ===

impl LiveClient {
    pub fn new(config: kube::Config) -> Result<Arc<Self>> {
        let current = ArcSwap::from_pointee(component::told(config.clone())?);
        Ok(Arc::new(LiveClient { config, current }))
    }

    /// A client that is always the one in use.
    pub fn client(self: &Arc<Self>) -> Client {
        let live = self.clone();
        let send = move |request| {
            let client = live.current.load_full();
            async move { client.send(request).await }
        };
        Client::new(tower::service_fn(send), self.config.default_namespace.clone())
    }
}

impl Uses for LiveClient {
    fn take(&self, identity: &Identity) -> Result<()> {
        let mut config = self.config.clone();
        let user = &mut config.auth_info;
        (user.client_certificate, user.client_key) = (None, None);
        user.client_certificate_data = Some(STANDARD.encode(&identity.certificate));
        user.client_key_data = Some(STANDARD.encode(&identity.key).into());
        self.current.store(Arc::new(component::told(config)?));
        Ok(())
    }
}
