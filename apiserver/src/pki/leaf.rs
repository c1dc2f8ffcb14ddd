//! The certificates there are, as data: whom each names, and what it is for.

use std::net::IpAddr;

use super::{FRONT_PROXY_CLIENT, USER_KUBELET_CLIENT};

/// What a leaf certificate is for.
#[derive(Clone, Debug, Default)]
pub struct Leaf {
    /// File name without ending.
    pub file: String,
    pub common_name: String,
    pub organization: Option<String>,
    /// DNS names of a serving certificate.
    pub dns: Vec<String>,
    pub ips: Vec<IpAddr>,
    pub client: bool,
    pub server: bool,
    pub authority: Authority,
}

/// Which of the cluster's authorities signs a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Authority {
    #[default]
    Cluster,
    /// Its certificates speak for users: who shows one says with headers who is asking.
    FrontProxy,
}

// === impl Authority ===

impl Authority {
    /// File name without ending.
    pub(super) fn file(self) -> &'static str {
        match self {
            Authority::Cluster => "ca",
            Authority::FrontProxy => "front-proxy-ca",
        }
    }

    /// Its common name; upstream's installers' names.
    pub(super) fn name(self) -> &'static str {
        match self {
            Authority::Cluster => "kubernetes-ca",
            Authority::FrontProxy => "front-proxy-ca",
        }
    }
}

// === impl Leaf ===

impl Leaf {
    /// A user: its name and its group.
    pub fn client(file: &str, user: &str, group: Option<&str>) -> Self {
        Leaf {
            file: file.to_owned(),
            common_name: user.to_owned(),
            organization: group.map(str::to_owned),
            client: true,
            ..Leaf::default()
        }
    }

    pub fn admin() -> Self {
        Leaf::client("admin", "kubernetes-admin", Some("system:masters"))
    }

    pub fn scheduler() -> Self {
        Leaf::client("scheduler", "system:kube-scheduler", None)
    }

    pub fn controller_manager() -> Self {
        Leaf::client("controller-manager", "system:kube-controller-manager", None)
    }

    /// The API server as a client of the kubelets. It has the rights that a binding gives it, and no others.
    pub fn kubelet_client() -> Self {
        Leaf::client("apiserver-kubelet-client", USER_KUBELET_CLIENT, None)
    }

    /// The API server as a client of the API servers it passes requests on to.
    pub fn front_proxy_client() -> Self {
        let leaf = Leaf::client("front-proxy-client", FRONT_PROXY_CLIENT, None);
        Leaf { authority: Authority::FrontProxy, ..leaf }
    }

    /// A kubelet as a client of the API server.
    pub fn node(name: &str) -> Self {
        Leaf::client(&format!("node-{name}"), &format!("system:node:{name}"), Some("system:nodes"))
    }

    /// A node's service proxy as a client of the API server.
    pub fn node_proxy(name: &str) -> Self {
        Leaf::client(&format!("node-{name}-proxy"), "system:kube-proxy", None)
    }

    /// A kubelet's own endpoint.
    pub fn kubelet_server(name: &str, ips: &[IpAddr]) -> Self {
        Leaf {
            file: format!("kubelet-{name}"),
            common_name: format!("system:node:{name}"),
            organization: Some("system:nodes".to_owned()),
            dns: vec![name.to_owned()],
            ips: ips.to_vec(),
            server: true,
            ..Leaf::default()
        }
    }

    /// The API server's endpoint, under all names clients know it by.
    pub fn api_server(host: &str, ips: &[IpAddr], cluster_domain: &str) -> Self {
        let service = ["kubernetes", "kubernetes.default", "kubernetes.default.svc"].map(str::to_owned);
        let mut dns: Vec<String> = service.into_iter().collect();
        dns.push(format!("kubernetes.default.svc.{cluster_domain}"));
        dns.push("localhost".to_owned());
        if !host.is_empty() && host != "localhost" {
            dns.push(host.to_owned());
        }
        let mut all: Vec<IpAddr> = vec![IpAddr::from([127, 0, 0, 1])];
        all.extend(ips.iter().filter(|ip| !ip.is_unspecified() && !ip.is_loopback()));
        all.sort();
        all.dedup();
        Leaf {
            file: "apiserver".to_owned(),
            common_name: "kube-apiserver".to_owned(),
            dns,
            ips: all,
            server: true,
            ..Leaf::default()
        }
    }

    /// The names of a serving certificate, as text and in order.
    pub(super) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> =
            self.dns.iter().cloned().chain(self.ips.iter().map(ToString::to_string)).collect();
        names.sort();
        names
    }
}
