//! Requests for certificates: those of kubelets that may have one are approved, approved ones are signed, and old ones
//! removed, each as upstream's controllers do.

mod authority;
mod request;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use tokio::sync::watch;
use x509_parser::pem::parse_x509_pem;

use crate::runtime::{Cache, Key, Next, Queue, Reconcile, Runtime, Writer};
use crate::{Config, NamesOfNode, Signing};
use authority::{Authority, AuthorityError};
use request::{CLIENT, KUBELET_CLIENT, KUBELET_SERVING, NODE_USER, Request};

const HOUR: Duration = Duration::from_secs(3600);
/// How long what has an end stays, and what waits for one.
const ENDED_KEPT: Duration = HOUR;
const WAITING_KEPT: Duration = Duration::from_secs(24 * 3600);

struct Approver {
    requests: Arc<Cache<CertificateSigningRequest>>,
    names_of_node: Option<NamesOfNode>,
}

struct Signer {
    requests: Arc<Cache<CertificateSigningRequest>>,
    signing: watch::Receiver<Signing>,
}

struct Cleaner {
    requests: Arc<Cache<CertificateSigningRequest>>,
}

pub(crate) fn start_approving(runtime: &mut Runtime, config: &Config) {
    let (requests, queue) = (runtime.cache::<CertificateSigningRequest>(), Queue::default());
    requests.queue_each(&queue);
    let approver = Approver { requests, names_of_node: config.names_of_node.clone() };
    runtime.work("certificatesigningrequest-approving-controller", queue, 5, approver);
}

/// Rests without an authority.
pub(crate) fn start_signing(runtime: &mut Runtime, config: &Config) {
    let Some(signing) = config.signing.clone() else { return };
    if let Err(error) = authority_of(&signing.borrow()) {
        return tracing::error!(%error, "certificate requests will not be signed");
    }
    let (requests, queue) = (runtime.cache::<CertificateSigningRequest>(), Queue::default());
    requests.queue_each(&queue);
    let (all, waiting) = (requests.clone(), queue.clone());
    let signer = Signer { requests, signing: signing.clone() };
    runtime.work("certificatesigningrequest-signing-controller", queue, 5, signer);
    // What an authority near its end could not sign any more.
    runtime.on_another(signing, move || all.list().iter().for_each(|r| waiting.add(Key::of(&**r))));
}

fn authority_of(signing: &Signing) -> Result<Authority, AuthorityError> {
    Authority::new(&signing.certificate, &signing.key)
}

pub(crate) fn start_cleaning(runtime: &mut Runtime, _config: &Config) {
    let (requests, queue) = (runtime.cache::<CertificateSigningRequest>(), Queue::default());
    requests.queue_each(&queue);
    runtime.work("certificatesigningrequest-cleaner-controller", queue, 1, Cleaner { requests });
}

fn condition<'a>(
    csr: &'a CertificateSigningRequest,
    type_: &str,
) -> Option<&'a CertificateSigningRequestCondition> {
    csr.status.iter().flat_map(|s| s.conditions.iter().flatten()).find(|c| c.type_ == type_)
}

fn certificate(csr: &CertificateSigningRequest) -> Option<&[u8]> {
    let bytes = &csr.status.as_ref()?.certificate.as_ref()?.0;
    (!bytes.is_empty()).then_some(bytes)
}

fn usages(csr: &CertificateSigningRequest) -> &[String] {
    csr.spec.usages.as_deref().unwrap_or_default()
}

fn add_condition(csr: &mut CertificateSigningRequest, type_: &str, reason: &str, message: String) {
    let conditions = csr.status.get_or_insert_default().conditions.get_or_insert_default();
    conditions.push(CertificateSigningRequestCondition {
        type_: type_.to_owned(),
        status: "True".to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        ..CertificateSigningRequestCondition::default()
    });
}

// === approval ===

