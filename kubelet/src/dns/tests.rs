//! Questions over UDP and TCP to a server on loopback, answered as CoreDNS answers them.

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::json;
use tokio::net::UdpSocket;

use super::*;

fn catalog() -> Catalog {
    let service = |name: &str, spec: serde_json::Value| -> Service {
        serde_json::from_value(json!({"metadata": {"name": name, "namespace": "ns"}, "spec": spec})).unwrap()
    };
    let ports = json!([{"name": "http", "port": 80, "protocol": "TCP"}]);
    let catalog = Catalog::new();
    catalog.put_service(service("web", json!({"clusterIP": "10.96.0.20", "ports": ports})));
    catalog.put_service(service("db", json!({"clusterIP": "None", "ports": ports})));
    catalog.put_service(service(
        "out",
        json!({"type": "ExternalName", "externalName": "web.ns.svc.cluster.local"}),
    ));
    let slice: EndpointSlice = serde_json::from_value(json!({
        "metadata": {"name": "db-1", "namespace": "ns", "labels": {"kubernetes.io/service-name": "db"}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": [{"addresses": ["10.244.0.2"], "hostname": "db-0"}, {"addresses": ["10.244.0.3"]},
            {"addresses": ["10.244.0.4"], "conditions": {"ready": false}}]
    }))
    .unwrap();
    catalog.put_slice(&slice);
    catalog
}

fn question(name: &str, kind: RecordType) -> Vec<u8> {
    let mut query = Message::new(7, MessageType::Query, OpCode::Query);
    query.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    query.to_vec().unwrap()
}

#[tokio::test]
async fn names_of_services_and_pods_resolve_as_with_coredns() {
    let probe = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = probe.local_addr().unwrap();
    drop(probe);
    let (config, stop) = (
        DnsConfig { address, domain: "cluster.local".to_owned(), upstream: Vec::new() },
        CancellationToken::new(),
    );
    let server = tokio::spawn(run(config, catalog(), stop.clone()));
    tokio::task::yield_now().await;
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    client.connect(address).await.unwrap();
    use RecordType as R;
    use ResponseCode as C;
    let cases: [(&str, R, C, &[&str]); 18] = [
        ("web.ns.svc.cluster.local.", R::A, C::NoError, &["10.96.0.20"]),
        ("WEB.ns.svc.cluster.local.", R::A, C::NoError, &["10.96.0.20"]),
        ("web.ns.svc.cluster.local.", R::AAAA, C::NoError, &[]),
        ("nope.ns.svc.cluster.local.", R::A, C::NXDomain, &[]),
        ("ns.svc.cluster.local.", R::A, C::NoError, &[]),
        ("other.svc.cluster.local.", R::A, C::NXDomain, &[]),
        ("db.ns.svc.cluster.local.", R::A, C::NoError, &["10.244.0.2", "10.244.0.3"]),
        ("db-0.db.ns.svc.cluster.local.", R::A, C::NoError, &["10.244.0.2"]),
        ("10-244-0-3.db.ns.svc.cluster.local.", R::A, C::NoError, &["10.244.0.3"]),
        ("_http._tcp.web.ns.svc.cluster.local.", R::SRV, C::NoError, &["0 100 80 web.ns.svc.cluster.local."]),
        ("_https._tcp.web.ns.svc.cluster.local.", R::SRV, C::NXDomain, &[]),
        ("20.0.96.10.in-addr.arpa.", R::PTR, C::NoError, &["web.ns.svc.cluster.local."]),
        ("2.0.244.10.in-addr.arpa.", R::PTR, C::NoError, &["db-0.db.ns.svc.cluster.local."]),
        ("2.0.244.10.in-addr.arpa.", R::A, C::NoError, &[]),
        ("3.0.244.10.in-addr.arpa.", R::PTR, C::ServFail, &[]),
        ("10-1-2-3.ns.pod.cluster.local.", R::A, C::NoError, &["10.1.2.3"]),
        ("out.ns.svc.cluster.local.", R::A, C::NoError, &["web.ns.svc.cluster.local.", "10.96.0.20"]),
        ("example.com.", R::A, C::ServFail, &[]),
    ];
    for (name, kind, code, want) in cases {
        client.send(&question(name, kind)).await.unwrap();
        let mut buffer = [0; 4096];
        let length = client.recv(&mut buffer).await.unwrap();
        let answer = Message::from_vec(&buffer[..length]).unwrap();
        let mut data: Vec<_> = answer.answers.iter().map(|r| r.data.to_string()).collect();
        if want.len() == 2 && name.starts_with("db") {
            data.sort();
        }
        assert_eq!(
            (answer.metadata.response_code, data),
            (code, want.iter().map(|w| (*w).to_owned()).collect()),
            "{name}"
        );
    }
    let mut stream = TcpStream::connect(address).await.unwrap();
    forward::write_message(&mut stream, &question("web.ns.svc.cluster.local.", R::A)).await.unwrap();
    let answer = Message::from_vec(&forward::read_message(&mut stream).await.unwrap()).unwrap();
    assert_eq!(answer.answers.len(), 1, "over TCP");
    stop.cancel();
    server.await.unwrap().unwrap();
}

