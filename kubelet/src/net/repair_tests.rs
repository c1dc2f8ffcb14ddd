//! What others take away, for real: in a network namespace of the test's own, as root.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{NetConfig, PodNetwork, run_repair};

/// A process that has a network namespace and nothing else to do.
struct Pod(Child);

impl Pod {
    fn start() -> Self {
        let mut pod = Command::new("unshare");
        pod.args(["-n", "sh", "-c", "echo; exec sleep 600"]).stdout(Stdio::piped());
        let mut pod = pod.spawn().unwrap();
        // Its word says that the namespace is there.
        std::io::Read::read_exact(pod.stdout.as_mut().unwrap(), &mut [0]).unwrap();
        Pod(pod)
    }

    fn netns(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.0.id()).into()
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn run(command: &str) -> String {
    let output = Command::new("sh").args(["-c", command]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Waits until a command prints the text.
async fn prints(command: &str, text: &str) {
    let there = async {
        while !run(command).contains(text) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let in_time = tokio::time::timeout(Duration::from_secs(20), there).await;
    assert!(in_time.is_ok(), "{command} does not print {text}: {}", run(command));
}

#[test]
#[cfg_attr(not(root), ignore = "needs root")]
fn what_others_take_away_is_there_again() {
    let alone = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        run(
            "ip link set lo up; ip link add up0 type veth peer name up1; ip addr add 192.0.2.1/24 dev up0; ip link set up0 up",
        );
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(trial());
    });
    alone.join().unwrap();
}

async fn trial() {
    let dir = tempfile::tempdir().unwrap();
    let config = NetConfig {
        pod_cidr: "10.244.0.0/24".parse().unwrap(),
        service_cidr: "10.96.0.0/16".parse().unwrap(),
        cluster_cidr: "10.244.0.0/16".parse().unwrap(),
        node_ip: Ipv4Addr::new(192, 0, 2, 1),
        mtu: 1500,
        state_dir: dir.path().to_owned(),
    };
    let (network, pod) = (PodNetwork::open(config).await.unwrap(), Pod::start());
    let (services, stop) = (Arc::new(Notify::new()), CancellationToken::new());
    let dns = Ipv4Addr::new(10, 96, 0, 10);
    let repair = tokio::spawn(run_repair(network.clone(), vec![dns], services.clone(), stop.clone()));
    let address = network.setup("a", &pod.netns(), &[]).await.unwrap().ip.to_string();
    let (routes, table) = ("ip -4 route show proto 199", "nft list table ip coracle_pods");
    let link = run("ip -o link").lines().find_map(|l| {
        let name = l.split(": ").nth(1)?.split('@').next()?;
        name.starts_with("cor").then(|| name.to_owned())
    });
    let link = link.expect("the pod's link");
    for (key, value) in [("ipv4/conf/{}/rp_filter", "1"), ("ipv6/conf/{}/accept_ra", "0")] {
        let file = format!("/proc/sys/net/{}", key.replace("{}", &link));
        assert!(
            !std::path::Path::new(&file).exists() || run(&format!("cat {file}")).trim() == value,
            "{file}"
        );
    }
    prints("ip -4 addr show dev lo", "10.96.0.10/32").await;
    for harm in [
        format!("ip route del {address}/32"),
        "ip route del 10.96.0.0/16".to_owned(),
        // What systemd-networkd does when it starts.
        "ip -4 route flush proto 199".to_owned(),
        format!("ip link set {link} down"),
        format!("ip link del {link}"),
        "ip addr del 169.254.1.1/32 dev lo; ip addr del 10.96.0.10/32 dev lo".to_owned(),
    ] {
        run(&harm);
        prints(routes, &address).await;
        prints(routes, "10.96.0.0/16").await;
        prints("ip -4 addr show dev lo", "169.254.1.1/32").await;
        prints("ip -4 addr show dev lo", "10.96.0.10/32").await;
        prints(&format!("ip -o link show {link}"), "UP").await;
        prints(&format!("nsenter --net={} ip -4 addr show eth0", pod.netns().display()), &address).await;
    }
    // What Debian's nftables.conf begins with; and a rule that somebody put into our table.
    super::apply_rules("add table ip coracle").await.unwrap();
    run("nft flush ruleset");
    prints(table, "masquerade").await;
    tokio::time::timeout(Duration::from_secs(20), services.notified()).await.expect("the proxy is told");
    run("nft add rule ip coracle_pods host_ports drop");
    prints(&format!("{table} | grep -c 'th dport' ; {table} | grep -cw drop"), "2\n2\n").await;
    // A pod that is to go is not brought back.
    network.teardown("a").await.unwrap();
    run(&format!("ip route flush {address}/32"));
    assert!(!run("ip -o link").contains(&link));
    stop.cancel();
    repair.await.unwrap().unwrap();
    assert!(!run(routes).contains(&address));
}