/// The permissions each of which lets a kubelet have its client certificate, with the words of the approval.
const SELF: (&str, &str) =
    ("selfnodeclient", "Auto approving self kubelet client certificate after SubjectAccessReview.");
const OTHER: (&str, &str) =
    ("nodeclient", "Auto approving kubelet client certificate after SubjectAccessReview.");

/// Not upstream's, where such requests wait for somebody: a node's serving certificate, in its own name and for what the
/// administrator has given it; and the renewal of a client's own certificate, with the groups it has and no others.
const SELF_SERVING: (&str, &str) =
    ("selfnodeserver", "Auto approving self kubelet serving certificate after SubjectAccessReview.");
const SELF_CLIENT: (&str, &str) =
    ("selfclient", "Auto approving renewal of own client certificate after SubjectAccessReview.");

/// What to ask about a request before it is approved; nothing for one that is decided or no node's or client's own.
fn recognized(csr: &CertificateSigningRequest, given: &[String]) -> Vec<(&'static str, &'static str)> {
    let Some(request) = undecided(csr) else { return Vec::new() };
    let own = csr.spec.username.as_deref() == Some(request.common_name.as_str());
    match csr.spec.signer_name.as_str() {
        KUBELET_CLIENT if request.is_kubelet_client(usages(csr)).is_err() => vec![],
        KUBELET_CLIENT if own => vec![SELF, OTHER],
        KUBELET_CLIENT => vec![OTHER],
        KUBELET_SERVING if own && request.is_kubelet_serving(usages(csr)).is_ok() => {
            let names = request.names.iter().map(request::AltName::text);
            let all = names.into_iter().all(|name| name.is_some_and(|name| given.contains(&name)));
            if all { vec![SELF_SERVING] } else { vec![] }
        }
        CLIENT if own && is_of_its_groups(csr, &request) => vec![SELF_CLIENT],
        _ => vec![],
    }
}

fn undecided(csr: &CertificateSigningRequest) -> Option<Request> {
    let decided = condition(csr, "Approved").is_some() || condition(csr, "Denied").is_some();
    if decided || certificate(csr).is_some() {
        return None;
    }
    Request::parse(&csr.spec.request.0).ok()
}

/// A client's certificate, for exactly the groups that who asks for it has.
fn is_of_its_groups(csr: &CertificateSigningRequest, request: &Request) -> bool {
    let has = csr.spec.groups.iter().flatten().filter(|group| *group != "system:authenticated");
    let (mut has, mut asked): (Vec<&String>, Vec<&String>) =
        (has.collect(), request.organizations.iter().collect());
    has.sort();
    asked.sort();
    has == asked
        && !asked.iter().any(|group| *group == "system:masters")
        && request.names.is_empty()
        && matches!(request.check(CLIENT, usages(csr)), Some(Ok(())))
}

impl Approver {
    /// The names that a node may serve under, where the request is about that.
    async fn given(&self, csr: &CertificateSigningRequest) -> anyhow::Result<Vec<String>> {
        let node = csr.spec.username.as_deref().and_then(|user| user.strip_prefix(NODE_USER));
        let (KUBELET_SERVING, Some(node), Some(names)) =
            (csr.spec.signer_name.as_str(), node, &self.names_of_node)
        else {
            return Ok(Vec::new());
        };
        let (node, names) = (node.to_owned(), names.clone());
        Ok(tokio::task::spawn_blocking(move || names(&node)).await?)
    }
}

