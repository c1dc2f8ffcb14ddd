//! Service-account tokens: signed claims, checked against the live objects they are bound to.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use coracle_api::names::{GROUP_AUTHENTICATED, GROUP_SERVICE_ACCOUNTS};
use coracle_api::{Gvr, Object};
use jiff::Timestamp;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use super::User;
use super::legacy::{self, Use};
use crate::cluster::Cluster;
use crate::pki::SigningKey;

pub(super) const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";
/// Verified signatures that are remembered.
const REMEMBERED: usize = 4096;
/// A deleted pod's token serves this long, so that the pod can say goodbye.
const DELETED_LEEWAY_SECONDS: i64 = 60;

/// What a token says.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct Claims {
    pub aud: Vec<String>,
    pub exp: i64,
    pub iat: i64,
    pub iss: String,
    #[serde(default)]
    pub jti: String,
    #[serde(rename = "kubernetes.io")]
    pub bound: Bound,
    pub nbf: i64,
    pub sub: String,
}

/// The objects a token stands and falls with.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq)]
pub struct Bound {
    pub namespace: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Reference>,
    pub serviceaccount: Reference,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warnafter: Option<i64>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq)]
pub struct Reference {
    pub name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
}

/// Why a token is refused; `TokenReview` shows it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("invalid bearer token")]
    Malformed,
    #[error("invalid bearer token, service account token has expired")]
    Expired,
    #[error("invalid bearer token, service account token is not valid yet")]
    NotYet,
    #[error("invalid bearer token, token audiences {0} is invalid for the target audiences {1}")]
    Audience(String, String),
    #[error("invalid bearer token, service account token has been invalidated")]
    Invalidated,
    #[error(
        "invalid bearer token, the token in secret {0}/{1} has been marked invalid. Use tokens from the TokenRequest \
         API or manually created secret-based tokens, or remove the 'kubernetes.io/legacy-token-invalid-since' label \
         from the secret to temporarily allow use of this token"
    )]
    Retired(String, String),
}

/// Signs and checks tokens of one issuer.
pub struct Tokens {
    key: Arc<SigningKey>,
    issuer: String,
    verified: Mutex<HashMap<[u8; 32], Arc<Claims>>>,
    /// Uses of tokens of Secrets, for whoever notes them.
    uses: (mpsc::Sender<Use>, Mutex<Option<mpsc::Receiver<Use>>>),
}

// === impl Tokens ===

impl Tokens {
    pub fn new(key: Arc<SigningKey>, issuer: impl Into<String>) -> Self {
        let (sender, receiver) = mpsc::channel(legacy::WAITING);
        Tokens {
            key,
            issuer: issuer.into(),
            verified: Mutex::default(),
            uses: (sender, Mutex::new(Some(receiver))),
        }
    }

    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// What is to be noted; for the first who asks.
    pub fn uses(&self) -> Option<mpsc::Receiver<Use>> {
        self.uses.1.lock().take()
    }

    pub fn key(&self) -> &SigningKey {
        &self.key
    }

    /// A compact JWS of the claims.
    pub fn sign(&self, claims: &Claims) -> Option<String> {
        self.key.jws(&serde_json::to_string(claims).ok()?)
    }

    /// The claims of a token that is ours, in time, for one of the audiences (none given: this server), and whose bound
    /// objects still exist.
    pub fn verify(
        &self,
        cluster: &dyn Cluster,
        token: &str,
        audiences: &[String],
        now: Timestamp,
    ) -> Result<Arc<Claims>, TokenError> {
        let claims = self.signed(token).ok_or(TokenError::Malformed)?;
        let at = now;
        let now = now.as_second();
        if claims.exp <= now {
            return Err(TokenError::Expired);
        }
        if claims.nbf > now + 10 {
            return Err(TokenError::NotYet);
        }
        let own = [self.issuer.clone()];
        let wanted = if audiences.is_empty() { &own[..] } else { audiences };
        if !claims.aud.iter().any(|a| wanted.contains(a)) {
            return Err(TokenError::Audience(format!("{:?}", claims.aud), format!("{wanted:?}")));
        }
        if claims.iss == legacy::ISSUER {
            let (valid, used) = legacy::check(cluster, &claims, token, at);
            if let Some(used) = used {
                // A full channel loses nothing: the next use is noted.
                let _ = self.uses.0.try_send(used);
            }
            return valid.map(|()| claims);
        }
        if claims.bound.is_alive(cluster, now) { Ok(claims) } else { Err(TokenError::Invalidated) }
    }

