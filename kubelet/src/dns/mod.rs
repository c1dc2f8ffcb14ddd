//! The cluster DNS server of this node: the names of Services and pods, and the way out for all others.

mod forward;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod hostile;
mod places;
#[cfg(test)]
mod tests;
mod zone;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::Name;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::proxy::catalog::Catalog;
pub use forward::servers_of;
use places::{Place, Places};
use zone::{Answer, Zone};

/// Questions by UDP that may be under way, those of them and of others that may be on the way to other servers, and TCP
/// connections that may be open.
const QUESTIONS: usize = 1024;
const FORWARDED: usize = 512;
const CONNECTIONS: usize = 256;
/// How many of them one client may have.
const QUESTIONS_OF_CLIENT: usize = 256;
const FORWARDED_OF_CLIENT: usize = 128;
const CONNECTIONS_OF_CLIENT: usize = 32;
const IDLE: Duration = Duration::from_secs(10);
/// The pause after the system refused something: it is out of descriptors, most likely.
const PAUSE: Duration = Duration::from_millis(50);

#[derive(Clone, Debug)]
pub struct DnsConfig {
    /// The cluster DNS address, which must be local to this node (`net::add_local_address`).
    pub address: SocketAddr,
    /// `cluster.local`
    pub domain: String,
    /// Where other names are asked: see `servers_of`.
    pub upstream: Vec<SocketAddr>,
}

struct Server {
    zone: Zone,
    upstream: Vec<SocketAddr>,
    forwarded: Places,
}

/// Answers on UDP and TCP until `shutdown`. Nothing that clients do, and no want of descriptors, ends it.
pub async fn run(config: DnsConfig, catalog: Catalog, shutdown: CancellationToken) -> io::Result<()> {
    let udp = Arc::new(UdpSocket::bind(config.address).await?);
    let tcp = TcpListener::bind(udp.local_addr()?).await?;
    let server = Arc::new(Server {
        zone: Zone::new(catalog, &config.domain),
        upstream: config.upstream,
        forwarded: Places::new(FORWARDED, FORWARDED_OF_CLIENT),
    });
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = serve_udp(udp, server.clone(), Places::new(QUESTIONS, QUESTIONS_OF_CLIENT)) => {}
        () = serve_tcp(tcp, server, Places::new(CONNECTIONS, CONNECTIONS_OF_CLIENT)) => {}
    }
    Ok(())
}

