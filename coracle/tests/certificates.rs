//! Three years in the life of a cluster that nobody restarts, and a node that renews its own certificates.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use coracle::rotation::{self, LiveClient, Wanted};
use coracle::testing::ControlPlane;
use coracle_apiserver::pki::clock::{Clock, SetClock};
use coracle_apiserver::pki::{
    self, Authority, ClientCertificate, ClusterEntry, Identity, KubeconfigFile, Leaf, Pki,
    ServingCertificate, Validity, renewal,
};
use coracle_apiserver::{Config, Listen, Running, Server};
use coracle_kubelet::Serving;
use coracle_kubelet::certificates::Certificates;
use coracle_listener::Limits;
use futures::StreamExt;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Event, Node, Secret, Service, ServiceAccount};
use kube::api::{ListParams, ObjectMeta, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::wait::await_condition;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType,
};
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

const DAY: SignedDuration = SignedDuration::from_hours(24);

/// The clock as TLS sees it.
#[derive(Debug)]
struct Time(Arc<SetClock>);

impl TimeProvider for Time {
    fn current_time(&self) -> Option<UnixTime> {
        let second = u64::try_from(self.0.now().as_second()).unwrap();
        Some(UnixTime::since_unix_epoch(Duration::from_secs(second)))
    }
}

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// A client at the clock's time: what it trusts, and what it shows.
fn tls(clock: &Arc<SetClock>, ca: &str, shows: Option<Arc<ClientCertificate>>) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    CertificateDer::pem_slice_iter(ca.as_bytes()).for_each(|der| roots.add(der.unwrap()).unwrap());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_details(provider, Arc::new(Time(clock.clone())))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match shows {
        Some(certificate) => config.with_client_cert_resolver(certificate),
        None => config.with_no_client_auth(),
    };
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

async fn connect(config: Arc<ClientConfig>, to: SocketAddr) -> SendRequest<Empty<Bytes>> {
    let stream = TcpStream::connect(to).await.unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let stream = tokio_rustls::TlsConnector::from(config).connect(name, stream).await.unwrap();
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

async fn ask(
    over: &mut SendRequest<Empty<Bytes>>,
    path: &str,
    headers: &[(&str, &str)],
) -> (StatusCode, String) {
    over.ready().await.unwrap();
    let mut request = Request::get(path).header("host", "localhost");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = over.send_request(request.body(Empty::new()).unwrap()).await.unwrap();
    let status = answer.status();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8_lossy(&body).into_owned())
}

/// What a client finds in a kubeconfig: whom to trust, and who it is.
fn kubeconfig(file: &Path) -> (String, Identity) {
    let mode = std::fs::metadata(file).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode, 0o600, "{}", file.display());
    let read = Kubeconfig::read_from(file).unwrap();
    let cluster = read.clusters.iter().find(|c| c.name == "coracle").unwrap().cluster.clone().unwrap();
    let ca = STANDARD.decode(cluster.certificate_authority_data.unwrap()).unwrap();
    let identity = KubeconfigFile::new(file).identity("coracle").unwrap();
    (String::from_utf8(ca).unwrap(), identity)
}

/// An HTTPS endpoint with the TLS of the node's own, that says whom it sees.
async fn node_endpoint(serving: &Serving, stop: CancellationToken) -> SocketAddr {
    let config = Arc::new(coracle_kubelet::streaming::tls(serving, vec![]).unwrap());
    let tcp = TcpListener::bind(loopback()).await.unwrap();
    let addr = tcp.local_addr().unwrap();
    let service = |certificates: &[CertificateDer<'static>]| {
        let seen = certificates.len().to_string();
        Router::new().route("/", get(move || async move { seen }))
    };
    tokio::spawn(coracle_listener::serve(tcp, config, Limits::of_process(), service, stop));
    addr
}

struct Cluster {
    clock: Arc<SetClock>,
    pki: Arc<Pki>,
    running: Running,
    addr: SocketAddr,
    node: SocketAddr,
    stop: CancellationToken,
    dir: tempfile::TempDir,
}

