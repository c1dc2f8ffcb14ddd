//! Real packets through real rules, in network namespaces made for the test: pods, host ports, Services.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use nix::sched::{CloneFlags, setns, unshare};
use serde_json::json;

use super::catalog::{Endpoint, Key};
use super::ruleset::Ruleset;
use super::{ProxyConfig, render, ruleset};
use crate::net::{HostPort, NetConfig, PodNetwork, Protocol, apply_rules, purge};

const NODE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// A process that holds a network namespace, ended with the test.
struct Namespace(Child);

impl Namespace {
    fn new() -> Namespace {
        Namespace(Command::new("unshare").args(["-n", "sleep", "300"]).spawn().unwrap())
    }

    /// The file of the namespace, once the process is in it.
    fn path(&self) -> PathBuf {
        let path = PathBuf::from(format!("/proc/{}/ns/net", self.0.id()));
        let own = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        while std::fs::read_link(&path).is_ok_and(|now| now == own) {
            std::thread::yield_now();
        }
        path
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs `work` with a thread that is in another network namespace.
fn inside<T: Send>(netns: &Path, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            setns(std::fs::File::open(netns).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
            work()
        });
        worker.join().unwrap()
    })
}

/// Answers every connection with a name and the address it saw.
fn serve(netns: &Path, name: &'static str) {
    let listener = inside(netns, || TcpListener::bind("0.0.0.0:8080").unwrap());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let peer = stream.peer_addr().unwrap().ip();
            let _ = write!(stream, "{name} {peer}");
        }
    });
}

fn ask(address: &str) -> Result<String, std::io::ErrorKind> {
    let address: SocketAddr = address.parse().unwrap();
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2)).map_err(|e| e.kind())?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).map_err(|e| e.kind())?;
    Ok(text)
}

fn service(spec: serde_json::Value) -> Service {
    serde_json::from_value(json!({"metadata": {"name": "s", "namespace": "n"}, "spec": spec})).unwrap()
}

fn endpoint(ip: Ipv4Addr) -> Endpoint {
    Endpoint {
        ip,
        hostname: None,
        node: Some("node".to_owned()),
        ready: true,
        serving: true,
        terminating: false,
        ports: vec![("".to_owned(), Protocol::Tcp, 8080)],
    }
}

fn proxy_config() -> ProxyConfig {
    ProxyConfig {
        node_name: "node".to_owned(),
        cluster_cidr: "10.244.0.0/16".parse().unwrap(),
        service_cidr: "10.96.0.0/16".parse().unwrap(),
        own_addresses: vec![Ipv4Addr::new(10, 96, 0, 10)],
    }
}

/// CVE-2020-8554: what an external address takes from others.
#[test]
fn external_addresses_take_nothing_that_others_rely_on() {
    let api = Ipv4Addr::new(192, 0, 2, 1);
    let guarded = BTreeSet::from([(api, 6443), (api, 10260)]);
    for (ip, port, protocol, taken) in [
        ("192.0.2.1", 80, "TCP", true),
        ("192.0.2.7", 6443, "TCP", true),
        ("203.0.113.1", 443, "TCP", true),
        ("192.0.2.1", 6443, "UDP", true),
        ("192.0.2.1", 6443, "TCP", false),
        ("192.0.2.1", 10260, "TCP", false),
        ("192.0.2.7", 10260, "TCP", true),
        ("10.96.0.1", 443, "TCP", false),
        ("10.96.0.10", 53, "UDP", false),
        ("10.244.9.3", 80, "TCP", false),
    ] {
        let ports = json!([{"port": port, "protocol": protocol, "targetPort": 8080}]);
        let by_spec = json!({"clusterIP": "10.96.3.3", "externalIPs": [ip], "ports": ports});
        let mut by_status =
            service(json!({"clusterIP": "10.96.3.3", "type": "LoadBalancer", "ports": ports}));
        by_status.status =
            serde_json::from_value(json!({"loadBalancer": {"ingress": [{"ip": ip}]}})).unwrap();
        for service in [service(by_spec), by_status] {
            for endpoints in [vec![], vec![endpoint(Ipv4Addr::new(10, 244, 9, 2))]] {
                let key = ("n".to_owned(), "s".to_owned());
                let rules = render::render(&proxy_config(), &guarded, &key, &service, &endpoints);
                let found = rules.elements.keys().any(|(_, key)| key.starts_with(&format!("{ip} . ")));
                assert_eq!(found, taken, "{ip}:{port}/{protocol} {endpoints:?}");
            }
        }
    }
}

#[test]
#[cfg_attr(not(root), ignore = "needs root")]
fn pods_host_ports_and_services_carry_real_connections() {
    // A thread of its own: its namespace plays the node.
    let node = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(node());
    });
    node.join().unwrap();
}

