//! Tokens of Secrets: they have no end, and stand and fall with their Secret and its ServiceAccount. The day of their
//! last use is noted on the Secret, so that what nobody uses can be found.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use coracle_api::{Gvr, Object};
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::tokens::{Bound, Claims, Reference, TokenError};
use crate::Server;
use crate::cluster::{Cluster, core};
use crate::status::Status;

pub(super) const ISSUER: &str = "kubernetes/serviceaccount";
const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";
/// Uses that wait to be noted; more are noted at the next use.
pub(super) const WAITING: usize = 64;

/// What such a token says.
#[derive(Deserialize)]
struct Said {
    iss: String,
    sub: String,
    #[serde(rename = "kubernetes.io/serviceaccount/namespace")]
    namespace: String,
    #[serde(rename = "kubernetes.io/serviceaccount/secret.name")]
    secret: String,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.name")]
    account: String,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.uid")]
    uid: String,
}

/// A use of a Secret's token.
#[derive(Debug, PartialEq)]
pub struct Use {
    namespace: String,
    secret: String,
    uid: String,
    day: String,
}

/// The claims of a signed payload, if it is of this kind; they are for `audience`.
pub(super) fn read(payload: &[u8], audience: &str) -> Option<Claims> {
    let said: Said = serde_json::from_slice(payload).ok()?;
    let named = [&said.sub, &said.namespace, &said.secret, &said.account, &said.uid];
    if said.iss != ISSUER || named.iter().any(|text| text.is_empty()) {
        return None;
    }
    let bound = Bound {
        namespace: said.namespace,
        secret: Some(Reference { name: said.secret, uid: String::new() }),
        serviceaccount: Reference { name: said.account, uid: said.uid },
        ..Bound::default()
    };
    let subject = format!("system:serviceaccount:{}:{}", bound.namespace, bound.serviceaccount.name);
    (subject == said.sub).then(|| Claims {
        aud: vec![audience.to_owned()],
        exp: i64::MAX,
        iat: 0,
        iss: said.iss,
        jti: String::new(),
        bound,
        nbf: 0,
        sub: said.sub,
    })
}

/// Whether the token still counts, and the use to note, where today's is not noted yet. A use of a token that is marked
/// as invalid is noted as well: somebody wants it.
pub(super) fn check(
    cluster: &dyn Cluster,
    claims: &Claims,
    token: &str,
    now: Timestamp,
) -> (Result<(), TokenError>, Option<Use>) {
    let bound = &claims.bound;
    let of = |plural: &str, name: &str| cluster.get(&Gvr::new("", "v1", plural), &bound.namespace, name);
    let alive = |object: &Object| object.deletion_timestamp().is_none();
    let account = of("serviceaccounts", &bound.serviceaccount.name);
    let account = account.filter(|a| alive(a) && a.uid() == bound.serviceaccount.uid);
    let secret = bound.secret.as_ref().and_then(|secret| of("secrets", &secret.name));
    let secret = secret.filter(|s| alive(s) && s.str_at(&["type"]) == "kubernetes.io/service-account-token");
    let (Some(_), Some(secret)) = (account, secret) else { return (Err(TokenError::Invalidated), None) };
    let stored = STANDARD.decode(secret.str_at(&["data", "token"])).unwrap_or_default();
    // By digest, so that the time taken tells nothing.
    if Sha256::digest(stored) != Sha256::digest(token) {
        return (Err(TokenError::Invalidated), None);
    }
    let noted = to_note(&secret, now);
    match secret.label(INVALID_SINCE).filter(|day| !day.is_empty()) {
        Some(_) => (Err(TokenError::Retired(bound.namespace.clone(), secret.name().to_owned())), noted),
        None => (Ok(()), noted),
    }
}

fn to_note(secret: &Object, now: Timestamp) -> Option<Use> {
    let today = now.to_zoned(TimeZone::UTC).date();
    let tomorrow = today.saturating_add(Span::new().days(1));
    let noted = secret.label(LAST_USED).unwrap_or_default();
    // Another server's clock may be ahead.
    if [today.to_string(), tomorrow.to_string()].contains(&noted.to_owned()) {
        return None;
    }
    Some(Use {
        namespace: secret.namespace().to_owned(),
        secret: secret.name().to_owned(),
        uid: secret.uid().to_owned(),
        day: today.to_string(),
    })
}

