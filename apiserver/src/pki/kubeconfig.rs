//! The file that tells clients where the cluster is and who they are.

use std::fmt::Write as _;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::Identity;

/// One cluster under one name, with what an installer has to say about it.
pub struct ClusterEntry<'a> {
    pub name: &'a str,
    pub server: &'a str,
    /// PEM of the authority that clients trust.
    pub ca: &'a str,
    /// Name and value of an extension of the cluster entry, for our own programs.
    pub extension: Option<(&'a str, serde_json::Value)>,
}

/// A kubeconfig with one cluster, and a user and a context of the same name for each identity; the first one is in use.
pub fn kubeconfig(cluster: &ClusterEntry<'_>, users: &[(&str, &Identity)]) -> String {
    let ClusterEntry { name, server, ca, extension } = cluster;
    let current = users.first().map_or("", |(user, _)| *user);
    let ca = STANDARD.encode(ca);
    // JSON is YAML, too.
    let extensions = extension.as_ref().map_or_else(String::new, |(name, value)| {
        format!("    extensions:\n    - name: {name}\n      extension: {value}\n")
    });
    let (mut contexts, mut entries) = (String::new(), String::new());
    for (user, identity) in users {
        let [certificate, key] = [&identity.certificate, &identity.key].map(|pem| STANDARD.encode(pem));
        write!(contexts, "- name: {user}\n  context:\n    cluster: {name}\n    user: {user}\n")
            .and_then(|()| {
                write!(
                    entries,
                    "- name: {user}\n  user:\n    client-certificate-data: {certificate}\n    client-key-data: {key}\n"
                )
            })
            .expect("writing to a String does not fail");
    }
    format!(
        "apiVersion: v1
kind: Config
current-context: {current}
clusters:
- name: {name}
  cluster:
    server: {server}
    certificate-authority-data: {ca}
{extensions}contexts:
{contexts}users:
{entries}"
    )
}
