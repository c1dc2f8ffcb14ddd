//! CertificateApproval, CertificateSigning and CertificateSubjectRestriction: who may approve and sign for whom.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use coracle_api::Object;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::pem::parse_x509_pem;
use x509_parser::prelude::FromDer;
use x509_parser::x509::X509Name;

use super::{Attributes, Operation};
use crate::Server;
use crate::authn;
use crate::authz::{Asked, Decision};
use crate::status::Result;

pub(super) const GROUP: &str = "certificates.k8s.io";
pub(super) const REQUESTS: &str = "certificatesigningrequests";
const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";
const MASTERS: &str = "system:masters";

pub(super) fn validate(
    server: &Server,
    what: &Attributes<'_>,
    new: Option<&Object>,
    old: Option<&Object>,
) -> Result<()> {
    let gvr = &what.resource.gvr;
    if gvr.group != GROUP || gvr.resource != REQUESTS {
        return Ok(());
    }
    match (what.operation, what.subresource, new, old) {
        (Operation::Create, "", Some(new), _) => subject(what, new),
        (Operation::Update, "approval", Some(_), Some(old)) => permitted(server, what, "approve", old),
        (Operation::Update, "status", Some(new), Some(old)) => {
            let same = |field: &str| new.at(&["status", field]) == old.at(&["status", field]);
            if same("certificate") && same("conditions") {
                Ok(())
            } else {
                permitted(server, what, "sign", old)
            }
        }
        _ => Ok(()),
    }
}

/// Approving and signing take the verb on the signer, by its name or by its domain (`example.com/*`).
fn permitted(server: &Server, what: &Attributes<'_>, verb: &str, request: &Object) -> Result<()> {
    let signer = request.str_at(&["spec", "signerName"]);
    let domain = format!("{}/*", signer.split('/').next().unwrap_or_default());
    let may = |name: &str| {
        let asked = Asked { verb, group: GROUP, resource: "signers", name, ..Asked::RESOURCE };
        matches!(server.access.authz.decide(server, what.user, &asked), Decision::Allow(_))
    };
    if may(signer) || may(&domain) {
        return Ok(());
    }
    Err(what.refuse(format!("user not permitted to {verb} requests with signerName {signer:?}")))
}

/// Nobody becomes cluster administrator by a request.
fn subject(what: &Attributes<'_>, request: &Object) -> Result<()> {
    if request.str_at(&["spec", "signerName"]) != CLIENT_SIGNER {
        return Ok(());
    }
    let organizations = match organizations(request.str_at(&["spec", "request"])) {
        Ok(organizations) => organizations,
        Err(why) => return Err(what.refuse(format!("failed to parse CSR: {why}"))),
    };
    if organizations.iter().any(|o| o == MASTERS) {
        return Err(what.refuse(format!("use of {CLIENT_SIGNER} signer with {MASTERS} group is not allowed")));
    }
    Ok(())
}

/// The organisations of a base64-encoded PEM request's subject.
pub(super) fn organizations(encoded: &str) -> Result<Vec<String>, &'static str> {
    read_subject(encoded, |subject| {
        subject.iter_organization().filter_map(|o| o.as_str().ok()).map(str::to_owned).collect()
    })
}

/// The common name of a base64-encoded PEM request's subject; empty where it has none.
pub(super) fn common_name(encoded: &str) -> Result<String, &'static str> {
    read_subject(encoded, |subject| authn::common_name(subject).unwrap_or_default().to_owned())
}

fn read_subject<T>(encoded: &str, read: impl FnOnce(&X509Name<'_>) -> T) -> Result<T, &'static str> {
    const BAD: &str = "PEM block type must be CERTIFICATE REQUEST";
    let pem = STANDARD.decode(encoded).map_err(|_| BAD)?;
    let (_, block) = parse_x509_pem(&pem).map_err(|_| BAD)?;
    if block.label != "CERTIFICATE REQUEST" {
        return Err(BAD);
    }
    let (_, request) = X509CertificationRequest::from_der(&block.contents)
        .map_err(|_| "x509: malformed certificate request")?;
    let subject = &request.certification_request_info.subject;
    if !authn::is_whole(subject) {
        return Err("x509: malformed certificate request");
    }
    Ok(read(subject))
}
