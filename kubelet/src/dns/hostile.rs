//! Hostile questions.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::LazyLock;

use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::RecordType;
use k8s_openapi::api::core::v1::Service;
use serde_json::json;

use super::places::Places;
use super::{Server, Zone, response_to, within};
use crate::fuzz::block_on;
use crate::proxy::catalog::Catalog;

static SERVER: LazyLock<Server> = LazyLock::new(|| {
    let service = |name: &str, spec: serde_json::Value| -> Service {
        let service = json!({"metadata": {"name": name, "namespace": "ns"}, "spec": spec});
        serde_json::from_value(service).expect("a Service")
    };
    let ports = json!([{"name": "http", "port": 80, "protocol": "TCP"}]);
    let catalog = Catalog::new();
    catalog.put_service(service("web", json!({"clusterIP": "10.96.0.20", "ports": ports})));
    catalog.put_service(service("db", json!({"clusterIP": "None", "ports": ports})));
    let out = json!({"type": "ExternalName", "externalName": "web.ns.svc.cluster.local"});
    catalog.put_service(service("out", out));
    let slice = json!({"metadata": {"name": "db-1", "namespace": "ns", "labels": {"kubernetes.io/service-name": "db"}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": [{"addresses": ["10.244.0.2"], "hostname": "db-0"}, {"addresses": ["10.244.0.3"]}]});
    catalog.put_slice(&serde_json::from_value(slice).expect("a slice"));
    Server { zone: Zone::new(catalog, "cluster.local"), upstream: vec![], forwarded: Places::new(1, 1) }
});

/// A message, as it came by UDP and by TCP. There is nobody to ask further.
pub(crate) fn query(bytes: &[u8]) {
    for tcp in [false, true] {
        let Some(answer) = block_on(SERVER.respond(bytes, IpAddr::V4(Ipv4Addr::LOCALHOST), tcp)) else {
            continue;
        };
        let read = Message::from_vec(&answer).expect("what we wrote");
        assert_eq!(read.metadata.message_type, MessageType::Response);
        assert_eq!(read.metadata.id.to_be_bytes(), bytes[..2]);
        let asked = Message::from_vec(bytes).expect("it was answered");
        // Nobody's address can be used to have us send much more than we were sent.
        let most = if tcp { usize::from(u16::MAX) } else { usize::from(asked.max_payload().max(512)) };
        assert!(answer.len() <= most, "{} bytes", answer.len());
    }
}

/// What another server says of an alias's target: passed on within the bounds of who asked.
pub(crate) fn answer(bytes: &[u8]) {
    let Ok(answer) = Message::from_vec(bytes) else { return };
    let mut query = Message::new(7, MessageType::Query, OpCode::Query);
    query.add_query(Query::query("out.ns.svc.cluster.local.".parse().expect("a name"), RecordType::A));
    let mut response = response_to(&query);
    response.add_answers(answer.answers);
    for (tcp, most) in [(false, 512), (true, usize::from(u16::MAX))] {
        let Some(sent) = within(&response, &query, tcp) else { continue };
        assert!(sent.len() <= most, "{} bytes", sent.len());
        let read = Message::from_vec(&sent).expect("what we wrote");
        assert_eq!((read.metadata.id, read.queries.len()), (7, 1));
    }
}
