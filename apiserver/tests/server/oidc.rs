//! Users of an OpenID Connect provider: what it signs is believed, as far as the administrator said, and nothing else.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use coracle_apiserver::access;
use coracle_apiserver::authn::oidc::{Algorithm, Options, Provider};
use coracle_apiserver::authn::{Peer, User};
use coracle_apiserver::chain::{self, Caller};
use coracle_apiserver::pki::{Pki, SigningKey};
use coracle_apiserver::{Config, Server};
use http::{Request, Response};
use jiff::Timestamp;
use rustls::server::WebPkiClientVerifier;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::cluster::{Cluster, read, request};
use crate::tls;

fn options(issuer: &str, ca: Option<String>) -> Options {
    Options {
        issuer: issuer.to_owned(),
        client_id: "coracle".to_owned(),
        ca,
        username_claim: "sub".to_owned(),
        username_prefix: None,
        groups_claim: String::new(),
        groups_prefix: String::new(),
        required_claims: BTreeMap::new(),
        algorithms: vec![Algorithm::ES256],
    }
}

fn key() -> Arc<SigningKey> {
    Pki::ephemeral(Timestamp::now()).unwrap().signing_key()
}

/// What the provider answers from time to time: its keys, and how often they were asked for.
type Published = Arc<Mutex<(Value, usize)>>;

async fn provider(published: &Published) -> (String, String) {
    let (port, published) = (Arc::new(Mutex::new(0)), published.clone());
    let own = port.clone();
    let answer = move |request: Request<hyper::body::Incoming>| {
        let (path, published, port) =
            (request.uri().path().to_owned(), published.clone(), *own.lock().unwrap());
        async move {
            let issuer = format!("https://localhost:{port}/realm");
            let document = match &*path {
                "/realm/.well-known/openid-configuration" => {
                    json!({"issuer": issuer, "jwks_uri": format!("https://localhost:{port}/keys")})
                }
                "/keys" => {
                    let mut published = published.lock().unwrap();
                    published.1 += 1;
                    published.0.clone()
                }
                _ => return Response::builder().status(404).body(Body::empty()).unwrap(),
            };
            Response::new(Body::from(document.to_string()))
        }
    };
    let (bound, certificate) = tls::serve("localhost", WebPkiClientVerifier::no_client_auth(), answer).await;
    *port.lock().unwrap() = bound;
    (format!("https://localhost:{bound}/realm"), certificate)
}

async fn whoami(c: &Cluster, token: &str) -> (u16, Value) {
    let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let mut ask = request("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", &body);
    ask.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    let caller = Caller::Network(Peer::NoCertificate);
    let Ok(answer) = chain::handle(c.running.server.clone(), caller, ask).await;
    let (code, body) = read(answer).await;
    (code, body["status"]["userInfo"].clone())
}

#[tokio::test]
async fn users_of_a_provider_are_users_of_the_cluster() {
    let (first, stranger) = (key(), key());
    let published: Published = Arc::new(Mutex::new((first.jwks(), 0)));
    let (issuer, ca) = provider(&published).await;
    let oidc = Options {
        username_prefix: Some("oidc:".to_owned()),
        groups_claim: "groups".to_owned(),
        groups_prefix: "oidc:".to_owned(),
        ..options(&issuer, Some(ca))
    };
    let access = access::Options { oidc: Some(oidc), ..access::Options::default() };
    let admin = User::component("admin", &["system:masters"]);
    let c = Cluster::start_with(Config { access, ..Config::default() }, admin).await;
    let ends = Timestamp::now().as_second() + 600;
    let claims = |more: Value| {
        let mut claims =
            json!({"iss": issuer, "aud": "coracle", "sub": "jane", "groups": ["a"], "exp": ends});
        claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        claims.to_string()
    };
    let good = first.jws(&claims(json!({}))).unwrap();
    // It asks the provider once it serves.
    let known = tokio::time::timeout(Duration::from_secs(30), async {
        loop {
            match whoami(&c, &good).await {
                (201, user) => return user,
                (code, _) => assert_eq!(code, 401),
            }
            tokio::task::yield_now().await;
        }
    });
    let user = known.await.expect("the provider is asked");
    assert_eq!(user["username"], "oidc:jane");
    assert_eq!(user["groups"], json!(["oidc:a", "system:authenticated"]));

    let body =
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": good}});
    let (code, review) = c.send("POST", "/apis/authentication.k8s.io/v1/tokenreviews", body).await;
    assert_eq!((code, &review["status"]["user"]["username"]), (201, &json!("oidc:jane")), "{review}");

    let unsigned = good.rsplit_once('.').unwrap().0;
    for bad in [
        stranger.jws(&claims(json!({}))).unwrap(),
        first.jws(&claims(json!({"aud": "other"}))).unwrap(),
        first.jws(&claims(json!({"exp": ends - 601}))).unwrap(),
        first.jws(&claims(json!({"iss": "https://other"}))).unwrap(),
        first.jws(&claims(json!({"sub": 1}))).unwrap(),
        format!("{unsigned}."),
        unsigned.to_owned(),
    ] {
        assert_eq!(whoami(&c, &bad).await.0, 401, "{bad}");
    }
    // Tokens of unknown keys had the keys asked for, and not each of them: who shows such tokens cannot send us there.
    for _ in 0..20 {
        assert_eq!(whoami(&c, &stranger.jws(&claims(json!({}))).unwrap()).await.0, 401);
    }
    let asked = published.lock().unwrap().1;
    assert!(asked < 10, "{asked} times");
}

/// Keys that change are found by the first token that is signed with them.
#[tokio::test]
async fn another_key_is_asked_for_when_it_is_used() {
    let (first, second) = (key(), key());
    let published: Published = Arc::new(Mutex::new((first.jwks(), 0)));
    let (issuer, ca) = provider(&published).await;
    let provider = Arc::new(Provider::new(options(&issuer, Some(ca))).unwrap());
    let now = Timestamp::now();
    let claims =
        json!({"iss": issuer, "aud": ["coracle"], "sub": "jane", "exp": now.as_second() + 60}).to_string();
    let by = async |key: &SigningKey| provider.user(&key.jws(&claims).unwrap(), now).await.unwrap();
    assert_eq!(by(&first).await.unwrap_err(), "oidc: authenticator not initialized");
    provider.clone().run(CancellationToken::new()).await;
    assert_eq!(by(&first).await.unwrap().name, format!("{issuer}#jane"));
    published.lock().unwrap().0 = second.jwks();
    assert_eq!(by(&second).await.unwrap().name, format!("{issuer}#jane"));
    assert!(by(&first).await.unwrap_err().contains("failed to verify signature"));
    assert_eq!(published.lock().unwrap().1, 2);
}

#[tokio::test]
async fn a_provider_without_tls_or_with_our_own_name_is_refused() {
    for issuer in ["http://issuer.example", "issuer.example", "", access::ISSUER] {
        let access = access::Options { oidc: Some(options(issuer, None)), ..access::Options::default() };
        let started = Server::start(Config { access, ..Config::default() }, CancellationToken::new()).await;
        assert!(started.is_err(), "{issuer}");
    }
}
