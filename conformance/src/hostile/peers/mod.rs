//! Attackers without a name: bytes on connections, before anybody has been asked who they are.

mod dns;
mod frames;
pub(super) mod http1;
mod http2;
mod sockets;
mod windows;

use super::book::{Attack, By, How};
pub(super) use frames::{END_STREAM, Peer, RESET, frame};

/// What all rows here have in common.
const PEER: Attack = Attack {
    name: "",
    findings: "",
    by: By::Peer,
    does: "",
    must: "bounds and times hold: the peer is closed or kept at its place, others are served",
    quick: false,
    how: How::Asks(&[]),
};

#[rustfmt::skip]
pub(super) const ATTACKS: &[Attack] = &[
    Attack { name: "silent connections", findings: "security B12; issue 10,000 silent connections", quick: true, does: "10,000 TCP connections from 40 addresses that say nothing, held", how: How::Peer(|s| Box::pin(sockets::silent(s))), ..PEER },
    Attack { name: "silent TLS connections", findings: "reliability 5; security M15", quick: true, does: "10,000 finished TLS handshakes without a request, held", how: How::Peer(|s| Box::pin(sockets::silent_tls(s))), ..PEER },
    Attack { name: "half a handshake", findings: "security B12", does: "500 peers that send a ClientHello a byte at a time", how: How::Peer(|s| Box::pin(sockets::half_a_handshake(s))), ..PEER },
    Attack { name: "no TLS at all", findings: "security B12", does: "2,000 connections that send random bytes, or plain HTTP", how: How::Peer(|s| Box::pin(sockets::no_tls(s))), ..PEER },
    Attack { name: "handshakes", findings: "security B12", does: "2,000 handshakes that are closed at once, 20 at a time", how: How::Peer(|s| Box::pin(sockets::handshakes(s))), ..PEER },
    Attack { name: "connections that are reset", findings: "security B12", does: "5,000 connections that are reset (SO_LINGER 0) as soon as they are open", how: How::Peer(|s| Box::pin(sockets::resets(s))), ..PEER },
    Attack { name: "silent kubelet connections", findings: "security B12", quick: true, does: "1,000 TCP connections to port 10250, held", how: How::Peer(|s| Box::pin(sockets::kubelet(s))), ..PEER },
    Attack { name: "the kubelet without a name", findings: "CVE-2024-9042; CVE-2020-8558; CVE-2025-0426", quick: true, does: "asks the kubelet for pods, logs, exec, checkpoints, /logs/?query=, metrics and debug pages without credentials, and at the port that asks for none", must: "401 or 403 for each", how: How::Peer(|s| Box::pin(sockets::kubelet_pages(s))), ..PEER },
    Attack { name: "silent DNS connections", findings: "security B12", quick: true, does: "1,000 TCP connections to the cluster DNS, held", must: "others are answered over UDP and TCP", how: How::Peer(|s| Box::pin(dns::silent(s))), ..PEER },
    Attack { name: "DNS questions", findings: "security B12", does: "20,000 questions for names that are not there, and malformed ones, with compression loops", must: "others are answered", how: How::Peer(|s| Box::pin(dns::questions(s))), ..PEER },
    Attack { name: "slow request heads", findings: "security B12", does: "200 HTTP/1.1 heads that come a byte at a time", how: How::Peer(|s| Box::pin(http1::slow_heads(s))), ..PEER },
    Attack { name: "a huge head", findings: "CVE-2020-8552", does: "heads of 1 MB: one header, and 20,000 headers", must: "4xx, or closed", how: How::Peer(|s| Box::pin(http1::huge_heads(s))), ..PEER },
    Attack { name: "smuggled requests", findings: "request smuggling", does: "Transfer-Encoding beside Content-Length, two lengths, odd chunk sizes, bare line feeds", must: "no second request is seen", how: How::Peer(|s| Box::pin(http1::smuggled(s))), ..PEER },
    Attack { name: "pipelined requests never read", findings: "reliability 6", does: "20 connections with 10,000 HTTP/1.1 requests each whose answers are not read", how: How::Peer(|s| Box::pin(http1::pipelined(s))), ..PEER },
    Attack { name: "chunks that trickle", findings: "security B11", does: "200 bodies in chunks of a byte", how: How::Peer(|s| Box::pin(http1::trickle(s))), ..PEER },
    Attack { name: "rapid reset", findings: "CVE-2023-44487", quick: true, does: "20,000 streams that are reset as soon as they are open", how: How::Peer(|s| Box::pin(http2::rapid_reset(s))), ..PEER },
    Attack { name: "made you reset", findings: "CVE-2025-8671", does: "20,000 streams whose window update is wrong, so that the server resets them", how: How::Peer(|s| Box::pin(http2::made_you_reset(s))), ..PEER },
    Attack { name: "CONTINUATION flood", findings: "CVE-2023-45288", quick: true, does: "a head that goes on in CONTINUATION frames without end", must: "GOAWAY, or closed", how: How::Peer(|s| Box::pin(http2::continuation(s))), ..PEER },
    Attack { name: "SETTINGS flood", findings: "CVE-2019-9515", does: "200,000 SETTINGS frames", how: How::Peer(|s| Box::pin(http2::settings(s))), ..PEER },
    Attack { name: "PING flood", findings: "CVE-2019-9512", does: "200,000 PING frames whose answers are not read", how: How::Peer(|s| Box::pin(http2::pings(s))), ..PEER },
    Attack { name: "PRIORITY flood", findings: "CVE-2019-9513", does: "200,000 PRIORITY frames", how: How::Peer(|s| Box::pin(http2::priorities(s))), ..PEER },
    Attack { name: "empty DATA flood", findings: "CVE-2019-9518", does: "200,000 empty DATA frames", how: How::Peer(|s| Box::pin(http2::empty_data(s))), ..PEER },
    Attack { name: "window stall", findings: "CVE-2019-9517; reliability 6", does: "100 connections that ask for large answers and open no window", how: How::Peer(|s| Box::pin(http2::window_stall(s))), ..PEER },
    Attack { name: "HPACK bomb", findings: "CVE-2016-6581", does: "heads that name one large header of the table thousands of times", must: "4xx, GOAWAY or closed", how: How::Peer(|s| Box::pin(http2::hpack_bomb(s))), ..PEER },
    Attack { name: "windows of a byte", findings: "CVE-2019-9511", does: "400 large answers on 20 connections, of which each byte is asked for by itself", must: "no more comes than was asked for", how: How::Peer(|s| Box::pin(windows::dribble(s))), ..PEER },
    Attack { name: "WINDOW_UPDATE flood", findings: "CVE-2019-9511; RFC 9113, 6.9.1", does: "200,000 window updates, half of them of a stream that has ended, the last beyond all bounds", must: "GOAWAY, or closed", how: How::Peer(|s| Box::pin(windows::updates(s))), ..PEER },
    Attack { name: "windows that change", findings: "CVE-2019-9517's kin", does: "100,000 SETTINGS of the initial window while 200 answers wait for theirs", how: How::Peer(|s| Box::pin(windows::resized(s))), ..PEER },
    Attack { name: "header tables that change", findings: "RFC 7541, 4.2", does: "20,000 requests, each with another size of the header table: none, and 4 GB", how: How::Peer(|s| Box::pin(windows::tables(s))), ..PEER },
    Attack { name: "empty headers", findings: "CVE-2019-9516", does: "5,000 heads of 4,000 headers without a name and a value", must: "4xx, reset, GOAWAY or closed", how: How::Peer(|s| Box::pin(windows::empty_headers(s))), ..PEER },
    Attack { name: "frames of nothing", findings: "CVE-2019-9518's kin", does: "20,000 frames that are padding, or of no known kind", how: How::Peer(|s| Box::pin(windows::nothing(s))), ..PEER },
    Attack { name: "streams without end", findings: "CVE-2019-9514", does: "10,000 streams at once on each of 20 connections", must: "no more than the announced 250 are taken", how: How::Peer(|s| Box::pin(http2::streams(s))), ..PEER },
];