impl Reconcile for Approver {
    async fn reconcile(&self, key: &Key, api: &Writer) -> anyhow::Result<Next> {
        let Some(csr) = self.requests.get(key) else { return Ok(Next::Done) };
        let given = self.given(&csr).await?;
        for (subresource, message) in recognized(&csr, &given) {
            let review = SubjectAccessReview {
                spec: SubjectAccessReviewSpec {
                    user: csr.spec.username.clone(),
                    uid: csr.spec.uid.clone(),
                    groups: csr.spec.groups.clone(),
                    extra: csr.spec.extra.clone(),
                    resource_attributes: Some(ResourceAttributes {
                        group: Some("certificates.k8s.io".to_owned()),
                        resource: Some("certificatesigningrequests".to_owned()),
                        subresource: Some(subresource.to_owned()),
                        verb: Some("create".to_owned()),
                        version: Some("*".to_owned()),
                        ..ResourceAttributes::default()
                    }),
                    ..SubjectAccessReviewSpec::default()
                },
                ..SubjectAccessReview::default()
            };
            if api.create(&review).await?.status.is_some_and(|s| s.allowed) {
                let mut approved = (*csr).clone();
                add_condition(&mut approved, "Approved", "AutoApproved", message.to_owned());
                api.replace_subresource("approval", &approved).await?;
                break;
            }
        }
        Ok(Next::Done)
    }
}

// === signing ===

/// The request with its certificate, or with the reason why it gets none; `None` where there is nothing to do.
fn signed(
    csr: &CertificateSigningRequest,
    authority: &Authority,
    serial: [u8; 16],
    now: Timestamp,
) -> anyhow::Result<Option<CertificateSigningRequest>> {
    let is_true = |type_: &str| condition(csr, type_).is_some_and(|c| c.status == "True");
    let denied = condition(csr, "Denied").is_some();
    if !is_true("Approved") || denied || is_true("Failed") || certificate(csr).is_some() {
        return Ok(None);
    }
    let request = Request::parse(&csr.spec.request.0)?;
    let Some(check) = request.check(&csr.spec.signer_name, usages(csr)) else { return Ok(None) };
    let mut csr = csr.clone();
    match check {
        Err(why) => add_condition(&mut csr, "Failed", "SignerValidationFailure", why),
        Ok(()) => {
            let asked =
                csr.spec.expiration_seconds.and_then(|s| u64::try_from(s).ok()).map(Duration::from_secs);
            let pem = authority.sign(&request, usages(&csr), asked, serial, now)?;
            csr.status.get_or_insert_default().certificate = Some(ByteString(pem.into_bytes()));
        }
    }
    Ok(Some(csr))
}

impl Reconcile for Signer {
    async fn reconcile(&self, key: &Key, api: &Writer) -> anyhow::Result<Next> {
        let Some(csr) = self.requests.get(key) else { return Ok(Next::Done) };
        let authority = authority_of(&self.signing.borrow())?;
        if let Some(csr) = signed(&csr, &authority, rand::random(), Timestamp::now())? {
            api.replace_status(&csr).await?;
        }
        Ok(Next::Done)
    }
}

// === cleaning ===

/// When a request is to go; `None` for one that no rule speaks of.
fn ends(csr: &CertificateSigningRequest) -> Option<Timestamp> {
    let after = |time: Option<&Time>, kept: Duration| time.and_then(|t| t.0.checked_add(kept).ok());
    let conditions = csr.status.iter().flat_map(|s| s.conditions.iter().flatten());
    let mut times: Vec<Timestamp> = Vec::new();
    let issued = certificate(csr);
    let mut undecided = true;
    for condition in conditions {
        undecided = false;
        let kept = match (condition.type_.as_str(), issued) {
            ("Denied" | "Failed", _) | ("Approved", Some(_)) => ENDED_KEPT,
            ("Approved", None) => WAITING_KEPT,
            _ => continue,
        };
        times.extend(after(condition.last_update_time.as_ref(), kept));
        if condition.type_ == "Approved" {
            times.extend(issued.and_then(expiry));
        }
    }
    if undecided {
        times.extend(after(csr.metadata.creation_timestamp.as_ref(), WAITING_KEPT));
    }
    times.into_iter().min()
}

/// When a certificate is over.
fn expiry(pem: &[u8]) -> Option<Timestamp> {
    let (_, block) = parse_x509_pem(pem).ok()?;
    Timestamp::from_second(block.parse_x509().ok()?.validity().not_after.timestamp()).ok()
}

