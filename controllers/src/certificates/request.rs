//! What a PKCS #10 request asks for, and which requests the signers of `kubernetes.io` take.

use std::collections::BTreeSet;
use std::net::IpAddr;

use coracle_api::der::{attributes_of_name, is_sequence};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::pem::parse_x509_pem;
use x509_parser::prelude::FromDer;

pub(super) const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
pub(super) const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
pub(super) const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
/// What the user names of nodes begin with.
pub(super) const NODE_USER: &str = "system:node:";
pub(super) const LEGACY: &str = "kubernetes.io/legacy-unknown";

/// A parsed request whose signature holds. What it asks for beyond this, no signer grants.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Request {
    pub(super) common_name: String,
    pub(super) organizations: Vec<String>,
    pub(super) names: Vec<AltName>,
    /// DER, as it stands in the request.
    pub(super) subject: Vec<u8>,
    pub(super) public_key: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum AltName {
    Email(String),
    Dns(String),
    Uri(String),
    /// Four bytes or sixteen.
    Ip(Vec<u8>),
}

#[derive(Debug, thiserror::Error, PartialEq)]
pub(super) enum RequestError {
    #[error("PEM block type must be CERTIFICATE REQUEST")]
    NoRequest,
    #[error("x509: malformed certificate request")]
    Malformed,
    #[error("x509: the signature of the request does not hold")]
    Signature,
}

// === impl Request ===

impl Request {
    pub(super) fn parse(pem: &[u8]) -> Result<Self, RequestError> {
        let (_, block) = parse_x509_pem(pem).map_err(|_| RequestError::NoRequest)?;
        if block.label != "CERTIFICATE REQUEST" {
            return Err(RequestError::NoRequest);
        }
        let (_, request) =
            X509CertificationRequest::from_der(&block.contents).map_err(|_| RequestError::Malformed)?;
        request.verify_signature().map_err(|_| RequestError::Signature)?;
        Self::of(&request)
    }

    /// What a request asks for, whoever has made it.
    pub(super) fn of(request: &X509CertificationRequest<'_>) -> Result<Self, RequestError> {
        let info = &request.certification_request_info;
        // Both are copied into the certificate as they stand: nothing may be in them that was not read here, nor may they
        // take in what follows them there.
        let read = info.subject.iter_attributes().count();
        if attributes_of_name(info.subject.as_raw()) != Some(read) || !is_sequence(info.subject_pki.raw) {
            return Err(RequestError::Malformed);
        }
        let mut names = Vec::new();
        for extension in request.requested_extensions().into_iter().flatten() {
            if let ParsedExtension::SubjectAlternativeName(alternative) = extension {
                names.extend(alternative.general_names.iter().filter_map(AltName::of));
            }
        }
        // A name that cannot be read here may be read by somebody else: there is none that is left out.
        let text = |value: &x509_parser::x509::AttributeTypeAndValue<'_>| {
            value.as_str().map(str::to_owned).map_err(|_| RequestError::Malformed)
        };
        let names_of =
            |values: Vec<Result<String, RequestError>>| values.into_iter().collect::<Result<Vec<_>, _>>();
        let common_names = names_of(info.subject.iter_common_name().map(text).collect())?;
        Ok(Request {
            // The last counts, as in Go's reading of a subject that has several.
            common_name: common_names.into_iter().next_back().unwrap_or_default(),
            organizations: names_of(info.subject.iter_organization().map(text).collect())?,
            names,
            subject: info.subject.as_raw().to_vec(),
            public_key: info.subject_pki.raw.to_vec(),
        })
    }

    /// Whether a signer takes the request, and if not, why not; `None` for a signer that is not ours.
    pub(super) fn check(&self, signer: &str, usages: &[String]) -> Option<Result<(), String>> {
        Some(match signer {
            CLIENT => client_usages(usages),
            KUBELET_CLIENT => self.is_kubelet_client(usages),
            KUBELET_SERVING => self.is_kubelet_serving(usages),
            LEGACY => Ok(()),
            _ => return None,
        })
    }

    pub(super) fn is_kubelet_client(&self, usages: &[String]) -> Result<(), String> {
        self.is_of_nodes()?;
        // Upstream's order of complaints.
        let has = |test: fn(&AltName) -> bool| self.names.iter().any(test);
        let kinds = [
            ("DNS", has(|n| matches!(n, AltName::Dns(_)))),
            ("Email", has(|n| matches!(n, AltName::Email(_)))),
            ("IP", has(|n| matches!(n, AltName::Ip(_)))),
            ("URI", has(|n| matches!(n, AltName::Uri(_)))),
        ];
        if let Some((kind, _)) = kinds.iter().find(|(_, present)| *present) {
            return Err(format!("{kind} subjectAltNames are not allowed"));
        }
        self.is_named_as_node()?;
        exact_usages(usages, "client auth")
    }

    pub(super) fn is_kubelet_serving(&self, usages: &[String]) -> Result<(), String> {
        self.is_of_nodes()?;
        let has = |test: fn(&AltName) -> bool| self.names.iter().any(test);
        if !has(|n| matches!(n, AltName::Dns(_) | AltName::Ip(_))) {
            return Err("DNS or IP subjectAltName is required".to_owned());
        }
        if has(|n| matches!(n, AltName::Email(_))) {
            return Err("Email subjectAltNames are not allowed".to_owned());
        }
        if has(|n| matches!(n, AltName::Uri(_))) {
            return Err("URI subjectAltNames are not allowed".to_owned());
        }
        exact_usages(usages, "server auth")?;
        self.is_named_as_node()
    }

    fn is_of_nodes(&self) -> Result<(), String> {
        let nodes = self.organizations == ["system:nodes"];
        nodes.then_some(()).ok_or_else(|| "subject organization is not system:nodes".to_owned())
    }

    fn is_named_as_node(&self) -> Result<(), String> {
        let named = self.common_name.starts_with(NODE_USER);
        named.then_some(()).ok_or_else(|| "subject common name does not begin with system:node:".to_owned())
    }
}

