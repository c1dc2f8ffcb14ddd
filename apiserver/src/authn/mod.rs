//! Who is asking: client certificates, service-account tokens, anonymous.

use std::collections::BTreeMap;
use std::sync::Arc;

use coracle_api::names::{GROUP_AUTHENTICATED, GROUP_UNAUTHENTICATED, USER_ANONYMOUS};
use jiff::Timestamp;
use sha2::{Digest, Sha256};

use crate::cluster::Cluster;
use crate::status::{Result, Status};

mod tokens;

pub use tokens::{Bound, Claims, Reference, Tokens};

/// An authenticated identity. Upstream's `user.Info`.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct User {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

/// What a connection's client certificate (verified by TLS) says; read once, asked with every request.
#[derive(Clone, Debug)]
pub enum Peer {
    NoCertificate,
    /// A certificate that names nobody.
    Nobody,
    Named {
        user: Arc<User>,
        /// Unix seconds.
        not_after: i64,
    },
}

/// Turns what a connection and a request show into an identity.
pub struct Authenticator {
    pub tokens: Tokens,
}

// === impl Authenticator ===

impl Authenticator {
    pub fn new(tokens: Tokens) -> Self {
        Authenticator { tokens }
    }

    /// A client certificate (already verified by TLS) wins over a bearer token; neither is anonymous; a bad one is 401.
    pub fn authenticate(
        &self,
        cluster: &dyn Cluster,
        peer: &Peer,
        authorization: Option<&str>,
        now: Timestamp,
    ) -> Result<Arc<User>> {
        match peer {
            Peer::Named { user, not_after } if *not_after >= now.as_second() => return Ok(user.clone()),
            Peer::Named { .. } | Peer::Nobody => return Err(Status::unauthorized()),
            Peer::NoCertificate => {}
        }
        let Some(header) = authorization.map(str::trim).filter(|h| !h.is_empty()) else {
            return Ok(Arc::new(anonymous()));
        };
        match header.split_once(' ') {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") && !token.trim().is_empty() => {
                let claims = self
                    .tokens
                    .verify(cluster, token.trim(), &[], now)
                    .map_err(|_| Status::unauthorized())?;
                Ok(Arc::new(claims.user()))
            }
            // Another scheme is no credential of ours: upstream goes on to anonymous.
            _ => Ok(Arc::new(anonymous())),
        }
    }
}

/// Who shows nothing.
pub fn anonymous() -> User {
    User {
        name: USER_ANONYMOUS.to_owned(),
        groups: vec![GROUP_UNAUTHENTICATED.to_owned()],
        ..User::default()
    }
}

// === impl Peer ===

impl Peer {
    pub fn of(certificate: Option<&[u8]>) -> Self {
        let Some(der) = certificate else { return Peer::NoCertificate };
        named(der).unwrap_or(Peer::Nobody)
    }
}

/// The user a client certificate names: the common name, and the organisations as groups.
fn named(der: &[u8]) -> Option<Peer> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok().filter(|n| !n.is_empty())?.to_owned();
    let mut groups: Vec<String> =
        subject.iter_organization().filter_map(|o| o.as_str().ok()).map(str::to_owned).collect();
    groups.push(GROUP_AUTHENTICATED.to_owned());
    let id = format!("X509SHA256={}", hex::encode(Sha256::digest(der)));
    let extra = BTreeMap::from([(tokens::CREDENTIAL_ID.to_owned(), vec![id])]);
    let user = Arc::new(User { name, uid: String::new(), groups, extra });
    Some(Peer::Named { user, not_after: certificate.validity().not_after.timestamp() })
}

// === impl User ===

impl User {
    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }

    /// An in-process component, or a test: a name and its groups, plus `system:authenticated`.
    pub fn component(name: &str, groups: &[&str]) -> Self {
        let mut groups: Vec<String> = groups.iter().map(|g| (*g).to_owned()).collect();
        groups.push(GROUP_AUTHENTICATED.to_owned());
        User { name: name.to_owned(), groups, ..User::default() }
    }
}
