//! `coracle kubeconfig`: the administrator's kubeconfig, or that of a further node, on standard output.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use anyhow::{Context, Result};
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
            let server = options.server.clone().map_or_else(|| server(&admin), Ok)?;
            of_node(&layout, node, ip, &server)?
        }
        _ => text,
    };
    std::io::stdout().write_all(text.as_bytes()).context("writing to standard output")
}

/// Everything one further node needs to know: who it is, where the cluster is, and which ranges it has.
fn of_node(layout: &Layout, node: &str, ip: IpAddr, server: &str) -> Result<String> {
    let now = Timestamp::now();
    let pki = Pki::open(&layout.pki(), now).context("certificates")?;
    let facts = ClusterFacts::of(layout)?.context("the cluster has not been up yet")?;
    let extension = Some((FACTS, serde_json::to_value(&facts)?));
    let [kubelet, proxy, serving] =
        [Leaf::node(node), Leaf::node_proxy(node), Leaf::kubelet_server(node, &[ip])]
            .map(|leaf| pki.issue(&leaf, now));
    let cluster = ClusterEntry { name: "coracle", server, ca: pki.ca(), extension };
    Ok(pki::kubeconfig(&cluster, &[(KUBELET, &kubelet?), (PROXY, &proxy?), (SERVING, &serving?)]))
}

/// The administrator's URL, with an address that others can reach.
fn server(admin: &Path) -> Result<String> {
    let known = component::kubeconfig(admin)?;
    let url = known.clusters.first().and_then(|c| c.cluster.as_ref()?.server.clone());
    let url: Uri = url.context("no cluster in the kubeconfig")?.parse()?;
    let host: Option<IpAddr> = url.host().and_then(|host| host.parse().ok());
    let ip = match host {
        Some(ip) if !ip.is_loopback() => ip,
        _ => preflight::node_ip().context("give the API server's URL with --server")?,
    };
    Ok(format!("https://{}", SocketAddr::new(ip, url.port_u16().unwrap_or(443))))
}
