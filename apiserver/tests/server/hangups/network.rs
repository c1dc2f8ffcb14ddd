//! Hang-ups over HTTP/2, with and without the connection: clients that reset streams and drop connections at moments that a
//! seed decides, many at once.
//!
//! `CORACLE_HANGUPS` says how many, where the usual number is too few.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use coracle_apiserver::Listen;
use coracle_apiserver::pki::{Leaf, Pki, ServingCertificate, server_config};
use http::{Request, Uri};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use jiff::Timestamp;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsConnector;

use super::{Hook, LIMITED_MAPS, PATIENCE, SERVICES, World, config, map, service};

/// How many requests are hung up on, at least.
const HANGUPS: usize = 2_000;
const CLIENTS: u64 = 8;

/// A connection, which is gone when this is dropped.
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    task: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Somebody who asks and hangs up, as a seed has it.
struct Client {
    address: SocketAddr,
    tls: TlsConnector,
    connection: Option<Connection>,
    random: StdRng,
    /// Tells its objects from those of others.
    number: u64,
    made: u64,
}

/// What is asked.
#[derive(Clone, Copy, Debug)]
enum Ask {
    Create,
    CreateLimited,
    UpdateUnderSlowHook,
    Update,
    Delete,
    DeleteAll,
    Watch,
}

/// Each as often as it stands here.
const ASKS: [Ask; 16] = {
    use Ask::*;
    [
        Create,
        Create,
        Create,
        Create,
        Create,
        CreateLimited,
        CreateLimited,
        CreateLimited,
        UpdateUnderSlowHook,
        UpdateUnderSlowHook,
        Update,
        Update,
        Delete,
        Delete,
        DeleteAll,
        Watch,
    ]
};

impl Client {
    async fn connected(&mut self) -> &mut Connection {
        if self.connection.as_ref().is_none_or(|c| c.sender.is_closed()) {
            let tcp = TcpStream::connect(self.address).await.unwrap();
            let name = ServerName::try_from("localhost").unwrap();
            let tls = self.tls.connect(name, tcp).await.unwrap();
            let (sender, connection) =
                http2::handshake(TokioExecutor::new(), TokioIo::new(tls)).await.unwrap();
            let task = tokio::spawn(async move { drop(connection.await) });
            self.connection = Some(Connection { sender, task });
        }
        self.connection.as_mut().unwrap()
    }

    fn request(&mut self, ask: Ask) -> Request<Full<Bytes>> {
        self.made += 1;
        let (number, made) = (self.number, self.made);
        // Of what it has made lately, and may be there.
        let name = format!("c{number}-{}", made.saturating_sub(self.random.random_range(0..8)));
        let new = format!("c{number}-{made}");
        let numbers: &[u16] = if self.random.random() { &[1, 2] } else { &[3] };
        let one = format!("{SERVICES}/{name}");
        let (method, path, body) = match ask {
            Ask::Create => ("POST", SERVICES.to_owned(), service(&new, "NodePort", numbers)),
            Ask::CreateLimited => ("POST", LIMITED_MAPS.to_owned(), map(&new)),
            Ask::UpdateUnderSlowHook => {
                ("PUT", format!("{SERVICES}/slow-{number}"), slow(number, "NodePort", numbers))
            }
            Ask::Update => ("PUT", one, service(&name, "NodePort", numbers)),
            Ask::Delete => ("DELETE", one, Value::Null),
            Ask::DeleteAll => ("DELETE", format!("{SERVICES}?labelSelector=!hook"), Value::Null),
            Ask::Watch => ("GET", format!("{SERVICES}?watch=1&resourceVersion=0"), Value::Null),
        };
        let body = if body.is_null() { Bytes::new() } else { body.to_string().into() };
        let uri: Uri = format!("https://localhost{path}").parse().unwrap();
        let request = Request::builder().method(method).uri(uri).header("content-type", "application/json");
        request.body(Full::new(body)).unwrap()
    }