impl AltName {
    /// A DNS name or an address as text.
    pub(super) fn text(&self) -> Option<String> {
        match self {
            AltName::Dns(name) => Some(name.clone()),
            AltName::Ip(bytes) => match <[u8; 4]>::try_from(bytes.as_slice()) {
                Ok(v4) => Some(IpAddr::from(v4).to_string()),
                Err(_) => Some(IpAddr::from(<[u8; 16]>::try_from(bytes.as_slice()).ok()?).to_string()),
            },
            AltName::Email(_) | AltName::Uri(_) => None,
        }
    }

    fn of(name: &GeneralName<'_>) -> Option<Self> {
        match name {
            GeneralName::RFC822Name(text) => Some(AltName::Email((*text).to_owned())),
            GeneralName::DNSName(text) => Some(AltName::Dns((*text).to_owned())),
            GeneralName::URI(text) => Some(AltName::Uri((*text).to_owned())),
            GeneralName::IPAddress(bytes) if matches!(bytes.len(), 4 | 16) => {
                Some(AltName::Ip(bytes.to_vec()))
            }
            _ => None,
        }
    }
}

/// With or without key encipherment, which only RSA keys need.
fn exact_usages(usages: &[String], purpose: &str) -> Result<(), String> {
    let given: BTreeSet<&str> = usages.iter().map(String::as_str).collect();
    let without = BTreeSet::from(["digital signature", purpose]);
    let with = BTreeSet::from(["digital signature", "key encipherment", purpose]);
    if given == without || given == with {
        return Ok(());
    }
    Err(format!("usages did not match [{}]", with.into_iter().collect::<Vec<_>>().join(" ")))
}

fn client_usages(usages: &[String]) -> Result<(), String> {
    let known = ["digital signature", "key encipherment", "client auth"];
    if let Some(other) = usages.iter().find(|usage| !known.contains(&usage.as_str())) {
        return Err(format!("invalid usage for client certificate: {other}"));
    }
    let client = usages.iter().any(|usage| usage == "client auth");
    client
        .then_some(())
        .ok_or_else(|| "missing required usage for client certificate: client auth".to_owned())
}