/// How many certificates are renewed: two authorities', two of the API server as a client, and those of `Cluster::start`.
const RENEWED: usize = 4 + 3;

impl Cluster {
    /// An API server, a node's endpoint and two kubeconfigs, put together as `coracle up` does.
    async fn start(now: Timestamp) -> Self {
        let (clock, dir, stop) = (SetClock::new(now), tempfile::tempdir().unwrap(), CancellationToken::new());
        let pki = Arc::new(Pki::open(&dir.path().join("pki"), now).unwrap().with_clock(clock.clone()));
        let local = ["127.0.0.1".parse().unwrap()];
        let leaf = Leaf::api_server("localhost", &local, "cluster.local");
        let certificate = ServingCertificate::new(&pki.issue(&leaf, now).unwrap()).unwrap();
        let serving = pki.renewed(leaf, vec![certificate.clone()]).unwrap();
        let listen = Listen { addr: loopback(), tls: pki::server_config(&pki, certificate).unwrap() };
        let config = Config { pki: Some(pki.clone()), listen: Some(listen), ..Config::default() };
        let running = Server::start(config, CancellationToken::new()).await.unwrap();
        let addr = running.addr.unwrap();

        let leaf = Leaf::kubelet_server("n1", &local);
        let certificate = ServingCertificate::new(&pki.issue(&leaf, now).unwrap()).unwrap();
        let node = Serving {
            certificate: Some(certificate.clone()),
            client_ca: Some(pki.ca()),
            time: Arc::new(Time(clock.clone())),
            ..Serving::default()
        };
        let node = node_endpoint(&node, stop.clone()).await;
        let node_serving = pki.renewed(leaf, vec![certificate]).unwrap();

        let (own, wanted) = (dir.path().join("kubeconfig"), dir.path().join("config"));
        let admin =
            coracle::admin::kubeconfig(&pki, &format!("https://{addr}"), &own, Some(&wanted)).unwrap();
        tokio::spawn(renewal::run(vec![serving, node_serving, admin], clock.clone(), stop.clone()));
        clock.waited_for_by(RENEWED).await;
        Cluster { clock, pki, running, addr, node, stop, dir }
    }

    /// Everybody opens a new connection, with what is there now, and is served.
    async fn serves_all(&self, context: &str) {
        for file in ["kubeconfig", "config"] {
            let (ca, admin) = kubeconfig(&self.dir.path().join(file));
            let shown = ClientCertificate::new(&admin).unwrap();
            let mut admin = connect(tls(&self.clock, &ca, Some(shown)), self.addr).await;
            assert_eq!(ask(&mut admin, "/api/v1/namespaces/default", &[]).await.0, 200, "{context}: {file}");
        }
        let access = &self.running.server.access;
        let front_proxy = tls(&self.clock, &self.pki.ca(), Some(access.front_proxy.clone()));
        let named = [("X-Remote-User", "jane"), ("X-Remote-Group", "system:masters")];
        let mut front_proxy = connect(front_proxy, self.addr).await;
        let (status, _) = ask(&mut front_proxy, "/api/v1/namespaces/default", &named).await;
        assert_eq!(status, 200, "{context}: front proxy");
        let mut node = connect(access.node_client.clone(), self.node).await;
        assert_eq!(ask(&mut node, "/", &[]).await, (StatusCode::OK, "1".to_owned()), "{context}: node");
    }

    async fn stop(self) {
        self.stop.cancel();
        self.running.stop().await;
    }
}

