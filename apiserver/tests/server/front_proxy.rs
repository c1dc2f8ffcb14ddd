//! Front proxies over the network: who shows their certificate is believed to name another, and nobody else is.

use std::net::SocketAddr;
use std::sync::Arc;

use coracle_apiserver::pki::{Leaf, Pki, ServingCertificate, server_config};
use coracle_apiserver::{Config, Listen, Server};
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

/// Asks who it is, with a certificate and headers.
async fn whoami(pki: &Pki, addr: SocketAddr, leaf: Option<&Leaf>, headers: &[(&str, &str)]) -> (u16, Value) {
    let mut roots = RootCertStore::empty();
    pki.ca_chain().unwrap().into_iter().for_each(|der| roots.add(der).unwrap());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(roots);
    let config = match leaf.map(|leaf| pki.issue(leaf, Timestamp::now()).unwrap()) {
        Some(own) => config.with_client_auth_cert(own.chain().unwrap(), own.key().unwrap()).unwrap(),
        None => config.with_no_client_auth(),
    };
    let stream = TcpStream::connect(addr).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let mut request = Request::post("/apis/authentication.k8s.io/v1/selfsubjectreviews")
        .header("host", "localhost")
        .header("content-type", "application/json");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(bytes::Bytes::from(review.to_string()))).unwrap();
    let answer = sender.send_request(request).await.unwrap();
    let code = answer.status().as_u16();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    let body: Value = serde_json::from_slice(&body).unwrap();
    (code, body["status"]["userInfo"].clone())
}

#[tokio::test]
async fn only_the_front_proxy_names_others() {
    let pki = Arc::new(Pki::ephemeral(Timestamp::now()).unwrap());
    let own = pki.issue(&Leaf::api_server("localhost", &[], "cluster.local"), Timestamp::now()).unwrap();
    let tls = server_config(&pki, ServingCertificate::new(&own).unwrap()).unwrap();
    let listen = Listen { addr: "127.0.0.1:0".parse().unwrap(), tls };
    let config = Config { pki: Some(pki.clone()), listen: Some(listen), ..Config::default() };
    let running = Server::start(config, CancellationToken::new()).await.unwrap();
    let addr = running.addr.unwrap();

    let named = [("X-Remote-User", "jane"), ("X-Remote-Uid", "7"), ("X-Remote-Group", "sailors")];
    let proxy = Leaf::front_proxy_client();
    let (code, user) = whoami(&pki, addr, Some(&proxy), &named).await;
    let jane = json!({"username": "jane", "uid": "7", "groups": ["sailors", "system:authenticated"]});
    assert_eq!((code, &user), (201, &jane));
    // Nobody named; and another name from the proxy's authority, which is no authority over users.
    let other = Leaf { authority: proxy.authority, ..Leaf::admin() };
    for (leaf, headers) in [(&proxy, &[][..]), (&other, &named[..]), (&other, &[][..])] {
        assert_eq!(whoami(&pki, addr, Some(leaf), headers).await.0, 401, "{leaf:?}");
    }
    // The same name from the users' authority is a user of that name.
    let user = Leaf::client("x", "front-proxy-client", Some("system:masters"));
    for (leaf, headers, name) in
        [(Some(&user), &named[..], "front-proxy-client"), (None, &named[..], "system:anonymous")]
    {
        let (_, user) = whoami(&pki, addr, leaf, headers).await;
        assert!(user.is_null() || user["username"] == name, "{user}");
        assert_ne!(user["username"], "jane");
    }
    running.stop().await;
}