async fn serve_udp(socket: Arc<UdpSocket>, server: Arc<Server>, places: Places) {
    let mut tasks = JoinSet::new();
    let mut buffer = vec![0; 4096];
    loop {
        let (length, client) = tokio::select! {
            received = socket.recv_from(&mut buffer) => match received {
                Ok(received) => received,
                // The kernel tells of a client that went away before its answer.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
                Err(error) => {
                    warn!(%error, "cannot receive DNS questions");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            },
            Some(_) = tasks.join_next() => continue,
        };
        // Those that gave up their place may not have ended yet.
        if tasks.len() >= 2 * QUESTIONS {
            continue;
        }
        // Beyond the bounds, questions are dropped: clients ask again.
        let Some(place) = places.take_answering(client.ip()) else { continue };
        let (query, socket, server) = (buffer[..length].to_vec(), socket.clone(), server.clone());
        tasks.spawn(async move {
            let answering = async {
                if let Some(answer) = server.respond(&query, client.ip(), false).await
                    && let Err(error) = socket.send_to(&answer, client).await
                {
                    debug!(%error, %client, "cannot answer a DNS question");
                }
            };
            tokio::select! {
                () = answering => {}
                () = place.evicted().cancelled() => {}
            }
        });
    }
}

async fn serve_tcp(listener: TcpListener, server: Arc<Server>, places: Places) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, client)) => {
                    // Those that gave up their place may not have ended yet.
                    if connections.len() >= 2 * CONNECTIONS {
                        continue;
                    }
                    // Who has too many answered at a time, or comes when nobody can make room, asks again.
                    let Some(place) = places.take(client.ip()) else { continue };
                    let server = server.clone();
                    connections.spawn(async move {
                        tokio::select! {
                            () = server.talk(stream, client.ip(), &place) => {}
                            () = place.evicted().cancelled() => {}
                        }
                    });
                }
                Err(error) => {
                    warn!(%error, "a DNS connection was not accepted");
                    tokio::time::sleep(PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// The response as it is sent: no longer than who asked can take.
fn within(response: &Message, query: &Message, tcp: bool) -> Option<Vec<u8>> {
    let limit = if tcp { usize::from(u16::MAX) } else { usize::from(query.max_payload().max(512)) };
    let full = response.to_vec().ok()?;
    if full.len() <= limit { Some(full) } else { response.truncate().to_vec().ok() }
}

// === impl Server ===

impl Server {
    async fn talk(&self, mut stream: TcpStream, client: IpAddr, place: &Place) {
        while let Ok(Ok(query)) = timeout(IDLE, forward::read_message(&mut stream)).await {
            place.set_answering(true);
            let Some(answer) = self.respond(&query, client, true).await else { return };
            // Who does not read its answer is idle.
            place.set_answering(false);
            if !matches!(timeout(IDLE, forward::write_message(&mut stream, &answer)).await, Ok(Ok(()))) {
                return;
            }
        }
    }

    /// The bytes to send back; nothing for what is no question.
    async fn respond(&self, bytes: &[u8], client: IpAddr, tcp: bool) -> Option<Vec<u8>> {
        let query = Message::from_vec(bytes).ok()?;
        if query.metadata.message_type != MessageType::Query {
            return None;
        }
        let [question] = query.queries.as_slice() else {
            return failure(&query, ResponseCode::FormErr);
        };
        if query.metadata.op_code != OpCode::Query {
            return failure(&query, ResponseCode::NotImp);
        }
        let mut response = response_to(&query);
        match self.zone.answer(question.name(), question.query_type()) {
            Answer::Elsewhere => {
                return match self.forward(bytes, client, tcp).await {
                    Some(answer) => Some(answer),
                    None => failure(&query, ResponseCode::ServFail),
                };
            }
            Answer::Here { code, answers, additionals, authorities } => {
                response.metadata.response_code = code;
                response.add_answers(answers).add_additionals(additionals).add_authorities(authorities);
            }
            Answer::Alias { cname, target } => {
                response.add_answer(cname);
                self.resolve_alias(&mut response, &query, question, (target, client)).await;
            }
        }
        within(&response, &query, tcp)
    }

    /// Adds what is known of an alias's target: from our own names, or from the others.
    async fn resolve_alias(
        &self,
        response: &mut Message,
        query: &Message,
        question: &Query,
        (target, client): (Name, IpAddr),
    ) {
        match self.zone.answer(&target, question.query_type()) {
            Answer::Here { answers, .. } => {
                response.add_answers(answers);
            }
            // One step is enough; a chain of aliases is for the client to follow.
            Answer::Alias { cname, .. } => {
                response.add_answer(cname);
            }
            Answer::Elsewhere => {
                let mut further = Message::new(query.metadata.id, MessageType::Query, OpCode::Query);
                further.metadata.recursion_desired = true;
                further.add_query(Query::query(target, question.query_type()));
                let Ok(bytes) = further.to_vec() else { return };
                let answer =
                    self.forward(&bytes, client, false).await.and_then(|a| Message::from_vec(&a).ok());
                if let Some(answer) = answer {
                    response.add_answers(answer.answers);
                }
            }
        }
    }

    async fn forward(&self, query: &[u8], client: IpAddr, tcp: bool) -> Option<Vec<u8>> {
        let place = self.forwarded.take_answering(client)?;
        tokio::select! {
            answer = forward::ask(&self.upstream, query, tcp) => answer,
            () = place.evicted().cancelled() => None,
        }
    }
}

fn response_to(query: &Message) -> Message {
    let mut response = Message::response(query.metadata.id, query.metadata.op_code);
    response.metadata.authoritative = true;
    response.metadata.recursion_desired = query.metadata.recursion_desired;
    response.metadata.recursion_available = true;
    // Of several questions none is answered, nor are they all sent back.
    response.add_queries(query.queries.iter().take(1).cloned());
    if let Some(edns) = &query.edns {
        let mut ours = hickory_proto::op::Edns::new();
        ours.set_max_payload(edns.max_payload().max(512));
        response.set_edns(ours);
    }
    response
}

fn failure(query: &Message, code: ResponseCode) -> Option<Vec<u8>> {
    let mut response = response_to(query);
    response.metadata.authoritative = false;
    response.metadata.response_code = code;
    response.to_vec().ok()
}

/// Where the node itself asks, from the host's `resolv.conf`.
pub fn host_servers(own: IpAddr) -> Vec<SocketAddr> {
    // Under systemd-resolved the stub's file names only the stub; this one has the real servers.
    let paths = ["/run/systemd/resolve/resolv.conf", "/etc/resolv.conf"];
    let found = paths.iter().find_map(|path| std::fs::read_to_string(path).ok());
    found.map(|text| servers_of(&text, own)).unwrap_or_default()
}
