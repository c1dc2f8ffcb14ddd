//! What peers may hold, tried by peers that hold it.

use std::sync::atomic::{AtomicUsize, Ordering};

use http_body_util::{BodyExt, Empty, Full};
use hyper::client::conn::{http1, http2};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::*;

/// A listener whose answers to `/endless` never end, nor what it says after `/upgraded`, and to `/` say how many were asked.
struct Trial {
    address: SocketAddr,
    client: TlsConnector,
    /// Cancelled when an endless answer has ended.
    ended: CancellationToken,
    stop: CancellationToken,
    served: tokio::task::JoinHandle<()>,
}

/// Long enough for everything here, short enough for a test that fails.
const PATIENCE: Duration = Duration::from_secs(20);

fn limits() -> Limits {
    Limits { connections: 64, silent: 64, per_address: 64, ..Limits::within(1000) }
}

impl Trial {
    async fn start(limits: Limits) -> Self {
        let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let key = PrivateKeyDer::try_from(own.signing_key.serialize_der()).unwrap();
        let mut server = rustls::ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![own.cert.der().clone()], key)
            .unwrap();
        server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let mut roots = rustls::RootCertStore::empty();
        roots.add(own.cert.der().clone()).unwrap();
        let client = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, stop) = (tcp.local_addr().unwrap(), CancellationToken::new());
        let asked = Arc::new(AtomicUsize::new(0));
        let ended = CancellationToken::new();
        let tell = ended.clone();
        let service = move |_: &[CertificateDer<'static>]| {
            let (asked, tell) = (asked.clone(), tell.clone());
            tower::service_fn(move |mut request: Request<Incoming>| {
                let count = asked.fetch_add(1, Ordering::Relaxed) + 1;
                let body = match request.uri().path() {
                    "/endless" => {
                        let tell = tell.clone().drop_guard();
                        Body::from_stream(futures::stream::repeat_with(move || {
                            let _told = &tell;
                            Ok::<_, Infallible>(Bytes::from_static(&[b'x'; 16 << 10]))
                        }))
                    }
                    _ => Body::from(count.to_string()),
                };
                let mut response = Response::new(body);
                match request.uri().path() {
                    "/unauthorized" => *response.status_mut() = http::StatusCode::UNAUTHORIZED,
                    "/upgraded" => {
                        *response.status_mut() = http::StatusCode::SWITCHING_PROTOCOLS;
                        *response.body_mut() = Body::empty();
                        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
                        response.headers_mut().insert("upgrade", HeaderValue::from_static("endless"));
                        let (upgraded, tell) = (hyper::upgrade::on(&mut request), tell.clone().drop_guard());
                        tokio::spawn(async move {
                            let mut io = TokioIo::new(upgraded.await.unwrap());
                            while io.write_all(&[b'x'; 16 << 10]).await.is_ok() {}
                            drop(tell);
                        });
                    }
                    _ => {}
                }
                async move { Ok::<_, Infallible>(response) }
            })
        };
        let served = tokio::spawn(serve(tcp, Arc::new(server), limits, service, stop.clone()));
        Trial { address, client: TlsConnector::from(Arc::new(client)), ended, stop, served }
    }

    async fn tcp(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    async fn tls(&self, protocol: &str) -> TlsStream<TcpStream> {
        let connector = self.client.clone();
        let client = connector.with_alpn(vec![protocol.as_bytes().to_vec()]);
        client.connect(ServerName::try_from("localhost").unwrap(), self.tcp().await).await.unwrap()
    }

    async fn get(&self) -> String {
        let io = TokioIo::new(self.tls("http/1.1").await);
        let (mut sender, connection) = http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        let request = Request::get("/").header("host", "localhost").body(Empty::<Bytes>::new()).unwrap();
        let answer = sender.send_request(request).await.unwrap();
        String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
    }

    async fn end(self) {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE, self.served).await.expect("the listener ends").unwrap();
    }
}