#[tokio::test]
async fn three_years_without_a_restart_refuse_nobody() {
    let start: Timestamp = "2026-12-01T00:00:00Z".parse().unwrap();
    let cluster = Cluster::start(start).await;
    let (clock, file) = (&cluster.clock, cluster.dir.path().join("kubeconfig"));
    // Two that stay connected: one that shows nothing, and one whose certificate ends.
    let (ca, first) = kubeconfig(&file);
    let ends = Validity::of(&first.certificate).unwrap().not_after;
    let mut anonymous = connect(tls(clock, &ca, None), cluster.addr).await;
    let shown = ClientCertificate::new(&first).unwrap();
    let mut old = connect(tls(clock, &ca, Some(shown)), cluster.addr).await;
    let mut node = connect(cluster.running.server.access.node_client.clone(), cluster.node).await;
    let mut admins = std::collections::BTreeSet::new();
    for day in (0..=3 * 365).step_by(3) {
        let now = start + DAY * day;
        clock.pass_to(now);
        clock.waited_for_by(RENEWED).await;
        cluster.serves_all(&format!("day {day}")).await;
        assert_eq!(ask(&mut anonymous, "/version", &[]).await.0, 200, "day {day}");
        assert_eq!(ask(&mut node, "/", &[]).await.0, 200, "day {day}");
        // Refused for good once it is over; one that only asks to be refused is cut off at some time.
        if now <= ends + DAY * 9 {
            let expected = if now <= ends { 200 } else { 401 };
            assert_eq!(ask(&mut old, "/api/v1/namespaces/default", &[]).await.0, expected, "day {day}");
        }
        admins.insert(kubeconfig(&file).1.certificate);
    }
    assert!((4..=5).contains(&admins.len()), "{} administrators' certificates in three years", admins.len());
    assert!(cluster.pki.renewals().values().all(|r| r.errors == 0));
    let (_, metrics) = {
        let (ca, admin) = kubeconfig(&file);
        let shown = ClientCertificate::new(&admin).unwrap();
        ask(&mut connect(tls(clock, &ca, Some(shown)), cluster.addr).await, "/metrics", &[]).await
    };
    for name in [
        "apiserver_client_certificate_expiration_seconds_count",
        "coracle_certificate_expiration_timestamp_seconds{certificate=\"admin\"}",
        "coracle_certificate_renew_errors{certificate=\"apiserver\"} 0",
    ] {
        assert!(metrics.contains(name), "{name}");
    }
    cluster.stop().await;
}

#[tokio::test]
async fn a_running_cluster_serves_whatever_the_clock_is_set_to() {
    let cluster = Cluster::start("1970-01-01T00:01:00Z".parse().unwrap()).await;
    cluster.serves_all("1970").await;
    let mut open = connect(tls(&cluster.clock, &cluster.pki.ca(), None), cluster.addr).await;
    for now in
        ["2026-12-01T12:00:00Z", "2026-11-01T12:00:00Z", "2028-01-05T12:00:00Z", "2027-12-06T12:00:00Z"]
    {
        cluster.clock.set(now.parse().unwrap());
        cluster.clock.waited_for_by(RENEWED).await;
        cluster.serves_all(now).await;
        assert_eq!(ask(&mut open, "/version", &[]).await.0, 200, "{now}");
    }
    cluster.stop().await;
}

fn soon<F: Future>(what: F) -> tokio::time::Timeout<F> {
    tokio::time::timeout(Duration::from_secs(30), what)
}

