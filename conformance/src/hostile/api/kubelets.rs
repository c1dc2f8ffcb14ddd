//! A node whose kubelet has the right certificate, and answers as it likes.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::Method;
use kube::config::Kubeconfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::hostile::arena::{EVIL_NODE, EVIL_NODE_IP};
use crate::hostile::book::{Attack, By, How};
use crate::hostile::peers::http1;
use crate::hostile::scene::{Scene, tally};
use crate::netns::NODE_IP;
use crate::wire::JSON;

#[rustfmt::skip]
pub(super) const ATTACKS: &[Attack] = &[
    Attack { name: "a kubelet that leads elsewhere", findings: "CVE-2018-1002105; CVE-2020-8559", by: By::Node, quick: false, does: "answers who reads logs, or opens sessions, with redirects, and with upgrades that nobody wanted", must: "no redirect reaches a client, no tunnel stays", how: How::Tenant(|s| Box::pin(elsewhere(s))) },
    Attack { name: "a kubelet that answers without end", findings: "issue 11.4", by: By::Node, quick: false, does: "heads, bodies, chunks, errors and informational answers without end, to 10 clients each, half of which do not read; and silence", must: "nothing is kept of what is not read", how: How::Tenant(|s| Box::pin(endless(s))) },
];

/// How a fake kubelet answers, by the number that it is asked for: of lines, of a port, or as a command.
const REDIRECTS: [&str; 4] =
    ["301 Moved Permanently", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"];
static ENDLESS: [Answer; 9] = [
    Answer { begins: "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n", repeats: "no end\n" },
    Answer { begins: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", repeats: "8\r\nno end \n\r\n" },
    Answer { begins: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", repeats: "1\r\n.\r\n" },
    Answer {
        begins: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
        repeats: "no end\n",
    },
    Answer { begins: "HTTP/1.1 200 OK\r\n", repeats: "X-No-End: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n" },
    Answer { begins: "HTTP/1.1 200 OK\r\nX-No-End: ", repeats: "aaaaaaaa" },
    Answer { begins: "", repeats: "HTTP/1.1 100 Continue\r\n\r\n" },
    Answer { begins: "HTTP/1.1 500 No\r\n\r\n", repeats: "no end\n" },
    Answer { begins: "", repeats: "" },
];

struct Answer {
    begins: &'static str,
    /// Over and over; nothing more is said where it is empty.
    repeats: &'static str,
}

/// What the evil node serves with, of its kubeconfig.
fn identity(file: &Path) -> Result<TlsAcceptor> {
    let config = Kubeconfig::read_from(file)?;
    let user =
        config.auth_infos.iter().find(|user| user.name == "kubelet-serving").context("its serving pair")?;
    // As JSON, secrets can be read.
    let user = serde_json::to_value(&user.auth_info)?;
    let pem =
        |field: &str| -> Result<Vec<u8>> { Ok(STANDARD.decode(user[field].as_str().unwrap_or_default())?) };
    let chain =
        CertificateDer::pem_slice_iter(&pem("client-certificate-data")?).collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(&pem("client-key-data")?)?;
    let config =
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// The node's address on this machine, while the value is there.
struct Address;

impl Address {
    fn add() -> Result<Self> {
        let range = format!("{EVIL_NODE_IP}/32");
        let status = Command::new("ip").args(["address", "add", &range, "dev", "lo"]).status()?;
        ensure!(status.success(), "ip address add {range} failed");
        Ok(Address)
    }
}

impl Drop for Address {
    fn drop(&mut self) {
        let range = format!("{EVIL_NODE_IP}/32");
        let _ = Command::new("ip").args(["address", "del", &range, "dev", "lo"]).status();
    }
}

/// A fake kubelet, its Node and a pod on it, until the value is dropped.
struct Fake<'a> {
    scene: &'a Scene<'a>,
    _address: Address,
    _serving: JoinSet<()>,
}

impl<'a> Fake<'a> {
    async fn begin(scene: &'a Scene<'a>, answer: fn(&str) -> Answered) -> Result<Self> {
        let address = Address::add()?;
        let acceptor = identity(&scene.arena.node_kubeconfig)?;
        let listener = TcpListener::bind(SocketAddr::new(EVIL_NODE_IP.parse()?, 0)).await?;
        let port = listener.local_addr()?.port();
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                connections.spawn(async move {
                    // Whoever ends the connection is right.
                    let _ = connection(acceptor, stream, answer).await;
                });
                while connections.try_join_next().is_some() {}
            }
        });
        let fake = Fake { scene, _address: address, _serving: serving };
        fake.register(port).await?;
        Ok(fake)
    }

    async fn register(&self, port: u16) -> Result<()> {
        let scene = self.scene;
        let mut node = scene.connect(By::Node).await?;
        let own = json!({"metadata": {"name": EVIL_NODE}, "spec": {"taints": [{"key": "x", "effect": "NoSchedule"}]}});
        let made = scene.send(&mut node, Method::POST, "/api/v1/nodes", JSON, own.to_string()).await?;
        ensure!(made.code == 201, "registering: {}", made.code);
        let status = json!({"status": {"addresses": [{"type": "InternalIP", "address": EVIL_NODE_IP}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": port}}}});
        let path = format!("/api/v1/nodes/{EVIL_NODE}/status");
        let media = "application/merge-patch+json";
        let told = scene.send(&mut node, Method::PATCH, &path, media, status.to_string()).await?;
        ensure!(told.code == 200, "the node's status: {}", told.code);
        let mut tenant = scene.connect(By::Tenant).await?;
        let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": EVIL_NODE,
            "containers": [{"name": "c", "image": "i"}]}});
        let made = scene.send(&mut tenant, Method::POST, &scene.path("pods"), JSON, pod.to_string()).await?;
        ensure!(made.code == 201, "the pod: {}", made.code);
        Ok(())
    }

    async fn end(self) -> Result<()> {
        let mut admin = self.scene.connect(By::Operator).await?;
        for path in [self.scene.path("pods/p?gracePeriodSeconds=0"), format!("/api/v1/nodes/{EVIL_NODE}")] {
            self.scene.send(&mut admin, Method::DELETE, &path, JSON, Bytes::new()).await?;
        }
        Ok(())
    }

    /// A request to the API server by HTTP/1.1, of which nothing was read yet.
    async fn asks(
        &self,
        n: usize,
        path: &str,
        upgrade: bool,
    ) -> Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let mut stream = http1::open(self.scene, By::Tenant, n).await?;
        let token = self.scene.endpoint(By::Tenant)?.token().unwrap_or_default().to_owned();
        let upgrade = if upgrade {
            "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n"
        } else {
            ""
        };
        let head = format!(
            "GET {} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n{upgrade}\r\n",
            self.scene.path(path)
        );
        stream.write_all(head.as_bytes()).await?;
        Ok(stream)
    }
}