impl Reconcile for Cleaner {
    async fn reconcile(&self, key: &Key, api: &Writer) -> anyhow::Result<Next> {
        let Some(csr) = self.requests.get(key) else { return Ok(Next::Done) };
        let Some(end) = ends(&csr) else { return Ok(Next::Done) };
        match Duration::try_from(end.duration_since(Timestamp::now())) {
            Ok(left) if !left.is_zero() => Ok(Next::After(left)),
            _ => {
                api.delete(&*csr, None).await?;
                Ok(Next::Done)
            }
        }
    }
}

/// A request that is signed asks for what the signed certificate says, and no more.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn hostile_request(der: &[u8]) {
    use std::sync::LazyLock;

    use x509_parser::certification_request::X509CertificationRequest;
    use x509_parser::prelude::FromDer;

    static AUTHORITY: LazyLock<Authority> = LazyLock::new(|| {
        let key = rcgen::KeyPair::generate().expect("a key");
        let certificate = rcgen::CertificateParams::default().self_signed(&key).expect("a certificate");
        Authority::new(&certificate.pem(), &key.serialize_pem()).expect("an authority")
    });
    let _ = Request::parse(der);
    let Ok((_, request)) = X509CertificationRequest::from_der(der) else { return };
    // No input has a signature that holds.
    let Ok(request) = Request::of(&request) else { return };
    for signer in [request::CLIENT, request::KUBELET_CLIENT, request::KUBELET_SERVING, request::LEGACY] {
        let _ = request.check(signer, &["client auth".to_owned(), "digital signature".to_owned()]);
    }
    let now = Timestamp::UNIX_EPOCH;
    let usages = ["client auth".to_owned()];
    let signed = AUTHORITY.sign(&request, &usages, Some(HOUR), [0xff; 16], now).expect("known usages");
    let (_, block) = parse_x509_pem(signed.as_bytes()).expect("what we wrote");
    let leaf = block.parse_x509().unwrap_or_else(|e| panic!("{e} of {signed}"));
    assert_eq!(leaf.subject().as_raw(), request.subject);
    assert_eq!(leaf.public_key().raw, request.public_key);
    assert!(!leaf.is_ca());
}

#[cfg(test)]
mod tests {
    use rcgen::SanType;
    use serde_json::{Value, json};

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[allow(clippy::needless_pass_by_value, reason = "a literal reads best as the argument")]
    fn csr(signer: &str, pem: &str, usages: &str, user: &str, status: Value) -> CertificateSigningRequest {
        let mut csr: CertificateSigningRequest = serde_json::from_value(json!({
            "metadata": {"name": "r", "creationTimestamp": at(1000).to_string()},
            "spec": {"signerName": signer, "request": "", "usages": request::tests::words(usages), "username": user},
            "status": status}))
        .unwrap();
        csr.spec.request = ByteString(pem.as_bytes().to_vec());
        csr
    }

    const CLIENT_USAGES: &str = "digital signature,client auth";