#[tokio::test]
async fn a_renewed_authority_is_everybodys_at_once_and_what_fails_is_told() {
    let start: Timestamp = "2026-12-01T00:00:00Z".parse().unwrap();
    let (clock, dir, stop) = (SetClock::new(start), tempfile::tempdir().unwrap(), CancellationToken::new());
    let at = dir.path().join("pki");
    let pki = Arc::new(Pki::open(&at, start).unwrap().with_clock(clock.clone()));
    let plane = ControlPlane::start_on(pki.clone(), loopback()).await.unwrap();
    let file = dir.path().join("kubeconfig");
    let admin = coracle::admin::kubeconfig(&pki, "https://localhost", &file, None).unwrap();
    tokio::spawn(renewal::run(vec![admin], clock.clone(), stop.clone()));
    clock.waited_for_by(5).await;

    let client = plane.client();
    let maps = |namespace: &str| Api::<ConfigMap>::namespaced(client.clone(), namespace);
    let secrets: Api<Secret> = Api::namespaced(client.clone(), "default");
    // A token of an account that is not there would be taken away.
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "default");
    let there = await_condition(accounts, "default", |account: Option<&ServiceAccount>| account.is_some());
    soon(there).await.expect("the account").unwrap();
    let secret = serde_json::json!({"metadata": {"name": "token", "annotations": {"kubernetes.io/service-account.name": "default"}},
        "type": "kubernetes.io/service-account-token"});
    secrets.create(&PostParams::default(), &serde_json::from_value(secret).unwrap()).await.unwrap();
    let everywhere = async |ca: &str, proxy: &str| {
        let holds = |key: &'static str, value: String| {
            move |map: Option<&ConfigMap>| {
                map.is_some_and(|m| m.data.as_ref().is_some_and(|d| d.get(key) == Some(&value)))
            }
        };
        for namespace in ["default", "kube-system"] {
            let root = await_condition(maps(namespace), "kube-root-ca.crt", holds("ca.crt", ca.to_owned()));
            root.await.unwrap();
        }
        for (key, value) in [("client-ca-file", ca), ("requestheader-client-ca-file", proxy)] {
            let name = "extension-apiserver-authentication";
            await_condition(maps("kube-system"), name, holds(key, value.to_owned())).await.unwrap();
        }
        let in_secret = |secret: Option<&Secret>| {
            let data = secret.and_then(|s| s.data.as_ref());
            data.and_then(|d| d.get("ca.crt")).is_some_and(|bundle| bundle.0 == ca.as_bytes())
        };
        await_condition(secrets.clone(), "token", in_secret).await.unwrap();
    };
    let (old, old_proxy) = (pki.ca(), pki.front_proxy_ca());
    let mut renewed = [Authority::Cluster, Authority::FrontProxy].map(|authority| pki.follow(authority));
    soon(everywhere(&old, &old_proxy)).await.expect("published at the start");

    // One of the certificates that are due cannot be written, too.
    std::fs::create_dir(at.join(".front-proxy-client.key.new")).unwrap();
    clock.pass_to(start + DAY * 9 * 365);
    for authority in &mut renewed {
        soon(authority.changed()).await.unwrap().unwrap();
    }
    soon(everywhere(&pki.ca(), &pki.front_proxy_ca())).await.expect("published again");
    assert!(pki.ca() != old && pki.front_proxy_ca() != old_proxy);
    let events: Api<Event> = Api::namespaced(client.clone(), "default");
    let failed = watcher::Config::default().fields("reason=CertificateRenewalFailed");
    let told = watcher(events, failed).default_backoff().applied_objects();
    let event = soon(std::pin::pin!(told).next()).await.unwrap().unwrap().unwrap();
    let about = (event.involved_object.kind.as_deref(), event.involved_object.name.as_deref());
    assert_eq!(about, (Some("Service"), Some("kubernetes")));
    assert!(event.involved_object.uid.is_some_and(|uid| !uid.is_empty()));
    assert_eq!(event.type_.as_deref(), Some("Warning"));
    assert!(event.count.is_some_and(|count| count > 0));
    let message = event.message.unwrap();
    assert!(message.starts_with("Certificate front-proxy-client is not renewed"), "{message}");
    assert!(message.contains("Is a directory"), "{message}");
    assert!(pki.renewals()["front-proxy-client"].errors > 0);

    // A kubeconfig that was written just before has the new authority as well.
    let rewritten = async {
        while kubeconfig(&file).0 != pki.ca() {
            tokio::task::yield_now().await;
        }
    };
    soon(rewritten).await.expect("the administrator's kubeconfig");
    stop.cancel();
    plane.stop().await.unwrap();
}