/// Waits until the server has closed the connection.
async fn closed(stream: &mut (impl tokio::io::AsyncRead + Unpin)) {
    let read = async { while stream.read(&mut [0; 4096]).await.is_ok_and(|n| n > 0) {} };
    tokio::time::timeout(PATIENCE, read).await.expect("the connection is closed");
}

/// Times that are over at once for one thing, and never for the rest.
fn only(shorten: impl Fn(&mut Limits)) -> Limits {
    let never = Duration::from_secs(3600);
    let mut limits = Limits { handshake: never, head: never, idle: never, stalled: never, ..limits() };
    shorten(&mut limits);
    limits
}

const SOON: Duration = Duration::from_millis(100);

#[tokio::test]
async fn who_says_nothing_makes_room_for_who_asks() {
    for (limits, count) in [
        (Limits { connections: 16, ..only(|_| {}) }, 200),
        (Limits { silent: 4, ..only(|_| {}) }, 60),
        (Limits { per_address: 8, ..only(|_| {}) }, 200),
    ] {
        let trial = Trial::start(limits).await;
        let mut silent = vec![];
        for n in 0..count {
            silent.push(trial.tcp().await);
            if n % 20 == 0 {
                assert_ne!(trial.get().await, "", "after {n} that say nothing");
            }
        }
        assert_eq!(trial.get().await, (count / 20 + 1).to_string());
        closed(&mut silent[0]).await;
        trial.end().await;
    }
}

#[tokio::test]
async fn a_handshake_a_head_and_an_idle_connection_have_their_time() {
    let trial = Trial::start(only(|l| l.handshake = SOON)).await;
    closed(&mut trial.tcp().await).await;
    assert_eq!(trial.get().await, "1");
    trial.end().await;

    let trial = Trial::start(only(|l| l.head = SOON)).await;
    for protocol in ["h2", "http/1.1"] {
        closed(&mut trial.tls(protocol).await).await;
    }
    trial.end().await;

    let trial = Trial::start(only(|l| l.idle = SOON)).await;
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(trial.tls("h2").await)).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = Request::get("https://localhost/").body(Full::<Bytes>::default()).unwrap();
    assert_eq!(sender.send_request(request).await.unwrap().status(), 200);
    let told = tokio::time::timeout(PATIENCE, connection).await.expect("an idle connection is closed");
    told.unwrap().expect("and its peer is told so");
    trial.end().await;
}

#[tokio::test]
async fn an_answer_that_is_not_read_ends() {
    for protocol in ["h2", "http/1.1"] {
        let trial = Trial::start(only(|l| l.stalled = SOON)).await;
        let io = TokioIo::new(trial.tls(protocol).await);
        let request = Request::get("https://localhost/endless").header("host", "localhost");
        let request = request.body(Full::<Bytes>::default()).unwrap();
        let (answer, connection) = if protocol == "h2" {
            let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
            let connection = tokio::spawn(async move { drop(connection.await) });
            (sender.send_request(request).await.unwrap(), connection)
        } else {
            let (mut sender, connection) = http1::handshake(io).await.unwrap();
            let connection = tokio::spawn(async move { drop(connection.await) });
            (sender.send_request(request).await.unwrap(), connection)
        };
        let mut body = answer.into_body();
        assert!(body.frame().await.unwrap().is_ok());
        tokio::time::timeout(PATIENCE, trial.ended.cancelled()).await.expect("the answer ends");
        drop((body, connection));
        trial.end().await;
    }
}