    #[test]
    fn kubelets_ask_for_themselves_or_for_others() {
        let node = || request::tests::pem("system:node:n1", "system:nodes", vec![]);
        let dns = vec![SanType::DnsName("n1".try_into().unwrap())];
        let named = request::tests::pem("system:node:n1", "system:nodes", dns);
        let approved = json!({"conditions": [{"type": "Approved", "status": "True"}]});
        let denied = json!({"conditions": [{"type": "Denied", "status": "True"}]});
        let cases = [
            (
                "system:node:n1",
                KUBELET_CLIENT,
                node(),
                CLIENT_USAGES,
                json!({}),
                vec!["selfnodeclient", "nodeclient"],
            ),
            ("system:bootstrap:x", KUBELET_CLIENT, node(), CLIENT_USAGES, json!({}), vec!["nodeclient"]),
            ("system:node:n1", KUBELET_CLIENT, node(), CLIENT_USAGES, approved, vec![]),
            ("system:node:n1", KUBELET_CLIENT, node(), CLIENT_USAGES, denied, vec![]),
            ("system:node:n1", KUBELET_CLIENT, node(), "server auth", json!({}), vec![]),
            ("system:node:n1", KUBELET_CLIENT, named.clone(), CLIENT_USAGES, json!({}), vec![]),
            ("system:node:n1", request::CLIENT, node(), CLIENT_USAGES, json!({}), vec![]),
            (
                "system:node:n1",
                request::KUBELET_SERVING,
                named,
                "digital signature,server auth",
                json!({}),
                vec![],
            ),
            ("system:node:n1", KUBELET_CLIENT, "garbage".to_owned(), CLIENT_USAGES, json!({}), vec![]),
        ];
        for (user, signer, pem, usages, status, expected) in cases {
            let asked = recognized(&csr(signer, &pem, usages, user, status), &[]);
            assert_eq!(
                asked.iter().map(|(sub, _)| *sub).collect::<Vec<_>>(),
                expected,
                "{user} {signer} {usages}"
            );
        }
    }

    #[test]
    fn what_is_asked_for_beyond_upstream_is_ones_own_and_no_more() {
        const SERVER_USAGES: &str = "digital signature,server auth";
        let ip = |ip: &str| SanType::IpAddress(ip.parse().unwrap());
        let dns = |name: &str| SanType::DnsName(name.try_into().unwrap());
        let given = ["192.0.2.2".to_owned(), "n1".to_owned()];
        let (node, nodes) = ("system:node:n1", "system:nodes");
        let (serving, client) = (request::KUBELET_SERVING, request::CLIENT);
        let proxy = "system:kube-proxy";
        // Signer, who asks, its groups; name, group and names that are asked for; usages.
        let cases = [
            (
                serving,
                node,
                nodes,
                node,
                nodes,
                vec![dns("n1"), ip("192.0.2.2")],
                SERVER_USAGES,
                "selfnodeserver",
            ),
            (serving, node, nodes, node, nodes, vec![ip("192.0.2.2")], SERVER_USAGES, "selfnodeserver"),
            // Another's address, another's name, the API server's, and names that are no host's.
            (serving, node, nodes, node, nodes, vec![ip("192.0.2.3")], SERVER_USAGES, ""),
            (serving, node, nodes, node, nodes, vec![dns("n1"), dns("n2")], SERVER_USAGES, ""),
            (serving, node, nodes, node, nodes, vec![dns("kubernetes.default.svc")], SERVER_USAGES, ""),
            (serving, node, nodes, node, nodes, vec![dns("*")], SERVER_USAGES, ""),
            (serving, node, nodes, node, nodes, vec![], SERVER_USAGES, ""),
            // Another node's, by whoever asks; another group; both purposes.
            (serving, node, nodes, "system:node:n2", nodes, vec![dns("n1")], SERVER_USAGES, ""),
            (serving, "jane", "dev", node, nodes, vec![dns("n1")], SERVER_USAGES, ""),
            (serving, node, nodes, node, "system:masters", vec![dns("n1")], SERVER_USAGES, ""),
            (
                serving,
                node,
                nodes,
                node,
                nodes,
                vec![dns("n1")],
                "digital signature,server auth,client auth",
                "",
            ),
            // A client's own certificate again: its name and all its groups.
            (client, "jane", "dev", "jane", "dev", vec![], CLIENT_USAGES, "selfclient"),
            (client, "jane", "dev", "joe", "dev", vec![], CLIENT_USAGES, ""),
            (client, "jane", "dev", "jane", "ops", vec![], CLIENT_USAGES, ""),
            (client, "jane", "", "jane", "dev", vec![], CLIENT_USAGES, ""),
            (client, "jane", "dev", "jane", "dev", vec![dns("jane")], CLIENT_USAGES, ""),
            (client, "jane", "dev", "jane", "dev", vec![], "server auth", ""),
            (client, node, nodes, proxy, nodes, vec![], CLIENT_USAGES, ""),
            (client, "root", "system:masters", "root", "system:masters", vec![], CLIENT_USAGES, ""),
        ];
        for (signer, user, groups, name, group, names, usages, expected) in cases {
            let context = format!("{signer} {user} {name} {group} {names:?}");
            let mut csr = csr(signer, &request::tests::pem(name, group, names), usages, user, json!({}));
            let groups = [groups, "system:authenticated"].map(str::to_owned);
            csr.spec.groups = Some(groups.into_iter().filter(|g| !g.is_empty()).collect());
            let asked = recognized(&csr, &given);
            assert_eq!(asked.first().map_or("", |(subresource, _)| subresource), expected, "{context}");
            assert!(recognized(&csr, &[]).is_empty() || signer == client, "{context}");
        }
    }