    /// Asks, and goes away after a while. Whether that was before the end of the answer.
    async fn ask_and_hang_up(&mut self, entered: &mut tokio::sync::watch::Receiver<u64>) -> bool {
        let ask = ASKS[self.random.random_range(0..ASKS.len())];
        let request = self.request(ask);
        let patience = match self.random.random_range(0..4) {
            0 => self.random.random_range(0..4),
            1 => self.random.random_range(0..64),
            _ => self.random.random_range(0..1500),
        };
        let leaves = self.random.random_range(0..12) == 0;
        let seen = *entered.borrow_and_update();
        let connection = self.connected().await;
        let answer = connection.sender.send_request(request);
        let whole = async {
            // A refused stream is no answer.
            let Ok(answer) = answer.await else { return };
            drop(answer.into_body().collect().await);
        };
        let gone = async {
            if matches!(ask, Ask::UpdateUnderSlowHook) {
                // Until it stands before a webhook that does not answer: this one's, or another's.
                let _ = entered.wait_for(|now| *now > seen).await;
            }
            for _ in 0..patience {
                tokio::task::yield_now().await;
            }
        };
        let hung_up = tokio::select! {
            () = gone => true,
            () = whole => false,
        };
        if leaves {
            self.connection = None;
        }
        hung_up
    }
}

fn slow(number: u64, type_: &str, numbers: &[u16]) -> Value {
    let mut slow = service(&format!("slow-{number}"), type_, numbers);
    slow["metadata"]["labels"] = json!({"hook": "never"});
    slow
}

fn hangups() -> usize {
    std::env::var("CORACLE_HANGUPS").map_or(HANGUPS, |n| n.parse().expect("a number of hang-ups"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_resets_a_stream_or_drops_a_connection_leaves_nothing_behind() {
    let pki = Arc::new(Pki::ephemeral(Timestamp::now()).unwrap());
    let own = pki.issue(&Leaf::api_server("localhost", &[], "cluster.local"), Timestamp::now()).unwrap();
    let tls = server_config(&pki, ServingCertificate::new(&own).unwrap()).unwrap();
    let listen = Listen { addr: "127.0.0.1:0".parse().unwrap(), tls };
    let mut w =
        World::of(coracle_apiserver::Config { pki: Some(pki.clone()), listen: Some(listen), ..config() })
            .await;
    let address = w.cluster.running.addr.unwrap();

    let mut hook = Hook::start().await;
    for number in 0..CLIENTS {
        w.made("POST", SERVICES, slow(number, "NodePort", &[1])).await;
    }
    hook.configure(&w, "validating", "never", "never").await;
    let (tell, entered) = tokio::sync::watch::channel(0);
    let telling = tokio::spawn(async move {
        while hook.asked.recv().await.is_some() {
            tell.send_modify(|n| *n += 1);
        }
    });

    let mut roots = RootCertStore::empty();
    pki.ca_chain().unwrap().into_iter().for_each(|der| roots.add(der).unwrap());
    let user = pki.issue(&Leaf::client("x", "tenant", Some("team")), Timestamp::now()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let client = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let client = client.with_root_certificates(roots);
    let mut client = client.with_client_auth_cert(user.chain().unwrap(), user.key().unwrap()).unwrap();
    client.alpn_protocols = vec![b"h2".to_vec()];
    let tls = TlsConnector::from(Arc::new(client));

    let (most, hung_up) = (hangups(), Arc::new(AtomicUsize::new(0)));
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let (tls, hung_up, mut entered) = (tls.clone(), hung_up.clone(), entered.clone());
        clients.spawn(async move {
            let random = StdRng::seed_from_u64(number);
            let mut client = Client { address, tls, connection: None, random, number, made: 0 };
            while hung_up.load(Ordering::Relaxed) < most {
                if client.ask_and_hang_up(&mut entered).await {
                    hung_up.fetch_add(1, Ordering::Relaxed);
                }
            }
            client.made
        });
    }
    let asked: u64 = clients.join_all().await.into_iter().sum();
    println!("{} of {asked} requests were hung up on", hung_up.load(Ordering::Relaxed));

    w.made("DELETE", &format!("{}/never", super::hooks("validating")), Value::Null).await;
    // The next request lets go of what the webhook had.
    w.made("POST", SERVICES, service("next", "NodePort", &[1])).await;
    // The server of the webhook stays, and whoever listens to it.
    w.tasks += 2;
    w.settle().await;
    w.services(SERVICES).await;
    w.nothing_is_left().await;
    w.every_port_can_be_had().await;
    telling.abort();
    let stopped = tokio::time::timeout(PATIENCE, w.cluster.running.stop()).await;
    assert!(stopped.is_ok(), "nothing keeps the server from its end");
}