/// Writes uses down until the server stops.
pub async fn note_uses(server: Arc<Server>, mut uses: mpsc::Receiver<Use>, stop: CancellationToken) {
    loop {
        let noted = tokio::select! {
            () = stop.cancelled() => return,
            noted = uses.recv() => noted,
        };
        let Some(noted) = noted else { return };
        let change = |secret: &mut Object| -> Result<(), Status> {
            if secret.uid() == noted.uid {
                secret.set(&["metadata", "labels", LAST_USED], json!(noted.day));
            }
            Ok(())
        };
        let user = crate::bootstrap::system();
        let (namespace, name) = (&noted.namespace, &noted.secret);
        let written = server.modify(&user, &core("secrets"), "", namespace, name, false, &change).await;
        if let Err(status) = written {
            tracing::debug!(namespace, name, code = status.code(), "a token's use is not noted");
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::cluster::testing::Fixed;

    #[allow(clippy::needless_pass_by_value, reason = "a literal reads best as the argument")]
    fn said(change: &[(&str, &str)]) -> Option<Claims> {
        let mut said = json!({"iss": ISSUER, "sub": "system:serviceaccount:n:a",
            "kubernetes.io/serviceaccount/namespace": "n", "kubernetes.io/serviceaccount/secret.name": "s",
            "kubernetes.io/serviceaccount/service-account.name": "a",
            "kubernetes.io/serviceaccount/service-account.uid": "u"});
        for (key, value) in change {
            said[*key] = json!(value);
        }
        read(said.to_string().as_bytes(), "here")
    }

    #[test]
    fn a_payload_must_name_all_and_agree_with_its_subject() {
        assert_eq!(said(&[]).unwrap().user().name, "system:serviceaccount:n:a");
        for change in [
            ("iss", "https://kubernetes.default.svc"),
            ("sub", "system:serviceaccount:n:b"),
            ("sub", "system:admin"),
            ("kubernetes.io/serviceaccount/secret.name", ""),
            ("kubernetes.io/serviceaccount/service-account.uid", ""),
        ] {
            assert!(said(&[change]).is_none(), "{change:?}");
        }
    }

    #[test]
    fn a_token_falls_with_its_secret_and_account_and_its_use_is_noted_once_a_day() {
        let now: Timestamp = "2026-06-01T10:00:00Z".parse().unwrap();
        let secret = |change: &[(&[&str], Value)]| {
            let mut secret = Object(json!({"apiVersion": "v1", "kind": "Secret",
                "metadata": {"name": "s", "namespace": "n", "uid": "su", "labels": {}},
                "type": "kubernetes.io/service-account-token", "data": {"token": STANDARD.encode("T")}}));
            change.iter().for_each(|(path, value)| secret.set(path, value.clone()));
            secret.0
        };
        let account = |uid: &str| {
            json!({"apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"name": "a", "namespace": "n", "uid": uid}})
        };
        let label = |key: &'static str, value: &str| (vec!["metadata", "labels", key], json!(value));
        let retired = || Err(TokenError::Retired("n".into(), "s".into()));
        let cases = [
            (vec![], "u", "T", Ok(()), true),
            (vec![label(LAST_USED, "2026-05-31")], "u", "T", Ok(()), true),
            (vec![label(LAST_USED, "2026-06-01")], "u", "T", Ok(()), false),
            (vec![label(LAST_USED, "2026-06-02")], "u", "T", Ok(()), false),
            (vec![label(INVALID_SINCE, "2026-01-01")], "u", "T", retired(), true),
            (vec![], "other", "T", Err(TokenError::Invalidated), false),
            (vec![], "u", "changed", Err(TokenError::Invalidated), false),
            (vec![(vec!["type"], json!("Opaque"))], "u", "T", Err(TokenError::Invalidated), false),
            (
                vec![(vec!["metadata", "deletionTimestamp"], json!("2026-06-01T00:00:00Z"))],
                "u",
                "T",
                Err(TokenError::Invalidated),
                false,
            ),
        ];
        for (change, uid, token, expected, noted) in cases {
            let change: Vec<(&[&str], Value)> =
                change.iter().map(|(path, v)| (&path[..], v.clone())).collect();
            let cluster =
                Fixed::new(vec![("", "secrets", secret(&change)), ("", "serviceaccounts", account(uid))]);
            let (found, used) = check(&cluster, &said(&[]).unwrap(), token, now);
            assert_eq!((found, used.is_some()), (expected, noted), "{change:?} {uid} {token}");
        }
        let gone = Fixed::new(vec![("", "serviceaccounts", account("u"))]);
        assert_eq!(check(&gone, &said(&[]).unwrap(), "T", now), (Err(TokenError::Invalidated), None));
    }
}
