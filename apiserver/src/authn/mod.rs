//! Who is asking: client certificates, front proxies, service-account tokens, tokens of an OpenID provider, anonymous.

use std::collections::BTreeMap;
use std::sync::Arc;

use coracle_api::der::attributes_of_name;
use coracle_api::names::{GROUP_AUTHENTICATED, GROUP_UNAUTHENTICATED, USER_ANONYMOUS};
use http::HeaderMap;
use http::header::AUTHORIZATION;
use jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use rustls::server::danger::ClientCertVerifier;
use rustls::time_provider::TimeProvider;
use sha2::{Digest, Sha256};
use x509_parser::x509::X509Name;

use crate::cluster::Cluster;
use crate::pki::clock::{Clock, TlsTime};
use crate::status::{Result, Status};

pub mod front_proxy;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod hostile;
pub mod impersonation;
mod legacy;
pub mod oidc;
mod tokens;

pub use legacy::note_uses;
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
    /// One that speaks for others: the request's headers say who is asking.
    FrontProxy {
        /// Unix seconds.
        not_after: i64,
    },
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
    front_proxy: Arc<dyn ClientCertVerifier>,
    clock: TlsTime,
    allows_anonymous: bool,
    /// Whose users are ours, too.
    pub provider: Option<Arc<oidc::Provider>>,
}

// === impl Authenticator ===

impl Authenticator {
    /// `front_proxy` verifies the certificates of those who may say with headers who is asking.
    pub fn new(
        tokens: Tokens,
        front_proxy: Arc<dyn ClientCertVerifier>,
        clock: Arc<dyn Clock>,
        allows_anonymous: bool,
    ) -> Self {
        Authenticator { tokens, front_proxy, clock: TlsTime(clock), allows_anonymous, provider: None }
    }

    /// Who shows nothing that could be looked at.
    fn nobody(&self) -> Result<Arc<User>> {
        if self.allows_anonymous { Ok(Arc::new(anonymous())) } else { Err(Status::unauthorized()) }
    }

    /// Whom the provider's token names; `None` where there is no provider, or it is none of its tokens.
    pub async fn known_elsewhere(&self, token: &str, now: Timestamp) -> Option<Result<User, String>> {
        let known = self.provider.as_ref()?.user(token, now).await?;
        if let Err(why) = &known {
            tracing::debug!("a token is refused: {why}");
        }
        Some(known)
    }

    /// What a connection's client certificates say, the client's own first.
    pub fn peer(&self, certificates: &[CertificateDer<'_>]) -> Peer {
        let Some((own, others)) = certificates.split_first() else { return Peer::NoCertificate };
        // Without a time nothing is verified, and so nobody speaks for others.
        let verified =
            self.clock.current_time().map(|now| self.front_proxy.verify_client_cert(own, others, now));
        match verified {
            Some(Ok(_)) => front_proxy::peer(own).unwrap_or(Peer::Nobody),
            Some(Err(_)) | None => named(own).unwrap_or(Peer::Nobody),
        }
    }

    /// A client certificate (already verified by TLS) wins over a bearer token; neither is anonymous; a bad one is 401.
    pub async fn authenticate(
        &self,
        cluster: &dyn Cluster,
        peer: &Peer,
        headers: &HeaderMap,
        now: Timestamp,
    ) -> Result<Arc<User>> {
        match peer {
            Peer::Named { user, not_after } if *not_after >= now.as_second() => return Ok(user.clone()),
            Peer::FrontProxy { not_after } if *not_after >= now.as_second() => {
                return front_proxy::user(headers).map(Arc::new).ok_or_else(Status::unauthorized);
            }
            Peer::Named { .. } | Peer::FrontProxy { .. } | Peer::Nobody => return Err(Status::unauthorized()),
            Peer::NoCertificate => {}
        }
        let authorization = headers.get(AUTHORIZATION).and_then(|v| v.to_str().ok());
        let Some(header) = authorization.map(str::trim).filter(|h| !h.is_empty()) else {
            return self.nobody();
        };
        match header.split_once(' ') {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") && !token.trim().is_empty() => {
                if let Ok(claims) = self.tokens.verify(cluster, token.trim(), &[], now) {
                    return Ok(Arc::new(claims.user()));
                }
                let known = self.known_elsewhere(token.trim(), now).await;
                known.and_then(Result::ok).map(Arc::new).ok_or_else(Status::unauthorized)
            }
            // Another scheme is no credential of ours: upstream goes on to anonymous.
            _ => self.nobody(),
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

/// The user a client certificate names: the common name, and the organisations as groups.
fn named(der: &[u8]) -> Option<Peer> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    let subject = certificate.subject();
    if !is_whole(subject) {
        return None;
    }
    let name = common_name(subject).filter(|n| !n.is_empty())?.to_owned();
    let groups = subject.iter_organization().filter_map(|o| o.as_str().ok()).map(str::to_owned).collect();
    let id = format!("X509SHA256={}", hex::encode(Sha256::digest(der)));
    let extra = BTreeMap::from([(tokens::CREDENTIAL_ID.to_owned(), vec![id])]);
    let mut user = User { name, uid: String::new(), groups, extra };
    user.add_authenticated();
    Some(Peer::Named { user: Arc::new(user), not_after: certificate.validity().not_after.timestamp() })
}

/// Whether all of a subject was read: the parser passes over what it does not understand, and others may not.
pub(crate) fn is_whole(subject: &X509Name<'_>) -> bool {
    attributes_of_name(subject.as_raw()) == Some(subject.iter_attributes().count())
}

/// The name that a subject has: the last where it has several, as upstream. Whoever looks at a certificate, or at a request
/// for one, looks here, or what was approved would be another than what is believed.
pub(crate) fn common_name<'a>(subject: &'a X509Name<'_>) -> Option<&'a str> {
    subject.iter_common_name().last()?.as_str().ok()
}

// === impl User ===

impl User {
    /// Whoever has shown who it is and is not said to be nobody is one of all.
    fn add_authenticated(&mut self) {
        let known = self.name == USER_ANONYMOUS
            || self.in_group(GROUP_AUTHENTICATED)
            || self.in_group(GROUP_UNAUTHENTICATED);
        if !known {
            self.groups.push(GROUP_AUTHENTICATED.to_owned());
        }
    }

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

#[cfg(test)]
mod tests {
    use super::*;
    use x509_parser::prelude::FromDer;

    #[test]
    fn the_last_of_several_names_counts() {
        // CN=a, CN=b.
        let part = |letter: u8| [0x31, 10, 0x30, 8, 6, 3, 0x55, 4, 3, 0x0c, 1, letter];
        let der = [&[0x30, 24][..], &part(b'a'), &part(b'b')].concat();
        let (_, subject) = X509Name::from_der(&der).unwrap();
        assert_eq!(common_name(&subject), Some("b"));
    }

    #[test]
    fn who_is_nobody_or_says_so_is_not_authenticated() {
        for (name, groups, expected) in [
            ("jane", &["g"][..], &["g", GROUP_AUTHENTICATED][..]),
            ("jane", &[GROUP_UNAUTHENTICATED], &[GROUP_UNAUTHENTICATED]),
            ("jane", &[GROUP_AUTHENTICATED], &[GROUP_AUTHENTICATED]),
            (USER_ANONYMOUS, &[], &[]),
        ] {
            let groups = groups.iter().map(|g| (*g).to_owned()).collect();
            let mut user = User { name: name.to_owned(), groups, ..User::default() };
            user.add_authenticated();
            assert_eq!(user.groups, expected);
        }
    }
}