async fn node() {
    for arguments in ["link set lo up", "addr add 192.0.2.1/32 dev lo"] {
        assert!(Command::new("ip").args(arguments.split(' ')).status().unwrap().success());
    }
    let state = tempfile::tempdir().unwrap();
    let config = NetConfig {
        pod_cidr: "10.244.9.0/24".parse().unwrap(),
        service_cidr: proxy_config().service_cidr,
        cluster_cidr: proxy_config().cluster_cidr,
        node_ip: NODE,
        mtu: 1500,
        state_dir: state.path().to_owned(),
    };
    let network = PodNetwork::open(config.clone()).await.unwrap();
    let (a, b) = (Namespace::new(), Namespace::new());
    let (a_path, b_path) = (a.path(), b.path());
    let port = HostPort { host_ip: None, host_port: 8088, container_port: 8080, protocol: Protocol::Tcp };
    let started = std::time::Instant::now();
    let b_ip = network.setup("uid-b", &b_path, &[]).await.unwrap().ip;
    println!("one pod connected in {:?}", started.elapsed());
    let a_ip = network.setup("uid-a", &a_path, &[port]).await.unwrap().ip;
    assert_eq!(
        network.setup("uid-a", &a_path, &[]).await.unwrap().ip,
        a_ip,
        "a repeated set-up changes nothing"
    );
    serve(&a_path, "a");
    serve(&b_path, "b");

    assert_eq!(ask(&format!("{a_ip}:8080")), Ok(format!("a {NODE}")), "node to pod, with the node's address");
    assert_eq!(
        inside(&b_path, || ask(&format!("{a_ip}:8080"))),
        Ok(format!("a {b_ip}")),
        "pod to pod, untouched"
    );
    assert_eq!(ask("192.0.2.1:8088"), Ok(format!("a {NODE}")), "host port from the node");
    assert_eq!(ask("127.0.0.1:8088"), Ok(format!("a {NODE}")), "host port by loopback");
    assert!(inside(&b_path, || ask("192.0.2.1:8088")).is_ok(), "host port from a pod");
    assert!(inside(&a_path, || ask("192.0.2.1:8088")).is_ok(), "host port from its own pod");
    services(&a_path, &b_path, a_ip, b_ip).await;
    loopback_is_the_nodes_own(&b_path);

    // A new start takes the pods over.
    drop(network);
    let network = PodNetwork::open(config).await.unwrap();
    assert_eq!(network.address("uid-a").unwrap().unwrap().ip, a_ip);
    assert_eq!(ask("192.0.2.1:8088"), Ok(format!("a {NODE}")), "host ports live on");
    network.teardown("uid-a").await.unwrap();
    network.teardown("uid-a").await.unwrap();
    assert!(ask("192.0.2.1:8088").is_err());
    purge(&[]).await.unwrap();
    let links = Command::new("ip").args(["-o", "link"]).output().unwrap();
    assert!(!String::from_utf8_lossy(&links.stdout).contains("cor"), "purge leaves no link");
    let rules = Command::new("nft").args(["list", "ruleset"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&rules.stdout), "", "purge leaves no rule");
}

/// A pod that sends what is for 127.0.0.1, or says that it is from there, out of its own link (CVE-2020-8558).
fn loopback_is_the_nodes_own(pod: &Path) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let datagrams = UdpSocket::bind("0.0.0.0:0").unwrap();
    datagrams.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let (port, open) = (listener.local_addr().unwrap().port(), datagrams.local_addr().unwrap().port());
    inside(pod, || {
        for command in [
            "ip route del local 127.0.0.0/8 dev lo table local",
            "ip route del local 127.0.0.1 dev lo table local",
            "ip route add 127.0.0.1 via 169.254.1.1 dev eth0",
            "sysctl -qw net.ipv4.conf.all.route_localnet=1",
        ] {
            let mut words = command.split(' ');
            let done = Command::new(words.next().unwrap()).args(words).status().unwrap();
            assert!(done.success(), "{command}");
        }
        let target = SocketAddr::from(([127, 0, 0, 1], port));
        let refused = TcpStream::connect_timeout(&target, Duration::from_millis(500)).map_err(|e| e.kind());
        assert_eq!(refused.err(), Some(std::io::ErrorKind::TimedOut), "a way to the node's loopback");
        Command::new("ip").args("addr add 127.0.0.1/32 dev eth0".split(' ')).status().unwrap();
        let liar = UdpSocket::bind("127.0.0.1:0").unwrap();
        liar.send_to(b"lie", (NODE, open)).unwrap();
    });
    assert!(datagrams.recv(&mut [0; 8]).is_err(), "a datagram that says it is from the node's loopback");
}

