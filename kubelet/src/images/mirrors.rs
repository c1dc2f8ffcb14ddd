//! The registries file: which hosts to ask before a registry itself.
//!
//! ```yaml
//! mirrors:
//!   docker.io: ["https://mirror.example.com", "http://127.0.0.1:5000"]
//!   "*": ["https://cache.example.com"]
//! tokenServers:
//!   registry.example.com: ["login.example.net"]
//! ```
//!
//! A token server is told the registry's user name and password. One of the registry's own domain needs no line.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use serde::Deserialize;

use super::registry::is_loopback;

/// A host that serves the registry protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Host {
    /// `host` or `host:port`
    pub(super) address: String,
    /// Without TLS: on loopback only.
    pub(super) plain: bool,
    /// Hosts of other domains that get its passwords as well.
    pub(super) token_servers: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Mirrors {
    hosts: BTreeMap<String, Vec<Host>>,
    /// By registry, the hosts that get its passwords as well.
    token_servers: BTreeMap<String, Vec<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    mirrors: BTreeMap<String, Vec<String>>,
    #[serde(default, rename = "tokenServers")]
    token_servers: BTreeMap<String, Vec<String>>,
}

impl Mirrors {
    pub(super) fn load(path: &Path) -> io::Result<Mirrors> {
        match std::fs::read_to_string(path) {
            Ok(text) => Mirrors::parse(&text).map_err(io::Error::other),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Mirrors::default()),
            Err(error) => Err(error),
        }
    }

    pub(super) fn parse(text: &str) -> Result<Mirrors, String> {
        let file: File = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
        let all = file.mirrors.into_iter().map(|(registry, urls)| {
            let hosts = urls.iter().map(|url| host(url)).collect::<Result<_, _>>()?;
            Ok((registry, hosts))
        });
        let hosts = all.collect::<Result<_, String>>()?;
        Ok(Mirrors { hosts, token_servers: file.token_servers })
    }

    /// Mirrors first, then the registry; `*` holds for all registries without a line of their own.
    pub(super) fn hosts(&self, registry: &str, plain_http: &[String]) -> Vec<Host> {
        let mirrors = self.hosts.get(registry).or_else(|| self.hosts.get("*"));
        let mut hosts: Vec<Host> = mirrors.into_iter().flatten().cloned().collect();
        hosts.retain(|host| host.address != registry);
        hosts.push(Host { address: registry.to_owned(), plain: false, token_servers: Vec::new() });
        for host in &mut hosts {
            host.token_servers = self.token_servers.get(&host.address).cloned().unwrap_or_default();
            host.plain |= is_loopback(&host.address) && plain_http.contains(&host.address);
        }
        hosts
    }
}

fn host(url: &str) -> Result<Host, String> {
    let (plain, address) = match (url.strip_prefix("http://"), url.strip_prefix("https://")) {
        (Some(address), _) => (true, address),
        (None, Some(address)) => (false, address),
        (None, None) => (false, url),
    };
    let address = address.trim_end_matches('/');
    if address.is_empty() || address.contains(['/', '@', ' ']) {
        return Err(format!("mirror {url:?}: want https://host or https://host:port"));
    }
    if plain && !is_loopback(address) {
        return Err(format!("mirror {url:?}: plain HTTP is for hosts on loopback"));
    }
    Ok(Host { address: address.to_owned(), plain, token_servers: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_come_first_and_plain_http_stays_on_loopback() {
        let text = "mirrors:\n  docker.io: [\"http://127.0.0.1:5000\", \"https://m.example.com/\"]\n  \"*\": [c.example.com]\n";
        let mirrors = Mirrors::parse(text).unwrap();
        let addresses = |registry: &str| -> Vec<String> {
            let hosts =
                mirrors.hosts(registry, &["localhost:5001".to_owned(), "evil.example.com".to_owned()]);
            hosts
                .into_iter()
                .map(|host| format!("{}{}", if host.plain { "http " } else { "" }, host.address))
                .collect()
        };
        assert_eq!(addresses("docker.io"), ["http 127.0.0.1:5000", "m.example.com", "docker.io"]);
        assert_eq!(addresses("quay.io"), ["c.example.com", "quay.io"]);
        assert_eq!(addresses("localhost:5001"), ["c.example.com", "http localhost:5001"]);
        assert_eq!(addresses("evil.example.com"), ["c.example.com", "evil.example.com"]);
        let text = "tokenServers: {m.example.com: [login.example.net]}\nmirrors: {a.io: [m.example.com]}";
        let servers: Vec<Vec<String>> = Mirrors::parse(text)
            .unwrap()
            .hosts("a.io", &[])
            .into_iter()
            .map(|host| host.token_servers)
            .collect();
        assert_eq!(servers, [vec!["login.example.net".to_owned()], vec![]]);
        for bad in
            ["mirrors: {a: [\"http://10.0.0.1:5000\"]}", "mirrors: {a: [\"https://h/path\"]}", "mirror: {}"]
        {
            assert!(Mirrors::parse(bad).is_err(), "{bad}");
        }
    }
}