    fn signed(&self, token: &str) -> Option<Arc<Claims>> {
        let digest: [u8; 32] = Sha256::digest(token).into();
        if let Some(claims) = self.verified.lock().get(&digest) {
            return Some(claims.clone());
        }
        let (message, signature) = token.rsplit_once('.')?;
        let (header, payload) = message.split_once('.')?;
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).ok();
        let header: serde_json::Value = serde_json::from_slice(&decode(header)?).ok()?;
        if header["alg"] != "ES256" || !self.key.verify(message.as_bytes(), &decode(signature)?) {
            return None;
        }
        let payload = decode(payload)?;
        let own = serde_json::from_slice(&payload).ok().filter(|claims: &Claims| claims.iss == self.issuer);
        let claims = Arc::new(own.or_else(|| legacy::read(&payload, &self.issuer))?);
        let mut verified = self.verified.lock();
        if verified.len() >= REMEMBERED {
            verified.clear();
        }
        verified.insert(digest, claims.clone());
        Some(claims)
    }
}

// === impl Claims ===

impl Claims {
    pub fn user(&self) -> User {
        let bound = &self.bound;
        let mut extra = BTreeMap::new();
        let mut add = |key: &str, value: String| {
            extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value])
        };
        if !self.jti.is_empty() {
            add("credential-id", format!("JTI={}", self.jti));
        }
        for (kind, reference) in [("pod", &bound.pod), ("node", &bound.node)] {
            if let Some(reference) = reference {
                add(&format!("{kind}-name"), reference.name.clone());
                if !reference.uid.is_empty() {
                    add(&format!("{kind}-uid"), reference.uid.clone());
                }
            }
        }
        User {
            name: self.sub.clone(),
            uid: bound.serviceaccount.uid.clone(),
            groups: vec![
                GROUP_SERVICE_ACCOUNTS.to_owned(),
                format!("{GROUP_SERVICE_ACCOUNTS}:{}", bound.namespace),
                GROUP_AUTHENTICATED.to_owned(),
            ],
            extra,
        }
    }
}

// === impl Bound ===

impl Bound {
    fn is_alive(&self, cluster: &dyn Cluster, now: i64) -> bool {
        let alive = |plural: &str, namespace: &str, reference: &Reference| {
            cluster
                .get(&Gvr::new("", "v1", plural), namespace, &reference.name)
                .is_some_and(|o| o.uid() == reference.uid && !is_long_deleted(&o, now))
        };
        let optional = |plural: &str, namespace: &str, reference: &Option<Reference>| {
            reference.as_ref().is_none_or(|r| alive(plural, namespace, r))
        };
        // A node reference beside a pod is information only; the pod already stands for it.
        let node_counts = self.pod.is_none();
        alive("serviceaccounts", &self.namespace, &self.serviceaccount)
            && optional("pods", &self.namespace, &self.pod)
            && optional("secrets", &self.namespace, &self.secret)
            && (!node_counts || optional("nodes", "", &self.node))
    }
}

fn is_long_deleted(object: &Object, now: i64) -> bool {
    let deleted = object.deletion_timestamp().and_then(|t| t.parse::<Timestamp>().ok());
    deleted.is_some_and(|t| t.as_second() + DELETED_LEEWAY_SECONDS < now)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cluster::testing::Fixed;
    use crate::pki::Pki;

    #[test]
    fn a_token_falls_with_its_time_audience_signature_and_objects() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let key = Pki::ephemeral(Timestamp::now()).unwrap().signing_key();
        let tokens = Tokens::new(key, "https://kubernetes.default.svc");
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"name": "a", "namespace": "n", "uid": "u1"}});
        let cluster = Fixed::new(vec![("", "serviceaccounts", account)]);
        let claims = |exp: i64, aud: &str, uid: &str| Claims {
            aud: vec![aud.into()],
            exp,
            iat: 0,
            iss: "https://kubernetes.default.svc".into(),
            jti: "j".into(),
            nbf: 0,
            bound: Bound {
                namespace: "n".into(),
                serviceaccount: Reference { name: "a".into(), uid: uid.into() },
                ..Bound::default()
            },
            sub: "system:serviceaccount:n:a".into(),
        };
        let own = "https://kubernetes.default.svc";
        let check =
            |c: Claims| tokens.verify(&cluster, &tokens.sign(&c).unwrap(), &[], now).map(|c| c.user().name);
        assert_eq!(check(claims(2_000_000, own, "u1")), Ok("system:serviceaccount:n:a".into()));
        assert_eq!(check(claims(999_999, own, "u1")), Err(TokenError::Expired));
        assert!(matches!(check(claims(2_000_000, "vault", "u1")), Err(TokenError::Audience(..))));
        assert_eq!(check(claims(2_000_000, own, "other")), Err(TokenError::Invalidated));
        let mut forged = tokens.sign(&claims(2_000_000, own, "u1")).unwrap();
        forged.replace_range(40..41, if &forged[40..41] == "A" { "B" } else { "A" });
        assert_eq!(tokens.verify(&cluster, &forged, &[], now).unwrap_err(), TokenError::Malformed);
    }
}