/// WebSockets and SPDY: logs that are followed, exec, attach, port-forward.
#[tokio::test]
async fn what_is_said_after_an_upgrade_and_not_read_ends() {
    let trial = Trial::start(only(|l| l.stalled = SOON)).await;
    let io = TokioIo::new(trial.tls("http/1.1").await);
    let (mut sender, connection) = http1::handshake(io).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    let request = Request::get("/upgraded").header("host", "localhost").header("connection", "upgrade");
    let request = request.header("upgrade", "endless").body(Empty::<Bytes>::new()).unwrap();
    let answer = sender.send_request(request).await.unwrap();
    assert_eq!(answer.status(), 101);
    let mut io = TokioIo::new(hyper::upgrade::on(answer).await.unwrap());
    io.read_exact(&mut [0; 64]).await.unwrap();
    tokio::time::timeout(PATIENCE, trial.ended.cancelled()).await.expect("it ends though the peer stays");
    drop(io);
    trial.end().await;
}

/// Asks until the connection is closed, at most so often; the codes of the answers.
macro_rules! asked {
    ($handshake:expr, $paths:expr) => {{
        let (mut sender, connection) = $handshake.await.unwrap();
        let connection = tokio::spawn(connection);
        let (mut codes, mut told) = (vec![], false);
        for path in $paths {
            let request = Request::get(format!("https://localhost{path}")).header("host", "localhost");
            let request = request.body(Full::<Bytes>::default()).unwrap();
            let Ok(answer) = sender.send_request(request).await else { break };
            codes.push(answer.status().as_u16());
            told |= answer.headers().get("connection").is_some_and(|v| v == "close");
            let _ = answer.into_body().collect().await;
        }
        (codes, told, connection)
    }};
}

#[tokio::test]
async fn a_connection_ends_after_too_many_who_are_not_known() {
    let trial = Trial::start(only(|l| l.unauthorized = 3)).await;
    let unknown = ["/unauthorized"; 20];
    let io = TokioIo::new(trial.tls("http/1.1").await);
    let (codes, told, connection) = asked!(http1::handshake(io), unknown);
    assert_eq!((codes, told), (vec![401; 3], true), "HTTP/1.1 is told with its last answer");
    tokio::time::timeout(PATIENCE, connection).await.expect("the connection ends").unwrap().unwrap();

    let io = TokioIo::new(trial.tls("h2").await);
    let (codes, told, connection) = asked!(http2::handshake(TokioExecutor::new(), io), unknown);
    assert!((3..20).contains(&codes.len()) && codes.iter().all(|c| *c == 401) && !told, "{codes:?}");
    tokio::time::timeout(PATIENCE, connection).await.expect("HTTP/2 is told by GOAWAY").unwrap().unwrap();

    let mixed = ["/unauthorized", "/unauthorized", "/"].repeat(4);
    for protocol in ["h2", "http/1.1"] {
        let io = TokioIo::new(trial.tls(protocol).await);
        let codes = match protocol {
            "h2" => asked!(http2::handshake(TokioExecutor::new(), io), &mixed).0,
            _ => asked!(http1::handshake(io), &mixed).0,
        };
        assert_eq!(codes, [401, 401, 200].repeat(4), "{protocol}: what is known in between begins anew");
    }
    trial.end().await;
}

#[tokio::test]
async fn those_who_are_answered_keep_their_place() {
    let trial = Trial::start(Limits { connections: 4, per_address: 4, ..only(|_| {}) }).await;
    let mut busy = vec![];
    for _ in 0..4 {
        let io = TokioIo::new(trial.tls("http/1.1").await);
        let (mut sender, connection) = http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        let request = Request::get("/endless").header("host", "x").body(Full::<Bytes>::default()).unwrap();
        busy.push((sender.send_request(request).await.unwrap().into_body(), sender));
    }
    closed(&mut trial.tcp().await).await;
    for (body, _) in &mut busy {
        assert!(body.frame().await.unwrap().is_ok());
    }
    drop(busy);
    trial.end().await;
}

#[test]
fn a_network_of_ipv6_is_one_address() {
    let of = |text: &str| address(SocketAddr::new(text.parse().unwrap(), 1)).to_string();
    for (peer, expected) in [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("::1", "::"),
    ] {
        assert_eq!(of(peer), expected);
    }
}