/// As `Pki` signs, but for a day: what is in a kubeconfig that was made almost a year ago.
fn ending(pki: &Pki, leaf: &Leaf, now: Timestamp) -> Identity {
    let authority = pki.cluster_authority();
    let issuer =
        Issuer::from_ca_cert_pem(&authority.certificate, KeyPair::from_pem(&authority.key).unwrap()).unwrap();
    let mut params = CertificateParams::new(leaf.dns.clone()).unwrap();
    params.subject_alt_names.extend(leaf.ips.iter().map(|ip| SanType::IpAddress(*ip)));
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, leaf.common_name.as_str());
    if let Some(group) = &leaf.organization {
        params.distinguished_name.push(DnType::OrganizationName, group.as_str());
    }
    params.extended_key_usages = vec![match leaf.server {
        true => ExtendedKeyUsagePurpose::ServerAuth,
        false => ExtendedKeyUsagePurpose::ClientAuth,
    }];
    let end = (now + DAY * 2).to_zoned(jiff::tz::TimeZone::UTC).date();
    params.not_before = rcgen::date_time_ymd(1970, 1, 1);
    params.not_after =
        rcgen::date_time_ymd(end.year().into(), end.month().unsigned_abs(), end.day().unsigned_abs());
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    Identity { certificate: certificate.pem(), key: key.serialize_pem() }
}

async fn client_of(file: &Path, context: &str) -> Arc<LiveClient> {
    let options = KubeConfigOptions { context: Some(context.to_owned()), ..KubeConfigOptions::default() };
    let kubeconfig = Kubeconfig::read_from(file).unwrap();
    LiveClient::new(kube::Config::from_custom_kubeconfig(kubeconfig, &options).await.unwrap()).unwrap()
}

fn request(common_name: &str, organization: &str, signer: &str, purpose: &str) -> CertificateSigningRequest {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.distinguished_name.push(DnType::OrganizationName, organization);
    if purpose == "server auth" {
        params.subject_alt_names.push(SanType::IpAddress("192.0.2.7".parse().unwrap()));
    }
    let pem = params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap();
    CertificateSigningRequest {
        metadata: ObjectMeta { generate_name: Some("csr-".to_owned()), ..ObjectMeta::default() },
        spec: CertificateSigningRequestSpec {
            request: ByteString(pem.into_bytes()),
            signer_name: format!("kubernetes.io/{signer}"),
            usages: Some(vec!["digital signature".to_owned(), purpose.to_owned()]),
            ..CertificateSigningRequestSpec::default()
        },
        ..CertificateSigningRequest::default()
    }
}

