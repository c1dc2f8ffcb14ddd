//! `coracle kubeconfig`: the administrator's kubeconfig, or that of a further node, on standard output or in a file.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use coracle_apiserver::field_names;
use coracle_apiserver::pki::{self, ClusterEntry, Leaf, Pki};
use http::Uri;
use jiff::Timestamp;

use crate::cli::Kubeconfig;
use crate::cluster_facts::ClusterFacts;
use crate::data_dir::Layout;
use crate::{component, preflight};

/// The users of a node's kubeconfig: the kubelet and its service proxy as clients of the API server, and the pair by
/// which the kubelet serves its own endpoints.
pub(crate) const KUBELET: &str = "kubelet";
pub(crate) const PROXY: &str = "kube-proxy";
pub(crate) const SERVING: &str = "kubelet-serving";
/// The cluster's extension that holds its `ClusterFacts`.
pub(crate) const FACTS: &str = "coracle";

pub fn print(options: &Kubeconfig) -> Result<()> {
    let layout = Layout::of(options.data.data_dir.as_deref())?;
    let admin = layout.kubeconfig();
    let text = std::fs::read_to_string(&admin)
        .with_context(|| format!("{} cannot be read: has the cluster been up once?", admin.display()))?;
    let text = match (&options.node, options.node_ip) {
        (Some(node), Some(ip)) => {
            let server = options.server.clone().map_or_else(|| server(&layout, &admin), Ok)?;
            of_node(&layout, node, ip, &server)?
        }
        _ => text,
    };
    match &options.output {
        Some(file) => Ok(pki::write_private(file, &text)?),
        None => std::io::stdout().write_all(text.as_bytes()).context("writing to standard output"),
    }
}

/// Everything one further node needs to know, with new keys each time, of which none is kept here: who it is, where the cluster is, and which ranges it has.
fn of_node(layout: &Layout, node: &str, ip: IpAddr, server: &str) -> Result<String> {
    let is_name = field_names::dns1123_subdomain(node).is_empty();
    ensure!(is_name, "--node {node}: a node is named by lower-case letters, digits, '-' and '.'");
    let now = Timestamp::now();
    let pki = Pki::open(&layout.pki(), now).context("certificates")?;
    let facts = ClusterFacts::of(layout)?.context("the cluster has not been up yet")?;
    let extension = Some((FACTS, serde_json::to_value(&facts)?));
    let [kubelet, proxy, serving] =
        [Leaf::node(node), Leaf::node_proxy(node), Leaf::kubelet_server(node, &[ip])]
            .map(|leaf| pki.issue_elsewhere(&leaf, now));
    let ca = pki.ca();
    let cluster = ClusterEntry { name: "coracle", server, ca: &ca, extension };
    Ok(pki::kubeconfig(&cluster, &[(KUBELET, &kubelet?), (PROXY, &proxy?), (SERVING, &serving?)]))
}

/// The administrator's URL, with an address that others can reach: the one of `--node-ip`, unless that is loopback, too.
fn server(layout: &Layout, admin: &Path) -> Result<String> {
    let known = component::kubeconfig(admin)?;
    let url = known.clusters.first().and_then(|c| c.cluster.as_ref()?.server.clone());
    let url: Uri = url.context("no cluster in the kubeconfig")?.parse()?;
    let host: Option<IpAddr> = url.host().and_then(|host| host.parse().ok());
    let known = [host, layout.advertised().map(|server| server.ip())];
    let ip = match known.into_iter().flatten().find(|ip| !ip.is_loopback()) {
        Some(ip) => ip,
        None => preflight::node_ip().context("give the API server's URL with --server")?,
    };
    Ok(format!("https://{}", SocketAddr::new(ip, url.port_u16().unwrap_or(443))))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use coracle_apiserver::pki::{Identity, KubeconfigFile};

    use super::*;
    use crate::cli::DataDir;

    #[test]
    fn further_nodes_are_told_the_address_that_the_cluster_was_given() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout { data: dir.path().to_owned(), run: dir.path().join("run") };
        let admin = |url: &str| {
            let cluster = ClusterEntry { name: "coracle", server: url, ca: "", extension: None };
            let nobody = Identity { certificate: String::new(), key: String::new() };
            let text = pki::kubeconfig(&cluster, &[("coracle", &nobody)]);
            std::fs::write(layout.kubeconfig(), text).unwrap();
            server(&layout, &layout.kubeconfig())
        };
        layout.advertise("192.0.2.7:7443".parse().unwrap()).unwrap();
        for (url, told) in [
            ("https://127.0.0.1:6443", "https://192.0.2.7:6443"),
            ("https://192.0.2.9:6443", "https://192.0.2.9:6443"),
            ("https://[::1]:6443", "https://192.0.2.7:6443"),
        ] {
            assert_eq!(admin(url).unwrap(), told);
        }
        std::fs::write(dir.path().join("advertised"), "nonsense").unwrap();
        assert!(admin("https://127.0.0.1:6443").is_ok_and(|url| !url.contains("192.0.2.7")));
    }

    #[test]
    fn each_further_node_gets_keys_of_its_own_that_are_kept_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout { data: dir.path().to_owned(), run: dir.path().join("run") };
        let facts = r#"{"service_cidr":"10.96.0.0/16","cluster_cidr":"10.244.0.0/16","cluster_dns":"10.96.0.10",
            "cluster_domain":"cluster.local"}"#;
        std::fs::write(dir.path().join("cluster.json"), facts).unwrap();
        let pki = Pki::open(&layout.pki(), Timestamp::now()).unwrap();
        let (ca, admin) = (pki.ca(), pki.issue(&Leaf::admin(), Timestamp::now()).unwrap());
        let cluster =
            ClusterEntry { name: "coracle", server: "https://192.0.2.1:6443", ca: &ca, extension: None };
        std::fs::write(layout.kubeconfig(), pki::kubeconfig(&cluster, &[("coracle", &admin)])).unwrap();
        let made = |node: &str, file: &str| {
            let output = dir.path().join(file);
            print(&Kubeconfig {
                data: DataDir { data_dir: Some(dir.path().to_owned()) },
                node: Some(node.to_owned()),
                node_ip: Some("192.0.2.2".parse().unwrap()),
                output: Some(output.clone()),
                server: None,
            })?;
            assert_eq!(std::fs::metadata(&output).unwrap().permissions().mode() & 0o7777, 0o600);
            let file = KubeconfigFile::new(&output);
            anyhow::Ok([KUBELET, PROXY, SERVING].map(|user| file.identity(user).unwrap()))
        };
        let (first, second) = (made("b", "first").unwrap(), made("b", "second").unwrap());
        for (one, other) in first.iter().zip(&second) {
            assert!(one.is_whole() && one.key != other.key);
        }
        assert_eq!(pki.names_given_to("b"), ["192.0.2.2", "b"]);
        assert!(pki.names_given_to("c").is_empty());
        for entry in std::fs::read_dir(layout.pki()).unwrap() {
            let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
            assert!(!first.iter().chain(&second).any(|one| text.contains(one.key.as_str())));
        }
        for bad in ["../b", "B", "", "b/c", "-b", "b."] {
            assert!(made(bad, "bad").is_err(), "{bad:?}");
        }
    }
}