enum Answered {
    Once(String),
    Endlessly(&'static Answer),
}

async fn connection(acceptor: TlsAcceptor, stream: TcpStream, answer: fn(&str) -> Answered) -> Result<()> {
    let mut stream: TlsStream<TcpStream> = acceptor.accept(stream).await?;
    let mut head = vec![];
    while !head.ends_with(b"\r\n\r\n") && head.len() < 1 << 16 {
        head.push(stream.read_u8().await?);
    }
    match answer(&String::from_utf8_lossy(&head)) {
        Answered::Once(text) => stream.write_all(text.as_bytes()).await?,
        Answered::Endlessly(Answer { begins, repeats }) => {
            stream.write_all(begins.as_bytes()).await?;
            let piece = repeats.repeat(2_000);
            while !piece.is_empty() {
                stream.write_all(piece.as_bytes()).await?;
            }
        }
    }
    // Until the other side has had enough.
    tokio::io::copy(&mut stream, &mut tokio::io::sink()).await?;
    Ok(())
}

/// The number that was asked for.
fn number(head: &str) -> usize {
    let line = head.lines().next().unwrap_or_default();
    let value = ["tailLines=", "command=", "port="]
        .iter()
        .find_map(|name| line.split_once(name))
        .map_or("", |(_, v)| v);
    value.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default().parse().unwrap_or_default()
}

async fn elsewhere(scene: &Scene<'_>) -> Result<String> {
    let fake = Fake::begin(scene, |head| {
        Answered::Once(match REDIRECTS.get(number(head)) {
            Some(line) => {
                // The API server itself, and a Secret that only the API server's readers of everything see.
                let secret = "/api/v1/namespaces/shop/secrets/treasure";
                format!(
                    "HTTP/1.1 {line}\r\nLocation: https://{NODE_IP}:6443{secret}\r\nContent-Length: 0\r\n\r\n"
                )
            }
            None => {
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\ntunnel"
                    .to_owned()
            }
        })
    })
    .await?;
    let said = redirected(&fake).await;
    fake.end().await?;
    said
}

async fn redirected(fake: &Fake<'_>) -> Result<String> {
    let mut said = vec![];
    for n in 0..=REDIRECTS.len() {
        for (path, upgrade) in [
            (format!("pods/p/log?tailLines={n}"), false),
            (format!("pods/p/exec?command={n}&stdout=1"), false),
            (format!("pods/p/exec?command={n}&stdout=1"), true),
            (format!("pods/p/portforward?ports={n}"), true),
        ] {
            let answer = http1::heard(&mut fake.asks(n, &path, upgrade).await?).await;
            let code: u16 = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_default();
            let tunnel = code == 101 && upgrade && n == REDIRECTS.len();
            ensure!(code >= 400 || tunnel, "{path}, upgrade {upgrade}: {answer}");
            ensure!(
                !answer.to_lowercase().contains("\nlocation:"),
                "{path}: the client is led elsewhere: {answer}"
            );
            said.push(code.to_string());
        }
    }
    Ok(tally(said))
}

async fn endless(scene: &Scene<'_>) -> Result<String> {
    let fake = Fake::begin(scene, |head| Answered::Endlessly(&ENDLESS[number(head) % ENDLESS.len()])).await?;
    let said = unread(scene, &fake).await;
    fake.end().await?;
    said
}

async fn unread(scene: &Scene<'_>, fake: &Fake<'_>) -> Result<String> {
    let mut held = vec![];
    let mut said: Vec<String> = vec![];
    for n in 0..ENDLESS.len() {
        for client in 0..scene.amount(10, 2) {
            let upgrade = client % 3 == 2;
            let path = match upgrade {
                true => format!("pods/p/exec?command={n}&stdout=1"),
                false => format!("pods/p/log?follow=true&tailLines={n}"),
            };
            let mut stream = fake.asks(client, &path, upgrade).await?;
            if client % 2 == 0 {
                let mut piece = vec![0; 1 << 16];
                let read = tokio::time::timeout(Duration::from_secs(2), stream.read(&mut piece)).await;
                said.push(match read {
                    Ok(Ok(n)) => {
                        String::from_utf8_lossy(&piece[..n]).split(' ').nth(1).unwrap_or("closed").to_owned()
                    }
                    Ok(Err(_)) => "closed".to_owned(),
                    Err(_) => "silence".to_owned(),
                });
            }
            held.push(stream);
        }
    }
    scene.hold().await;
    let count = held.len();
    Ok(format!("{count} asked; {}", tally(said)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_is_found_in_what_a_kubelet_is_asked() {
        for (head, want) in [
            ("GET /containerLogs/n/p/c?follow=true&tailLines=7 HTTP/1.1\r\n", 7),
            ("POST /exec/n/p/c?output=1&command=3 HTTP/1.1\r\n", 3),
            ("POST /portForward/n/p?port=2 HTTP/1.1\r\n", 2),
            ("GET / HTTP/1.1\r\n", 0),
        ] {
            assert_eq!(number(head), want);
        }
    }
}