#[tokio::test]
async fn a_joined_node_asks_for_its_certificates_before_they_end_and_for_no_others() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (dir, now) = (tempfile::tempdir().unwrap(), Timestamp::now());
    let pki = Arc::new(Pki::open(&dir.path().join("pki"), now).unwrap());
    let plane = ControlPlane::start_on(pki.clone(), loopback()).await.unwrap();
    let addr = plane.addr().unwrap();

    // As `coracle kubeconfig --node b` makes it, a year ago.
    let leaves =
        [Leaf::node("b"), Leaf::node_proxy("b"), Leaf::kubelet_server("b", &["192.0.2.2".parse().unwrap()])];
    pki.issue_elsewhere(&leaves[2], now).unwrap();
    let old = leaves.each_ref().map(|leaf| ending(&pki, leaf, now));
    let users = ["kubelet", "kube-proxy", "kubelet-serving"];
    let (path, server, ca) = (dir.path().join("b.kubeconfig"), format!("https://{addr}"), pki.ca());
    let cluster = ClusterEntry { name: "coracle", server: &server, ca: &ca, extension: None };
    let all: Vec<_> = users.into_iter().zip(&old).collect();
    std::fs::write(&path, pki::kubeconfig(&cluster, &all)).unwrap();
    let mode = || std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    rotation::close(&path);
    assert_eq!(mode(), 0o600);

    let (kubelet, proxy) = (client_of(&path, "kubelet").await, client_of(&path, "kube-proxy").await);
    let serving = ServingCertificate::new(&old[2]).unwrap();
    let (file, told) = (Arc::new(KubeconfigFile::new(&path)), Arc::new(Certificates::default()));
    let renewed: Vec<_> = [
        rotation::renewed(
            &file,
            Wanted::kubelet("kubelet", "b"),
            kubelet.client(),
            &told,
            vec![kubelet.clone()],
        ),
        rotation::renewed(&file, Wanted::proxy("kube-proxy"), proxy.client(), &told, vec![proxy.clone()]),
        rotation::renewed(
            &file,
            Wanted::serving("kubelet-serving", "b"),
            kubelet.client(),
            &told,
            vec![serving],
        ),
    ]
    .into_iter()
    .map(|one| one.unwrap().unwrap())
    .collect();
    // Somebody else's certificate in the file is not this node's to renew.
    assert!(
        rotation::renewed(&file, Wanted::kubelet("kubelet", "c"), kubelet.client(), &told, vec![])
            .unwrap()
            .is_none()
    );
    let (clock, stop) = (SetClock::new(now), CancellationToken::new());
    tokio::spawn(renewal::run(renewed, clock.clone(), stop.clone()));
    clock.waited_for_by(3).await;

    assert_eq!(mode(), 0o600);
    for (user, old) in users.iter().zip(&old) {
        let new = file.identity(user).unwrap();
        assert!(new.certificate != old.certificate && new.key != old.key && new.is_whole(), "{user}");
        assert_eq!((new.common_name(), new.names()), (old.common_name(), old.names()), "{user}");
        assert!(Validity::of(&new.certificate).unwrap().not_after > now + DAY * 300, "{user}");
    }
    // With what the file holds now, and with the clients that were there before.
    for kubelet in [&kubelet, &client_of(&path, "kubelet").await] {
        let nodes: Api<Node> = Api::all(kubelet.client());
        assert!(nodes.get_opt("b").await.unwrap().is_none(), "allowed, and not there");
    }
    let services: Api<Service> = Api::all(proxy.client());
    services.list(&ListParams::default()).await.unwrap();

    // Nothing but its own.
    let requests: Api<CertificateSigningRequest> = Api::all(kubelet.client());
    for (name, group, signer, purpose) in [
        ("system:node:c", "system:nodes", "kube-apiserver-client-kubelet", "client auth"),
        ("system:node:c", "system:nodes", "kubelet-serving", "server auth"),
        ("kubernetes-admin", "system:masters", "kube-apiserver-client", "client auth"),
    ] {
        let asked = requests.create(&PostParams::default(), &request(name, group, signer, purpose)).await;
        assert!(
            matches!(&asked, Err(kube::Error::Api(status)) if status.code == 403),
            "{name} {group}: {asked:?}"
        );
    }
    let mut waiting = vec![];
    for (name, group, signer, purpose) in [
        // An address that nobody has given it, and users that it is not.
        ("system:node:b", "system:nodes", "kubelet-serving", "server auth"),
        ("system:kube-proxy", "system:nodes", "kube-apiserver-client", "client auth"),
        ("system:node:b", "system:nodes", "kube-apiserver-client", "client auth"),
    ] {
        let asked =
            requests.create(&PostParams::default(), &request(name, group, signer, purpose)).await.unwrap();
        waiting.push(asked.metadata.name.unwrap());
    }
    // The controller has seen those when it has seen to one that came after them.
    let last = request("system:node:b", "system:nodes", "kube-apiserver-client-kubelet", "client auth");
    let last = requests.create(&PostParams::default(), &last).await.unwrap().metadata.name.unwrap();
    let signed = |csr: Option<&CertificateSigningRequest>| {
        csr.is_some_and(|csr| csr.status.as_ref().is_some_and(|s| s.certificate.is_some()))
    };
    kube::runtime::wait::await_condition(requests.clone(), &last, signed).await.unwrap();
    for name in waiting {
        let csr = requests.get(&name).await.unwrap();
        let status = csr.status.unwrap_or_default();
        assert!(status.certificate.is_none() && status.conditions.is_none_or(|c| c.is_empty()), "{name}");
    }
    let admin: Client = plane.client();
    let all = Api::<CertificateSigningRequest>::all(admin).list(&ListParams::default()).await.unwrap();
    assert_eq!(all.items.len(), 3 + 3 + 1);
    stop.cancel();
    plane.stop().await.unwrap();
}