async fn services(a_path: &Path, b_path: &Path, a_ip: Ipv4Addr, b_ip: Ipv4Addr) {
    let (config, key): (_, Key) = (proxy_config(), ("n".to_owned(), "s".to_owned()));
    let spec = json!({"clusterIP": "10.96.0.20", "type": "NodePort", "externalIPs": ["198.51.100.7"],
        "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}]});
    let both = render::render(
        &config,
        &BTreeSet::new(),
        &key,
        &service(spec.clone()),
        &[endpoint(a_ip), endpoint(b_ip)],
    );
    let frame = render::frame(&config);
    apply_rules(&(frame + &ruleset::diff(&Ruleset::default(), &both))).await.unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..40 {
        seen.insert(inside(b_path, || ask("10.96.0.20:80")).unwrap()[..1].to_owned());
    }
    assert_eq!(seen.len(), 2, "a Service is spread over its endpoints, the client's own pod among them");
    assert!(ask("10.96.0.20:80").is_ok(), "cluster address from the node");
    assert!(ask("192.0.2.1:30080").is_ok(), "node port from the node");
    assert_eq!(ask("127.0.0.1:30080").map(|text| text[2..].to_owned()), Ok(NODE.to_string()), "by loopback");
    assert!(inside(a_path, || ask("192.0.2.1:30080")).is_ok(), "node port from a pod");
    assert!(inside(a_path, || ask("198.51.100.7:80")).is_ok(), "external address from a pod");
    let refused = Err(std::io::ErrorKind::ConnectionRefused);
    assert_eq!(inside(a_path, || ask("10.96.0.77:80")), refused, "an address of no Service");

    let only_b = render::render(&config, &BTreeSet::new(), &key, &service(spec.clone()), &[endpoint(b_ip)]);
    apply_rules(&ruleset::diff(&both, &only_b)).await.unwrap();
    apply_rules(&ruleset::sweep(&both, &only_b)).await.unwrap();
    for _ in 0..10 {
        assert!(ask("10.96.0.20:80").unwrap().starts_with('b'), "a removed endpoint gets nothing");
    }
    let none = render::render(&config, &BTreeSet::new(), &key, &service(spec.clone()), &[]);
    apply_rules(&ruleset::diff(&only_b, &none)).await.unwrap();
    apply_rules(&ruleset::sweep(&only_b, &none)).await.unwrap();
    assert_eq!(ask("127.0.0.1:30080"), refused, "no endpoint, by loopback");
    for address in ["10.96.0.20:80", "192.0.2.1:30080"] {
        assert_eq!(ask(address), refused, "no endpoint, from the node: {address}");
        assert_eq!(inside(a_path, || ask(address)), refused, "no endpoint, from a pod: {address}");
    }

    let mut sticky = spec;
    sticky["sessionAffinity"] = json!("ClientIP");
    let sticky =
        render::render(&config, &BTreeSet::new(), &key, &service(sticky), &[endpoint(a_ip), endpoint(b_ip)]);
    apply_rules(&ruleset::diff(&none, &sticky)).await.unwrap();
    let first = inside(b_path, || ask("10.96.0.20:80")).unwrap();
    for _ in 0..15 {
        assert_eq!(inside(b_path, || ask("10.96.0.20:80")).unwrap(), first, "session affinity");
    }
    apply_rules(&ruleset::diff(&sticky, &Ruleset::default())).await.unwrap();
    apply_rules(&ruleset::sweep(&sticky, &Ruleset::default())).await.unwrap();
}

#[test]
fn endpoints_that_terminate_serve_only_when_no_other_does() {
    let (ready, gone) = (Ipv4Addr::new(10, 244, 0, 2), Ipv4Addr::new(10, 244, 0, 3));
    let leaving = Endpoint { ready: false, terminating: true, ..endpoint(gone) };
    let (config, key) = (proxy_config(), ("n".to_owned(), "s".to_owned()));
    let service = service(json!({"clusterIP": "10.96.0.20", "ports": [{"port": 80}]}));
    let text = |endpoints: &[Endpoint]| {
        ruleset::diff(
            &Ruleset::default(),
            &render::render(&config, &BTreeSet::new(), &key, &service, endpoints),
        )
    };
    let both = text(&[endpoint(ready), leaving.clone()]);
    assert!(both.contains("10.244.0.2:8080") && !both.contains("10.244.0.3"), "{both}");
    assert!(text(&[leaving]).contains("10.244.0.3:8080"));
    assert!(text(&[]).contains("add element ip coracle refused_ips { 10.96.0.20 . tcp . 80 : goto refuse }"));
}