#[test]
fn who_asks_for_the_alias_itself_does_not_wait_for_its_target() {
    let zone = zone::Zone::new(catalog(), "cluster.local");
    let name = Name::from_ascii("out.ns.svc.cluster.local.").unwrap();
    match zone.answer(&name, RecordType::CNAME) {
        zone::Answer::Here { code: ResponseCode::NoError, answers, .. } => assert_eq!(answers.len(), 1),
        other => panic!("{other:?}"),
    }
}

/// Connections that ask for nothing last ten seconds; who asks does not wait for that.
#[tokio::test]
async fn clients_with_all_places_over_tcp_make_room_for_who_asks() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = Server {
        zone: Zone::new(catalog(), "cluster.local"),
        upstream: vec![],
        forwarded: Places::new(1, 1),
    };
    let serving = tokio::spawn(serve_tcp(listener, Arc::new(server), Places::new(8, 2)));
    let connect = |client: u8| async move {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from(([127, 0, 0, client], 0))).unwrap();
        socket.connect(address).await.unwrap()
    };
    let ask = |mut stream: TcpStream| async move {
        forward::write_message(&mut stream, &question("web.ns.svc.cluster.local.", RecordType::A)).await?;
        forward::read_message(&mut stream).await.map(|answer| (stream, answer))
    };
    let mut silent = vec![];
    for client in 2..6 {
        for _ in 0..2 {
            silent.push(connect(client).await);
        }
    }
    for client in [6, 7, 2] {
        let (stream, answer) = ask(connect(client).await).await.expect("an answer");
        assert_eq!(Message::from_vec(&answer).unwrap().answers.len(), 1);
        silent.push(stream);
    }
    // The oldest of the busiest went; the others are still answered.
    assert!(ask(silent.remove(0)).await.is_err());
    let last = silent.pop().unwrap();
    assert!(ask(last).await.is_ok());
    serving.abort();
}

/// A socket of one of the clients of 127.0.0.0/8, connected to the server.
async fn client(number: u8, server: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind(SocketAddr::from(([127, 0, 0, number], 0))).await.unwrap();
    socket.connect(server).await.unwrap();
    socket
}

/// Questions for a server that never answers last for seconds; nobody else waits for that.
#[tokio::test]
async fn clients_with_all_places_over_udp_make_room_for_who_asks() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
    let address = socket.local_addr().unwrap();
    let server = Server {
        zone: Zone::new(catalog(), "cluster.local"),
        upstream: vec![silent.local_addr().unwrap()],
        forwarded: Places::new(4, 2),
    };
    let serving = tokio::spawn(serve_udp(socket, Arc::new(server), Places::new(8, 4)));
    let elsewhere = || question("example.com.", RecordType::A);
    let mut buffer = [0; 4096];
    let mut flooding = vec![];
    for number in [2, 3] {
        let socket = client(number, address).await;
        for _ in 0..50 {
            socket.send(&elsewhere()).await.unwrap();
        }
        // Two of its questions are on their way; the next are answered by a refusal, not held.
        for _ in 0..2 {
            silent.recv(&mut buffer).await.unwrap();
        }
        socket.recv(&mut buffer).await.unwrap();
        flooding.push(socket);
    }
    let other = client(4, address).await;
    other.send(&question("web.ns.svc.cluster.local.", RecordType::A)).await.unwrap();
    let length = other.recv(&mut buffer).await.unwrap();
    assert_eq!(Message::from_vec(&buffer[..length]).unwrap().answers.len(), 1);
    // One of those on the way gives its place up.
    other.send(&elsewhere()).await.unwrap();
    silent.recv(&mut buffer).await.unwrap();
    serving.abort();
}
