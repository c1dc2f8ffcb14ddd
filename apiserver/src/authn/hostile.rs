//! Hostile credentials: tokens, certificates and the headers that name somebody.

use std::sync::{Arc, LazyLock};

use coracle_api::names::GROUP_MASTERS;
use futures::FutureExt;
use http::HeaderMap;
use jiff::Timestamp;
use rustls::server::WebPkiClientVerifier;

use super::{Authenticator, Claims, Peer, Tokens, User, front_proxy, impersonation, legacy, named, oidc};
use crate::authz::{Asked, Decision};
use crate::cluster::testing::Fixed;
use crate::pki::SigningKey;

static AUTHENTICATOR: LazyLock<Authenticator> = LazyLock::new(|| {
    let key = rcgen::KeyPair::generate().expect("a key").serialize_pem();
    let key = Arc::new(SigningKey::from_pem(&key).expect("a key of ours"));
    let clock = std::sync::Arc::new(crate::pki::clock::SystemClock);
    Authenticator::new(Tokens::new(key, "https://here"), WebPkiClientVerifier::no_client_auth(), clock, true)
});

fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).expect("a time")
}

/// Nobody becomes somebody by saying so.
pub(crate) fn headers(headers: &HeaderMap) {
    let nothing = Fixed::new(vec![]);
    let asked = AUTHENTICATOR.authenticate(&nothing, &Peer::NoCertificate, headers, now());
    // There is nobody to wait for.
    if let Some(Ok(user)) = asked.now_or_never() {
        assert_eq!(*user, super::anonymous());
    }
    let caller = User::component("caller", &[]);
    let asked = Asked {
        verb: "get",
        is_resource: true,
        group: "",
        version: "v1",
        resource: "pods",
        subresource: "",
        namespace: "n",
        name: "",
        path: "/api/v1/namespaces/n/pods",
        fields: &[],
    };
    let asks = headers.keys().any(|name| name.as_str().starts_with("impersonate-"));
    let refused = impersonation::user(&caller, &asked, headers, &|_, _| Decision::Deny(String::new()));
    assert_eq!(refused.is_ok(), !asks);
    if let Ok(Some(user)) =
        impersonation::user(&caller, &asked, headers, &|_, _| Decision::Allow(String::new()))
    {
        assert!(!user.name.is_empty());
        named_again(&user);
    }
    if let Some(user) = front_proxy::user(headers) {
        named_again(&user);
    }
}

/// Who is passed on to another server is believed to be the same there.
fn named_again(user: &User) {
    let mut headers = HeaderMap::new();
    if front_proxy::name(user, &mut headers).is_err() {
        return;
    }
    let read = front_proxy::user(&headers).expect("it has a name");
    let plain = |text: &String| text.trim_matches([' ', '\t']) == text && !text.is_empty();
    if user.groups.iter().chain([&user.name]).all(plain) {
        assert_eq!(read.name, user.name);
        let of = |user: &User, group: &str| user.groups.iter().any(|g| g == group);
        assert!(user.groups.iter().all(|group| of(&read, group)));
        assert_eq!(of(&read, GROUP_MASTERS), of(user, GROUP_MASTERS));
    }
}

/// A certificate in DER, which another has verified: it names one user whoever reads it.
pub(crate) fn certificate(der: &[u8]) {
    if let Some(Peer::Named { user, .. }) = named(der) {
        assert!(!user.name.is_empty());
    }
    if let Some(peer) = front_proxy::peer(der) {
        assert!(matches!(peer, Peer::FrontProxy { .. }));
        assert!(
            matches!(named(der), Some(Peer::Named { user, .. }) if user.name == crate::pki::FRONT_PROXY_CLIENT)
        );
    }
}

/// A payload, which is signed; and as it stands, a token.
pub(crate) fn token(bytes: &[u8]) {
    let nothing = Fixed::new(vec![]);
    let text = String::from_utf8_lossy(bytes);
    let tokens = &AUTHENTICATOR.tokens;
    assert!(tokens.verify(&nothing, &text, &[], now()).is_err(), "nobody has signed it");
    oidc::hostile(bytes);
    if let Some(claims) = legacy::read(bytes, tokens.issuer()) {
        assert!(claims.sub.starts_with("system:serviceaccount:"));
    }
    if let Some(token) = tokens.key().jws(&text) {
        // What it is bound to is not there.
        assert!(tokens.verify(&nothing, &token, &[], now()).is_err());
        assert!(tokens.verify(&nothing, &format!("{token}."), &[], now()).is_err());
    }
    if let Ok(claims) = serde_json::from_slice::<Claims>(bytes) {
        let user = claims.user();
        assert!(!user.groups.iter().any(|g| g == GROUP_MASTERS));
        let written = serde_json::to_vec(&claims).expect("claims can be written");
        assert_eq!(serde_json::from_slice::<Claims>(&written).ok(), Some(claims));
    }
}