#[cfg(test)]
pub(super) mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};

    use super::*;

    /// A PEM request for these names.
    pub(in crate::certificates) fn pem(common_name: &str, organization: &str, names: Vec<SanType>) -> String {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, organization);
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.subject_alt_names = names;
        params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap()
    }

    pub(in crate::certificates) fn words(list: &str) -> Vec<String> {
        list.split(',').map(str::to_owned).collect()
    }

    #[test]
    fn what_is_no_request_is_refused() {
        let good = pem("u", "g", vec![]);
        let parsed = Request::parse(good.as_bytes()).unwrap();
        assert_eq!((parsed.common_name.as_str(), parsed.organizations.len()), ("u", 1));
        let certificate = good.replace("CERTIFICATE REQUEST", "CERTIFICATE");
        let body: String = good.lines().nth(1).unwrap().to_owned();
        // A bit of the signed part is turned.
        let turned = good.replacen(
            &body,
            &body.replacen(&body[40..41], if &body[40..41] == "A" { "B" } else { "A" }, 1),
            1,
        );
        assert_eq!(Request::parse(b"garbage"), Err(RequestError::NoRequest));
        assert_eq!(Request::parse(certificate.as_bytes()), Err(RequestError::NoRequest));
        let empty = "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n";
        assert_eq!(Request::parse(empty.as_bytes()), Err(RequestError::Malformed));
        assert!(Request::parse(turned.as_bytes()).is_err());
    }

    #[test]
    fn each_signer_takes_what_upstreams_takes() {
        let dns = || vec![SanType::DnsName("n1".try_into().unwrap())];
        let email = || vec![SanType::Rfc822Name("a@b".try_into().unwrap())];
        let node = "system:node:n1";
        let client = "digital signature,client auth";
        let server = "digital signature,key encipherment,server auth";
        let cases = [
            (KUBELET_CLIENT, node, "system:nodes", vec![], client, ""),
            (
                KUBELET_CLIENT,
                node,
                "system:nodes",
                vec![],
                "digital signature,key encipherment,client auth",
                "",
            ),
            (
                KUBELET_CLIENT,
                node,
                "system:masters",
                vec![],
                client,
                "subject organization is not system:nodes",
            ),
            (KUBELET_CLIENT, node, "system:nodes", dns(), client, "DNS subjectAltNames are not allowed"),
            (
                KUBELET_CLIENT,
                "n1",
                "system:nodes",
                vec![],
                client,
                "subject common name does not begin with system:node:",
            ),
            (
                KUBELET_CLIENT,
                node,
                "system:nodes",
                vec![],
                server,
                "usages did not match [client auth digital signature key encipherment]",
            ),
            (KUBELET_SERVING, node, "system:nodes", dns(), server, ""),
            (KUBELET_SERVING, node, "system:nodes", dns(), "digital signature,server auth", ""),
            (KUBELET_SERVING, node, "system:nodes", vec![], server, "DNS or IP subjectAltName is required"),
            (
                KUBELET_SERVING,
                node,
                "system:nodes",
                [dns(), email()].concat(),
                server,
                "Email subjectAltNames are not allowed",
            ),
            (
                KUBELET_SERVING,
                "n1",
                "system:nodes",
                dns(),
                server,
                "subject common name does not begin with system:node:",
            ),
            (CLIENT, "jane", "dev", vec![], "client auth", ""),
            (
                CLIENT,
                "jane",
                "dev",
                vec![],
                "digital signature",
                "missing required usage for client certificate: client auth",
            ),
            (
                CLIENT,
                "jane",
                "dev",
                vec![],
                "client auth,cert sign",
                "invalid usage for client certificate: cert sign",
            ),
            (LEGACY, "x", "y", dns(), "any", ""),
        ];
        for (signer, common_name, organization, names, usages, refusal) in cases {
            let request = Request::parse(pem(common_name, organization, names).as_bytes()).unwrap();
            let found = request.check(signer, &words(usages)).unwrap();
            assert_eq!(found.err().unwrap_or_default(), refusal, "{signer} {common_name} {usages}");
        }
        assert_eq!(Request::default().check("example.com/own", &[]), None);
    }
}