    #[test]
    fn approved_requests_are_signed_or_fail() {
        let (certificate, key) = authority::tests::authority(4_000_000_000);
        let authority = Authority::new(&certificate, &key).unwrap();
        let jane = request::tests::pem("jane", "dev", vec![]);
        let with = |conditions: &[&str]| {
            let all: Vec<_> = conditions.iter().map(|c| json!({"type": c, "status": "True"})).collect();
            json!({"conditions": all})
        };
        let cases = [
            (request::CLIENT, "client auth", with(&["Approved"]), "signed"),
            (request::LEGACY, "any", with(&["Approved"]), "signed"),
            (
                request::CLIENT,
                "server auth",
                with(&["Approved"]),
                "invalid usage for client certificate: server auth",
            ),
            (KUBELET_CLIENT, CLIENT_USAGES, with(&["Approved"]), "subject organization is not system:nodes"),
            (request::CLIENT, "client auth", with(&[]), "nothing"),
            (request::CLIENT, "client auth", with(&["Approved", "Failed"]), "nothing"),
            (request::CLIENT, "client auth", with(&["Denied"]), "nothing"),
            ("example.com/own", "client auth", with(&["Approved"]), "nothing"),
        ];
        for (signer, usages, status, expected) in cases {
            let csr = csr(signer, &jane, usages, "jane", status);
            let found = match signed(&csr, &authority, [1; 16], at(1_800_000_000)).unwrap() {
                None => "nothing".to_owned(),
                Some(csr) if super::certificate(&csr).is_some() => "signed".to_owned(),
                Some(csr) => condition(&csr, "Failed").unwrap().message.clone().unwrap(),
            };
            assert_eq!(found, expected, "{signer} {usages}");
        }
    }

    #[test]
    fn requests_go_when_they_are_old() {
        let (pem, _) = authority::tests::authority(86_400 * 20_000);
        let status = |type_: &str, issued: bool| {
            let condition = json!({"type": type_, "status": "True", "lastUpdateTime": at(5000).to_string()});
            let certificate = issued.then(|| ByteString(pem.clone().into_bytes()));
            json!({"conditions": [condition], "certificate": certificate})
        };
        let day = 86_400;
        let cases = [
            (json!({}), Some(1000 + day)),
            (status("Denied", false), Some(5000 + 3600)),
            (status("Failed", false), Some(5000 + 3600)),
            (status("Approved", true), Some(5000 + 3600)),
            (status("Approved", false), Some(5000 + day)),
            (status("Other", false), None),
            (json!({"certificate": "", "conditions": [{"type": "Approved", "status": "True"}]}), None),
        ];
        for (status, expected) in cases {
            let found = ends(&csr(KUBELET_CLIENT, "", CLIENT_USAGES, "u", status.clone()));
            assert_eq!(found, expected.map(at), "{status}");
        }
        assert_eq!(expiry(pem.as_bytes()), Some(at(86_400 * 20_000)));
    }
}
